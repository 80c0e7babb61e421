"""Reading ahead and writing behind: who decompresses, who makes files and who fills them work at the same time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, cast

from btw_backup.errors import Damaged

PIECE = 1 << 20
BEHIND = 8 << 20
JOBS = 32
"""How many bytes, and files, may wait to be written: each pins a piece in memory."""

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


class Behind:
    """A thread that writes what it is given, in that order, while the caller goes on. What it raises is raised by the
    next call; the caller cannot know for which job, so a job raises only what ends all."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "write-behind")
        self._jobs: deque[tuple[Future[None], int]] = deque()
        self._waiting = 0

    def has_room(self, size: int) -> bool:
        """Whether a job of `size` bytes can be given now; if not, who asks is faster to do it, than to wait."""
        while self._jobs and self._jobs[0][0].done():
            self._reap()
        return self._waiting + size <= BEHIND and len(self._jobs) < JOBS

    def put(self, size: int, job: Callable[[], None]) -> None:
        """Give the thread a job, for which there is room."""
        self._jobs.append((self._thread.submit(job), size))
        self._waiting += size

    def finish(self) -> None:
        """Wait until all is written."""
        while self._jobs:
            self._reap()

    def close(self) -> None:
        """End the thread; whatever failed is of no interest any more."""
        self._thread.shutdown()

    def _reap(self) -> None:
        job, size = self._jobs.popleft()
        self._waiting -= size
        job.result()
