"""Brings what is written to the disk while more is written, and out of the memory of the kernel, which others use."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from btw_backup.files import sync_filesystem

LARGE = 64 << 10
"""Bytes: less than that is brought to the disk faster together with others."""

_UNCACHED = 0x80  # RWF_DONTCACHE, Linux 6.14; Python has no name for it yet


@contextmanager
def written_behind(out: BinaryIO) -> Iterator[BinaryIO]:
    """`out`, brought to the disk by a thread while it is written, so that the fsync at the end has little left to do,
    and the kernel need not keep it in memory.

    When the block has ended well, all of it is on the disk. An error of the thread's is raised then.
    """

    def sync() -> None:
        os.fdatasync(out.fileno())
        let_go(out.fileno())

    with _again_and_again(sync):
        yield out
    os.fsync(out.fileno())
    let_go(out.fileno())


@contextmanager
def filesystem_written_behind(descriptor: int) -> Iterator[None]:
    """As `written_behind`, for all that is written meanwhile on the filesystem of an open file."""
    with _again_and_again(lambda: sync_filesystem(descriptor)):
        yield
    sync_filesystem(descriptor)


@contextmanager
def _again_and_again(sync: Callable[[], None]) -> Iterator[None]:
    """Have a thread call `sync` while the block lasts. What that raised is raised at the end of the block."""
    ended = threading.Event()
    errors: list[OSError] = []

    def work() -> None:
        try:
            while not ended.wait(0.2):
                sync()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:  # the kernel tells an error once: another sync would be believed wrongly
        raise errors[0]


def write_at(descriptor: int, content: bytes | memoryview, at: int) -> None:
    """Write all of `content` to the offset `at` of a file. A large piece goes to the disk at once, and then leaves the
    memory of the kernel, where it is of no use to anybody and would be in the way of others, and of the next piece:
    pages that were in use just now cost a third of new ones. Older kernels than Linux 6.14 keep it."""
    left = memoryview(content)
    while left:
        written = _write_at(descriptor, left, at)
        left, at = left[written:], at + written


def _write_at(descriptor: int, content: memoryview, at: int) -> int:
    if len(content) >= LARGE:
        try:
            return os.pwritev(descriptor, (content,), at, _UNCACHED)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    return os.pwrite(descriptor, content, at)


def let_go(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Have the kernel forget what it has in memory of a part of a file, with length 0 all that follows `offset`, as far
    as it is on the disk."""
    try:  # noqa: SIM105 - done for each file, and half the price
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass  # a hint that the filesystem does not take
