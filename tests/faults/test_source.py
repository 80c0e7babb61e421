"""A source that changes while it is read: no run fails, and what was torn is named."""

import json
from pathlib import Path

import pytest

from tests.conftest import Installation
from tests.faults.mutator import RATE, Mutator, never_was, text


@pytest.mark.parametrize("keeper", ["tar", "chunks", "rdiff"])
@pytest.mark.parametrize("runs", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_f61_f62_f63_a_mutator(btw: Installation, tmp_path: Path, keeper: str, runs: int) -> None:
    top = tmp_path / "tree" / "src"
    top.mkdir(parents=True)
    (tmp_path / "tree" / "secret").write_text("secret")
    mutator = Mutator(top, 1)
    btw.tree(top, keeper, "src")
    torn = 0
    with mutator:
        for number in range(runs):
            assert btw("fs", top, "d", status=None).status in (0, 3)
            row = json.loads(btw("--json", "list", "d").out)[-1]
            named = {path.removeprefix("./") for path, _ in (*row["changed"], *row["unread"])}
            out = tmp_path / f"out{number}"
            assert btw("restore", f"d@{row['stamp']}", out, status=None).status == 0
            torn += len(named)
            assert _untrue(out, named) == {}
            assert (out / "still").read_bytes() == text(7) and "still" not in named
            for left in sorted(out.rglob("*"), reverse=True):
                left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink()
    assert mutator.changes > RATE // 4 * runs // 4, "it did not change anything"


def _untrue(out: Path, named: set[str]) -> dict[str, str]:
    """What in `out` was never in the tree, and was not named."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if content == b"secret":
            found[name] = "a link was followed"
        elif name not in named and (why := never_was(content)):
            found[name] = why
    return found
