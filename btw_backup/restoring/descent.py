"""Where in a tree we are: its folders, entered one by one by descriptor, never through a link.

Used by whoever writes a tree in some order, mostly that of a walk. A folder gets its attributes when it is left.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from btw_backup.entries import Entry
from btw_backup.errors import FatalUserError

OPEN_FOLDERS = 100
"""How many levels of a deep tree are held open; further up ``..`` is opened again, and must be the same folder."""

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Folder:
    """A folder on the way to where we write. `known`: what is made in it belongs to us and inherits nothing.

    `entry` is what it is dressed with when it is left, else `times` what is put back. `descriptor` is -1 while closed.
    """

    name: bytes
    descriptor: int
    identity: tuple[int, int]
    known: bool
    entry: Entry | None = None
    times: tuple[int, int] | None = None


class Descent:
    """The open folders from `top` to where we are. `known`: nobody else can change `top`, and all in it is ours.

    `dress` sets the attributes of an entry on the descriptor of its folder; ``new`` as in `Dresser.dress`. `bare`:
    other processes of ours make folders in it, too, and none has got attributes yet.
    """

    def __init__(self, top: int, known: bool, dress: Callable[[int, Entry, bool], None], *, bare: bool = False) -> None:
        self._dress = dress
        self._bare = bare
        self._stack = [Folder(b"", top, _identity(os.fstat(top)), known)]
        self._parts: list[bytes] = []
        self.path = b""

    @property
    def innermost(self) -> Folder:
        """The folder where we are."""
        return self._stack[-1]

    def enter(self, path: bytes) -> Folder:
        """Go to the folder `path`, leaving others; a missing one is made."""
        if path == self.path:
            return self._stack[-1]
        parts = path.split(b"/") if path else []
        common = 0
        while common < min(len(parts), len(self._parts)) and parts[common] == self._parts[common]:
            common += 1
        while len(self._stack) > common + 1:
            self._leave()
        for part in parts[common:]:
            try:
                self.push(part, made=False)
            except FileNotFoundError:
                self._make(part)
                self.push(part, made=True)
        return self._stack[-1]

    def _make(self, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self._stack[-1].descriptor)
        except FileExistsError:
            if not self._bare:
                raise

    def push(self, name: bytes, *, made: bool) -> Folder:
        """Enter `name` in the innermost folder."""
        parent = self._stack[-1]
        made = made or self._bare
        descriptor = os.open(name, _ENTER, dir_fd=parent.descriptor)
        status = os.fstat(descriptor)
        folder = Folder(name, descriptor, _identity(status), made)
        self._stack.append(folder)
        self._parts.append(name)
        self.path = self.path + b"/" + name if self.path else name
        if not made:
            folder.times = (status.st_atime_ns, status.st_mtime_ns)
        elif not parent.known:
            _ours(status)
            clean(descriptor)
        if len(self._stack) > OPEN_FOLDERS + 1:
            far = self._stack[-OPEN_FOLDERS]
            if far.descriptor >= 0:
                os.close(far.descriptor)
            far.descriptor = -1
        return folder

    def _leave(self) -> None:
        """Dress and close the innermost folder, and go to the one above."""
        folder = self._stack.pop()
        self._parts.pop()
        self.path = self.path.rpartition(b"/")[0]
        above = self._stack[-1]
        try:
            if above.descriptor < 0:
                above.descriptor = _open_again(folder.descriptor, above)
            self._dress_folder(folder)
        finally:
            os.close(folder.descriptor)

    def _dress_folder(self, folder: Folder) -> None:
        if folder.entry is not None:
            self._dress(folder.descriptor, folder.entry, folder.known)
        elif folder.times is not None:
            with suppress(PermissionError):  # it was there before, and is somebody else's
                os.utime(folder.descriptor, ns=folder.times)

    def find(self, path: bytes) -> int:
        """A new descriptor of the folder `path`, without leaving the one where we are."""
        descriptor = os.dup(self._stack[0].descriptor)
        for part in path.split(b"/") if path else ():
            try:
                inner = os.open(part, _PASS, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def finish(self) -> None:
        """Leave all folders, the top at last, which stays open."""
        while len(self._stack) > 1:
            self._leave()
        self._dress_folder(self._stack[0])

    def close(self) -> None:
        """Close all but the top, undressed."""
        while len(self._stack) > 1:
            folder = self._stack.pop()
            if folder.descriptor >= 0:
                os.close(folder.descriptor)


def clean(folder: int) -> None:
    """Make an open new folder ours alone, and free of what it inherited: set-group-id, group, ACLs."""
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        try:
            os.removexattr(folder, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
    os.chown(folder, -1, os.getegid())
    os.chmod(folder, 0o700)


def _ours(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise FileExistsError(errno.EEXIST, "somebody put something else in its place")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open_again(below: int, folder: Folder) -> int:
    descriptor = os.open(b"..", _ENTER, dir_fd=below)
    if _identity(os.fstat(descriptor)) != folder.identity:
        os.close(descriptor)
        raise FatalUserError("a folder was moved away while it was restored")
    return descriptor
