"""The command restore: trees, paths of them, streams, dumps; into new places and into old ones; damaged and interrupted."""

import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from itertools import count
from pathlib import Path

import pytest

from tests import hostile, torture
from tests.conftest import PATIENCE, REPOSITORY, Installation, peak_memory, random_bytes, tree_differences


@pytest.fixture
def kept(btw: Installation, source: Path) -> Path:
    """The source, backed up to ``t``."""
    for path in (source / "etc" / "hosts", source / "etc" / "deep", source / "etc", source):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789))
    btw.tree(source)
    btw("fs", source, "t")
    return source


def old_archive(btw: Installation, source: Path, dst: str, stamp: str = "2020-01-01T00:00:00") -> Path:
    """A backup as the old script made it: bzip2, without a record."""
    (btw.root / dst).mkdir(exist_ok=True)
    path = btw.root / dst / f"{stamp}.tbz"
    subprocess.run(["tar", "-C", source, "-cjpf", path, "."], check=True)
    return path


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".tmp-")]


def test_a_tree(btw: Installation, kept: Path, tmp_path: Path) -> None:
    ended = btw("restore", "t", tmp_path / "out")
    assert (ended.out, ended.err) == ("", "")
    assert tree_differences(kept, tmp_path / "out") == ""
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("type_", ["tar", "rdiff"])
def test_the_torture_tree(btw: Installation, tmp_path: Path, type_: str) -> None:
    torture.build(tmp_path / "tree")
    btw.tree(tmp_path / "tree", type_)
    btw("fs", tmp_path / "tree", "t")
    ended = btw("restore", "t", tmp_path / "out")
    assert (ended.out, ended.err) == ("", "")
    assert tree_differences(tmp_path / "tree", tmp_path / "out") == ""
    assert (tmp_path / "out" / "nodes" / "socket").is_socket()
    assert (tmp_path / "out" / "holes" / "5 GiB").stat().st_blocks < 2048


@pytest.mark.parametrize("compression", ["zstd", "bzip2", "gzip", "xz", "none"])
def test_all_compressions(btw: Installation, source: Path, tmp_path: Path, compression: str) -> None:
    btw.tree(source, extra=f"COMPRESSION = {compression!r}\n")
    btw("fs", source, "t")
    btw("restore", "t", "out")
    assert tree_differences(source, tmp_path / "out") == ""


def test_a_backup_of_the_old_script(btw: Installation, source: Path, tmp_path: Path) -> None:
    old_archive(btw, source, "t")
    btw("restore", "t@2020-01-01T00:00:00", tmp_path / "out")
    os.utime(tmp_path / "out" / "link", ns=(0, (source / "link").lstat().st_mtime_ns), follow_symlinks=False)
    shutil.copystat(source / "etc" / "hosts", tmp_path / "out" / "etc" / "hosts")
    assert (tmp_path / "out" / "etc" / "deep" / "file").read_bytes() == (source / "etc" / "deep" / "file").read_bytes()
    assert (tmp_path / "out" / "link").readlink() == Path("etc/hosts")


def test_an_earlier_backup(btw: Installation, kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "before", symlinks=True)
    subprocess.run(["rsync", "-aHAX", f"{kept}/", tmp_path / "before"], check=True)
    (kept / "new").write_text("new")
    btw("fs", kept, "t")
    btw("restore", "t@1", "old")
    btw("restore", "t@latest", "new")
    assert tree_differences(tmp_path / "before", tmp_path / "old") == ""
    assert tree_differences(kept, tmp_path / "new") == ""
    assert "names 2 backups" in btw("restore", "t@all", "out", status=2).err
    assert "there is no backup 7" in btw("restore", "t@7", "out", status=1).err
    assert "there is no nowhere" in btw("restore", "nowhere", "out", status=1).err


