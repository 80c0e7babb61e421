"""Writing entries into a folder: all of them, with all that belongs to them, and nowhere else."""

import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from btw_backup import files
from btw_backup.entries import Entry, Kind
from btw_backup.keepers.archive import members
from btw_backup.restoring import descent
from btw_backup.restoring.attributes import Complaints
from btw_backup.restoring.extract import Extraction
from tests import hostile, torture
from tests.conftest import REPOSITORY, tree_differences

TAR = [
    "tar",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
    "-S",
    "--acls",
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
]
RENAME_EXCHANGE = 2


@contextmanager
def extraction(top: Path, *, fresh: bool = True, force: bool = False) -> Iterator[tuple[Extraction, Complaints]]:
    """An extraction into `top`, finished at the end."""
    top.mkdir(0o700, exist_ok=True)
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    complaints = Complaints()
    try:
        with closing(Extraction(descriptor, complaints, fresh=fresh, force=force)) as made:
            yield made, complaints
            made.finish()
    finally:
        os.close(descriptor)


def extract(archive: bytes, top: Path, *, fresh: bool = True, force: bool = False) -> Complaints:
    with extraction(top, fresh=fresh, force=force) as (made, complaints):
        for entry, content in members(io.BytesIO(archive), complaints.is_damaged):
            made.write(entry, content)
    return complaints


def file(path: bytes, mode: int = 0o644, **rest: int) -> Entry:
    return Entry(path, Kind.FILE, mode, 0, 0, rest.pop("mtime", 7 * 10**9), **rest)  # type: ignore[arg-type]


def folder(path: bytes, mtime: int = 5 * 10**9, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.FOLDER, mode, 0, 0, mtime)


def content(text: bytes) -> list[memoryview]:
    return [memoryview(text)]


def test_the_torture_tree(tmp_path: Path) -> None:
    torture.build(tmp_path / "tree")
    (tmp_path / "tree" / "nodes" / "socket").unlink()  # not for archives
    os.utime(tmp_path / "tree" / "nodes", ns=(0, 1))
    archive = subprocess.run([*TAR, "-C", tmp_path / "tree", "-cf", "-", "."], check=True, capture_output=True).stdout
    complaints = extract(archive, tmp_path / "out")
    assert (complaints.unset, complaints.damaged) == ([], [])
    assert tree_differences(tmp_path / "tree", tmp_path / "out") == ""
    used = os.stat(tmp_path / "out" / "holes" / "5 GiB").st_blocks * 512
    assert used < 1 << 20


