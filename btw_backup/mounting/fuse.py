"""Answers the kernel's questions about a `View`, through libfuse 3 and the package mfusepy.

The kernel checks permissions, with the ACLs, and may keep whatever it was told: a backup does not change.
"""

import ctypes
import errno
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

from btw_backup.errors import FatalUserError, MissingProgram
from btw_backup.log import debug
from btw_backup.mounting.content import OpenFile
from btw_backup.mounting.index import Node
from btw_backup.mounting.view import View
from btw_backup.store.lines import target_of

_LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4")
_POSIX_ACL = 1 << 19
"""FUSE_CAP_POSIX_ACL of fuse_common.h: the kernel asks for the ACLs and heeds them."""

_READDIRPLUS_AUTO = 1 << 14
"""FUSE_CAP_READDIRPLUS_AUTO: the kernel would mostly list names, and ask for the status of each one by one."""

_FILL_DIR_PLUS = 1 << 1
"""FUSE_FILL_DIR_PLUS of fuse.h: the status comes with the name."""

_FOR_EVER = 86400
_TYPES = {
    "file": stat.S_IFREG,
    "folder": stat.S_IFDIR,
    "link": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
}


class Answers:
    """What mfusepy calls, by the names that it knows. `ready` is called when the kernel has begun to ask."""

    use_ns = True

    def __init__(self, view: View, ready: Callable[[], None]) -> None:
        self._view = view
        self._ready = ready
        self._open: dict[int, OpenFile] = {}
        self._listings: dict[int, Listing] = {}
        self._numbers = count(1)

    def init_with_config(self, connection: Any, config: Any) -> None:
        """Called first."""
        if connection.capable & _POSIX_ACL:
            connection.want |= _POSIX_ACL
        connection.want &= ~_READDIRPLUS_AUTO
        self._ready()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """The status of `path`."""
        return status_of(self._node(path))

    def opendir(self, path: str) -> int:
        """A number for listing the folder."""
        number = next(self._numbers)
        self._listings[number] = Listing(lambda: self._listed(path))
        return number

    def _listed(self, path: str) -> "Iterator[Named]":
        here = status_of(self._node(path))
        yield ".", here
        yield "..", here
        for name, node in self._view.children(path[1:]):
            yield name, status_of(node)

    def listing(self, fh: int) -> "Listing":
        """What is in an open folder."""
        return self._listings[fh]

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        """Is never called, but mfusepy takes what is not there for what cannot be done."""
        raise OSError(errno.ENOSYS, "see _with_statuses")

    def releasedir(self, path: str, fh: int) -> int:
        """Nobody lists it any more."""
        self._listings.pop(fh, None)
        return 0

    def readlink(self, path: str) -> str:
        """The text of a link."""
        return target_of(self._node(path).member)

    def listxattr(self, path: str) -> list[str]:
        """The names of the extended attributes."""
        self._refuse_without_attributes()
        return list(self._node(path).member.xattrs)

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """The value of an extended attribute."""
        self._refuse_without_attributes()
        found = self._node(path).member.xattrs.get(name)
        if found is None:
            raise OSError(errno.ENODATA, "there is no such attribute")
        return found

    def _refuse_without_attributes(self) -> None:
        """Then the kernel asks for none again; else `ls -l` makes it ask for that of every file."""
        if not self._view.has_xattrs:
            raise OSError(errno.ENOSYS, "there are no attributes in this tree")

    def open(self, path: str, flags: int) -> int:
        """A number for reading the file."""
        with told_as_errno(path):
            number = next(self._numbers)
            self._open[number] = self._view.open(path[1:])
            return number

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A part of an open file; of several threads at once."""
        with told_as_errno(path):
            return self._open[fh].read(offset, size)

    def release(self, path: str, fh: int) -> int:
        """Nobody reads it any more."""
        self._open.pop(fh, None)
        return 0

    def _node(self, path: str) -> Node:
        with told_as_errno(path):
            found = self._view.find(path[1:])
        if found is None:
            raise OSError(errno.ENOENT, "there is no such file")
        return found


Named = tuple[str, dict[str, int]]
"""A name in a folder, with its status."""


class Listing:
    """A folder that is listed, in pieces as large as the kernel wants them. `begin` begins it."""

    def __init__(self, begin: Callable[[], Iterator[Named]]) -> None:
        self._begin = begin
        self._rest = begin()
        self._at = 0
        self._next: Named | None = None

    def entries(self, offset: int) -> Iterator[tuple[int, Named]]:
        """What comes after the first `offset` entries, each with the offset behind it.

        The last one that was taken did not fit any more, and comes again.
        """
        if offset != self._at:
            self._rest, self._at, self._next = islice(self._begin(), offset, None), offset, None
        while (entry := self._next or next(self._rest, None)) is not None:
            self._next = entry
            yield self._at + 1, entry
            self._next = None
            self._at += 1


def status_of(node: Node) -> dict[str, int]:
    """What stat(2) tells."""
    member = node.member
    stored = member.size if member.parts is None else sum(length for _, length in member.parts)
    return {
        "st_mode": _TYPES.get(member.kind, stat.S_IFREG) | member.mode & 0o7777,
        "st_ino": node.number,
        "st_nlink": node.names,
        "st_uid": member.uid,
        "st_gid": member.gid,
        "st_size": len(os.fsencode(target_of(member))) if member.kind == "link" else member.size,
        "st_blocks": -(-stored // 512),
        "st_rdev": os.makedev(*member.device) if member.device else 0,
        "st_atime": member.mtime,
        "st_mtime": member.mtime,
        "st_ctime": member.ctime or member.mtime,
    }


@contextmanager
def told_as_errno(path: str) -> Iterator[None]:
    """What is damaged, or gone meanwhile, is an input/output error of who reads it."""
    try:
        yield
    except (FatalUserError, ValueError, OverflowError) as error:
        debug(f"{path} cannot be read: {error}")
        raise OSError(errno.EIO, str(error)) from error


def library() -> Any:
    """The module mfusepy, with libfuse 3. Raises `MissingProgram`."""
    name = next(filter(_can_be_loaded, _LIBRARIES), None)
    if name is None:
        raise MissingProgram("libfuse 3 is not installed", "apt-get install fuse3")
    if not os.path.exists("/dev/fuse"):
        raise FatalUserError("there is no /dev/fuse", "modprobe fuse; a container needs the device given to it")
    os.environ["FUSE_LIBRARY_PATH"] = name  # else mfusepy prefers libfuse 2, which has no ACLs
    import mfusepy  # noqa: PLC0415 - it loads libfuse, and nobody else needs it

    return mfusepy


def _can_be_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _with_statuses(module: Any) -> Any:
    """The class FUSE of mfusepy, but listing folders with the status of what is in them, which it does not do."""

    def readdir(fuse: Any, path: bytes, buffer: Any, filler: Any, offset: int, *rest: Any) -> int:
        status = module.c_stat()
        with told_as_errno(os.fsdecode(path)):
            for behind, (name, found) in fuse.operations.listing(rest[0].contents.fh).entries(offset):
                module.set_st_attrs(status, found, use_ns=True)
                if filler(buffer, os.fsencode(name), status, behind, _FILL_DIR_PLUS):
                    break
        return 0

    return type("FUSE", (module.FUSE,), {"readdir_fuse_3": readdir})


def serve(view: View, folder: Path, name: str, ready: Callable[[], None]) -> None:
    """Mount `view` at `folder` and answer until it is unmounted, or SIGTERM, SIGINT or SIGHUP ends us.

    Raises `FatalUserError` if it cannot be mounted; libfuse has then said why.
    """
    mounted = threading.Event()

    def is_ready() -> None:
        mounted.set()
        ready()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # libfuse takes those, and unmounts
    module = library()
    try:
        _with_statuses(module)(Answers(view, is_ready), str(folder), foreground=True, **options(name))
    except RuntimeError as error:
        if not mounted.is_set():
            raise FatalUserError(f"{folder} cannot be mounted") from error
    debug(f"{folder} is not mounted any more")


def options(name: str) -> dict[str, Any]:
    """The options of the mount, which mount(8) shows as `name`."""
    return {
        "ro": True,
        "nodev": True,
        "nosuid": True,
        "default_permissions": True,
        "allow_other": os.geteuid() == 0,
        "use_ino": True,
        "kernel_cache": True,
        "attr_timeout": _FOR_EVER,
        "entry_timeout": _FOR_EVER,
        "negative_timeout": _FOR_EVER,
        "max_idle_threads": 8,  # libfuse 3.14 complains about its own default
        "subtype": "btw-backup",
        "fsname": "".join("_" if c in ",\\" or not c.isprintable() else c for c in name),
    }