def test_something_is_at_the_target(btw: Installation, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("full", "file"):
        ended = btw("restore", "t", target, status=1)
        assert ended.err.startswith(f"btw_backup: {tmp_path / target} exists\nbtw_backup: hint: ")
    assert (tmp_path / "full" / "file").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    btw("restore", "t", "empty")
    assert tree_differences(kept, tmp_path / "empty") == ""
    ended = btw("restore", "t", "no/such/folder", status=1)
    assert (
        ended.err
        == f"btw_backup: there is no folder {tmp_path / 'no/such'}\nbtw_backup: hint: mkdir -p {tmp_path / 'no/such'}\n"
    )


def test_an_empty_mount_point_and_a_link_to_an_empty_folder(btw: Installation, kept: Path, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
    try:
        btw("restore", "t", mount)
        assert tree_differences(kept, mount) == ""
    finally:
        subprocess.run(["umount", mount], check=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    btw("restore", "t", "link")
    assert tree_differences(kept, tmp_path / "real") == ""


@pytest.mark.parametrize("keeper", ["tar", "chunks"])
def test_f103_a_target_without_upper_and_lower_case(btw: Installation, tmp_path: Path, keeper: str) -> None:
    """What it cannot tell apart is not lost silently: the first stays, and the others are named."""
    source, mount, behind = (tmp_path / name for name in ("twins", "mount", "behind"))
    for path in (source / "Dir", source / "dir", mount, behind):
        path.mkdir(parents=True)
    for name in ("README", "readme", "Dir/f", "dir/g", "alone"):
        (source / name).write_text(name)
    btw.tree(source, keeper)
    btw("fs", source, "c")
    words = [sys.executable, "-m", "tests.caseless", mount, behind]
    with subprocess.Popen(words, cwd=REPOSITORY) as served:
        try:
            deadline = time.monotonic() + PATIENCE
            while not os.path.ismount(mount) and time.monotonic() < deadline:
                time.sleep(0.05)
            err = btw("restore", "c", mount / "out", status=3).err
            kept = {str(path.relative_to(mount / "out")): path for path in (mount / "out").rglob("*")}
            contents = {name: path.read_text() for name, path in kept.items() if path.is_file()}
            first = "README" if "README" in kept else "readme"
            folder = "Dir" if "Dir" in kept else "dir"
            assert contents == {first: first, f"{folder}/f": "Dir/f", f"{folder}/g": "dir/g", "alone": "alone"}
            for name in {"README", "readme", "Dir", "dir"} - set(kept):
                assert f"{name}: it could not be made" in err or f"{name} could not" in err, err
        finally:
            subprocess.run(["umount", mount], check=True)
            served.wait(PATIENCE)


@pytest.mark.parametrize("keeper", ["tar", "chunks"])
def test_f19_a_target_that_takes_no_large_files(btw: Installation, source: Path, tmp_path: Path, keeper: str) -> None:
    """That is no damage."""
    (source / "large").write_bytes(random_bytes(6_000_000))
    btw.tree(source, keeper)
    btw("fs", source, "l")
    words = [sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir, "restore", "l", tmp_path / "out"]
    ended = subprocess.run(
        ["prlimit", "--fsize=1000000", *words], check=False, capture_output=True, cwd=REPOSITORY, text=True
    )
    assert (ended.returncode, "File too large" in ended.stderr, "damaged" in ended.stderr) == (3, True, False)
    assert "large" in tree_differences(source, tmp_path / "out")
    assert (tmp_path / "out" / "etc" / "hosts").exists()


def test_f101_a_link_of_somebody_else_is_not_followed(btw: Installation, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    os.chown(link, 65534, 65534, follow_symlinks=False)
    assert "link exists" in btw("restore", "t", "link", status=1).err
    assert list((tmp_path / "real").iterdir()) == []


def test_f101_a_link_that_is_swapped(btw: Installation, kept: Path, tmp_path: Path) -> None:
    """What the link led to was empty when we looked; nothing that is elsewhere is overwritten."""
    for name in ("empty", "precious"):
        (tmp_path / name).mkdir()
    (tmp_path / "precious" / "etc").mkdir()
    (tmp_path / "precious" / "etc" / "hosts").write_text("precious")
    one, other = tmp_path / "out", tmp_path / "other"
    one.symlink_to("empty")
    other.symlink_to("precious")
    swapping = "import ctypes, os, sys; one, other = map(os.fsencode, sys.argv[1:]); libc = ctypes.CDLL(None)\n"
    swapping += "while True: libc.renameat2(-100, one, -100, other, 2)"
    with subprocess.Popen([sys.executable, "-c", swapping, one, other], cwd=REPOSITORY) as swapper:
        try:
            for _ in range(12):
                btw("restore", "t", "out", status=None)
                shutil.rmtree(tmp_path / "empty")
                (tmp_path / "empty").mkdir()
        finally:
            swapper.kill()
    assert {path.name for path in (tmp_path / "precious").rglob("*")} == {"etc", "hosts"}
    assert (tmp_path / "precious" / "etc" / "hosts").read_text() == "precious"


def test_paths(btw: Installation, kept: Path, tmp_path: Path) -> None:
    btw("restore", "t", "one", "--path", "etc/hosts")
    assert sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*")) == [
        Path("etc"),
        Path("etc/hosts"),
    ]
    assert (tmp_path / "one" / "etc").stat().st_mtime_ns == 1_600_000_000_123_456_789
    btw("restore", "t", "two", "--path", "./etc/deep/", "--path", str(kept / "link"))
    assert sorted(p.name for p in (tmp_path / "two").rglob("*")) == ["deep", "etc", "file", "link"]
    btw("restore", "t", "all", "--path", ".")
    assert tree_differences(kept, tmp_path / "all") == ""
    ended = btw("restore", "t", "none", "--path", "etc/hosts", "--path", "etc/nothing", status=1)
    assert ended.err.startswith("btw_backup: not in this backup: etc/nothing\n") and not (tmp_path / "none").exists()
    assert btw("restore", "t", "none", "--path", "../etc", status=2).err.startswith("btw_backup: not a path in a tree")
    assert leftovers(tmp_path) == []


def test_a_path_whose_content_is_under_another_name(btw: Installation, source: Path, tmp_path: Path) -> None:
    (source / "a").mkdir()
    (source / "z").mkdir()
    (source / "a" / "first").write_text("content")
    for name in ("z/second", "z/third", "etc/fourth"):
        os.link(source / "a" / "first", source / name)
    btw.tree(source)
    btw("fs", source, "t")
    btw("restore", "t", "out", "--path", "z", "--path", "etc/fourth")
    found = [tmp_path / "out" / name for name in ("z/second", "z/third", "etc/fourth")]
    assert [path.read_text() for path in found] == ["content"] * 3
    assert len({path.stat().st_ino for path in found}) == 1 and not (tmp_path / "out" / "a").exists()
    assert (tmp_path / "out" / "z").stat().st_mtime_ns == (source / "z").stat().st_mtime_ns


def test_paths_and_sockets(btw: Installation, tmp_path: Path) -> None:
    torture.build(tmp_path / "tree")
    btw.tree(tmp_path / "tree")
    btw("fs", tmp_path / "tree", "t")
    btw("restore", "t", "out", "--path", "nodes/socket")
    assert [p.name for p in (tmp_path / "out" / "nodes").iterdir()] == ["socket"]
    assert tree_differences(tmp_path / "tree" / "nodes", tmp_path / "out" / "nodes").count("socket") == 0


def test_into_a_folder(btw: Installation, kept: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "etc").mkdir(parents=True, mode=0o711)
    (there / "mine").write_text("mine")
    btw("restore", "t", "there", "--into")
    assert (there / "mine").read_text() == "mine" and (there / "etc").stat().st_mode & 0o777 == 0o711
    assert (there / "etc" / "hosts").read_text() == (kept / "etc" / "hosts").read_text()
    (there / "etc" / "hosts").write_text("changed")
    ended = btw("restore", "t", "there", "--into", status=1)
    assert "btw_backup: etc/hosts is there already\n" in ended.err
    assert f"3 of the names to restore are in {there} already\nbtw_backup: hint: --force replaces files\n" in ended.err
    assert (there / "etc" / "hosts").read_text() == "changed"
    btw("restore", "t", "there", "--into", "--force")
    (there / "mine").unlink()
    os.utime(there, ns=(0, kept.stat().st_mtime_ns))
    assert tree_differences(kept, there) == ""


def test_force_replaces_no_folder(btw: Installation, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "there" / "etc" / "hosts").mkdir(parents=True)
    ended = btw("restore", "t", "there", "--into", "--force", status=1)
    assert "etc/hosts is there already" in ended.err and "but neither folders" in ended.err
    assert sorted(os.listdir(tmp_path / "there" / "etc")) == ["hosts"]


def test_into_through_a_link(btw: Installation, kept: Path, tmp_path: Path) -> None:
    """A link in the target that leads out of it is not followed, forced or not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "etc").symlink_to(tmp_path / "outside")
    assert "etc is there already" in btw("restore", "t", "there", "--into", status=1).err
    btw("restore", "t", "there", "--into", "--force")
    assert os.listdir(tmp_path / "outside") == [] and (tmp_path / "there" / "etc").is_dir()


def test_the_stream(btw: Installation, kept: Path, tmp_path: Path) -> None:
    with open(tmp_path / "archive.tar", "wb") as out:
        btw("restore", "t", "-", stdout=out)
    listed = subprocess.run(["tar", "-tf", tmp_path / "archive.tar"], check=True, capture_output=True, text=True).stdout
    assert "etc/deep/file" in listed
    (record,) = json.loads(btw("list", "t", "--json").out)
    assert hashlib.sha256((tmp_path / "archive.tar").read_bytes()).hexdigest() == record["sha256"]
    assert btw("restore", "t", "-", "--path", "etc", status=2).err
    assert btw("restore", "t", status=2).err.startswith("btw_backup: give either a TARGET or --database")
    head = btw.start("restore", "t", "-")
    assert head.stdout is not None
    head.stdout.close()
    head.communicate()
    assert head.returncode in (0, 1)


def test_no_stream_to_a_terminal(btw: Installation, kept: Path) -> None:
    main, terminal = pty.openpty()
    process = btw.start("restore", "t", "-", stdout=terminal)
    _, error = process.communicate()
    os.close(terminal)
    os.close(main)
    assert process.returncode == 2 and b"standard output is a terminal" in error


def damaged_copy(archive: Path, how: str) -> None:
    content = bytearray(archive.read_bytes())
    if how == "cut":
        del content[len(content) * 6 // 10 :]
    elif how == "empty":
        content.clear()
    else:
        # amid a file: deflate has bits in the zeros of a header whose change changes nothing
        content[len(content) * 33 // 80] ^= 1
    archive.write_bytes(content)


@pytest.fixture
def big(btw: Installation, tmp_path: Path) -> Path:
    """A tree of some size that does not compress away, backed up to ``t``."""
    top = tmp_path / "big"
    top.mkdir()
    for number in range(40):
        (top / f"{number:02}").write_bytes(hashlib.shake_128(b"%d" % number).digest(100_000))
    btw.tree(top)
    return top


@pytest.mark.parametrize("how", ["cut", "flipped"])
@pytest.mark.parametrize("compression", ["zstd", "bzip2", "gzip", "xz", "none"])
def test_damaged_archives(btw: Installation, big: Path, tmp_path: Path, compression: str, how: str) -> None:
    """What could be read is in TARGET.damaged, the rest is missing or called .damaged, and TARGET is not there."""
    (next(btw.config_dir.glob("test.*")) / "config.py").write_text(f"TYPE = 'tar'\nCOMPRESSION = {compression!r}\n")
    btw("fs", big, "t")
    (archive,) = (path for path in (btw.root / "t").iterdir() if path.name.startswith("20"))
    damaged_copy(archive, how)
    ended = btw("restore", "t", "out", status=5)
    assert f"what could be read of it is in {tmp_path / 'out.damaged'}" in ended.err
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []
    whole = [p for p in (tmp_path / "out.damaged").iterdir() if not p.name.endswith(".damaged")]
    wrong = [p.name for p in whole if p.read_bytes() != (big / p.name).read_bytes()]
    assert len(whole) >= {"bzip2": 0, "xz": 5}.get(compression, 15), "a block, or a piece, is lost with the damage"
    assert len(wrong) <= (how == "flipped"), "one byte is in one file at most"
    if how == "cut":
        assert [
            p.name for p in (tmp_path / "out.damaged").iterdir() if p.name.endswith(".damaged")
        ] or compression == "bzip2"
    btw("restore", "t", "out", status=5)
    assert (tmp_path / "out.damaged.1").is_dir()
    (tmp_path / "there").mkdir()
    ended = btw("restore", "t", "there", "--into", status=5)
    assert "nothing was written" in ended.err and os.listdir(tmp_path / "there") == []
    assert btw("restore", "t", "-", status=5, stdout=subprocess.DEVNULL).err


def test_damage_without_a_record(btw: Installation, source: Path, tmp_path: Path) -> None:
    archive = old_archive(btw, source, "t")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 4
    archive.write_bytes(content)
    btw("restore", "t", "out", status=5)
    assert not (tmp_path / "out").exists()


def test_an_archive_that_is_none(btw: Installation, tmp_path: Path) -> None:
    (btw.root / "t").mkdir()
    for number, content in enumerate((b"", b"nonsense", b"x" * 100_000, bytes(3))):
        (btw.root / "t" / "2020-01-01T00:00:00.tar").write_bytes(content)
        ended = btw("restore", "t", f"out{number}", status=5)
        assert ended.err.startswith("btw_backup: t@2020-01-01T00:00:00 is damaged: ")
    assert leftovers(tmp_path) == [] and not list(tmp_path.glob("out*"))


def test_killed_and_repeated(btw: Installation, big: Path, tmp_path: Path) -> None:
    btw("fs", big, "t")
    for delay in (0.15, 0.2, 0.25, 0.3):
        process = btw.start("restore", "t", "out")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
    btw("restore", "t", "out")
    assert tree_differences(big, tmp_path / "out") == "" and leftovers(tmp_path) == []


def test_leftovers_of_the_living_and_of_others_stay(btw: Installation, kept: Path, tmp_path: Path) -> None:
    names = {
        "dead": ".tmp-999999-out",
        "alive": ".tmp-999998-out",
        "other": ".tmp-999999-elsewhere",
        "theirs": ".tmp-999997-out",
    }
    for name in names.values():
        (tmp_path / name / "inner").mkdir(parents=True)
    os.chown(tmp_path / names["theirs"], 1000, 1000)
    (tmp_path / ".tmp-999996-out").symlink_to(tmp_path / "source")
    descriptor = os.open(tmp_path / names["alive"], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    btw("restore", "t", "out")
    os.close(descriptor)
    assert not (tmp_path / names["dead"]).exists() and kept.exists()
    assert all((tmp_path / names[name] / "inner").exists() for name in ("alive", "other", "theirs"))


def test_interrupted(btw: Installation, big: Path, tmp_path: Path) -> None:
    btw("fs", big, "t")
    process = btw.start("restore", "t", "out")
    deadline = time.monotonic() + PATIENCE
    while not leftovers(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert (process.returncode, leftovers(tmp_path)) in ((143, []), (0, []))


def test_interrupted_while_it_makes_a_folder(btw: Installation, source: Path, tmp_path: Path) -> None:
    btw.tree(source, "tar")
    btw("fs", source, "t")
    for number in count(1):
        process = btw.start("--version")
        process.communicate()
        inject = ["-e", "trace=mkdir", "-e", f"inject=mkdir:signal=TERM:when={number}"]
        command = ["strace", "-qq", "-o", "/dev/null", *inject, *process.args[:-1], "restore", "t", "out"]  # type: ignore[index]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
        assert (ended.returncode, leftovers(tmp_path)) in ((-signal.SIGTERM, []), (143, []), (0, []))
        if not ended.returncode:
            break
    assert number > 1  # at least one was interrupted
    assert tree_differences(source, tmp_path / "out") == ""


def test_setgid_and_default_acl_of_the_parent_do_not_leak(btw: Installation, kept: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, 0, 4711)
    os.chmod(parent, 0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", parent], check=True)
    btw("restore", "t", "parent/out")
    assert tree_differences(kept, parent / "out") == ""


def test_no_attributes_on_the_target(btw: Installation, tmp_path: Path) -> None:
    """A filesystem that knows no ACLs: everything else comes back, and what does not is listed, with status 3."""
    torture.build(tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree" / "holes")
    btw.tree(tmp_path / "tree")
    btw("fs", tmp_path / "tree", "t")
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", mount], check=True)
    try:
        ended = btw("restore", "t", mount / "out", status=3)
        assert "attributes/file: its attribute user." in ended.err and "not quite as it was" in ended.err
        assert (mount / "out" / "attributes" / "file").read_text() == "content\n"
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_full_and_a_read_only_target(btw: Installation, big: Path, tmp_path: Path) -> None:
    btw("fs", big, "t")
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount], check=True)
    try:
        ended = btw("restore", "t", mount / "out", status=1)
        assert "No space left on device" in ended.err and os.listdir(mount) == []
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        assert "Read-only file system" in btw("restore", "t", mount / "out", status=1).err
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_dump_to_a_file(btw: Installation, tmp_path: Path) -> None:
    """The plain stream of a dump that rdiff-backup keeps, without a record."""
    (tmp_path / "in").mkdir()
    dump = b"PGDMP" + random_bytes(3_000_000)
    (tmp_path / "in" / "shop.dump").write_bytes(dump)
    repository = btw.root / "d" / "2020-01-01T00:00:00"
    command = ["rdiff-backup", "--api-version", "201", "backup", "--create-full-path", tmp_path / "in", repository]
    subprocess.run(command, check=True, capture_output=True)
    btw("restore", "d", "shop.dump")
    assert (tmp_path / "shop.dump").read_bytes() == dump
    assert (tmp_path / "shop.dump").stat().st_mode & 0o777 == 0o600
    assert "exists" in btw("restore", "d", "shop.dump", status=1).err
    btw("restore", "d", "shop.dump", "--force")
    assert "give the name of a file in it" in btw("restore", "d", ".", status=1).err
    with open(tmp_path / "out", "wb") as out:
        btw("restore", "d", "-", stdout=out)
    assert (tmp_path / "out").read_bytes() == dump
    assert btw("restore", "d", "x", "--path", "etc", status=2).err and leftovers(tmp_path) == []


def test_progress_is_for_terminals(btw: Installation, big: Path, tmp_path: Path) -> None:
    btw("fs", big, "t")
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))  # tqdm shows nothing on one of no size
    process = btw.start("restore", "t", "out", stderr=terminal)
    process.communicate()
    os.close(terminal)
    shown = os.read(main, 100_000)
    os.close(main)
    assert process.returncode == 0 and b"restore" in shown


def test_names_are_shown_without_harm(btw: Installation, tmp_path: Path) -> None:
    (btw.root / "t").mkdir()
    evil = b"../\x1b[31mred\n\xff"
    (btw.root / "t" / "2020-01-01T00:00:00.tar").write_bytes(
        hostile.member(evil) + hostile.member(b"fine") + hostile.END
    )
    error = btw("restore", "t", "out", status=5).err
    assert "\x1b" not in error and re.search(r"\.\./\\x1b\[31mred\\n\\xff", error)


def test_a_million_files_take_no_memory(btw: Installation, tmp_path: Path) -> None:
    """Here fifty thousand, without content: the memory must not grow with their number."""
    (btw.root / "t").mkdir()
    peaks = []
    for count in (1000, 50_000):
        with open(btw.root / "t" / "2020-01-01T00:00:00.tar", "wb") as out:
            for number in range(count):
                out.write(hostile.pax(mtime=b"%d.5" % number) + hostile.member(b"%d/%d" % (number // 500, number)))
            out.write(hostile.END)
        peaks.append(peak_memory(btw.start("restore", "t", f"out{count}", stderr=subprocess.DEVNULL)))
    assert peaks[1] < peaks[0] + 10_000 and peaks[1] < 150_000


def test_what_a_restore_left_that_died_is_gone_whosever_it_is(btw: Installation, source: Path, tmp_path: Path) -> None:
    """A file gets its owner before its name."""
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    (tmp_path / "out" / "etc").mkdir(parents=True)
    dead = btw.start("--version")
    dead.communicate()
    left = tmp_path / "out" / "etc" / f".tmp-{dead.pid}-btw-restore"
    left.write_text("half")
    os.chown(left, 1000, 1000)
    btw("restore", "t", tmp_path / "out", "--into", "--force")
    assert not left.exists()
    assert tree_differences(source, tmp_path / "out") == ""


def exchange(one: Path, other: Path) -> None:
    """Let two files have each other's name."""
    if one != other:
        one.rename(one.with_name("x"))
        other.rename(one)
        one.with_name("x").rename(other)


def two_exchanged(btw: Installation, dst: str) -> list[str]:
    """The addresses of two backups, after each was given the other's name, with its record."""
    rows = json.loads(btw("--json", "list", dst).out)
    one, other = (row["stamp"] for row in rows)
    for folder in (btw.root / dst, btw.root / dst / ".records"):
        pairs = zip(sorted(folder.glob(f"{one}*")), sorted(folder.glob(f"{other}*")), strict=False)
        for path, another in list(pairs):
            exchange(path, another)
    return [f"{dst}@{one}", f"{dst}@{other}"]


@pytest.mark.parametrize("type_", ["tar", "rdiff", "chunks"])
def test_F30_a_tree_that_has_the_name_of_another_with_its_record(
    btw: Installation, source: Path, tmp_path: Path, type_: str
) -> None:
    btw.tree(source, type_)
    btw("fs", source, "d/t")
    (source / "new").write_text("new")
    btw("fs", source, "d/t")
    for number, address in enumerate(two_exchanged(btw, "d/t")):
        ended = btw("restore", address, f"out{number}", status=5)
        assert f"{address[4:]}.json is of another backup" in ended.err and "marked" not in ended.err
        assert not (tmp_path / f"out{number}").exists() and (tmp_path / f"out{number}.damaged/etc").is_dir()
        (tmp_path / f"into{number}").mkdir()
        (tmp_path / f"into{number}/mine").write_text("mine")
        assert "is of another backup" in btw("restore", "--into", address, f"into{number}", status=5).err
        assert os.listdir(tmp_path / f"into{number}") == ["mine"]
    assert btw("list", "d/t").out.count("(not valid)") == 2
    btw("scrub", status=5)
    (source / "more").write_text("more")
    btw("fs", source, "d/t")
    btw("restore", "d/t", "out")
    assert tree_differences(source, tmp_path / "out") == ""


@pytest.mark.parametrize("type_", ["file", "chunks"])
def test_F30_a_stream_that_has_the_name_of_another_with_its_record(
    btw: Installation, tmp_path: Path, type_: str
) -> None:
    (tmp_path / "in").write_text("one")
    btw("command-init", "--type", type_, "c", "--", "cat", tmp_path / "in")
    btw("command", "c", "d/c")
    (tmp_path / "in").write_text("other")
    btw("command", "c", "d/c")
    for number, address in enumerate(two_exchanged(btw, "d/c")):
        ended = btw("restore", address, f"out{number}", status=5)
        assert f"{address[4:]}.json is of another backup" in ended.err
        assert not (tmp_path / f"out{number}").exists()
        assert (tmp_path / f"out{number}.damaged").read_text() == ("other", "one")[number]
        assert "is of another backup" in btw("restore", address, "-", status=5).err
    assert btw("list", "d/c").out.count("(not valid)") == 2
    btw("scrub", status=5)


def test_what_no_record_tells_of_is_compared_with_nothing(btw: Installation, tmp_path: Path) -> None:
    """A backup whose record is illegible does not come back as it was; so the next run makes another one."""
    (tmp_path / "in").write_text("one")
    btw("command-init", "--type", "file", "c", "--", "cat", tmp_path / "in")
    btw("command", "c", "c")
    (record,) = (btw.root / "c" / ".records").glob("*.json")
    record.write_bytes(record.read_bytes().replace(b'"status": 0', b'"status": 3'))
    assert "cannot be read: its checksum" in btw("restore", "c", "out", status=5).err
    btw("command", "c", "c")
    btw("restore", "c", "out")
    assert (tmp_path / "out").read_text() == "one"


def test_a_backup_of_the_old_script_needs_no_record(btw: Installation, kept: Path, tmp_path: Path) -> None:
    old_archive(btw, kept, "old")
    ended = btw("restore", "old", "out")
    assert (ended.out, ended.err) == ("", "")
    assert "(not valid)" not in btw("list", "old").out
