"""The child that looks at a tree from the other end: what it looks at, and that it is never left behind."""

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from btw_backup.sources import Fingerprint
from btw_backup.sources.ahead import LookAhead
from btw_backup.sources.memory import Remembered
from btw_backup.sources.rules import Rules, rules_of
from btw_backup.sources.tree import Tree
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
    assert ahead._scouts
    children = [ahead._child, *ahead._scouts._children]
    ahead.stop()
    ahead.stop()
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def ways_of_scouts(tree: Path, trace: Path) -> list[str]:
    """The folders that each of the scouts opened, in that order."""
    code = (
        "import os, sys; from btw_backup.sources.rules import rules_of; from btw_backup.sources.scouts import Scouts\n"
        "rules = rules_of(sys.argv[1], ('left out',), one_file_system=True, skip_caches=True)\n"
        "for child in Scouts(sys.argv[1], rules)._children: os.waitpid(child, 0)"
    )
    strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-e", "signal=none", "-o", trace, "--"]
    subprocess.run([*strace, sys.executable, "-c", code, tree], check=True, cwd=REPOSITORY)
    ways: dict[str, list[str]] = {}
    for line in trace.read_text().splitlines():
        if found := re.fullmatch(r'(\d+) +openat\(\d+, "(.*)", .*O_DIRECTORY.*', line):
            ways.setdefault(found[1], []).append(found[2])
    return sorted(map(" ".join, ways.values()))


def test_scouts_end_where_all_is_in_memory(wide: Path, tmp_path: Path) -> None:
    for _ in os.walk(wide):
        pass
    ways = ways_of_scouts(wide, tmp_path / "trace")
    assert len(ways) == 3 and all(len(way.split()) < 1000 for way in ways)  # of 6,000


def test_where_scouts_go(tmp_path: Path) -> None:
    """Forwards, from the middle on, and backwards; not into what is left out."""
    for path in ("a/x", "a/y/1", "b", "c/z", "d", "left out/inner", "tagged/inner"):
        (tmp_path / "tree" / path).mkdir(parents=True)
    (tmp_path / "tree" / "tagged" / "NOBACKUP-TAG").touch()
    (tmp_path / "tree" / "a" / "file").touch()
    ways = ways_of_scouts(tmp_path / "tree", tmp_path / "trace")
    assert ways == ["a x y 1 b c z d tagged", "d tagged", "tagged d c z b a y 1 x"]


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


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """A tree of 1,500 entries of all kinds."""
    top = tmp_path / "varied"
    for number in range(40):
        folder = top / f"{number:02}" / "inner"
        folder.mkdir(parents=True)
        for name in range(32):
            (folder / f"{name}").write_text("text" * name)
        (folder / "link").symlink_to(f"nowhere/{number}")
        os.link(folder / "7", folder / "another name of 7")
        os.utime(folder / "8", ns=(0, -(10**9)))
    for path in ("05/left out/file", "17/tagged/file", "30/cached/file"):
        (top / path).parent.mkdir()
        (top / path).touch()
    (top / "17/tagged/NOBACKUP-TAG").touch()
    (top / "30/cached/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    for number in (3, 20, 21):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(top / f"{number:02}" / "socket"))
    return top


RULES_OF_VARIED = rules_of("/", ("left out",), one_file_system=True, skip_caches=True)
Seen = tuple[Fingerprint, list[Remembered], tuple[object, ...]]


def seen(top: Path, scratch: Path, ahead: LookAhead | None, rules: Rules = RULES_OF_VARIED) -> Seen:
    tree = Tree(str(top), rules, scratch, remembers=True, ahead=ahead)
    return tree.fingerprint(), list(tree.entries()), tuple(tree._sockets)


def ready(ahead: LookAhead) -> None:
    """Wait until the child is through."""
    os.waitid(os.P_PID, ahead._child, os.WEXITED | os.WNOWAIT)


def same(one: Seen, other: Seen) -> bool:
    """Whether the same was seen, whenever that was."""
    return (replace(one[0], began=0), *one[1:]) == (replace(other[0], began=0), *other[1:])


@pytest.mark.parametrize("seconds", [0, 0.01, 0.03, None])
def test_the_walk_ends_where_the_child_has_been(varied: Path, tmp_path: Path, seconds: float | None) -> None:
    alone = seen(varied, tmp_path / "scratch", None)
    before = time.time_ns()
    ahead = LookAhead(str(varied), RULES_OF_VARIED, tmp_path / "scratch")
    if seconds is None:
        ready(ahead)
    else:
        time.sleep(seconds)
    together = seen(varied, tmp_path / "scratch", ahead)
    assert same(alone, together) and len(alone[2]) == 3
    assert before <= together[0].began <= ahead.began
    assert seconds is not None or sum(batch.entries for batch in ahead.rest(next(reversed(ahead._begins)))) > 1000


@pytest.mark.parametrize("at", ["00", "13", "39"])
def test_what_comes_after_something_odd_is_left_to_the_walk(varied: Path, tmp_path: Path, at: str) -> None:
    deep = varied / at / "/".join(["d"] * 120)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    alone = seen(varied, tmp_path / "scratch", None)
    ahead = LookAhead(str(varied), RULES_OF_VARIED, tmp_path / "scratch")
    ready(ahead)
    assert same(alone, seen(varied, tmp_path / "scratch", ahead))
    assert min(ahead._begins, default="99") >= at


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_child_that_was_killed(varied: Path, tmp_path: Path, batches: int) -> None:
    """What it wrote is good; what it was writing is not."""
    alone = seen(varied, tmp_path / "scratch", None)
    ahead = LookAhead(str(varied), RULES_OF_VARIED, tmp_path / "scratch")
    ready(ahead)
    assert ahead._file is not None and not ahead.begins_at("nothing")
    begin, length = ahead._batches[batches]
    os.ftruncate(ahead._file.fileno(), begin + length // 2 if batches else 3)
    ahead._batches, ahead._begins, ahead._end = [], {}, 0
    assert same(alone, seen(varied, tmp_path / "scratch", ahead))
    assert len(ahead._batches) == batches


def test_a_disk_that_is_full(varied: Path, tmp_path: Path, tmpfs: Path) -> None:
    alone = seen(varied, tmp_path / "scratch", None)
    with open(tmpfs / "rest", "wb", buffering=0) as file:
        while os.statvfs(tmpfs).f_bavail > 16:
            file.write(bytes(4096))
    ahead = LookAhead(str(varied), RULES_OF_VARIED, tmpfs)
    ready(ahead)
    assert same(alone, seen(varied, tmp_path / "scratch", ahead))
    assert 0 < len(ahead._batches) < 4


def test_a_folder_with_many_names(tmp_path: Path) -> None:
    for number in range(9000):
        (tmp_path / "many" / "inner").mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / "inner" / f"{number}").touch()
    alone = seen(tmp_path / "many", tmp_path / "scratch", None)
    ahead = LookAhead(str(tmp_path / "many"), RULES_OF_VARIED, tmp_path / "scratch")
    ready(ahead)
    assert same(alone, seen(tmp_path / "many", tmp_path / "scratch", ahead))
    assert len(ahead._batches) == 3