@pytest.mark.parametrize(
    "options", [["--format=gnu"], ["--format=posix", "--sort=inode"], ["--format=posix", "--no-recursion"]]
)
def test_other_orders_and_formats(tmp_path: Path, options: list[str]) -> None:
    tree = tmp_path / "tree"
    for name in ("a/b/c", "a/b/d", "e/f"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text(name)
    for path in tree.rglob("*"):
        os.utime(path, (0, 10**9))
    names = sorted(
        (os.fsencode(p.relative_to(tree)) for p in tree.rglob("*")), reverse=True
    )  # folders after what is in them
    chosen = b"\0".join(names) if "--no-recursion" in options else b"."
    command = ["tar", *options, "-C", tree, "--null", "-T", "-", "-cf", "-"]
    archive = subprocess.run(command, input=chosen, check=True, capture_output=True).stdout
    complaints = extract(archive, tmp_path / "out")
    assert (complaints.unset, complaints.damaged) == ([], [])
    os.utime(tmp_path / "out", (0, 10**9))
    os.chmod(tmp_path / "out", tree.stat().st_mode)
    os.utime(tree, (0, 10**9))
    assert tree_differences(tree, tmp_path / "out") == ""


def test_a_tree_deeper_than_paths_can_say(tmp_path: Path) -> None:
    path = b"/".join([b"folder"] * 1500)
    with extraction(tmp_path / "out") as (made, complaints):
        for turn in range(2):  # the second time everything is there
            made.write(file(path + b"/file%d" % turn), content(b"deep"))
            made.write(file(b"shallow%d" % turn), content(b"x"))
        made.write(Entry(path + b"/link", Kind.HARD_LINK, 0o644, 0, 0, 0, target=path + b"/file0"))
        made.write(folder(path, mtime=42))
        made.write(file(path.rpartition(b"/")[0] + b"/beside"), content(b"x"))
    assert (complaints.unset, complaints.damaged) == ([], [])
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    for _ in range(1500):
        inner = os.open("folder", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    assert sorted(os.listdir(descriptor)) == ["file0", "file1", "link"]
    assert os.fstat(descriptor).st_mtime_ns == 42
    os.close(descriptor)
    files.remove(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_keep_their_times_when_something_comes_late(tmp_path: Path) -> None:
    with extraction(tmp_path / "out") as (made, _):
        made.write(folder(b"", mtime=1))
        made.write(folder(b"a", mtime=2, mode=0o555))
        made.write(file(b"a/one"), content(b"1"))
        made.write(folder(b"b", mtime=3))
        made.write(Entry(b"a/socket", Kind.SOCKET, 0o700, 1, 2, 4))
    times = [os.stat(tmp_path / "out" / name).st_mtime_ns for name in (".", "a", "b", "a/socket")]
    assert times == [1, 2, 3, 4]
    socket = os.stat(tmp_path / "out" / "a" / "socket")
    assert (stat.S_ISSOCK(socket.st_mode), socket.st_uid, socket.st_gid) == (True, 1, 2)


def test_nothing_is_inherited_from_folders_that_were_there(tmp_path: Path) -> None:
    top = tmp_path / "there"
    top.mkdir()
    os.chown(top, 0, 4711)
    os.chmod(top, 0o2755)
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *e)
        for e in [(1, 7, 2**32 - 1), (2, 7, 9), (4, 7, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)]
    )
    os.setxattr(top, "system.posix_acl_default", value)
    with extraction(top, fresh=False) as (made, complaints):
        made.write(file(b"file", 0o640), content(b"x"))
        made.write(folder(b"folder"))
        made.write(file(b"folder/file", 0o604), content(b"x"))
        made.write(Entry(b"fifo", Kind.FIFO, 0o600, 0, 0, 0))
    assert complaints.unset == []
    for name, mode in {"file": 0o100640, "folder": 0o40755, "folder/file": 0o100604, "fifo": 0o10600}.items():
        status = os.stat(top / name)
        assert (status.st_gid, status.st_mode) == (0, mode), name
        assert os.listxattr(top / name) == [], name
    assert os.stat(top).st_mode & 0o7777 == 0o2755


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    top = tmp_path / "there"
    (top / "folder").mkdir(parents=True)
    (top / "file").write_text("old")
    archive = (
        hostile.member(b"file", data=b"new")
        + hostile.member(b"file", data=b"newer")
        + hostile.member(b"other", data=b"1")
    )
    archive += hostile.member(b"other", data=b"2") + hostile.member(b"folder", data=b"file") + hostile.END
    complaints = extract(archive, top, fresh=False)
    assert {path for path, _ in complaints.unset} == {b"file", b"folder"}
    assert ((top / "file").read_text(), (top / "other").read_text()) == ("old", "2")
    complaints = extract(archive, top, fresh=False, force=True)
    assert [path for path, _ in complaints.unset] == [b"folder"]
    assert ((top / "file").read_text(), (top / "folder").is_dir()) == ("newer", True)
    assert not [path for path in top.iterdir() if path.name.startswith(files.TEMPORARY)]


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    def breaking() -> Iterator[memoryview]:
        yield memoryview(b"beginning")
        raise EOFError

    top = tmp_path / "out"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    complaints = Complaints()
    made = Extraction(descriptor, complaints, fresh=True)
    with pytest.raises(EOFError):
        made.write(file(b"d/" + b"n" * 255, 0o4755, size=100), breaking())
    made.finish()
    os.close(descriptor)
    (damaged,) = (top / "d").iterdir()
    assert damaged.name == "n" * 247 + ".damaged"
    assert (damaged.read_bytes(), damaged.stat().st_mode & 0o7777) == (b"beginning", 0o755)
    assert complaints.damaged_count == 1


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    with open(image, "wb") as out:
        out.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            extract(
                b"".join(hostile.member(b"f%d" % n, data=b"x" * 1_000_000) for n in range(12)) + hostile.END,
                mount / "out",
            )
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", mount], check=True)


def test_restoring_as_somebody_else(tmp_path: Path) -> None:
    """Not as root: the content comes back, what cannot be set is listed, and no set-id bit is given to a stranger."""
    torture.build(tmp_path / "tree")
    archive = subprocess.run([*TAR, "-C", tmp_path / "tree", "-cf", "-", "."], check=True, capture_output=True).stdout
    out = tmp_path / "out"
    out.mkdir(0o700)
    os.chown(out, 65534, 65534)
    for above in out.parents[:3]:
        above.chmod(0o755)
    descriptor = os.open(out, os.O_RDONLY)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        complaints = Complaints()
        made = Extraction(descriptor, complaints, fresh=True)
        for entry, data in members(io.BytesIO(archive), complaints.is_damaged):
            made.write(entry, data)
        made.finish()
        os.write(
            writing,
            json.dumps(
                [complaints.unset_count, complaints.damaged, [os.fsdecode(p) for p, _ in complaints.unset[:900]]]
            ).encode(),
        )
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        count, damaged, unset = json.load(pipe)
    assert os.waitpid(child, 0)[1] == 0
    os.close(descriptor)
    assert damaged == [] and count > 100 and "nodes/null" in unset and "modes/file 4755" in unset
    assert not os.path.exists(out / "nodes" / "null")
    assert (out / "folders" / "read-only" / "file").read_text() == "content\n"
    assert (out / "modes" / "file 4755").stat().st_mode & 0o7777 == 0o755
    assert (out / "holes" / "5 GiB").stat().st_size == torture.HOLE + 1


HARNESS = """
import contextlib, io, json, os, re, sys
from pathlib import Path
from btw_backup import cli
from tests import hostile
from tests.test_extract import looks
config_dir, outside, top = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
place = Path(sys.argv[4])
for number, (name, archive) in enumerate(hostile.archives(outside)):
    (place / "2026-01-01T00:00:00.tar").write_bytes(archive)
    del archive
    before, began = looks(top), sum(os.times()[:4])
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        status = cli.main(["--config-dir", config_dir, "restore", "h", str(top / "target" / str(number))])
    took = sum(os.times()[:4]) - began  # computed: others on this machine do not count
    memory = int(re.search(r'VmHWM:[^0-9]+([0-9]+)', Path('/proc/self/status').read_text())[1])
    print(json.dumps([name, status, took, memory, error.getvalue(), looks(top) == before]), flush=True)
    for path in (top / "target").iterdir():
        from btw_backup import files
        files.remove(path)
"""


def looks(top: Path) -> list[tuple[object, ...]]:
    """Everything about everything in `top` but in its folder ``target``."""
    found: list[tuple[object, ...]] = []
    for above, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if os.path.join(above, name) != str(top / "target"))
        for name in sorted([".", *names, *folders]):
            path = os.path.join(above, name)
            s = os.lstat(path)
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(s.st_mode) else ""
            found.append((path, s.st_mode, s.st_uid, s.st_gid, s.st_ctime_ns, s.st_nlink, s.st_size, digest))
    return found


