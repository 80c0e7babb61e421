"""Streams on their way: read ahead and written behind, so that all work at the same time; digested."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, cast

from btw_backup.errors import Damaged, FatalUserError

PIECE = 1 << 20
BEHIND = 8 << 20
JOBS = 64
"""How many bytes, and files, may wait to be written: each pins a piece in memory."""

TOGETHER = 16
"""How many files are given to the thread at a time."""

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
            raise Damaged(f"it cannot be read: {error.strerror or error}") from error
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


class Behind:
    """A thread that does the writing it is given, in that order, while the caller goes on. What a job raises is raised
    by a later call; the caller cannot know for which job, so a job raises only what ends all."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "write-behind")
        self._batch: list[Callable[[], None]] = []
        self._batch_size = 0
        self._given: deque[tuple[Future[None], int, int]] = deque()
        self._waiting = self._count = 0

    def has_room(self, size: int) -> bool:
        """Whether a job of `size` bytes can be given now; if not, who asks is faster to do it, than to wait."""
        while self._given and self._given[0][0].done():
            self._reap()
        return self._waiting + size <= BEHIND and self._count < JOBS

    def put(self, size: int, job: Callable[[], None]) -> None:
        """Give the thread a job, for which there is room."""
        self._batch.append(job)
        self._batch_size += size
        self._waiting += size
        self._count += 1
        if len(self._batch) >= TOGETHER or self._batch_size >= PIECE:
            self._hand_over()

    def _hand_over(self) -> None:
        """Several jobs at once: to wake a thread for each small file costs more than to write it."""
        batch, size = self._batch, self._batch_size
        self._batch, self._batch_size = [], 0
        self._given.append((self._thread.submit(_do, batch), size, len(batch)))

    def finish(self) -> None:
        """Wait until all is written."""
        self._hand_over()
        while self._given:
            self._reap()

    def close(self) -> None:
        """End the thread; whatever failed is of no interest any more."""
        self._hand_over()
        self._thread.shutdown()

    def _reap(self) -> None:
        batch, size, count = self._given.popleft()
        self._waiting -= size
        self._count -= count
        batch.result()


def _do(jobs: list[Callable[[], None]]) -> None:
    """Do all, whatever one raises: each has something to close."""
    failed: BaseException | None = None
    for job in jobs:
        try:
            job()
        except (OSError, FatalUserError) as error:
            failed = failed or error
    if failed:
        raise failed
