"""Several processes that restore a tree together: each writes its share, and what one of them meets is told once."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from btw_backup.errors import FatalUserError, NotFound
from btw_backup.progress import Advance
from btw_backup.restoring.attributes import Complaints
from btw_backup.restoring.helpers import LEAST, Helpers
from btw_backup.store import shares
from tests.conftest import REPOSITORY, Installation, tree_differences

CORES = os.sched_getaffinity(0)


def on_one_core() -> None:
    os.sched_setaffinity(0, {min(CORES)})


@pytest.fixture
def large(btw: Installation, tmp_path: Path) -> Path:
    """A tree that is worth several processes, with one of everything, backed up to ``t``."""
    top = tmp_path / "large"
    for number in range(400):
        folder = top / f"{number % 7}" / f"{number % 31}"
        folder.mkdir(parents=True, exist_ok=True)
        content = hashlib.shake_128(b"%d" % number).digest(700_000 if number % 20 == 0 else 30_000)
        (folder / f"{number}").write_bytes(content)
        if number % 10 == 0:
            os.link(folder / f"{number}", top / f"also {number}")
            (folder / f"to {number}").symlink_to(f"{number}")
    (top / "empty").mkdir()
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF)
        for tag, bits, who in ((1, 7, -1), (2, 5, 1000), (4, 5, -1), (16, 7, -1), (32, 0, -1))
    )
    os.setxattr(top / "3" / "3", "system.posix_acl_default", acl)
    os.chown(top / "4", 1000, 1001)
    os.chmod(top / "5", 0o2500)
    for folder, folders, names in os.walk(top, topdown=False):
        for name in (*folders, *names):
            os.utime(Path(folder, name), ns=(10**18, 10**18 + 7), follow_symlinks=False)
    os.utime(top, ns=(10**18, 10**18 + 9))
    btw.tree(top, "chunks")
    btw("fs", top, "t")
    return top


def test_all_of_a_tree_comes_back(btw: Installation, large: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in large.rglob("[0-9]*") if path.is_file())
    assert size >= LEAST > shares.RUN
    ended = btw("restore", "t", "out")
    assert (ended.out, ended.err) == ("", "")
    assert tree_differences(large, tmp_path / "out") == ""
    assert not list(tmp_path.glob(".tmp-*"))


def test_several_are_at_work(btw: Installation, large: Path, tmp_path: Path) -> None:
    """Each writes files; with one core there is one."""
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "--seccomp-bpf", "-o", trace, "-e", "trace=fork,vfork,clone,clone3", sys.executable]
    for before, expected in ((None, min(4, len(CORES))), (on_one_core, 1)):
        out = tmp_path / f"out{before}"
        command = [*strace, "-m", "btw_backup", "--config-dir", btw.config_dir, "restore", "t", out]
        subprocess.run(command, check=True, cwd=REPOSITORY, stdin=subprocess.DEVNULL, preexec_fn=before)
        forks = [line for line in trace.read_text().splitlines() if "clone" in line and "CLONE_THREAD" not in line]
        assert len([line for line in forks if "resumed" not in line]) == expected - 1
        assert tree_differences(large, out) == ""


def test_a_damaged_chunk_is_told_once_and_all_else_is_there(btw: Installation, large: Path, tmp_path: Path) -> None:
    chunks = sorted((btw.root / ".store" / "chunks").rglob("*.zst"), key=lambda path: path.stat().st_size)
    for path in (chunks[0], chunks[-1]):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    several = btw("restore", "t", "several", status=5).err
    one = btw("restore", "t", "one", status=5, preexec_fn=on_one_core).err
    assert sorted(several.replace("several", "one").splitlines()) == sorted(one.splitlines())
    assert tree_differences(tmp_path / "one.damaged", tmp_path / "several.damaged") == ""
    assert list((tmp_path / "several.damaged").rglob("*.damaged")) and not (tmp_path / "several").exists()


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_manifest(btw: Installation, large: Path, tmp_path: Path, how: str) -> None:
    (path,) = (btw.root / "t").glob("*.manifest.zst")
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ended = btw("restore", "t", "out", status=5)
    assert "Traceback" not in ended.err and not (tmp_path / "out").exists()
    for path in (tmp_path / "out.damaged").rglob("*") if (tmp_path / "out.damaged").exists() else ():
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (large / path.relative_to(tmp_path / "out.damaged")).read_bytes()


def test_a_full_disk(btw: Installation, large: Path, tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=9m", tmpfs], check=True)
    ended = btw("restore", "t", tmpfs / "out", status=1)
    assert "No space left on device" in ended.err and len(ended.err.splitlines()) == 1
    assert os.listdir(tmpfs) == []


def nothing(count: int) -> None:
    pass


def test_what_a_helper_raises_and_cannot_do() -> None:
    def work(number: int, complaints: Complaints, advance: Advance) -> None:
        advance(10 + number)
        complaints.could_not(b"path", f"{number}")
        complaints.is_damaged("the same")
        complaints.is_damaged(f"{number}")
        if number == 2:
            raise NotFound("no such thing", "a hint")

    complaints = Complaints()
    told: list[int] = []
    with closing(Helpers(work, 2)) as helpers:
        helpers.work(complaints, told.append)
    assert sum(told) == 10 + 11
    assert complaints.unset == [(b"path", "0"), (b"path", "1")] and complaints.unset_count == 2
    assert complaints.damaged == ["the same", "0", "1"] and complaints.damaged_count == 3
    with closing(Helpers(work, 3)) as helpers, pytest.raises(NotFound, match="no such thing") as caught:
        helpers.work(Complaints(), nothing)
    assert caught.value.hint == "a hint"


def test_without_processes_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fork", fork)
    done: list[int] = []
    with closing(Helpers(lambda number, complaints, advance: done.append(number), 3)) as helpers:
        helpers.work(Complaints(), nothing)
    assert done == [0, 1, 2] and len(os.listdir("/proc/self/fd")) == len(before)


def test_helpers_end_with_whoever_dies() -> None:
    told: list[int] = []

    def work(number: int, complaints: Complaints, advance: Advance) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            for descriptor in told:
                os.write(descriptor, b".")
            time.sleep(60)

    with pytest.raises(FatalUserError, match="SIGKILL"), closing(Helpers(work, 3)) as helpers:
        helpers.work(Complaints(), nothing)
    reading, writing = os.pipe()
    seen, at_work = os.pipe()
    told.append(at_work)
    parent = os.fork()
    if not parent:
        Helpers(work, 3)
        os.write(writing, Path(f"/proc/self/task/{os.getpid()}/children").read_bytes())
        os.read(seen, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    children = os.read(reading, 1000).split()
    deadline = time.monotonic() + 20
    while any(map(lives, children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children) in (1, 2) and not any(map(lives, children))
    for descriptor in (reading, writing, seen, at_work):
        os.close(descriptor)


def lives(pid: bytes) -> bool:
    """Whether the process has not ended, whoever is to take note of that."""
    try:
        return Path("/proc", pid.decode(), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def lines(kinds: str) -> Iterator[bytes]:
    for number, kind in enumerate(kinds):
        yield b'{"path":"%d","kind":"%s","size":%d}' % (number, {"f": b"file", "d": b"folder"}[kind], 3 << 20)


def test_shares_are_disjoint_and_are_all() -> None:
    kinds = "dffffdfffffffffdffffffffffffffffffd" * 3
    every = list(lines(kinds))
    parts = [list(shares.Files(number, 3).lines_in(iter(every))) for number in range(3)]
    rest = list(shares.AllButFiles().lines_in(iter(every)))
    assert sorted([*parts[0], *parts[1], *parts[2], *rest]) == sorted(every)
    assert all(parts) and max(map(len, parts)) - min(map(len, parts)) <= 6
    assert len(rest) == kinds.count("d")