def test_hostile_archives(btw: object, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """No write outside, no traceback, at most 256 MiB and 5 s each; nothing wrong is said to be fine."""
    world = tmp_path / "world"
    outside = world / "outside"
    (outside / "folder").mkdir(parents=True)
    (world / "target").mkdir()
    (outside / "file").write_text("precious")
    (tmp_path / "root" / "h").mkdir()
    command = [sys.executable, "-c", HARNESS, tmp_path / "cfg", outside, world, tmp_path / "root" / "h"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, check=False, capture_output=True, env=environment, text=True)
    assert ended.returncode == 0, ended.stderr
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(results) >= 60
    for name, status, took, memory, error, untouched in results:
        assert untouched, name
        assert status in (0, 1, 3, 5) and "Traceback" not in error, (name, status, error)
        assert took <= 5 and memory <= 256 << 10, (name, took, memory)
        assert status == 0 or error.startswith("-c: "), (name, error)
    worst = f"at most {max(row[2] for row in results):.1f} s and {max(row[3] for row in results) >> 10} MiB each"
    noted = {"act": "hostile archives", "steps": len(results), "tried": len(results), "broken": 0}
    record_property("faults", {**noted, "worst": worst, "seed": 7})
    statuses = {name: status for name, status, *_ in results}
    for name, status in statuses.items():
        if name.startswith(
            ("dots", "absolute", "prefix", "pax path", "through", "cut", "hard link out", "hard link by dots")
        ):
            assert status == 5, (name, status)


def test_folders_swapped_for_links_meanwhile(tmp_path: Path) -> None:
    """Another process exchanges folders in the target for links to the outside while we write: nothing gets there."""
    outside, top, spare = tmp_path / "outside", tmp_path / "target", tmp_path / "spare"
    for path in (outside, top, spare):
        path.mkdir()
    (outside / "precious").write_text("precious")
    before = looks(outside)
    for name in "abcd":
        (top / name).mkdir()
        (spare / name).symlink_to(outside)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        pairs = [(os.fsencode(top / name), os.fsencode(spare / name)) for name in "abcd"]
        while not stop.is_set():
            for left, right in pairs:
                renameat2(-100, left, -100, right, RENAME_EXCHANGE)
                swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        deadline = time.monotonic() + 6
        turn = 0
        while time.monotonic() < deadline or swaps < 100_000:
            turn += 1
            with extraction(top, fresh=False, force=True) as (made, _):
                for name in (b"a", b"b", b"c", b"d"):
                    made.write(folder(name))
                    made.write(file(name + b"/precious", 0o4777), content(b"evil"))
                    made.write(file(b"%s/%d" % (name, turn % 50)), content(b"evil"))
                    made.write(folder(name + b"/inner"))
                    made.write(Entry(name + b"/inner/link", Kind.LINK, 0o777, 7, 7, 1, target=b"x"))
                    made.write(Entry(name + b"/node", Kind.FIFO, 0o777, 7, 7, 1))
                    made.write(Entry(name + b"/hard", Kind.HARD_LINK, 0o777, 7, 7, 1, target=b"a/precious"))
    finally:
        stop.set()
        thread.join()
    assert swaps >= 100_000
    assert looks(outside) == before


def test_restores_into_a_folder_at_once_leave_each_other_their_files(tmpfs: Path) -> None:
    """Each removes what dead ones left there, and sees the files of the others before they are locked."""
    stop, swept = threading.Event(), 0

    def sweep() -> None:
        nonlocal swept
        while not stop.is_set():
            files.sweep_dead(tmpfs, "btw-restore", anybodys=True)
            swept += 1

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        with extraction(tmpfs, fresh=False, force=True) as (made, complaints):
            for turn in range(10_000):
                made.write(file(b"%d" % (turn % 10), size=4), content(b"text"))
    finally:
        stop.set()
        thread.join()
    assert swept > 100
    assert complaints.damaged_count == complaints.unset_count == 0
    assert sorted(path.name for path in tmpfs.iterdir()) == [str(number) for number in range(10)]


def test_what_a_killed_restore_left_in_a_folder_of_others_goes(tmp_path: Path) -> None:
    """But nothing that only looks so, and nothing that is in use."""
    left = [tmp_path / ".tmp-1-btw-restore", tmp_path / f".tmp-{os.getpid()}-btw-restore"]
    theirs = [tmp_path / ".tmp-7", tmp_path / ".tmp-7-file"]
    for path in (*left, *theirs):
        path.write_text("half of it")
    alive = tmp_path / ".tmp-2-btw-restore"
    with files.create(alive), extraction(tmp_path, fresh=False) as (made, _):
        made.write(file(b"new", size=4), content(b"text"))
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*theirs, alive))
    assert (tmp_path / "new").read_text() == "text"


def test_clean_takes_off_what_was_inherited(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    os.chown(above, 0, 4711)
    os.chmod(above, 0o2777)
    (above / "new").mkdir()
    descriptor = os.open(above / "new", os.O_RDONLY)
    descent.clean(descriptor)
    status = os.fstat(descriptor)
    os.close(descriptor)
    assert (status.st_mode & 0o7777, status.st_gid) == (0o700, os.getegid())
    shutil.rmtree(above)
