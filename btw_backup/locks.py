"""Locks that the kernel releases when their holder dies.

The lock is flock(2) on a file that stays; what is written in it only tells who holds it.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from btw_backup import files, regular
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import FatalUserError, Locked
from btw_backup.log import debug, printable

LOCK_NAME = ".lock"


@contextmanager
def lock(folder: Path, *, exclusive: bool, wait: float) -> Iterator[None]:
    """Hold the lock of `folder`, waiting at most `wait` seconds for others.

    A shared lock on a folder without a lock file, or on a filesystem that cannot be written, is granted: nobody
    can be writing there. Raises `Locked`, which names the holder.
    """
    descriptor = _open(folder / LOCK_NAME, exclusive)
    if descriptor is None:
        yield
        return
    try:
        _acquire(descriptor, folder, exclusive, wait)
        if exclusive:
            _say_who(descriptor)
        yield
    finally:
        os.close(descriptor)


def held_by_another(folder: Path) -> bool:
    """Whether another process holds the lock of `folder` exclusively right now."""
    descriptor = _open(folder / LOCK_NAME, exclusive=False)
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return os.pread(descriptor, 20, 0).partition(b" ")[0] != str(os.getpid()).encode()
    finally:
        os.close(descriptor)


def why_none(folder: Path) -> str:
    """Why the filesystem of `folder` has no locks; "" if it has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return "" if isinstance(error, BlockingIOError) else str(error.strerror)
    finally:
        os.close(descriptor)
    return ""


def _open(path: Path, exclusive: bool) -> int | None:
    if exclusive:
        files.make_folder(path.parent)
        return regular.descriptor_of(path, os.O_RDWR | os.O_CREAT)
    try:
        return regular.descriptor_of(path)
    except FileNotFoundError:
        return None


def _acquire(descriptor: int, folder: Path, exclusive: bool, wait: float) -> None:
    operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, operation)
            return
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise FatalUserError(f"{folder} cannot be locked: {error.strerror}", "flock must work there") from error
            if time.monotonic() >= deadline:
                raise Locked(
                    f"{folder} is locked by {_holder(descriptor)}",
                    "wait for it to end, or give it longer with --lock-wait",
                ) from None
        debug(f"waiting for the lock of {folder}")
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))


def _say_who(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {stamp_of(utc_now())} {printable(' '.join(sys.argv))}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    pid, _, rest = os.pread(descriptor, 400, 0).decode("utf-8", "replace").strip().partition(" ")
    since, _, command = rest.partition(" ")
    return f"pid {pid} since {since} ({command})" if since else "another run that reads it"
