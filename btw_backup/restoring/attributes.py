"""Owner, mode, extended attributes and times of what was made, set on its descriptor, so never on something else."""

import errno
import os
import time
from dataclasses import dataclass, field

from btw_backup.entries import Entry, Kind

KEPT = 1000
"""How many complaints of each sort are kept in memory; all are counted."""

_NOT_FATAL_FOR_XATTRS = frozenset((errno.ENOSPC, errno.EDQUOT))  # an inode has only so much room for them
_FATAL = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
)
_SET_ID = 0o6000
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def is_fatal(error: OSError) -> bool:
    """Whether the error tells of the target as a whole, so that it makes no sense to go on."""
    return error.errno in _FATAL


@dataclass(slots=True)
class Complaints:
    """What was not restored as it was: `unset` could not be set or made here, `damaged` is not what was stored."""

    unset: list[tuple[bytes, str]] = field(default_factory=list)
    unset_count: int = 0
    damaged: list[str] = field(default_factory=list)
    damaged_count: int = 0

    @classmethod
    def before(cls, doubt: str) -> "Complaints":
        """Those that there are before anything is read, if there is a `doubt`."""
        complaints = cls()
        if doubt:
            complaints.is_damaged(doubt)
        return complaints

    def could_not(self, path: bytes, what: str) -> None:
        """Something about `path` could not be set, or it could not be made."""
        self.unset_count += 1
        if len(self.unset) < KEPT:
            self.unset.append((path, what))

    def is_damaged(self, message: str) -> None:
        """Something that is stored is not what was stored."""
        if message in self.damaged:
            return  # who reads the same, met the same
        self.damaged_count += 1
        if len(self.damaged) < KEPT:
            self.damaged.append(message)

    def told(self) -> tuple[list[tuple[bytes, str]], int, list[str], int]:
        """All of it, for `add` in another process."""
        return self.unset, self.unset_count, self.damaged, self.damaged_count

    def add(self, unset: list[tuple[bytes, str]], unset_count: int, damaged: list[str], damaged_count: int) -> None:
        """What another process was told."""
        self.unset += unset[: KEPT - len(self.unset)]
        self.unset_count += unset_count
        for message in damaged:
            self.is_damaged(message)
        self.damaged_count += damaged_count - len(damaged)


class Dresser:
    """Sets the attributes of entries. Like tar, it gives files the access time of the restore."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._own = (os.geteuid(), os.getegid())
        self._now = time.time_ns()

    def dress(self, file: int | bytes, entry: Entry, *, new: bool) -> None:
        """Set everything on `file`, a descriptor or the path in /proc of one.

        `new`: it was made by us where the owner of new files is known, so that an owner that fits need not be set.
        The owner comes first: chown takes set-id bits and capabilities away.
        """
        mode = entry.mode
        if not new:
            self._take_off_inherited(file, entry)
        if not (new and (entry.uid, entry.gid) == self._own) and not self._chown(file, entry):
            mode &= ~_SET_ID  # never a program that runs as somebody else than before
        for name, value in entry.xattrs.items():
            self._set_xattr(file, entry, name, value)
        if entry.kind is not Kind.LINK:
            self._chmod(file, entry, mode)
        self._set_time(file, entry)

    def _take_off_inherited(self, file: int | bytes, entry: Entry) -> None:
        """Remove the ACL that a folder which was there before gave to what was made in it."""
        names = {Kind.LINK: (), Kind.FOLDER: (_ACCESS, _DEFAULT)}.get(entry.kind, (_ACCESS,))
        for name in names:
            try:
                os.removexattr(file, name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    self._complain(entry, f"its attribute {name}", error)

    def _chown(self, file: int | bytes, entry: Entry) -> bool:
        try:
            os.chown(file, entry.uid, entry.gid)
        except OSError as error:
            return self._complain(entry, f"its owner {entry.uid}:{entry.gid}", error)
        return True

    def _set_xattr(self, file: int | bytes, entry: Entry, name: str, value: bytes) -> None:
        try:
            os.setxattr(file, name, value)
        except OSError as error:
            if error.errno in _NOT_FATAL_FOR_XATTRS:
                self._complaints.could_not(entry.path, f"its attribute {name} could not be set: {error.strerror}")
            else:
                self._complain(entry, f"its attribute {name}", error)

    def _chmod(self, file: int | bytes, entry: Entry, mode: int) -> None:
        try:
            os.chmod(file, mode)
        except OSError as error:
            self._complain(entry, f"its mode {entry.mode:04o}", error)
        else:
            if mode != entry.mode:
                self._complaints.could_not(entry.path, "its set-id bits were left out, as its owner could not be set")

    def _set_time(self, file: int | bytes, entry: Entry) -> None:
        try:
            os.utime(file, ns=(self._now, entry.mtime))
        except OSError as error:
            self._complain(entry, "its time", error)

    def _complain(self, entry: Entry, what: str, error: OSError) -> bool:
        if is_fatal(error):
            raise OSError(error.errno, f"{what} could not be set: {error.strerror}", os.fsdecode(entry.path)) from error
        self._complaints.could_not(entry.path, f"{what} could not be set: {error.strerror}")
        return False
