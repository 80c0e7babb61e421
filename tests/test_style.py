"""Types, lint and form of the package, as the programs for that see them."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted((REPOSITORY / "btw_backup").rglob("*.py"))
CHECKS = {
    "mypy": ("mypy", "--strict", "--no-incremental", "btw_backup"),
    "ruff check": ("ruff", "check", "--no-cache", "btw_backup"),
    "ruff format": ("ruff", "format", "--no-cache", "--check", "btw_backup"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_check_is_clean(check: str) -> None:
    command = [sys.executable, "-m", *CHECKS[check]]
    ended = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_public_names_say_what_they_are() -> None:
    """A docstring on every module and on every public function and class."""
    mute = [
        f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"
        for path in SOURCES
        for node in public_nodes(ast.parse(path.read_bytes()))
        if not ast.get_docstring(node)
    ]
    assert mute == []


def public_nodes(module: ast.Module) -> list[ast.Module | ast.ClassDef | ast.FunctionDef]:
    """The module, and its functions and classes that have no underscore."""
    return [
        module,
        *(node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"),
    ]


TO_BE_COPIED_ALONE = {"btw_backup/store/rescue/RESTORE.py", "btw_backup/offsite/rescue/RESTORE.py"}
"""What cannot be divided into modules: people carry it to machines where nothing of ours is."""


def test_shape() -> None:
    """Functions are short; the limits are those that we set ourselves, with the longest named."""
    lengths = {
        f"{path.relative_to(REPOSITORY)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 50} == {}
    assert statistics.median(lengths.values()) <= 8
    long_modules = {str(path.relative_to(REPOSITORY)) for path in SOURCES if len(path.read_text().splitlines()) > 300}
    assert long_modules <= TO_BE_COPIED_ALONE
