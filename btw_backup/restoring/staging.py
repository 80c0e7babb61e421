"""The private folder in which a tree is built, beside the place where it will go."""

import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from btw_backup import files, log
from btw_backup.errors import Interrupted, WouldOverwrite
from btw_backup.restoring.descent import clean
from btw_backup.restoring.extract import DAMAGED

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_NAME = 55  # characters of the target's name in that of the folder where it is built
_MOST_LEFT = 10  # restores of the same that died one after the other


def temporary_name(target: Path) -> Path:
    """Where what will be called `target` is made."""
    return files.temporary_name(target.parent, target.name[:_KEPT_NAME])


@contextmanager
def private_folder(target: Path, identity: str = "") -> Iterator[tuple[Path, int]]:
    """A new folder of ours alone beside `target`, and its descriptor; removed if it was not renamed by the end.

    It is locked, so that others can tell whether who made it is alive. With an `identity` (digits) it stays if we are
    interrupted, for `left_by` to find it.
    """
    sweep(target)  # also because who died may have had our number, as in a container
    path, descriptor = None, -1
    stays = False
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            path, descriptor = _made(target, identity)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # who interrupts us now finds what is to be removed
        clean(descriptor)
        yield path, descriptor
    except Interrupted:
        stays = bool(identity) and path is not None and os.path.lexists(path)
        if stays:
            log.warn(f"{path} holds what was restored so far", "restore it again to go on there, or remove that folder")
        raise
    finally:
        if path:
            os.close(descriptor)
            if not stays:
                files.remove(path)


def _made(target: Path, identity: str) -> tuple[Path, int]:
    """A new folder that is locked. Another restore may see it before it is, and take it for what a dead one left."""
    numbers = count()
    while True:
        path = target.parent / _name_of(target, identity, next(numbers)) if identity else temporary_name(target)
        try:
            if (descriptor := files.locked_folder(path)) is not None:
                return path, descriptor
        except FileExistsError:
            if not identity:
                raise


def _name_of(target: Path, identity: str, number: int) -> str:
    return f"{files.TEMPORARY}{identity}{number:02}-{target.name[:_KEPT_NAME]}"


@contextmanager
def left_by(target: Path, identity: str) -> Iterator[list[int]]:
    """The folders, open and locked, that restores to `target` of the same `identity` left when they died.

    They are removed at the end, unless we are interrupted. Only those are taken that nobody but us could ever enter.
    """
    with ExitStack() as stack:
        found = {}
        for number in range(_MOST_LEFT) if identity else ():
            path = target.parent / _name_of(target, identity, number)
            descriptor = _locked(path)
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                found[path] = descriptor
        stay = False
        try:
            yield list(found.values())
        except Interrupted:
            stay = True
            raise
        finally:
            for path in () if stay else found:
                files.remove(path)


def _locked(path: Path) -> int | None:
    """The descriptor of the folder `path`, now locked; None if it is not ours alone, or its maker lives."""
    try:
        descriptor = os.open(path, _FOLDER)
    except OSError:
        return None
    status = os.fstat(descriptor)
    try:
        if (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o700):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except BlockingIOError:
        pass  # another restore is at work
    os.close(descriptor)
    return None


def sweep(target: Path) -> None:
    """Remove what killed restores to `target` left: files and folders of ours that nobody has locked."""
    pattern = re.compile(re.escape(files.TEMPORARY) + r"\d+-" + re.escape(target.name[:_KEPT_NAME]))
    for name in os.listdir(target.parent):
        if pattern.fullmatch(name) and files.remove_if_dead(target.parent / name):
            log.debug(f"removed {target.parent / name}, which a killed restore left")


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
