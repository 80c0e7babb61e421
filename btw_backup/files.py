"""Files that survive a power cut: written under a temporary name, synced, then renamed.

`publish` is the only way to a final name. Temporary names start with
``.tmp-``; whoever holds the lock of a folder may sweep those it finds there.
"""

import ctypes
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"


def temporary_name(folder: Path, name: str) -> Path:
    """A name in `folder` that `sweep` removes if this run dies."""
    return folder / f"{TEMPORARY}{os.getpid()}-{name}"


def create(path: Path) -> BinaryIO:
    """A new file of mode 0600, unbuffered, for reading and writing; never an existing one, never through a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "r+b", buffering=0)


@contextmanager
def written_behind(out: BinaryIO) -> Iterator[BinaryIO]:
    """`out`, brought to the disk by a thread while it is written, so that the fsync at the end has little left to do.

    When the block has ended well, all of it is on the disk. An error of the thread's is raised then.
    """
    ended = threading.Event()
    errors: list[OSError] = []

    def sync_again_and_again() -> None:
        try:
            while not ended.wait(0.2):
                os.fdatasync(out.fileno())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=sync_again_and_again, daemon=True)
    thread.start()
    try:
        yield out
    finally:
        ended.set()
        thread.join()
    if errors:  # the kernel tells an error once: a second fsync would be believed wrongly
        raise errors[0]
    os.fsync(out.fileno())


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


@contextmanager
def published(final: Path) -> Iterator[BinaryIO]:
    """A file to write that gets the name `final` when the block ends well, and vanishes when it does not."""
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
    """Remove a folder of any depth: what is in a folder of `top` is moved up into `top` until all is gone.

    shutil.rmtree holds every level open, and gives up at a thousand.
    """
    number = 0
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _open_up(descriptor, ".")
        while names := os.listdir(descriptor):
            for name in names:
                if _unlinked(descriptor, name):
                    continue
                _open_up(descriptor, name)
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                try:
                    for below in os.listdir(inner):
                        if not _unlinked(inner, below):
                            _open_up(inner, below)
                            number += 1
                            os.rename(
                                below, f"{TEMPORARY}{os.getpid()}-{number}", src_dir_fd=inner, dst_dir_fd=descriptor
                            )
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    top.rmdir()


def _unlinked(folder: int, name: str) -> bool:
    """Remove `name` unless it is a folder; whether it is gone."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def _open_up(folder: int, name: str) -> None:
    """Make a folder of ours that lacks permissions one whose content can be removed; root needs none."""
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=folder)


def sweep(folder: Path) -> None:
    """Remove what dead runs left in `folder`. Only for who holds its lock exclusively."""
    for path in folder.iterdir():
        if path.name.startswith(TEMPORARY):
            remove(path)
