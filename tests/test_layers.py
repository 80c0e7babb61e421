"""The layers of the package: what may import what, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "btw_backup"

# fmt: off
LAYERS = (
    ("cli", "__main__"),
    ("commands",),
    (
        "runner", "running", "scrub", "drill", "status", "alerts", "server", "explain",
        "restoring", "mounting", "inventory", "exported", "health", "recovering",
    ),
    ("keepers", "sources", "offsite", "retention", "places"),
    ("store", "catalogue"),
    ("records", "specs", "sealed", "marks", "configuration", "entries"),
    (
        "process", "files", "regular", "flushing", "locks", "log", "clock", "progress", "stream", "memory", "cores",
        "interrupts",
    ),
    ("errors",),
)
# fmt: on
"""From the top down; a part imports from its own layer and from those below it. Every part has its place here."""

ONLY_IN = {
    "subprocess": (
        "process.py",
        "store/rescue/RESTORE.py",
        "offsite/rescue/RESTORE.py",
    ),  # which has nothing of ours to import
    "argparse": ("cli.py", "commands/", "store/rescue/RESTORE.py", "offsite/rescue/RESTORE.py"),
}
"""The modules of the standard library that only some files may import, and those files."""

CATCHES_ALL = {
    "cli.py": "makes an unforeseen error a line and a status",
    "runner.py": "records how a run ended",
    "offsite/together.py": "passes on what a thread raised",
    "restoring/helpers.py": "passes on what a child raised",
    "configuration/config.py": "runs the user's code, which can raise anything",
}
"""The files that may say ``except Exception``, and why."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(path: Path) -> str:
    """The part that a source file belongs to: a module at the top, or a package below it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The absolute names that the file `path` imports, wherever in it; of ``from a import b`` also ``a.b``."""
    package = ".".join(path.relative_to(PACKAGE.parent).parts[:-1])
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, (above, node.module)))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    """The parts of our package that the file `path` imports."""
    ours = [name.split(".") for name in imports(path) if name.split(".")[0] == PACKAGE.name]
    return {words[1] for words in ours if len(words) > 1 and not words[1].startswith("__")} - {part_of(path)}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not imported_parts(path), "the package itself imports nothing, so that its version is cheap to read"
        return
    assert part in LEVELS, f"{part} has no layer in {__name__}.LAYERS"
    parts = imported_parts(path)
    assert not parts - LEVELS.keys(), "imports what has no layer"
    assert [other for other in sorted(parts) if LEVELS[other] < LEVELS[part]] == []


@pytest.mark.parametrize("module", ONLY_IN)
def test_some_modules_are_imported_in_one_place_only(module: str) -> None:
    users = [name_of(path) for path in SOURCES if module in {name.split(".")[0] for name in imports(path)}]
    assert [user for user in users if not user.startswith(ONLY_IN[module])] == []
    assert users, f"nothing imports {module}: the rule can go"


def test_all_errors_are_caught_in_few_places_only() -> None:
    handlers = {
        name_of(path) for path in SOURCES for node in ast.walk(ast.parse(path.read_bytes())) if catches_all(node)
    }
    assert handlers <= CATCHES_ALL.keys()


def catches_all(node: ast.AST) -> bool:
    """Whether `node` swallows every error. One that ends in a bare ``raise`` only cleans up."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    last = node.body[-1]
    passes_on = isinstance(last, ast.Raise) and last.exc is None
    return not passes_on and any(
        one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")) for one in caught
    )


def test_nothing_is_run_through_a_shell() -> None:
    """Whatever a file is called, no shell gets to read its name."""
    calls = [
        (name_of(path), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
    ]
    assert [name for name, call in calls if any(keyword.arg == "shell" for keyword in call.keywords)] == []
    assert [name for name, call in calls if ast.unparse(call.func) in ("os.system", "os.popen")] == []


def test_a_violation_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "btw_backup"
    (package / "keepers").mkdir(parents=True)
    (package / "keepers" / "bad.py").write_text(
        "def run() -> None:\n    from btw_backup.runner import run\n    from . import runner\n"
    )
    monkeypatch.setattr(f"{__name__}.PACKAGE", package)
    assert imported_parts(package / "keepers" / "bad.py") == {"runner"}
    with pytest.raises(AssertionError, match="runner"):
        test_imports_go_down_only(package / "keepers" / "bad.py")
