"""A second walk of a tree, from its other end, in a process of its own.

Reading inodes from a cold disk bounds the walk of a tree in which nothing has changed: a third of that is waiting, the
rest is work of the kernel's, on one core. A child that goes through the tree in the reverse order meets the walk in the
middle. What it looked at is then in the kernel's memory. Where what is seen is remembered, the child remembers it, too,
and the walk ends where the child's begins. Threads gain a tenth of that: both need the interpreter's lock after each
call.

What the child saw is good as long as nothing was odd: from the first entry on that vanishes, cannot be read or lies too
deep, it only looks. Memory: the names in one folder, a batch, and where each batch begins.
"""

import marshal
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from btw_backup.sources.memory import ENCODING, Looks, Packed, anonymous_file
from btw_backup.sources.rules import Rules
from btw_backup.sources.scouts import DEEPEST, Scouts, end_child, start_child
from btw_backup.sources.walk import Problems, Seen, names_of, opened

_AT_LEAST, _AT_MOST = 256, 4096
"""Entries of a batch: where the walk may end, a batch begins with a folder, so it may have more than the least."""


class Batch(NamedTuple):
    """What the child saw of a part of the tree, in the order of the walk, from the entry `begin` on."""

    begin: str
    entries: int
    size: int
    newest: int
    sockets: list[Mapping[str, Any]]
    looks: Packed


class LookAhead:
    """A child that walks the tree `source` from its end, and dies with us or on `stop`; none for a single core.

    With a folder `scratch` it remembers what it sees, in a file without a name there. `began` is when it began, in
    nanoseconds.
    """

    def __init__(self, source: str, rules: Rules, scratch: Path | None = None) -> None:
        self.began = time.time_ns()
        self._batches: list[tuple[int, int]] = []
        self._begins: dict[str, int] = {}
        self._end = 0
        self._file: BinaryIO | None = None
        self._child = 0
        self._scouts: Scouts | None = None
        if len(os.sched_getaffinity(0)) > 1:
            self._file = anonymous_file(scratch) if scratch else None
            looker = _Looker(rules, self._file)
            self._child = start_child(source, looker.look)
            self._scouts = Scouts(source, rules)

    def begins_at(self, path: str) -> bool:
        """Whether all from the folder `path` to the end of the tree has been seen, and was remembered."""
        if self._file is None:
            return False
        while head := os.pread(self._file.fileno(), 4, self._end):
            begin, length = self._end + 4, int.from_bytes(head, "little")
            batch = os.pread(self._file.fileno(), length, begin)
            if len(head) < 4 or len(batch) < length:  # it is being written
                break
            self._begins[marshal.loads(batch)[0]] = len(self._batches)  # noqa: S302 - our child wrote it
            self._batches.append((begin, length))
            self._end = begin + length
        return path in self._begins

    def rest(self, path: str) -> Iterator[Batch]:
        """What was seen from the folder `path` on, at which a batch begins."""
        assert self._file is not None
        for begin, length in reversed(self._batches[: self._begins[path] + 1]):
            yield Batch(*marshal.loads(os.pread(self._file.fileno(), length, begin)))  # noqa: S302 - as above

    def stop(self) -> None:
        """End it; the walk has been where it was going."""
        child, self._child = self._child, 0
        if child:
            end_child(child)
        if self._scouts:
            self._scouts.stop()


class _Looker:
    """Looks at a tree, the last names first, as long as the process that made it is there; remembers it in `file`."""

    def __init__(self, rules: Rules, file: BinaryIO | None) -> None:
        self._device = -1
        self._rules = rules
        self._parent = os.getpid()
        self._file = file
        self._problems = Problems()
        self._looks = Looks()
        self._size = self._newest = 0
        self._sockets: list[Mapping[str, Any]] = []

    def look(self, top: int) -> None:
        """Look at all that is below the open folder `top`."""
        self._device = os.fstat(top).st_dev
        self.look_below(top, "")

    def look_below(self, folder: int, prefix: str) -> None:
        """Look at what is in the open `folder`, and below it."""
        if os.getppid() != self._parent:
            os._exit(0)
        if prefix.count("/") > DEEPEST:
            self._file = None
            return
        for name in reversed(names_of(folder, self._rules)):
            try:
                self._look_at(folder, prefix + name, name)
            except OSError:
                self._file = None

    def _look_at(self, folder: int, path: str, name: str) -> None:
        rules = self._rules
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_folder = stat.S_ISDIR(status.st_mode)
        if rules.patterns and rules.excluding(path, name, is_folder):
            return
        if status.st_dev == self._device or not rules.one_file_system:
            if is_folder:
                self._look_into(folder, name, path, status)
        elif not is_folder:
            return
        if self._file:
            self._remember((path, status, folder, name))

    def _look_into(self, folder: int, name: str, path: str, status: os.stat_result) -> None:
        inner = opened(folder, name, path, status, self._problems)
        if inner is None:
            self._file = None
            return
        try:
            self.look_below(inner, path + "/")
        finally:
            os.close(inner)

    def _remember(self, seen: Seen) -> None:
        path, status, _, _ = seen
        mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
        self._looks.add(seen, mtime, ctime, path.encode(*ENCODING))
        self._newest = max(self._newest, mtime, ctime)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._size += status.st_size
        elif kind == stat.S_IFSOCK:
            self._sockets.insert(0, socket_of(path, status))
        if len(self._looks) >= (_AT_LEAST if kind == stat.S_IFDIR else _AT_MOST):
            self._end_batch(path)

    def _end_batch(self, begin: str) -> None:
        entries = len(self._looks)
        looks = self._looks.taken(backwards=True)
        batch = marshal.dumps((begin, entries, self._size, self._newest, self._sockets, looks))
        assert self._file is not None
        if self._file.write(framed := len(batch).to_bytes(4, "little") + batch) < len(framed):
            self._file = None  # the disk is full: what comes after a gap is worth nothing
        self._size = self._newest = 0
        self._sockets = []


def socket_of(path: str, status: os.stat_result) -> Mapping[str, Any]:
    """What is recorded of a socket, which an archive cannot hold."""
    mode, owner = stat.S_IMODE(status.st_mode), {"uid": status.st_uid, "gid": status.st_gid}
    return {"path": path, "mode": mode, **owner, "mtime": status.st_mtime_ns}
