"""Reads files of a tree that may change meanwhile: by the descriptor of their folder, through no link, never blocking.

What changed while it was read is said to be torn; it is kept as it was read, and never padded. What we read does not
stay in the memory of the kernel, unless it was there before.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from btw_backup import flushing
from btw_backup.sources import cache
from btw_backup.store.chunker import SMALLEST, cut

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOTHING_THERE = frozenset((errno.EOPNOTSUPP, errno.ENODATA, errno.ENOENT))

Parts = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Reading:
    """What was read of a file. A small one is `content`, with its `sha256`; a large one `chunks`, as `put` gave them.

    `problem` says why it could not be read, `torn` how it changed meanwhile.
    """

    status: os.stat_result | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    content: bytes | None = None
    sha256: bytes = b""
    chunks: list[Any] = field(default_factory=list)
    parts: Parts | None = None
    size: int = 0
    problem: str = ""
    torn: str = ""


Put = Callable[[list[memoryview]], Any]


def read_file(folder: int, name: str, put: Put) -> Reading:
    """Read the file `name` in the open `folder`; the chunks of a large one go to `put`."""
    reading = Reading()
    try:
        descriptor = _opened(folder, name)
    except OSError as error:
        reading.problem = f"cannot be opened: {error.strerror}"
        return reading
    try:
        before = reading.status = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            reading.problem = "was replaced while it was read"
            return reading
        reading.xattrs = attributes_of(descriptor)
        _read(descriptor, before, reading, put)
        after = os.fstat(descriptor)
        if reading.size != before.st_size or _looks(before) != _looks(after):
            reading.torn = "file changed as we read it"
    except OSError as error:
        reading.problem = f"cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    return reading


def _looks(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _opened(folder: int, name: str) -> int:
    try:
        return os.open(name, _FLAGS | os.O_NOATIME, dir_fd=folder)
    except PermissionError:  # O_NOATIME is for the owner and root
        return os.open(name, _FLAGS, dir_fd=folder)


def attributes_of(file: int | str) -> dict[str, bytes]:
    """The extended attributes of an open file, or of what a path names itself; ACLs and capabilities are among them."""
    follow: dict[str, Any] = {} if isinstance(file, int) else {"follow_symlinks": False}
    found = {}
    try:
        for name in os.listxattr(file, **follow):
            found[name] = os.getxattr(file, name, **follow)
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise
    return found


def _read(descriptor: int, status: os.stat_result, reading: Reading, put: Put) -> None:
    size = status.st_size
    if status.st_blocks * 512 < size:
        reading.parts = _parts(descriptor, size)
    read = Regions(descriptor, reading.parts if reading.parts is not None else ((0, size),))
    if read.left < SMALLEST:
        held = not read.left or cache.is_held(descriptor, read.offset)
        content = reading.content = read(SMALLEST)
        while len(content) < SMALLEST and (more := read(SMALLEST)):
            content = reading.content = content + more
        reading.sha256 = hashlib.sha256(content).digest()
        if not held:
            flushing.let_go(descriptor)
    else:
        read.passage = cache.Passage(descriptor, size)
        reading.chunks = [put([chunk]) for chunk in cut(read)]
        read.passage.end()
    reading.size = size
    if read.left:  # it was cut meanwhile
        reading.size -= read.left
        reading.parts = None if reading.parts is None else read.done()
        if reading.parts is not None:
            reading.size = sum(reading.parts[-1]) if reading.parts else 0


def _parts(descriptor: int, size: int) -> Parts | None:
    """What is not holes; None if there are none, or nobody can tell."""
    parts = tuple(_data(descriptor, size))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return None if parts == ((0, size),) else parts


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                return
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


class Regions:
    """Reads the regions of a file one after the other, as one stream; short only where the file ended.

    `offset` is where the first begins. With a `passage`, what others do not use leaves the memory of the kernel again.
    """

    def __init__(self, descriptor: int, regions: Parts) -> None:
        self._descriptor = descriptor
        self._regions = regions
        self._number = 0
        self._at = 0
        self.left = sum(length for _, length in regions)
        self.offset = regions[0][0] if regions else 0
        self.passage: cache.Passage | None = None

    def __call__(self, count: int) -> bytes:
        while self._number < len(self._regions):
            offset, length = self._regions[self._number]
            if self._at < length:
                count = min(count, length - self._at)
                if self.passage is not None:
                    self.passage.ahead(offset + self._at, count)
                piece = os.pread(self._descriptor, count, offset + self._at)
                self._at += len(piece)
                self.left -= len(piece)
                if not piece:
                    self._regions = self.done()
                    self._number = len(self._regions)
                return piece
            self._number, self._at = self._number + 1, 0
        return b""

    def done(self) -> Parts:
        """The regions as far as they were read."""
        read = self._regions[: self._number]
        if self._number < len(self._regions) and self._at:
            read = (*read, (self._regions[self._number][0], self._at))
        return read
