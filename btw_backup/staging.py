"""The private folder in which a tree is built, beside the place where it will go."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from btw_backup import files, log
from btw_backup.descent import clean
from btw_backup.errors import WouldOverwrite
from btw_backup.extract import DAMAGED

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_NAME = 60  # characters of the target's name in that of the folder where it is built


def temporary_name(target: Path) -> Path:
    """Where what will be called `target` is made."""
    return files.temporary_name(target.parent, target.name[:_KEPT_NAME])


@contextmanager
def private_folder(target: Path) -> Iterator[tuple[Path, int]]:
    """A new folder of ours alone beside `target`, and its descriptor; removed if it was not renamed by the end.

    It is locked, so that others can tell whether who made it is alive.
    """
    path = temporary_name(target)
    path.mkdir(0o700)
    descriptor = os.open(path, _FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        clean(descriptor)
        yield path, descriptor
    finally:
        os.close(descriptor)
        if os.path.lexists(path):
            files.remove(path)


def sweep(target: Path) -> None:
    """Remove what killed restores to `target` left: folders of ours that nobody has locked."""
    pattern = re.compile(re.escape(files.TEMPORARY) + r"\d+-" + re.escape(target.name[:_KEPT_NAME]))
    for name in os.listdir(target.parent):
        if pattern.fullmatch(name):
            _remove_if_dead(target.parent / name)


def _remove_if_dead(path: Path) -> None:
    try:
        descriptor = os.open(path, _FOLDER)
    except OSError:
        return
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.debug(f"removing {path}, which a killed restore left")
            files.remove(path)
    except BlockingIOError:
        pass  # another restore is at work
    finally:
        os.close(descriptor)


def damaged_name(target: Path) -> Path:
    """A free name that says that what is there is not what was stored."""
    name = target.name.encode("utf-8", "surrogateescape")[: 250 - len(DAMAGED)] + DAMAGED
    candidates = (os.fsdecode(name + (b".%d" % n if n else b"")) for n in count())
    return next(path for path in map(target.with_name, candidates) if not os.path.lexists(path))


def publish(path: Path, final: Path) -> None:
    """Give a finished tree its name. `WouldOverwrite` if that was taken meanwhile."""
    try:
        files.publish(path, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise WouldOverwrite(f"{final} was made by somebody else meanwhile") from None
