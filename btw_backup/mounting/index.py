"""The entries of a manifest, to be found by their path.

A manifest lists them in the order of their keys, so its lines, cut into blocks, are the index: in memory is the first
key of each block of 64 KiB, and a few blocks that were asked for last; the blocks lie compressed in a temporary file
without a name. So a tree of a million files takes some MB of memory, and about as much of the disk as its manifest.
"""

import os
import re
import tempfile
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from btw_backup.errors import Damaged
from btw_backup.store import manifest
from btw_backup.store.lines import member_in, named_in, target_of
from btw_backup.store.manifest import Header, ManifestReader, Member, key_of

_BLOCK = 64 << 10
_KEPT = 4 << 20
"""Bytes of lines whose blocks stay decoded, which take about six times that."""

_BELOW, _BEHIND = "\0", "\1"
"""What follows a folder's key in those of what is in it, and what is greater than all of these."""

_ODD = re.compile(r"(?:^|\0)\.{0,2}(?:\0|$)")
"""A key with a component that is no name."""


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or other node: its number in the manifest, its (first) entry, and how many names it has."""

    number: int
    member: Member
    names: int = 1


@dataclass(frozen=True, slots=True)
class _Block:
    """Entries that follow each other: the number of the first, their keys, and they themselves."""

    first: int
    keys: list[str]
    members: list[Member]
    size: int


class TreeIndex:
    """Finds the entries of the manifest in the file `path`. Raises `Damaged`, if it is no whole one."""

    def __init__(self, path: Path) -> None:
        self._file = tempfile.TemporaryFile(prefix="btw-backup-")  # noqa: SIM115 - as long as this lives
        self._places: list[tuple[int, int, int]] = []  # of each block: the number of the first entry, offset, length
        self._keys: list[str] = []
        self._links = array("q")
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self.count = 0
        self.has_xattrs = False
        with manifest.opened(path) as opened:
            self.header: Header = opened.header
            self._fill(opened, str(path))
        self._links = array("q", sorted(self._links))

    def _fill(self, opened: ManifestReader, name: str) -> None:
        """Put the lines into blocks."""
        last: str | None = None
        lines: list[bytes] = []
        size = 0
        for line in opened.lines():
            key = self._placed(line)
            if key is None:
                continue
            if last is not None and key <= last:
                raise Damaged(f"{name} is damaged: its entries are not in order")
            if size >= _BLOCK:
                self._add(lines)
                lines, size = [], 0
            if not lines:
                self._keys.append(key)
            last, size = key, size + len(line)
            lines.append(line)
        if lines:
            self._add(lines)

    def _placed(self, line: bytes) -> str | None:
        """The key of an entry; None if it cannot be one. Notes further names of files."""
        named = named_in(line)
        self.has_xattrs = self.has_xattrs or bool(named.xattrs)
        path = named.key
        key = key_of(path)
        if path and ("\0" in path or _ODD.search(key)):
            return None
        if named.kind == "hard link":
            self._links.append(hash(key_of(target_of(named))))
        return key

    def _add(self, lines: list[bytes]) -> None:
        """Write a block."""
        content = zstandard.ZstdCompressor(level=1).compress(b"\n".join(lines))
        at = self._places[-1][1] + self._places[-1][2] if self._places else 0
        self._places.append((self.count, at, len(content)))
        self.count += len(lines)
        self._file.write(content)
        self._file.flush()

    def find(self, path: str) -> Node | None:
        """What `path` names; of a further name of a file, the file."""
        found = self._entry(key_of(path))
        return self._node(*found) if found else None

    def _node(self, number: int, member: Member) -> Node | None:
        if member.kind == "hard link":
            found = self._entry(key_of(target_of(member)))
            if found is None or found[1].kind == "hard link":
                return None
            number, member = found
        if not self._links:
            return Node(number, member)
        key = hash(key_of(member.key))
        return Node(number, member, 1 + bisect_right(self._links, key) - bisect_left(self._links, key))

    def _entry(self, key: str) -> tuple[int, Member] | None:
        number, at = self._seek(key)
        if number >= len(self._places):
            return None
        block = self._block(number)
        return (block.first + at, block.members[at]) if block.keys[at] == key else None

    def _seek(self, key: str) -> tuple[int, int]:
        """Where the first entry is whose key is not less than `key`: the number of its block, and where in it."""
        number = max(0, bisect_right(self._keys, key) - 1)
        if number >= len(self._places):
            return number, 0
        block = self._block(number)
        at = bisect_left(block.keys, key)
        return (number, at) if at < len(block.keys) else (number + 1, 0)

    def children(self, path: str) -> Iterator[tuple[str, Node]]:
        """What is in the folder `path`, in the order of the names."""
        above = key_of(path) + _BELOW if path else ""
        number, at = self._seek(above) if path else self._seek(_BEHIND)
        while number < len(self._places):
            block = self._block(number)
            key = block.keys[at]
            if not key.startswith(above):
                return
            name, below, _ = key[len(above) :].partition(_BELOW)
            node = None if below else self._node(block.first + at, block.members[at])
            if node:  # else its folder, or what it is a further name of, is missing from the manifest
                yield name, node
            if below or block.members[at].kind == "folder":
                number, at = self._seek(above + name + _BEHIND)
            else:
                number, at = (number, at + 1) if at + 1 < len(block.keys) else (number + 1, 0)

    def _block(self, number: int) -> _Block:
        """A block, decoded."""
        with self._lock:
            block = self._blocks.get(number)
            if block is None:
                block = self._blocks[number] = self._read(number)
                self._size += block.size
                while self._size > _KEPT and len(self._blocks) > 1:
                    self._size -= self._blocks.popitem(last=False)[1].size
            self._blocks.move_to_end(number)
            return block

    def _read(self, number: int) -> _Block:
        first, at, length = self._places[number]
        content = zstandard.ZstdDecompressor().decompress(os.pread(self._file.fileno(), length, at))
        members = [member_in(line) for line in content.split(b"\n")]
        return _Block(first, [key_of(member.key) for member in members], members, len(content))
