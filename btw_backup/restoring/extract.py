"""Writes entries into a folder, and nowhere else.

Every folder is entered by descriptor, one component at a time, never through a link; what is made is made new, and
gets its owner, mode, attributes and times through its own descriptor. So neither an archive nor another process that
swaps folders for links meanwhile can lead a write elsewhere. A folder gets its attributes when the walk leaves it;
memory grows with the depth of the tree, not with its size.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from btw_backup import files
from btw_backup.entries import Entry, Kind
from btw_backup.log import printable
from btw_backup.restoring.attributes import Complaints, Dresser, is_fatal
from btw_backup.restoring.descent import Descent, Folder
from btw_backup.restoring.filling import Content, fill

DAMAGED = b".damaged"

_TEMPORARY = "btw-restore"
_LARGEST = 16 << 40
"""Bytes of a file that the filesystems of today can hold; what says that it is larger is not what was stored."""

_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE_TYPES = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


class Extraction:
    """One restore into the open folder `top`. `fresh`: the folder is new and private, and all in it is ours.

    Else what is there stays, unless `force`: then files are replaced, but never folders. `bare`: others write into the
    fresh folder at the same time, and folders that entries do not name get no attributes. Whatever cannot be made as it
    was goes to `complaints`; errors of the target as a whole are raised as OSError.
    """

    def __init__(
        self, top: int, complaints: Complaints, *, fresh: bool, force: bool = False, bare: bool = False
    ) -> None:
        self._complaints = complaints
        self._dresser = Dresser(complaints)
        self._fresh = fresh
        self._force = force
        self._descent = Descent(
            top, fresh, lambda file, entry, new: self._dresser.dress(file, entry, new=new), bare=bare
        )
        self._written: set[int] = set()
        self._swept: set[int] = set()
        self.count = 0

    def write(self, entry: Entry, content: Content = ()) -> None:
        """Make `entry`. What reading `content` raises is raised, and the file is then called ``NAME.damaged``."""
        try:
            if entry.kind is Kind.FOLDER:
                self._write_folder(entry)
            else:
                parent, _, name = entry.path.rpartition(b"/")
                folder = self._descent.enter(parent)
                self._make(folder, name, entry, content)
        except OSError as error:
            if is_fatal(error):
                raise
            self._refuse(entry, error)
        else:
            self.count += 1
            if not (self._fresh or self._force):
                self._written.add(hash(entry.path))

    def finish(self) -> None:
        """Give the folders that are still open their attributes, the top at last. Leaves `top` open."""
        self._descent.finish()

    def close(self) -> None:
        """Close what is open but `top`; what was not finished stays without its attributes."""
        self._descent.close()

    def _write_folder(self, entry: Entry) -> None:
        if not entry.path:
            if self._fresh or self._force:
                self._descent.enter(b"")
                self._descent.innermost.entry = entry
            return
        parent, _, name = entry.path.rpartition(b"/")
        self._descent.enter(parent)
        folder = self._descent.push(name, made=self._make_folder(name, entry))
        if self._fresh or self._force or folder.known:
            folder.entry = entry
        else:
            folder.times = None  # it was there before: new names in it may show

    def _make_folder(self, name: bytes, entry: Entry) -> bool:
        """Whether a new folder was made; False if there is one."""
        descriptor = self._descent.innermost.descriptor
        try:
            os.mkdir(name, 0o700, dir_fd=descriptor)
        except FileExistsError:
            if _is_another(descriptor, name):
                raise
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                return False
            self._clear(name, entry)
            os.mkdir(name, 0o700, dir_fd=descriptor)
        return True

    def _make(self, folder: Folder, name: bytes, entry: Entry, content: Content) -> None:
        if entry.kind is Kind.FILE:
            self._write_file(folder, name, entry, content)
        elif entry.kind is Kind.HARD_LINK:
            self._link(folder, name, entry)
        elif entry.kind is Kind.LINK:
            self._create(name, entry, lambda: os.symlink(entry.target, name, dir_fd=folder.descriptor))
            self._dress_node(folder, name, entry, stat.S_IFLNK)
        else:
            file_type = _NODE_TYPES[entry.kind]
            device = os.makedev(*entry.device)
            self._create(name, entry, lambda: os.mknod(name, file_type | 0o600, device, dir_fd=folder.descriptor))
            self._dress_node(folder, name, entry, file_type)

    def _create(self, name: bytes, entry: Entry, create: Callable[[], None]) -> None:
        """Call `create`; where something is in the way that may go, remove it and try again."""
        try:
            create()
        except FileExistsError:
            self._clear(name, entry)
            create()

    def _clear(self, name: bytes, entry: Entry) -> None:
        """Remove what is called `name`, if it is ours or may be replaced. FileExistsError if not."""
        folder = self._descent.innermost.descriptor
        allowed = self._fresh or self._force or hash(entry.path) in self._written
        if not allowed or _is_another(folder, name):
            raise FileExistsError(errno.EEXIST, "something is there already")
        os.unlink(name, dir_fd=folder)

    def _write_file(self, folder: Folder, name: bytes, entry: Entry, content: Content) -> None:
        making = name if self._fresh else self._temporary_in(folder)
        descriptor, at = self._new_file(folder, making), folder.descriptor
        try:
            fill(descriptor, entry, content)
            self._dresser.dress(descriptor, entry, new=folder.known)
            if not self._fresh:
                os.fsync(descriptor)  # else a power cut may leave that name without content, where there was another
                self._move_in(folder, making, entry)
        except OSError:
            os.unlink(making, dir_fd=at)
            raise
        except BaseException:
            self._set_aside(folder, making, descriptor, entry)
            raise
        finally:
            os.close(descriptor)

    def _new_file(self, folder: Folder, making: bytes) -> int:
        """The descriptor of a new file; locked as `files.create` does it, if others have files in that folder."""
        at = folder.descriptor
        while True:
            try:
                descriptor = os.open(making, _CREATE, 0o600, dir_fd=at)
            except FileExistsError:
                if _is_another(at, making):
                    raise
                os.unlink(making, dir_fd=at)  # in a fresh folder all is ours, and elsewhere that name is
                descriptor = os.open(making, _CREATE, 0o600, dir_fd=at)
            if self._fresh:
                return descriptor
            files.claim(descriptor)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def _temporary_in(self, folder: Folder) -> bytes:
        """The name of a file that is not whole yet, in a folder where others have files; what runs that died left there
        is gone, once we were there."""
        here = Path(f"/proc/self/fd/{folder.descriptor}")
        if hash(self._descent.path) not in self._swept:
            self._swept.add(hash(self._descent.path))
            files.sweep_dead(here, _TEMPORARY, anybodys=True)  # it gets its owner before its name
        return os.fsencode(files.temporary_name(here, _TEMPORARY).name)

    def _move_in(self, folder: Folder, making: bytes, entry: Entry) -> None:
        """Give a finished file its name in a folder that is not ours alone."""
        at, name = folder.descriptor, entry.path.rpartition(b"/")[2]
        if self._force or hash(entry.path) in self._written:
            os.rename(making, name, src_dir_fd=at, dst_dir_fd=at)
        else:
            os.link(making, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
            os.unlink(making, dir_fd=at)

    def _set_aside(self, folder: Folder, making: bytes, descriptor: int, entry: Entry) -> None:
        """Rename a file that could not be filled, so that nobody takes it for the whole one."""
        at = folder.descriptor
        if not self._fresh:
            os.unlink(making, dir_fd=at)
            return
        name = making[: 255 - len(DAMAGED)] + DAMAGED
        self._dresser.dress(descriptor, replace(entry, mode=entry.mode & 0o777, xattrs={}), new=False)
        os.rename(making, name, src_dir_fd=at, dst_dir_fd=at)
        self._complaints.is_damaged(
            f"{printable(entry.path)} is not whole: what there is of it is called {printable(name)}"
        )

    def _link(self, folder: Folder, name: bytes, entry: Entry) -> None:
        """A further name of an earlier entry."""
        parent, _, first = entry.target.rpartition(b"/")
        if entry.target == entry.path:
            raise FileNotFoundError(errno.ENOENT, "it is a hard link to itself")
        at = folder.descriptor if parent == self._descent.path else self._descent.find(parent)
        try:
            self._create(
                name,
                entry,
                lambda: os.link(first, name, src_dir_fd=at, dst_dir_fd=folder.descriptor, follow_symlinks=False),
            )
        finally:
            if at != folder.descriptor:
                os.close(at)

    def _dress_node(self, folder: Folder, name: bytes, entry: Entry, file_type: int) -> None:
        """Dress what cannot be opened: a link, a FIFO, a device. It must be what we made, and have no other name."""
        descriptor = os.open(name, _NODE, dir_fd=folder.descriptor)
        try:
            status = os.fstat(descriptor)
            if (stat.S_IFMT(status.st_mode), status.st_nlink, status.st_uid) != (file_type, 1, os.geteuid()):
                raise FileExistsError(errno.EEXIST, "somebody put something else in its place")
            self._dresser.dress(b"/proc/self/fd/%d" % descriptor, entry, new=folder.known)
        finally:
            os.close(descriptor)

    def _refuse(self, entry: Entry, error: OSError) -> None:
        """Note why `entry` was not made: because of the archive, or because of where we write."""
        hostile = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG)
        hostile = hostile or (error.errno == errno.EFBIG and entry.size > _LARGEST)
        if hostile and self._fresh and not self._complaints.unset_count:
            self._complaints.is_damaged(f"{printable(entry.path)} cannot be made: {error.strerror}")
        else:
            self._complaints.could_not(entry.path, f"it could not be made: {error.strerror}")


def _is_another(folder: int, name: bytes) -> bool:
    """Whether what `name` leads to in the open `folder` is called otherwise, by a filesystem that takes upper and lower
    case for the same."""
    other = os.fsencode(os.fsdecode(name).swapcase())
    try:
        os.stat(other, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return name not in map(os.fsencode, os.listdir(folder))
