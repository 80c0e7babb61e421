"""What a walk saw, kept in a file without a name until it is needed again: so that nobody walks twice."""

import marshal
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from btw_backup.sources.walk import Seen

_BATCH = 1024

Status = tuple[int, int, int, int, int, int, int]
"""Mode, inode, device, number of links, uid, gid, size."""

Remembered = tuple[str, Status, int, int, int, str]
"""The path below the top, its status, mtime and ctime in ns, the device that it is, and what a link leads to. Plain
tuples, because most of them are looked at only to see that nothing has changed."""


class Memory:
    """Entries in the order of the walk, about 120 bytes each, in `file`, which nobody else can open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: list[Remembered] = []

    def add(self, seen: Seen, mtime: int, ctime: int) -> None:
        """Remember one entry, with its times in ns. What was a link and cannot be read any more leads to nothing."""
        path, s, folder, name = seen
        status = s[:7]
        target = _target(folder, name) if stat.S_ISLNK(status[0]) else ""
        self._entries.append((path, status, mtime, ctime, s.st_rdev, target))
        if len(self._entries) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        batch = marshal.dumps(self._entries)
        self._file.write(len(batch).to_bytes(4, "little") + batch)
        self._entries.clear()

    def __iter__(self) -> Iterator[Remembered]:
        """All that was added, from the first on."""
        self._flush()
        self._file.seek(0)
        while head := self._file.read(4):
            batch = self._file.read(int.from_bytes(head, "little"))
            yield from marshal.loads(batch)  # noqa: S302 - we wrote it


def status_of(seen: Remembered) -> os.stat_result:
    """The status of what was seen; times of last access are those of the last change."""
    _, status, mtime, ctime, device, _ = seen
    times = (mtime // 10**9, mtime // 10**9, ctime // 10**9)
    return os.stat_result((*status, *times), {"st_mtime_ns": mtime, "st_ctime_ns": ctime, "st_rdev": device})


def _target(folder: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return ""
