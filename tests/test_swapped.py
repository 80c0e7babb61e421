"""A source in which something else comes to the place of a folder or file while tar reads it (row T8 of the faults)."""

import ctypes
import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btw_backup.sources import guarded
from btw_backup.sources.complaints import Complaints
from tests.conftest import Installation
from tests.test_mount import gone

SECRET = "what nobody but root may read"
CAP_SYS_ADMIN, PR_CAPBSET_DROP = 21, 24


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A tree whose folders will be swapped, beside one with a secret."""
    top, outside = tmp_path / "src", tmp_path / "outside"
    for folder in (top / "a", top / "d" / "e", top / "inner", outside / "e"):
        folder.mkdir(parents=True)
    for path in (top / "a" / "f", top / "d" / "f", top / "d" / "e" / "f", top / "inner" / "f", top / "z"):
        path.write_bytes(b"inside")
    for path in (outside / "f", outside / "e" / "f"):
        path.write_text(SECRET)
    subprocess.run(["setfattr", "-n", "user.said", "-v", SECRET, outside / "f"], check=True)
    subprocess.run(["setfacl", "-m", "u:12345:r", outside / "e" / "f"], check=True)
    return top


def swapping(btw: Installation, top: Path, what: str) -> dict[str, str]:
    """The environment in which tar does `what` in `top` before it begins: after the walk."""
    program = btw.top / "tar"
    program.write_text(f'#!/bin/bash\n(cd {top} && {what}) || exit 77\nexec -a "$0" /usr/bin/tar "$@"\n')
    program.chmod(0o755)
    return {"BTW_TAR": str(program)}


def unprivileged() -> None:
    """Be root that may not mount, as in a container."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)


def backed_up(
    btw: Installation, top: Path, what: str, type_: str = "tar", before: Callable[[], None] | None = None
) -> tuple[dict[str, str], Path]:
    """What was named by a backup during which `what` was done, and what it restores without a complaint."""
    btw.tree(top, type_, "D")
    ended = btw("fs", top, "D", status=3, env=swapping(btw, top, what), preexec_fn=before)
    row = json.loads(btw("--json", "list", "D").out)[-1]
    named = dict((*row["changed"], *row["unread"]))
    assert all(path in ended.err for path in named)
    out = btw.top / "out"
    assert btw("restore", "D", out).err == ""
    for path in ("a/f", "z"):
        assert (out / path).read_bytes() == b"inside"
    return named, out


@pytest.mark.parametrize("type_", ["tar", "rdiff"])
def test_f63_no_link_in_the_middle_of_a_path_is_followed(btw: Installation, top: Path, type_: str) -> None:
    named, out = backed_up(btw, top, f"mv d d.real && ln -s {top.parent}/outside d", type_)
    assert {"d", "d/f", "d/e", "d/e/f"} <= set(named)
    assert "become a link" in named["d/f"]
    assert not (out / "d").is_symlink() and not list(out.glob("d/**/f"))
    plain = btw("restore", "D", "-").out
    assert "inside" in plain and SECRET not in plain and "12345" not in plain


@pytest.mark.parametrize("what", ["mkfifo d", "cp z d", "mknod d c 1 5", "ln -s nowhere d", "ln -s inner d"])
def test_f63_nothing_lies_below_what_is_no_folder(btw: Installation, top: Path, what: str) -> None:
    named, out = backed_up(btw, top, f"mv d d.real && {what}")
    assert {"d", "d/f", "d/e/f"} <= set(named) and not list(out.glob("d/**/f"))


def test_f63_a_device_is_not_opened_nor_a_link_followed(top: Path) -> None:
    """Not even when it comes to the place of a file between the look and the opening."""
    os.mknod(top / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (top / "link").symlink_to("d")
    with guarded.opened(str(top)) as source:
        assert source.safe
        for folder in (source.top, os.open(source.path, os.O_RDONLY)):
            for path, number in (("device", errno.EACCES), ("link/f", errno.ELOOP)):
                with pytest.raises(OSError, match=path) as error:
                    os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
                assert error.value.errno == number
        os.close(folder)
        assert os.readlink("link", dir_fd=source.top) == "d"


def test_f63_where_nothing_can_be_mounted_a_look_afterwards_tells(btw: Installation, top: Path) -> None:
    named, out = backed_up(btw, top, f"mv d d.real && ln -s {top.parent}/outside d", before=unprivileged)
    assert named["d"] == named["d/e"] == "was replaced while it was read" and "inner" not in named
    assert not (out / "d").is_symlink()


@pytest.mark.parametrize("before", [None, unprivileged])
def test_a_source_that_stays_is_read_as_ever(btw: Installation, top: Path, before: Callable[[], None] | None) -> None:
    (top / "link").symlink_to("d")
    (top.parent / "given").symlink_to(top)
    btw.tree(top.parent / "given", "tar", "D")
    mounts = Path("/proc/self/mountinfo").read_text()
    assert btw("fs", top.parent / "given", "D", preexec_fn=before).err == ""
    assert Path("/proc/self/mountinfo").read_text() == mounts
    btw("restore", "D", btw.top / "out")
    assert subprocess.run(["diff", "-r", "--no-dereference", top, btw.top / "out"], check=False).returncode == 0


def test_f62_what_tar_says_of_attributes_is_known() -> None:
    """All its words, as they are in the program: the one that is not known would cost the whole backup."""
    text = subprocess.run(["strings", "/usr/bin/tar"], check=True, capture_output=True).stdout.split()
    words = {word for word in text if word[:1].islower() and word.replace(b"_", b"").isalpha()}
    words = {word for word in words if any(part in word for part in (b"xattr", b"filecon", b"acl"))}
    assert {b"flistxattr", b"llistxattrat", b"lgetxattrat", b"file_has_acl_at", b"acl_get_file_at"} <= words
    said = Complaints()
    for word in words:
        for number in (errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES, errno.EIO):
            reason = os.strerror(number).encode()
            said.add(b"/usr/bin/tar: ./d/%d: Warning: Cannot %s: %s" % (number, word, reason))
    assert said._fatal == b""
    assert {path for path, _ in said.changed.found} == {f"d/{errno.ENOENT}"}
    assert {path for path, _ in said.unread.found} == {f"d/{errno.EACCES}", f"d/{errno.EIO}"}


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
def test_f64_a_source_without_attributes_with_one_unreadable_file(btw: Installation, top: Path) -> None:
    mnt = btw.top / "mnt"
    mnt.mkdir()
    btw.tree(top, "chunks", "chunks")
    (top / "w").write_bytes(os.urandom(3_000_000))
    btw("fs", top, "chunks")
    btw("mount", "chunks@latest", mnt)
    try:
        for path in btw.root.rglob("chunks/**/*"):
            if path.is_file() and path.stat().st_size > 1_000_000:
                path.write_bytes(bytes(path.stat().st_size))
        btw.tree(mnt, "tar", "D")
        ended = btw("fs", mnt, "D", status=3)
    finally:
        subprocess.run(["umount", "-l", mnt], check=True)
    assert "w: " in ended.err and gone(mnt)
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "z").read_bytes() == b"inside"
