"""The objects that no record names any more, and that are to be removed: a part of the `ledger`.

They are found when a record is made that tells of the removal, and forgotten as content when that record has arrived:
whatever has the same content is sent anew from then on. Only after that they are removed.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence

from btw_backup.offsite.index import File, Ref, file_of
from btw_backup.store import chunk_in

TABLE = """
CREATE TABLE IF NOT EXISTS doomed (
    batch INTEGER, name BLOB, length INTEGER, stored INTEGER, sequence INTEGER,
    PRIMARY KEY (batch, name)) WITHOUT ROWID;
"""
CHUNK, PART, STATE = b"c", b"p", b"s"
"""What an identity begins with: then comes the name of the chunk, or the SHA-256 of the part of a file or a state."""

_Place = tuple[int, bytes]


class Doomed:
    """The table in the ledger that `connection` has open; the caller commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def note(self, sequence: int, paths: Sequence[str]) -> None:
        """Note the objects that nothing names any more when the record `sequence` says that `paths` are gone."""
        going = {_bytes(path) for path in paths}
        chunks = {CHUNK + bytes.fromhex(name) for name in map(chunk_in, paths) if name}
        found = {_place(ref): ref for ref in self._parts_of(going)}
        for identity in chunks:
            found |= {_place(ref): ref for ref in self._refs(identity)}
        for path, file in self._files():
            if path not in going:
                for ref in file.parts:
                    found.pop(_place(ref), None)
        for place, ref in found.items():
            if all(identity[:1] == PART or identity in chunks for identity in self._identities(place)):
                row = (*place, ref.length, ref.stored, sequence)
                self._connection.execute("INSERT OR REPLACE INTO doomed VALUES (?, ?, ?, ?, ?)", row)

    def settle(self, sequence: int, paths: Sequence[str]) -> None:
        """The record is there: its chunks and objects are no content any more that could be built on."""
        self._connection.executemany(
            "DELETE FROM object WHERE identity = ?",
            [(CHUNK + bytes.fromhex(name),) for name in map(chunk_in, paths) if name],
        )
        rows = self._connection.execute("SELECT batch, name FROM doomed WHERE sequence = ?", (sequence,)).fetchall()
        self._connection.executemany("DELETE FROM object WHERE batch = ? AND name = ?", rows)

    def due(self) -> list[Ref]:
        """The objects that can be removed, batch by batch. What was built on all the same, by a version that knows
        nothing of this, stays."""
        self._connection.execute("DELETE FROM doomed WHERE (batch, name) IN (SELECT batch, name FROM object)")
        self._connection.commit()
        query = "SELECT batch, name, length, stored FROM doomed ORDER BY batch, name"
        rows = self._connection.execute(query).fetchall()
        return [Ref(int(row[0]), bytes(row[1]).hex(), int(row[2]), int(row[3])) for row in rows]

    def gone(self, refs: Sequence[Ref]) -> None:
        """These objects are not there any more."""
        self._connection.executemany("DELETE FROM doomed WHERE batch = ? AND name = ?", list(map(_place, refs)))
        self._connection.commit()

    def _parts_of(self, paths: set[bytes]) -> Iterator[Ref]:
        for path in paths:
            row = self._connection.execute("SELECT entry FROM file WHERE path = ?", (path,)).fetchone()
            if row:
                yield from file_of(json.loads(row[0])).parts

    def _refs(self, identity: bytes) -> Iterator[Ref]:
        query = "SELECT batch, name, length, stored FROM object WHERE identity = ? AND proved = 1"
        for batch, name, length, stored in self._connection.execute(query, (identity,)):
            yield Ref(int(batch), bytes(name).hex(), int(length), int(stored))

    def _files(self) -> Iterator[tuple[bytes, File]]:
        for path, entry in self._connection.execute("SELECT path, entry FROM file"):
            yield bytes(path), file_of(json.loads(entry))

    def _identities(self, place: _Place) -> list[bytes]:
        rows = self._connection.execute("SELECT identity FROM object WHERE batch = ? AND name = ?", place)
        return [bytes(row[0]) for row in rows]


def _place(ref: Ref) -> _Place:
    return ref.batch, bytes.fromhex(ref.name)


def _bytes(path: str) -> bytes:
    return os.fsencode(path)
