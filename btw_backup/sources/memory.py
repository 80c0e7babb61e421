"""What a walk saw, packed: what tells whether anything has changed is also what is kept until it is needed again, in a
file without a name, so that nobody walks twice."""

import marshal
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from btw_backup.sources.walk import Seen

_LOOKS = struct.Struct("<QIIIqQQQ")
_MOMENTS = (1 << 64) - 1  # nanoseconds outgrow 64 bits in 2554, and some are before 1970
ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""As `os.fsencode` has it, for who does it for each entry."""

Remembered = tuple[str, int, int, int, int, int, int, int, int, int, int, str]
"""The path below the top, mode, inode, device, number of links, uid, gid, size, mtime and ctime in ns, the device that
it is, and what a link leads to. A plain tuple, because most of them are looked at only to see that nothing has changed.
Device and number of links are those of what has several names; others have 0 and 1."""


Packed = tuple[bytes, dict[int, int], dict[int, tuple[int, int, int, int]]]
"""Entries one after the other; by the number of the entry, how long the target of a link is, and what has several names
or strange times: device, number of links, mtime and ctime."""


class Looks:
    """Packs how entries look. What was a link and cannot be read any more leads to nothing."""

    def __init__(self) -> None:
        self._looks: list[bytes] = []
        self._targets: dict[int, int] = {}
        self._odd: dict[int, tuple[int, int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._looks)

    def add(self, seen: Seen, mtime: int, ctime: int, path: bytes) -> None:
        """Take one entry, with its times in ns, and its path as it is on the disk: a status makes its times anew for
        who asks."""
        _, status, folder, name = seen
        mode, inode, device, links, uid, gid, size = status[:7]
        changed, noticed = mtime & _MOMENTS, ctime & _MOMENTS
        looks = _LOOKS.pack(inode, mode, uid, gid, size, changed, noticed, status.st_rdev)
        if stat.S_ISLNK(mode):
            target = _target(folder, name)
            looks += target
            self._targets[len(self._looks)] = len(target)
        if (links > 1 and not stat.S_ISDIR(mode)) or changed != mtime or noticed != ctime:
            self._odd[len(self._looks)] = (device, links, mtime, ctime)
        self._looks.append(looks + path + b"\0")

    def taken(self, *, backwards: bool = False) -> Packed:
        """What was added since this was last called, in that order or the other way round."""
        looks, targets, odd = self._looks, self._targets, self._odd
        self._looks, self._targets, self._odd = [], {}, {}
        if backwards:
            last = len(looks) - 1
            looks.reverse()
            targets = {last - number: length for number, length in targets.items()}
            odd = {last - number: what for number, what in odd.items()}
        return b"".join(looks), targets, odd


class Memory:
    """Gives `digest` all looks that it is given, and keeps them in `file`, about 100 bytes each, if there is one."""

    def __init__(self, digest: Callable[[bytes], Any], file: BinaryIO | None) -> None:
        self._digest = digest
        self._file = file

    def keep(self, packed: Packed) -> None:
        """Take what comes next."""
        self._digest(packed[0])
        if self._file:
            batch = marshal.dumps(packed)
            self._file.write(len(batch).to_bytes(4, "little") + batch)


def anonymous_file(folder: Path) -> BinaryIO:
    """A file without a name in `folder`: gone with us, whatever happens."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+b", buffering=0)


def unpacked(file: BinaryIO) -> Iterator[Remembered]:
    """All that a `Memory` put into `file`, in that order."""
    file.seek(0)
    while head := file.read(4):
        batch = file.read(int.from_bytes(head, "little"))
        looks, targets, odd = marshal.loads(batch)  # noqa: S302 - we wrote it
        at = number = 0
        while at < len(looks):
            inode, mode, uid, gid, size, mtime, ctime, special = _LOOKS.unpack_from(looks, at)
            begin = at = at + _LOOKS.size
            if number in targets:
                begin += targets[number]
            end = looks.index(b"\0", begin)
            path, target = looks[begin:end].decode(*ENCODING), looks[at:begin].decode(*ENCODING)
            device, links = 0, 1
            if number in odd:
                device, links, mtime, ctime = odd[number]
            yield path, mode, inode, device, links, uid, gid, size, mtime, ctime, special, target
            at, number = end + 1, number + 1


def status_of(seen: Remembered) -> os.stat_result:
    """The status of what was seen; the time of the last access is that of the last change."""
    _, *status, mtime, ctime, device, _ = seen
    times = (mtime // 10**9, mtime // 10**9, ctime // 10**9)
    return os.stat_result((*status, *times), {"st_mtime_ns": mtime, "st_ctime_ns": ctime, "st_rdev": device})


def _target(folder: int, name: str) -> bytes:
    try:
        return os.fsencode(os.readlink(name, dir_fd=folder))
    except OSError:
        return b""
