"""The child that looks at a tree from the other end: what it looks at, and that it is never left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from btw_backup.sources.ahead import LookAhead
from btw_backup.sources.rules import rules_of
from tests.conftest import PATIENCE, REPOSITORY, Installation

RULES = rules_of("/", (), one_file_system=True, skip_caches=True)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A tree that takes a while to look at."""
    for number in range(3000):
        (tmp_path / "wide" / f"{number:04}" / "inner").mkdir(parents=True)
    return tmp_path / "wide"


def traced(btw: Installation, *command: object) -> str:
    """The folders that any process opened during a command."""
    trace = btw.top / "trace"
    start = [sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir, *command]
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=openat,fork,clone,vfork,clone3", "-o", trace, "--", *start],
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return trace.read_text()


def test_it_does_not_look_where_the_walk_does_not(btw: Installation, source: Path) -> None:
    for name in ("left out", "tagged/inner", "cached/inner", "taken"):
        (source / name).mkdir(parents=True)
    (source / "tagged" / "NOBACKUP-TAG").touch()
    (source / "cached" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    btw.tree(source, type_="chunks", extra="EXCLUDE = ['left out']\n")
    trace = traced(btw, "fs", source, "t")
    assert trace.count('"taken", O_RDONLY') >= 2  # by the walk, and by the child
    assert '"left out", O_RDONLY' not in trace and '"inner", O_RDONLY' not in trace


def test_one_core_is_left_to_the_walk() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(bool(L('/etc', R)._child))"
    prepared = "from btw_backup.sources.ahead import LookAhead as L; from tests.test_ahead import RULES as R; "
    ended = subprocess.run(
        [sys.executable, "-c", prepared + code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert ended.stdout == "False\n"


def test_it_is_gone_when_it_is_stopped(wide: Path) -> None:
    ahead = LookAhead(str(wide), RULES)
    child = ahead._child
    ahead.stop()
    ahead.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


def test_it_ends_with_who_started_it(wide: Path) -> None:
    code = (
        "import os, sys, time; from btw_backup.sources.ahead import LookAhead; from tests.test_ahead import RULES\n"
        "print(LookAhead(sys.argv[1], RULES)._child, flush=True); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, wide], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    child = int(ended.stdout)
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{child}/cwd").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}/cwd").exists()
