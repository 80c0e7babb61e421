"""Opens our own files: at once, and regular ones alone.

To open a FIFO waits for who writes to it, and to open a device may do anything. Whatever lies in the place of one of
our files, an OSError is what comes of it, as of a file that cannot be read.
"""

import errno
import os
import stat
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from pathlib import Path

LARGEST = 64 << 20
"""Bytes that `read` reads at most: memory is bounded, whatever lies there."""

_AT_ONCE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def descriptor_of(path: str | Path, flags: int = os.O_RDONLY, *, links: bool = False) -> int:
    """Open the file `path` to be read, or as `flags` say; through a link only if `links` says so."""
    descriptor = os.open(path, flags | _AT_ONCE | (0 if links else os.O_NOFOLLOW), 0o600)
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check(path: str | Path) -> None:
    """Refuse what is no file, in the place of one that a library opens, if anything is there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    _refuse_others(mode, path)


def _refuse_others(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def opened(path: str | Path, buffer: int = DEFAULT_BUFFER_SIZE) -> BufferedReader:
    """The file `path`, to be read."""
    return BufferedReader(FileIO(descriptor_of(path)), buffer)


def read(path: str | Path, *, links: bool = False) -> bytes:
    """What is in the file `path`."""
    with FileIO(descriptor_of(path, links=links)) as file:
        size = min(os.fstat(file.fileno()).st_size, LARGEST)
        found = file.read(size) or b""
        while len(found) < size and (piece := file.read(size - len(found))):
            found += piece
        return found
