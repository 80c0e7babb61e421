"""Files that survive a power cut: written under a temporary name, synced, then renamed.

`publish` is the only way to a final name. Temporary names start with
``.tmp-``; whoever holds the lock of a folder may sweep those it finds there.
"""

import os
import shutil
import stat
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
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what dead runs left in `folder`. Only for who holds its lock exclusively."""
    for path in folder.iterdir():
        if path.name.startswith(TEMPORARY):
            remove(path)
