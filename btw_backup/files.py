"""Files that survive a power cut: written under a temporary name, synced, then renamed.

`publish` is the only way to a final name. Temporary names start with
``.tmp-``; whoever holds the lock of a folder may sweep those it finds there. A file is locked while it is written, so
that anybody can tell what a dead run left.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"
_TEMPORARY = re.compile(re.escape(TEMPORARY) + r"\d{1,10}-(.*)", re.DOTALL)

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_name(folder: Path, name: str) -> Path:
    """A name in `folder` that `sweep` removes if this run dies."""
    return folder / f"{TEMPORARY}{os.getpid()}-{name}"


def create(path: Path) -> BinaryIO:
    """A new file of mode 0600, unbuffered, for reading and writing; never an existing one, never through a link.

    It is locked. Whoever saw it before it was may have taken it for what a dead run left, and removed it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        file = open(os.open(path, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115 - the caller closes it
        claim(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def claim(descriptor: int) -> None:
    """Lock a new file or folder, for others to see that it is in use; who holds the lock already is removing it."""
    with suppress(OSError):  # a filesystem without locks: then nobody else can lock it either
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def locked_folder(path: Path) -> int | None:
    """Make the folder `path` of mode 0700, locked: its descriptor. None if somebody who saw it before it was locked has
    taken it for what a dead run left, and removed it. Raises `FileExistsError`."""
    path.mkdir(0o700)
    with suppress(FileNotFoundError):
        descriptor = os.open(path, _ENTER)
        claim(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; OSError if they cannot."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Give synced `temporary` its final name, and make that name survive. Replaces a file, never a full folder."""
    os.rename(temporary, final)
    sync_folder(final.parent)


def exchange(one: Path, other: Path) -> None:
    """Let two folders have each other's name, in one step that survives; OSError where the filesystem cannot."""
    import ctypes  # noqa: PLC0415 - most runs do without

    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if ctypes.CDLL(None, use_errno=True).renameat2(here, os.fsencode(one), here, os.fsencode(other), both):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
    sync_folder(other.parent)


@contextmanager
def published(final: Path) -> Iterator[BinaryIO]:
    """A file to write that gets the name `final` when the block ends well, and vanishes when it does not.

    What runs left that died while they wrote it goes first: in a container all have the same number.
    """
    for left in _left_in(str(final.parent)).pop(final.name, ()):
        remove_if_dead(left)
    temporary = temporary_name(final.parent, final.name)
    out = create(temporary)
    try:
        with out:
            yield out
            os.fsync(out.fileno())
            publish(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(final: Path, content: bytes) -> None:
    """Replace the content of `final`: after a crash it is the old or the new, never a mix."""
    with published(final) as out:
        write_all(out.fileno(), content)


@contextmanager
def unless_read_only(folder: Path) -> Iterator[None]:
    """Go on behind the block, which writes to `folder`, if that is mounted read-only."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS or not os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of `content`, however short the single writes are."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create `path` and its missing parents, each surviving a power cut before the next."""
    if path.is_dir():
        return
    make_folder(path.parent, mode)
    try:
        path.mkdir(mode)
    except FileExistsError:
        return
    sync_folder(path.parent)


def change_owner(file: int | Path, owner: tuple[int, int] | None) -> None:
    """Give an open file, or what a path names itself (never what a link leads to), to `owner` (uid, gid), if any."""
    if owner:
        os.chown(file, *owner, **({} if isinstance(file, int) else {"follow_symlinks": False}))


def change_owner_below(top: Path, owner: tuple[int, int]) -> None:
    """Give all files and folders below `top`, and `top`, to `owner`; by descriptor, through no link, and no file that
    has another name elsewhere: the owner of before may have planted both."""
    for _, _, names, descriptor in os.fwalk(top):
        for name in names:
            if stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with open(os.open(name, flags, dir_fd=descriptor), "rb") as file:
                    status = os.fstat(file.fileno())
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                        os.fchown(file.fileno(), *owner)
        os.fchown(descriptor, *owner)


def sync_filesystem(descriptor: int) -> None:
    """Bring everything on the filesystem of an open file to the disk.

    An error of any write since the descriptor was opened is raised, so it must be opened before the first (syncfs(2),
    Linux 5.8).
    """
    import ctypes  # noqa: PLC0415 - as above

    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_tree(top: Path) -> None:
    """fsync every file and folder below `top`, and `top`."""
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_folder(Path(folder))


def remove(path: Path) -> None:
    """Remove a file or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        _remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(top: Path) -> None:
    """Remove a folder of any depth. shutil.rmtree holds every level open, and gives up at a thousand."""
    current = os.open(top, _ENTER)
    above: list[tuple[str, list[str], tuple[int, int]]] = []  # the way to where we are, with what is left to do there
    folders = _emptied(current)
    try:
        while folders or above:
            if folders:
                name = folders.pop()
                inner = os.open(name, _ENTER, dir_fd=current)
                above.append((name, folders, _identity(current)))
                os.close(current)
                current, folders = inner, _emptied(inner)
            else:
                name, folders, identity = above.pop()
                outer = os.open("..", _ENTER, dir_fd=current)
                os.close(current)
                current = outer
                if _identity(current) != identity:
                    raise FileNotFoundError(errno.ENOENT, "it was moved while it was removed", os.fspath(top))
                os.rmdir(name, dir_fd=current)
    finally:
        os.close(current)
    top.rmdir()


def _emptied(folder: int) -> list[str]:
    """Remove all from an open folder but its folders, which are given back, fit to be emptied."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif os.geteuid() != 0:
            os.chmod(name, 0o700, dir_fd=folder)
    return [name for name, is_folder in found if is_folder]


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def sweep(folder: Path) -> None:
    """Remove what dead runs left in `folder`. Only for who holds its lock exclusively."""
    for path in folder.iterdir():
        if path.name.startswith(TEMPORARY):
            remove(path)


def sweep_dead(folder: Path, name: str | None = None, *, anybodys: bool = False) -> None:
    """Remove the temporary files for `name`, or for any name, that dead runs left in `folder`; of `anybodys`: they may
    have been given to somebody already."""
    for wanted, left in _temporaries(folder).items():
        for path in left if name in (None, wanted) else ():
            remove_if_dead(path, anybodys=anybodys)


@lru_cache(1024)
def _left_in(folder: str) -> dict[str, list[Path]]:
    """The temporary files in `folder` when we asked first: to list it for each file that is written there would take
    the square of their number."""
    return _temporaries(Path(folder))


def _temporaries(folder: Path) -> dict[str, list[Path]]:
    """The temporary files in `folder`, by the names that they were to get."""
    found: dict[str, list[Path]] = {}
    for name in os.listdir(folder):
        if match := _TEMPORARY.fullmatch(name):
            found.setdefault(match[1], []).append(folder / name)
    return found


def remove_if_dead(path: Path, *, anybodys: bool = False) -> bool:
    """Remove a file or a folder of ours, or a file of `anybodys`, that nobody has locked; whether it was."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or (stat.S_ISDIR(status.st_mode) and not anybodys)):
            return False
        if not anybodys and status.st_uid != os.geteuid():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.stat(path, follow_symlinks=False), status):
            return False  # it was finished meanwhile, and the next one has its name
        remove(path)
        return True
    except OSError:  # it is alive, or cannot be removed; then whoever wants its name will say so
        return False
    finally:
        os.close(descriptor)
