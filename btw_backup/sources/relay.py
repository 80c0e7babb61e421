"""Reads what a program writes while it writes it: through a pipe, or behind it in the file that it writes itself."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
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
    descriptor = child.stdout.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BLOCK)
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        out.write(view[:count])
        yield view[:count]


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
