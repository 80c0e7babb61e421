"""A clock that jumps by years, in both directions: nothing hangs, and every backup is there in the order it was made."""

from pathlib import Path

import pytest

from tests.conftest import Installation
from tests.faults.contents import change_source, content_of, make_source
from tests.faults.killing import other_clock
from tests.faults.test_concurrent import restored, rows

DAY = 86400
JUMPS = (-DAY // 24, -3650 * DAY, 3650 * DAY, 0, -30 * 365 * DAY, 365 * DAY, -56 * 365 * DAY, 13 * 365 * DAY)
"""Seconds: also to about 1970, and to behind 2038."""


@pytest.mark.parametrize("keeper", ["tar", "rdiff", "chunks"])
def test_f48_jumps(btw: Installation, tmp_path: Path, keeper: str) -> None:
    make_source(tmp_path / "src", 1)
    btw.tree(tmp_path / "src", keeper, "src")
    contents = []
    for number, jump in enumerate(JUMPS):
        btw("fs", tmp_path / "src", "d", env=other_clock(jump), timeout=60)
        contents.append(content_of(tmp_path / "src"))
        assert len(rows(btw, "d")) == number + 1, jump
        assert restored(btw, "d@latest") == contents[-1], jump
        change_source(tmp_path / "src", number + 2)
    found = [restored(btw, f"d@{row['stamp']}") for row in rows(btw, "d")]
    assert found == contents


@pytest.mark.parametrize("keeper", ["file", "chunks"])
def test_f48_jumps_between_streams(btw: Installation, tmp_path: Path, keeper: str) -> None:
    (tmp_path / "out").write_text("first")
    btw("command-init", "--type", keeper, "out", "--", "/bin/cat", tmp_path / "out")
    contents = []
    for number, jump in enumerate(JUMPS):
        (tmp_path / "out").write_text(f"content {number}\n" * 100)
        btw("command", "out", "d", env=other_clock(jump), timeout=60)
        contents.append(content_of(tmp_path / "out"))
        assert restored(btw, "d@latest") == contents[-1], jump
    assert [restored(btw, f"d@{row['stamp']}") for row in rows(btw, "d")] == contents
    for jump in JUMPS:
        assert btw("scrub", env=other_clock(jump), timeout=60).status == 0
        btw("cleanup", env=other_clock(jump), timeout=60)
    assert [restored(btw, f"d@{row['stamp']}") for row in rows(btw, "d")] == contents
