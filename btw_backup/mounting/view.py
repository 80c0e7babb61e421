"""What a mount shows: one tree, or a folder for each backup, named by its stamp, and a link to the newest."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from btw_backup.clock import moment_of
from btw_backup.errors import Damaged
from btw_backup.mounting.content import ChunkCache, OpenFile
from btw_backup.mounting.index import Node, TreeIndex
from btw_backup.records import Backup
from btw_backup.store import manifest
from btw_backup.store.manifest import Member

LATEST = "latest"
_OPEN = 16
"""Backups whose index is kept: each holds a temporary file."""

_SPACE = 1 << 40
"""Inode numbers that each backup has for itself."""


class View(Protocol):
    """A read-only filesystem. Paths are relative, without a slash at either end. Raises OSError and `Damaged`.

    `has_xattrs`: there may be extended attributes, ACLs among them, so that it makes sense to ask.
    """

    has_xattrs: bool

    def find(self, path: str) -> Node | None:
        """What `path` names; its number is that of its inode."""

    def children(self, path: str) -> Iterator[tuple[str, Node]]:
        """What is in a folder, by name."""

    def open(self, path: str) -> OpenFile:
        """The content of a file."""


class Tree:
    """The tree of one backup; a stream is a folder with one file."""

    def __init__(self, index: TreeIndex, chunks: ChunkCache, first: int = 1) -> None:
        self._index = index
        self._chunks = chunks
        self._first = first
        self.has_xattrs = index.has_xattrs

    def find(self, path: str) -> Node | None:
        """Contract: `View.find`."""
        found = self._index.find(path)
        if found is None and not path:
            return _implied(self._first, self._index.header.began)
        return found and self._numbered(found)

    def _numbered(self, node: Node) -> Node:
        return Node(self._first + node.number, node.member, node.names)

    def children(self, path: str) -> Iterator[tuple[str, Node]]:
        """Contract: `View.children`."""
        for name, node in self._index.children(path):
            yield name, self._numbered(node)

    def open(self, path: str) -> OpenFile:
        """Contract: `View.open`."""
        found = self._index.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return OpenFile(found.member, self._chunks)


@dataclass(slots=True)
class _Known:
    """A backup, and the number of its first inode."""

    backup: Backup
    first: int
    top: Node | None = None


class Backups:
    """All of `backups`, oldest first, as folders."""

    has_xattrs = True

    def __init__(self, backups: Sequence[Backup], chunks: ChunkCache) -> None:
        self._known = {b.stamp: _Known(b, number * _SPACE) for number, b in enumerate(backups, 1)}
        self._newest = backups[-1].stamp
        self._chunks = chunks
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._lock = threading.Lock()
        self._made = max(_moment(b) for b in backups)

    def find(self, path: str) -> Node | None:
        """Contract: `View.find`."""
        stamp, slash, below = path.partition("/")
        if not path:
            return Node(1, _folder(self._made, 0o755))
        if path == LATEST:
            return Node(2, self._latest())
        if stamp not in self._known:
            return None
        return self._tree(stamp).find(below) if slash else self._top(stamp)

    def _top(self, stamp: str) -> Node:
        """The top of a backup, for which its index is not needed."""
        known = self._known[stamp]
        if known.top is None:
            known.top = _top_of(known.backup, known.first)
        return known.top

    def children(self, path: str) -> Iterator[tuple[str, Node]]:
        """Contract: `View.children`."""
        if path:
            stamp, _, below = path.partition("/")
            yield from self._tree(stamp).children(below)
            return
        for stamp in self._known:
            yield stamp, self._top(stamp)
        yield LATEST, Node(2, self._latest())

    def open(self, path: str) -> OpenFile:
        """Contract: `View.open`."""
        stamp, _, below = path.partition("/")
        return self._tree(stamp).open(below)

    def _tree(self, stamp: str) -> Tree:
        with self._lock:
            tree = self._trees.get(stamp)
            if tree is None:
                known = self._known[stamp]
                tree = self._trees[stamp] = Tree(TreeIndex(known.backup.path), self._chunks, known.first)
                if len(self._trees) > _OPEN:
                    self._trees.popitem(last=False)  # who still looks into it keeps it for so long
            self._trees.move_to_end(stamp)
            return tree

    def _latest(self) -> Member:
        return Member(LATEST, "link", 0o777, os.geteuid(), os.getegid(), self._made, target=self._newest)


def _top_of(backup: Backup, first: int) -> Node:
    """The top of a backup; one that has no entry, or is gone or damaged, still is a folder."""
    moment = _moment(backup)
    try:
        with manifest.opened(backup.path) as opened:
            moment = opened.header.began
            member, _ = next(iter(opened))
            return Node(first, member) if opened.header.kind == "fs" and not member.key else _implied(first, moment)
    except (Damaged, OSError, StopIteration):
        return _implied(first, moment)


def _implied(first: int, moment: int) -> Node:
    """The top of what has no entry for it, with the last of its inode numbers."""
    return Node(first + _SPACE - 1, _folder(moment))


def _folder(moment: int, mode: int = 0o700) -> Member:
    """A folder that is in no manifest."""
    return Member("", "folder", mode, os.geteuid(), os.getegid(), moment)


def _moment(backup: Backup) -> int:
    """When a backup was made, for what has no other time."""
    try:
        return int(moment_of(backup.stamp).timestamp()) * 10**9
    except ValueError as error:
        raise Damaged(f"{backup.stamp} is no stamp") from error
