"""A tree that holds one of everything that a filesystem can hold, to see whether it comes back."""

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

HOLE = 5 << 30
NAMES = (
    b"-rf",
    b"--help",
    b" leading and trailing ",
    b"new\nline",
    b"tab\tand\x01control\x7f\x1b[31m",
    b"\xff\xfe not utf-8 \x80",
    "précomposé".encode(),
    "de\u0301compose\u0301".encode(),
    b"back\\slash \\n \\012",
    b"'quotes\" $(id) `id` ;|&*?[]{}!#~",
    b"=cmd()",
    b"...",
    b"a%3Db%25",
    b"n" * 255,
    b"\xe2\x82\xac" * 85,
)
ACL_VERSION = 2


def build(top: Path) -> None:
    """Make the tree in the new folder `top`. Needs root, and a filesystem with xattrs and ACLs."""
    os.mkdir(top)
    for part in (_names, _nodes, _links, _holes, _attributes, _modes, _times, _owners, _folders):
        folder = top / part.__name__.lstrip("_")
        folder.mkdir(0o755)
        part(folder)
    for folder in sorted(top.iterdir()):
        os.utime(folder, ns=(0, 1_234_567_890_123_456_789))
    os.chmod(top, 0o2751)
    os.chown(top, 7, 8)
    os.utime(top, ns=(0, 999_999_999))


def _write(path: bytes | Path, content: bytes = b"content\n") -> None:
    with open(path, "wb") as file:
        file.write(content)


def _names(folder: Path) -> None:
    for name in NAMES:
        _write(os.path.join(os.fsencode(folder), name), name)
    for name in NAMES:
        inner = os.path.join(os.fsencode(folder), b"in", name)
        os.makedirs(inner)
        _write(os.path.join(inner, name), name)
    deep = os.path.join(os.fsencode(folder), *[b"%03d" % n + b"d" * 197 for n in range(15)])
    os.makedirs(deep)
    _write(os.path.join(deep, b"file"))
    shallow = folder.joinpath(*"abcdefghijklmnopqrstuvwxyz" * 10)
    shallow.mkdir(parents=True)
    _write(shallow / "file")


def _nodes(folder: Path) -> None:
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "high", stat.S_IFCHR | 0o600, os.makedev(300, 70_000))
    os.mknod(folder / "block", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    os.chown(folder / "block", 0, 6)
    for number, name in enumerate(("fifo", "null", "block")):
        os.utime(folder / name, ns=(0, number * 10**9 + 7))
    _bind(folder / "socket")
    os.chmod(folder / "socket", 0o751)
    os.chown(folder / "socket", 12, 13)
    os.utime(folder / "socket", ns=(0, 5 * 10**9 + 1))


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _links(folder: Path) -> None:
    targets = {"dangling": "nowhere", "absolute": "/etc/passwd", "up": "../../../..", "loop": "loop", "dot": "."}
    for name, target in targets.items():
        os.symlink(target, folder / name)
    os.symlink(b"\xff\n" + b"x" * 300, os.fsencode(folder / "odd target"))
    os.symlink("y" * 4095, folder / "longest target")
    os.symlink("a", folder / "owned")
    os.lchown(folder / "owned", 4242, 4243)
    os.utime(folder / "owned", ns=(0, -123_456_789), follow_symlinks=False)
    os.setxattr(folder / "owned", "trusted.of.link", b"yes", follow_symlinks=False)
    os.link(folder / "owned", folder / "owned again", follow_symlinks=False)
    _write(folder / "first")
    (folder / "a folder").mkdir()
    os.link(folder / "first", folder / "a folder" / "second")
    os.link(folder / "first", folder / "third")
    os.link(folder / "first", os.path.join(os.fsencode(folder), b"l" * 255))


def _holes(folder: Path) -> None:
    with open(folder / "5 GiB", "wb") as file:
        file.write(b"begin" * 3000)
        file.seek(HOLE - 5000)
        file.write(b"end" * 1000)
        file.truncate(HOLE + 1)
    with open(folder / "nothing but a hole", "wb") as file:
        file.truncate(1 << 30)
    with open(folder / "hole first", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    with open(folder / "many", "wb") as file:
        for number in range(200):
            file.seek(number * 65536)
            file.write(b"%d" % number)
    _write(folder / "zeros", bytes(100_000))
    _write(folder / "empty", b"")


def _attributes(folder: Path) -> None:
    for name in ("file", "program", "listed"):
        _write(folder / name)
    os.setxattr(folder / "file", "user.text", b"value")
    os.setxattr(folder / "file", "user.empty", b"")
    os.setxattr(folder / "file", "user.bytes", bytes(range(256)))
    os.setxattr(folder / "file", "user.odd=name%25 with\nnewline", b"1")
    os.setxattr(folder / "file", "trusted.secret", b"\0\n=")
    os.setxattr(folder / "file", "user.long", b"v" * 2000)
    os.chmod(folder / "program", 0o755)
    os.setxattr(folder / "program", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    _set_acl(
        folder / "listed",
        "access",
        [(1, 6, -1), (2, 4, 1000), (2, 7, 3_000_000), (4, 5, -1), (8, 1, 77), (16, 7, -1), (32, 0, -1)],
    )
    (folder / "default").mkdir()
    _set_acl(folder / "default", "default", [(1, 7, -1), (2, 6, 1000), (4, 5, -1), (16, 7, -1), (32, 1, -1)])
    _write(folder / "default" / "inherits")
    (folder / "default" / "below").mkdir()
    os.setxattr(folder / "default", "user.of.folder", b"too")


def _set_acl(path: Path, kind: str, entries: list[tuple[int, int, int]]) -> None:
    value = struct.pack("<I", ACL_VERSION) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )
    os.setxattr(path, f"system.posix_acl_{kind}", value)


def _modes(folder: Path) -> None:
    for mode in (0o000, 0o400, 0o644, 0o4755, 0o2755, 0o6711, 0o7777, 0o1644):
        path = folder / f"file {mode:04o}"
        _write(path)
        os.chown(path, 1000, 1001)
        os.chmod(path, mode)
        path = folder / f"folder {mode:04o}"
        path.mkdir()
        _write(path / "inside")
        os.chown(path, 1000, 1001)
        os.chmod(path, mode)


def _times(folder: Path) -> None:
    moments = (
        -1,
        -1_000_000_000,
        -999_999_999,
        -2_000_000_000_123_456_789,
        0,
        1,
        999_999_999,
        2**31 * 10**9 + 5,
        16_725_225_600 * 10**9 + 123,
    )
    make: tuple[Callable[[Path], None], ...] = (_write, Path.mkdir)
    for number, moment in enumerate(moments):
        for how in make:
            path = folder / f"{number} {how.__name__}"
            how(path)
            os.utime(path, ns=(0, moment))


def _owners(folder: Path) -> None:
    for uid, gid in ((0, 0), (1, 2), (65534, 65534), (2**21 + 5, 2**21 + 6), (2**32 - 2, 2**32 - 2)):
        path = folder / f"{uid}"
        _write(path)
        os.chown(path, uid, gid)


def _folders(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "read-only").mkdir()
    _write(folder / "read-only" / "file")
    (folder / "read-only" / "inner").mkdir()
    os.chmod(folder / "read-only" / "inner", 0o555)
    os.chmod(folder / "read-only", 0o555)
    (folder / "set-group-id").mkdir()
    os.chown(folder / "set-group-id", 0, 999)
    os.chmod(folder / "set-group-id", 0o2775)
    _write(folder / "set-group-id" / "inherits its group")
    (folder / "sticky").mkdir()
    os.chmod(folder / "sticky", 0o1777)
