"""Reads what a program writes while it writes it: through a pipe, or behind it in the file that it writes itself."""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

from btw_backup.process import Child

BLOCK = 1 << 20
"""How many bytes are handed on at once, and how many a pipe may hold."""

_PAUSE = 0.01


def is_file(out: BinaryIO) -> bool:
    """Whether a program could write to `out` itself, and we could read it there."""
    return hasattr(out, "fileno") and stat.S_ISREG(os.fstat(out.fileno()).st_mode)


def through_pipe(child: Child, out: BinaryIO) -> Iterator[memoryview]:
    """What `child` writes to its standard output, block by block, also written to `out`. A block is valid until the
    next one is asked for."""
    for piece in pieces(child.stdout.fileno()):
        out.write(piece)
        yield piece


def pieces(descriptor: int, wait: Callable[[], None] = lambda: None) -> Iterator[memoryview]:
    """What comes from an open pipe or file, to its end. A piece is valid until the next one is asked for.

    `wait` is called before each reading; whatever it raises ends all.
    """
    with suppress(OSError):  # it is no pipe, or the user has too many
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BLOCK)
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    wait()
    while count := os.readv(descriptor, [buffer]):
        yield view[:count]
        wait()


def digest_of(stream: BinaryIO) -> str:
    """The SHA-256 of `stream`."""
    digest = hashlib.sha256()
    while block := stream.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def behind(child: Child, out: BinaryIO) -> Iterator[memoryview]:
    """What `child` writes to the file `out` itself, read from there until `child` has ended.

    Costs the writer nothing: its bytes are read from memory, on another core.
    """
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    offset = 0
    while True:
        ended = child.has_ended()
        while count := os.preadv(out.fileno(), [buffer], offset):
            offset += count
            yield view[:count]
        if ended:
            return
        time.sleep(_PAUSE)
