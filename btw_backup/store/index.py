"""Where the contents are that are packed with others: what is stored under any name is not stored again.

``.store/index/*.idx`` are sorted tables of (SHA-256 of the content, name of the chunk, offset, length), ended by
their own SHA-256. They can be deleted: what is in them is then found no more, and stored once again. What is in no
table yet is in the journal of the run, which is read if that dies.
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import groupby
from pathlib import Path

from btw_backup import files, regular
from btw_backup.log import debug

FOLDER = "index"
_ROW = struct.Struct(">32s32sII")
_AT_ONCE = 100_000
"""Rows that are kept in memory before they get a table of their own."""

_PROVED_AT_ONCE = 4 << 20
_MOST = 8
"""Tables that are searched one after the other before they are made one."""

Location = tuple[bytes, int, int]
"""The name of a chunk in binary, an offset in its plain content, a length."""


LONGEST_JOURNAL = 32 << 20
"""Bytes that are read of a journal: more than a run adds before it has to `save`."""


class Index:
    """The tables of the store in `store`. What is added meanwhile is in the file `journal`, too."""

    def __init__(self, store: Path, journal: Path | None = None) -> None:
        self._folder = store / FOLDER
        self._journal = journal
        self._tables: list[_Table] | None = None
        self._new: dict[bytes, Location] = {}

    def find(self, digest: bytes) -> Iterator[Location]:
        """Where the content was stored; whoever asks makes sure that the chunk is there."""
        if digest in self._new:
            yield self._new[digest]
        for table in self._open():
            yield from table.find(digest)

    def add(self, digest: bytes, location: Location) -> None:
        """Note where a content is; for others from `save` on."""
        self._new[digest] = location

    def jot(self, name: bytes, contents: Iterable[tuple[bytes, int]]) -> None:
        """Put into the journal what the chunk `name` will hold, one after the other: their digests and lengths.

        For any thread, before the chunk is written.
        """
        if self._journal is None:
            return
        offset, rows = 0, bytearray()
        for digest, length in contents:
            rows += _ROW.pack(digest, name, offset, length)
            offset += length
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._journal, flags, 0o600), "ab", buffering=0) as out:
            files.write_all(out.fileno(), bytes(rows))

    @property
    def is_full(self) -> bool:
        """Whether it is time to `save`."""
        return len(self._new) >= _AT_ONCE

    def save(self) -> None:
        """Make what was added a table. The chunks must have been published."""
        if not self._new:
            return
        files.make_folder(self._folder)
        rows = sorted(_ROW.pack(digest, *location) for digest, location in self._new.items())
        self._new.clear()
        self._add_table(iter(rows))
        tables = self._open()
        if len(tables) > _MOST:
            self._tables = []
            self._add_table(row for row, _ in groupby(merge(*(table.rows() for table in tables))))
            for table in tables:
                table.path.unlink(missing_ok=True)
        if self._journal is not None:
            self._journal.unlink(missing_ok=True)

    def prune(self, is_there: Callable[[bytes], bool]) -> None:
        """Forget what is in chunks that are gone. Others may add and join tables meanwhile: a table that was read is
        replaced, and nothing else. Memory: the names of `_AT_ONCE` chunks."""
        known: dict[bytes, bool] = {}

        def is_of_use(row: bytes) -> bool:
            name = row[32:64]
            if name not in known:
                if len(known) >= _AT_ONCE:
                    known.clear()
                known[name] = is_there(name)
            return known[name]

        tables, self._tables = self._open(), []
        if tables:
            rows = (row for row, _ in groupby(merge(*(table.rows() for table in tables))))
            self._add_table(row for row in rows if is_of_use(row))
        for table in tables:
            table.path.unlink(missing_ok=True)

    def _add_table(self, rows: Iterator[bytes]) -> None:
        path = self._folder / f"{os.urandom(16).hex()}.idx"
        digest = hashlib.sha256()
        with files.published(path) as out:
            part = bytearray()
            for row in rows:
                part += row
                if len(part) >= 1 << 20:
                    digest.update(part)
                    files.write_all(out.fileno(), bytes(part))
                    part = bytearray()
            digest.update(part)
            files.write_all(out.fileno(), bytes(part) + digest.digest())
        table = _table(path)
        if table is not None and self._tables is not None:
            self._tables.append(table)

    def _open(self) -> "list[_Table]":
        if self._tables is None:
            found = (_table(path) for path in sorted(self._folder.glob("*.idx")))
            self._tables = [table for table in found if table is not None]
        return self._tables


class _Table:
    """One table, mapped into memory and proved."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self._content = content
        self._count = (len(content) - 32) // _ROW.size

    def find(self, digest: bytes) -> Iterator[Location]:
        """The rows of `digest`."""
        low, high, content, size = 0, self._count, self._content, _ROW.size
        while low < high:
            middle = (low + high) // 2
            if content[middle * size : middle * size + 32] < digest:
                low = middle + 1
            else:
                high = middle
        while low < self._count and content[low * size : low * size + 32] == digest:
            _, name, offset, length = _ROW.unpack_from(content, low * size)
            yield name, offset, length
            low += 1

    def rows(self) -> Iterator[bytes]:
        """All rows, in their order."""
        for at in range(0, self._count * _ROW.size, _ROW.size):
            yield self._content[at : at + _ROW.size]


def _table(path: Path) -> _Table | None:
    """The table in `path`; None if it is not what was written, or another run just merged it with others."""
    try:
        with regular.opened(path) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    if (len(content) - 32) % _ROW.size == 0 and _digest_of(content) == content[-32:]:
        return _Table(path, content)
    debug(f"{path} is not what was written: leaving it out")
    return None


def _digest_of(content: mmap.mmap) -> bytes:
    """That of the rows. What was looked at does not stay in our memory: a table has 72 bytes for each small file."""
    digest = hashlib.sha256()
    length = len(content) - 32
    with memoryview(content) as view:
        for at in range(0, length, _PROVED_AT_ONCE):
            end = min(at + _PROVED_AT_ONCE, length)
            digest.update(view[at:end])
            content.madvise(mmap.MADV_DONTNEED, at, end - at)
    return digest.digest()


def journal_of(path: Path) -> dict[str, list[tuple[bytes, int, int]]]:
    """What the journal in `path` says, by chunk: digests, offsets, lengths. Nobody synced it: it has to be proved."""
    found: dict[str, list[tuple[bytes, int, int]]] = {}
    try:
        with regular.opened(path) as file:
            content = file.read(LONGEST_JOURNAL)
    except FileNotFoundError:
        return found
    for digest, name, offset, length in _ROW.iter_unpack(content[: len(content) // _ROW.size * _ROW.size]):
        found.setdefault(name.hex(), []).append((digest, offset, length))
    return found
