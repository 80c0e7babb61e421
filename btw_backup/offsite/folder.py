"""The target that is a folder: another disk, or a share that is mounted.

What was copied is read back from the disk before it is believed. The folder holds an id whose copy is in the
configuration directory: an empty mount point is not the disk that should be there.
"""

import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from btw_backup import files, regular
from btw_backup.errors import ProgramFailed
from btw_backup.log import debug
from btw_backup.offsite import Listing, Stored, Unreachable

ID_FILE = ".btw-backup-target"
_PIECE = 1 << 20
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


Rate = Callable[[], int]


def _unlimited() -> int:
    return 0


class Folder:
    """Files below `top` that mirror the folder `root`. `id_copy` is the file with the id that `top` must have, None to
    ask for none; `rate` tells how many bytes per second may be sent, 0 for as fast as can be. Contract: `Target`."""

    def __init__(self, top: str, root: Path, id_copy: Path | None = None, rate: Rate = _unlimited) -> None:
        self.name = top.rstrip("/") + "/"
        self._top = Path(top)
        self._root = os.path.realpath(root)
        self._id_copy = id_copy
        self._rate = rate

    def probe(self) -> None:
        """See `Target`."""
        try:
            if not self._top.is_dir():
                raise Unreachable(f"{self._top} is not a folder", "is its disk mounted? if it is new: mkdir it")
            if self._id_copy:
                self._check_identity(self._id_copy)
        except OSError as error:
            raise Unreachable(f"{self._top}: {error.strerror}") from error

    def _check_identity(self, copy: Path) -> None:
        known = _content(copy)
        if known and _content(self._top / ID_FILE) != known:
            hint = f"is its disk mounted? if it is meant to be another one, remove {copy}"
            raise Unreachable(f"{self._top} is not the target of before", hint)

    def _give_identity(self, copy: Path) -> None:
        """Mark the folder as ours before anything is copied to it; it may be another machine's as well."""
        if not _content(copy):
            identity = _content(self._top / ID_FILE) or f"{uuid.uuid4()}\n".encode()
            files.write_whole(self._top / ID_FILE, identity)
            files.make_folder(copy.parent)
            files.write_whole(copy, identity)

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """See `Target`."""
        found: dict[str, Stored] = {}
        folder, _, beginning = prefix.rpartition("/")
        try:
            for path, size in self._files(f"{folder}/" if folder else "", beginning, recursive):
                found[path] = Stored(size, "")
        except OSError as error:
            raise ProgramFailed(f"{error.filename or self._top} cannot be listed: {error.strerror}") from error
        return found

    def _files(self, folder: str, beginning: str, recursive: bool) -> Iterator[tuple[str, int]]:
        try:
            entries = sorted(os.scandir(self._top / folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if not entry.name.startswith(beginning) or entry.name.startswith((files.TEMPORARY, ID_FILE)):
                continue
            if entry.is_dir(follow_symlinks=False):
                if recursive:
                    yield from self._files(f"{folder}{entry.name}/", "", True)
            elif entry.is_file(follow_symlinks=False):
                yield folder + entry.name, entry.stat(follow_symlinks=False).st_size

    def folders(self) -> Sequence[str]:
        """See `Target`."""
        try:
            with os.scandir(self._top) as entries:
                return [f"{entry.name}/" for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise ProgramFailed(f"{self._top} cannot be listed: {error.strerror}") from error

    def send(self, paths: Sequence[str]) -> str:
        """See `Target`."""
        first = ""
        if self._id_copy:
            self._give_identity(self._id_copy)
        for path in paths:
            try:
                self._copy(Path(self._root, path), self._top / path, self._rate)
            except OSError as error:
                first = first or self._complaint(error)
        return first

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """See `Target`."""
        first = ""
        for path in paths:
            try:
                self._copy(self._top / path, folder / path, _unlimited)
            except OSError as error:
                first = first or self._complaint(error)
        return first

    def _complaint(self, error: OSError) -> str:
        """What to say of `error`, if there is any use in going on."""
        message = f"{error.filename or self._top}: {error.strerror}"
        debug(message)
        if error.errno in _HOPELESS:
            raise Unreachable(message) from error
        return message

    def _copy(self, source: Path, target: Path, rate: Rate) -> None:
        files.make_folder(target.parent)
        with regular.opened(source) as file, files.published(target) as out:
            began = time.monotonic()
            while piece := file.read(min(_PIECE, rate() or _PIECE)):
                files.write_all(out.fileno(), piece)
                if now := rate():
                    time.sleep(max(0.0, began + len(piece) / now - time.monotonic()))
                began = time.monotonic()
            mtime = os.fstat(file.fileno()).st_mtime_ns
            os.utime(out.fileno(), ns=(mtime, mtime))

    def unproved(self, paths: Sequence[str], listing: Listing) -> Mapping[str, str]:
        """See `Target`."""
        return {path: why for path in paths if (why := self._doubt(path, listing.get(path)))}

    def _doubt(self, path: str, stored: Stored | None) -> str:
        """Why what is there may not be the file `path`; "" if it is: both are read."""
        try:
            with regular.opened(Path(self._root, path)) as here:
                size = os.fstat(here.fileno()).st_size
                if stored is None:
                    return "it is not there"
                if stored.size != size:
                    return f"it has {stored.size} bytes there and {size} here"
                return self._difference(here, path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"it cannot be read here: {error.strerror}"

    def _difference(self, here: BinaryIO, path: str) -> str:
        try:
            with open(os.open(self._top / path, _READ), "rb", _PIECE) as there:
                if not stat.S_ISREG(os.fstat(there.fileno()).st_mode):
                    return "it is no file there"
                os.posix_fadvise(there.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while True:
                    one, other = here.read(_PIECE), there.read(_PIECE)
                    if one != other:
                        return "its content there is another"
                    if not one:
                        return ""
        except OSError as error:
            return f"it cannot be read there: {error.strerror}"

    def leftovers(self) -> Sequence[str]:
        """See `Target`."""
        found = []
        for folder, _, names in os.walk(self._top):
            found += [os.path.join(folder, name) for name in names if name.startswith(files.TEMPORARY)]
        return found

    def sweep(self, leftovers: Sequence[str]) -> None:
        """See `Target`."""
        for path in leftovers:
            with suppress(OSError):
                os.unlink(path)
                files.sync_folder(Path(path).parent)

    def remove(self, paths: Sequence[str]) -> str:
        """See `Target`. What is removed stays removed, also if the power fails."""
        first = ""
        for path in paths:
            try:
                (self._top / path).unlink(missing_ok=True)
                for folder in Path(path).parents:
                    if folder.name:
                        (self._top / folder).rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    first = first or self._complaint(error)
        try:
            for folder in {self._what_is_left_of((self._top / path).parent) for path in paths}:
                files.sync_folder(folder)
        except OSError as error:
            first = first or self._complaint(error)
        return first

    def _what_is_left_of(self, folder: Path) -> Path:
        """`folder`, or the innermost folder that is still there of those that it was in."""
        while folder != self._top and not folder.is_dir():
            folder = folder.parent
        return folder


def _content(path: Path) -> bytes:
    try:
        return regular.read(path, links=True)
    except FileNotFoundError:
        return b""
