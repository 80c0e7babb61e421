"""Streams on their way: read ahead, so that who reads and who writes work at the same time; digested."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, cast

from btw_backup.errors import unreadable

PIECE = 1 << 20
DEPTH = 8
"""How many pieces may wait: enough to bridge a pause of one side, few enough to cost no memory."""


class _Ahead:
    """Hands out what a thread reads, in its order, errors included."""

    def __init__(self, stream: BinaryIO, thread: ThreadPoolExecutor, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._thread = thread
        self._advance = advance
        self._coming: deque[Future[bytes]] = deque(thread.submit(stream.read, PIECE) for _ in range(DEPTH))
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, b"" at the end; an error of the stream where it was met, and from then on.

        An OSError, which who writes could take for one of its own, is raised as `Damaged`.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        piece = self._left or self._next()
        self._left = piece[size:]
        return piece[:size] if self._left else piece

    def _next(self) -> bytes:
        try:
            piece = self._coming[0].result()
        except OSError as error:
            raise unreadable("it", error) from error
        if piece:
            self._coming.popleft()
            self._coming.append(self._thread.submit(self._stream.read, PIECE))
            self._advance(len(piece))
        return piece


@contextmanager
def read_ahead(stream: BinaryIO, advance: Callable[[int], None] = lambda count: None) -> Iterator[BinaryIO]:
    """`stream`, read by a thread up to `DEPTH` pieces ahead while the block lasts. Only its ``read`` can be used.

    `advance` is told how many bytes were taken, in the thread that takes them.
    """
    thread = ThreadPoolExecutor(1, "read-ahead")
    try:
        yield cast(BinaryIO, _Ahead(stream, thread, advance))
    finally:
        thread.shutdown(cancel_futures=True)  # waits for the read under way: nobody closes what is being read


class Digesting:
    """Writes to `out`, and digests and counts what it wrote."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it, however short the single writes are."""
        self.sha256.update(data)
        self.length += len(data)
        left = memoryview(data)
        while left:
            left = left[self._out.write(left) :]
        return len(data)
