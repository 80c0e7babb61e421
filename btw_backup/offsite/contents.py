"""What a target holds, as its records tell: in a temporary SQLite file, so that memory does not grow with it."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from btw_backup.errors import FatalUserError
from btw_backup.offsite import index, state_text
from btw_backup.offsite.index import File, Record, Ref
from btw_backup.store import chunk_in

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE file (path BLOB PRIMARY KEY, size INTEGER, entry TEXT) WITHOUT ROWID;
CREATE TABLE chunk (name BLOB PRIMARY KEY, batch INTEGER, object BLOB, length INTEGER, stored INTEGER) WITHOUT ROWID;
"""


class Contents:
    """Files by their path below ROOT_PATH, and chunks by their name; at first none. In the new file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_TABLES)

    @staticmethod
    @contextmanager
    def room_for(scratch: Path) -> Iterator[None]:
        """Say it if there is none in `scratch`, where such files are made while the block lasts."""
        try:
            yield
        except sqlite3.Error as error:
            raise FatalUserError(f"what is there cannot be noted in {scratch}: {error}", "make room") from error

    def clear(self) -> None:
        """Forget it all."""
        self._connection.execute("DELETE FROM file")
        self._connection.execute("DELETE FROM chunk")

    def close(self) -> None:
        """Forget it all, for good."""
        self._connection.close()
        self._path.unlink()

    def paths(self) -> Iterator[str]:
        """The files, in the order of their paths."""
        with closing(self._connection.cursor()) as cursor:
            for (path,) in cursor.execute("SELECT path FROM file ORDER BY path"):
                yield os.fsdecode(path)

    def files(self) -> Iterator[tuple[str, File]]:
        """The files, and what they are."""
        with closing(self._connection.cursor()) as cursor:
            for path, entry in cursor.execute("SELECT path, entry FROM file"):
                yield os.fsdecode(path), index.file_of(json.loads(entry))

    def file(self, path: str) -> File | None:
        """What a file is."""
        row = self._connection.execute("SELECT entry FROM file WHERE path = ?", (os.fsencode(path),)).fetchone()
        return index.file_of(json.loads(row[0])) if row else None

    def size(self, path: str) -> int | None:
        """The bytes of a file."""
        row = self._connection.execute("SELECT size FROM file WHERE path = ?", (os.fsencode(path),)).fetchone()
        return int(row[0]) if row else None

    def chunks(self) -> Iterator[tuple[str, Ref]]:
        """The chunks, in the order of their names, and where they are."""
        with closing(self._connection.cursor()) as cursor:
            for row in cursor.execute("SELECT name, batch, object, length, stored FROM chunk ORDER BY name"):
                yield row[0].hex(), Ref(row[1], row[2].hex(), *row[3:])

    def chunk(self, name: str) -> Ref | None:
        """Where a chunk is."""
        query = "SELECT batch, object, length, stored FROM chunk WHERE name = ?"
        try:
            row = self._connection.execute(query, (bytes.fromhex(name),)).fetchone()
        except ValueError:
            return None  # it is no name of a chunk
        return Ref(row[0], row[1].hex(), *row[2:]) if row else None

    def load(self, state: Path, where: str) -> None:
        """Take in the state in the file `state`, which was proved. Raises `Damaged`."""
        for thing, value in state_text.things_in(state, where):
            if isinstance(value, Ref):
                self._set_chunk(thing, value)
            else:
                self._set_file(thing, value)

    def apply(self, record: Record) -> None:
        """Bring it up to this record."""
        for path in record.removed:
            self._connection.execute("DELETE FROM file WHERE path = ?", (os.fsencode(path),))
            if name := chunk_in(path):
                self._connection.execute("DELETE FROM chunk WHERE name = ?", (bytes.fromhex(name),))
        for path, file in record.files.items():
            self._set_file(path, file)
        for name, ref in record.chunks.items():
            self._set_chunk(name, ref)

    def take(self, other: "Contents") -> None:
        """Take in what `other` has; where both have it, that holds."""
        other._connection.commit()
        self._connection.commit()
        self._connection.execute("ATTACH ? AS other", (os.fspath(other._path),))
        self._connection.execute("INSERT OR REPLACE INTO file SELECT * FROM other.file")
        self._connection.execute("INSERT OR REPLACE INTO chunk SELECT * FROM other.chunk")
        self._connection.commit()
        self._connection.execute("DETACH other")

    def _set_file(self, path: str, file: File) -> None:
        row = (os.fsencode(path), file.size, json.dumps(index.value_of(file)))
        self._connection.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", row)

    def _set_chunk(self, name: str, ref: Ref) -> None:
        row = (bytes.fromhex(name), ref.batch, bytes.fromhex(ref.name), ref.length, ref.stored)
        self._connection.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?, ?)", row)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number and digest of its newest record, when that was made, and what there is then, which
    the vault takes over."""

    chain: str
    sequence: int
    digest: str
    made: str
    contents: Contents
