"""Leaves the memory of the kernel as it was: what only we had read into it goes again, what others use stays.

Whether a small file was there is asked for its first byte, by a read that must not wait (preadv2(2), RWF_NOWAIT); of a
large one every page is asked for (mincore(2)), some way ahead of where we read, as the kernel reads ahead, too. Where
the filesystem or the kernel does not say, everything stays.
"""

import ctypes
import errno
import os
import re
from collections import deque

from btw_backup import flushing

_WINDOW = 64 << 20
_MARGIN = 32 << 20
"""Bytes: more than the kernel reads ahead, which is 8 MiB on some disks."""

_STEP = 4 << 20
"""Bytes: where we let go up to lies on a multiple of it, as the kernel keeps what it has in one piece (of 2 MiB at
most, aligned) if it has to let go of a part only."""

_ONE_BYTE = [bytearray(1)]  # of any thread: nobody looks at it
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ABSENT = re.compile(rb"\0+")
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_LIBRARY.mmap.restype = ctypes.c_void_p
_LIBRARY.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_LIBRARY.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_LIBRARY.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_NO_ACCESS, _SHARED, _FAILED = 0, 1, ctypes.c_void_p(-1).value


def is_held(file: int, offset: int = 0) -> bool:
    """Whether the kernel has that byte of an open file in memory, or does not say."""
    try:
        os.preadv(file, _ONE_BYTE, offset, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


class Passage:
    """For an open file that is read from its beginning to its end: lets go behind us of what was not held before."""

    def __init__(self, file: int, size: int) -> None:
        self._file = file
        self._size = size
        self._looked = 0
        self._fresh: deque[tuple[int, int]] = deque()

    def ahead(self, offset: int, length: int) -> None:
        """To be called before the part is read."""
        self._behind(offset // _STEP * _STEP)
        self._looked = max(self._looked, offset // _STEP * _STEP)
        while self._looked < min(self._size, offset + length + _MARGIN):
            window = min(_WINDOW, self._size - self._looked)
            self._fresh.extend(_absent(self._file, self._looked, window))
            self._looked += _WINDOW

    def end(self) -> None:
        """To be called when all was read."""
        self._behind(self._size + _STEP)

    def _behind(self, offset: int) -> None:
        while self._fresh and self._fresh[0][1] <= offset:
            start, end = self._fresh.popleft()
            flushing.let_go(self._file, start, end - start)
        if self._fresh and self._fresh[0][0] < offset:
            start, end = self._fresh.popleft()
            flushing.let_go(self._file, start, offset - start)
            self._fresh.appendleft((offset, end))


def _absent(file: int, offset: int, length: int) -> list[tuple[int, int]]:
    """The parts of an open file, from where to where, that are not in memory; none if that cannot be told."""
    pages = -(-length // _PAGE)
    address = _LIBRARY.mmap(None, length, _NO_ACCESS, _SHARED, file, offset)
    if address in (None, _FAILED):
        return []
    found = ctypes.create_string_buffer(pages)
    failed = _LIBRARY.mincore(address, length, found)
    _LIBRARY.munmap(address, length)
    if failed:
        return []
    return [(offset + part.start() * _PAGE, offset + part.end() * _PAGE) for part in _ABSENT.finditer(found.raw)]
