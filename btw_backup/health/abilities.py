"""Whether the filesystem of ROOT_PATH can do what we need, tried with a file without a name, so that nothing stays."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from btw_backup.health.findings import ERROR, OK, Finding

_FAT = 5 << 30
"""Bytes: more than a file on FAT can have."""

_NEEDED: dict[str, Callable[[int], object]] = {
    "locks (flock)": lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "bringing files to the disk (fsync)": os.fsync,
    "files of more than 4 GiB": lambda file: os.ftruncate(file, _FAT),
}


def of(root: Path) -> Iterator[Finding]:
    """What is lacking; nothing where such a file cannot be had, or there is no room for it."""
    what = f"filesystem of {root}"
    try:
        file = os.open(root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        lacking = [f"{name}: {why}" for name, attempt in _NEEDED.items() if (why := _why_not(attempt, file))]
    finally:
        os.close(file)
    if lacking:
        hint = "backups cannot be made safely there: take another filesystem, such as ext4 or XFS"
        yield Finding(ERROR, what, f"it lacks {'; '.join(lacking)}", hint)
    else:
        yield Finding(OK, what, "it has locks, brings files to the disk, and takes large ones")


def _why_not(attempt: Callable[[int], object], file: int) -> str:
    try:
        attempt(file)
    except OSError as error:
        return "" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
    return ""
