"""What is known of a target with the layout objects: what was sent and proved, and the head of the chain.

An SQLite file in the configuration directory. The target cannot be asked for it: what is there can only be read with a
key that is not here. If it is lost, a new chain begins and all is sent anew; what was sent before stays readable.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from btw_backup import regular
from btw_backup.errors import Damaged
from btw_backup.offsite import Stored, doomed, index
from btw_backup.offsite.doomed import CHUNK, Doomed
from btw_backup.offsite.index import File, Pending, Ref
from btw_backup.offsite.inheritance import Inheritance

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (
    identity BLOB PRIMARY KEY, batch INTEGER, name BLOB, length INTEGER, stored INTEGER, checksum TEXT,
    proved INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_place ON object (batch, name);
CREATE INDEX IF NOT EXISTS object_new ON object (told) WHERE told = 0;
CREATE INDEX IF NOT EXISTS object_staged ON object (proved) WHERE proved = 0;
CREATE TABLE IF NOT EXISTS file (path BLOB PRIMARY KEY, state TEXT, entry TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS single (path TEXT PRIMARY KEY, stored INTEGER, checksum TEXT) WITHOUT ROWID;
"""

_HINT = "move it away: then everything is sent anew"


class Ledger:
    """The ledger in the file `path`. One process at a time."""

    def __init__(self, path: Path) -> None:
        regular.check(f"{path}-journal")  # which SQLite opens, and would wait for ever
        if path.exists() and not path.is_file():
            raise Damaged(f"{path} is no regular file", _HINT)
        self._connection = sqlite3.connect(path, check_same_thread=False)
        try:
            os.chmod(path, 0o600)
            self._connection.execute("PRAGMA synchronous = EXTRA")  # else a removed journal may come back, and undo it
            self._connection.executescript(_TABLES + doomed.TABLE)
            if not self.meta("chain"):
                with self._connection:
                    self._set("chain", secrets.token_hex(8))
            self.doomed = Doomed(self._connection)
            self.inheritance = Inheritance(self._connection)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise Damaged(f"{path} cannot be used: {error}", _HINT) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # The head of the chain

    def meta(self, name: str, default: Any = None) -> Any:
        """What is noted under `name`."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else default

    def _set(self, name: str, value: Any) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    @property
    def chain(self) -> str:
        """The name of the chain."""
        return str(self.meta("chain"))

    @property
    def sequence(self) -> int:
        """The number of the newest record that is there; 0 if there is none."""
        return int(self.meta("sequence", 0))

    def pending(self) -> Pending | None:
        """The record that is on its way, if there is one."""
        found = self.meta("pending")
        if not found:
            return None
        states = {path: (state, index.file_of(value)) for path, (state, value) in found["states"].items()}
        return Pending(**{**found, "states": states, "removed": tuple(found["removed"])})

    def set_pending(self, pending: Pending, chunks: Iterable[str], *, frees: bool = False) -> Pending:
        """Note that this record is on its way, and tells these `chunks`. If it `frees` what it says is removed, so do
        the objects that nothing needs then. Gives it back."""
        value = {name: getattr(pending, name) for name in Pending.__slots__}
        value["states"] = {path: [state, index.value_of(file)] for path, (state, file) in pending.states.items()}
        with self._connection:
            self._set("pending", value)
            if frees:
                self.doomed.note(pending.sequence, pending.removed)
            told = [(pending.sequence, CHUNK + bytes.fromhex(name)) for name in chunks]
            self._connection.executemany("UPDATE object SET told = ? WHERE identity = ?", told)
            others = "UPDATE object SET told = ? WHERE told = 0 AND proved = 1 AND substr(identity, 1, 1) <> ?"
            self._connection.execute(others, (pending.sequence, CHUNK))
        return pending

    def settle(self, pending: Pending) -> None:
        """The record is there: what it tells is so."""
        with self._connection:
            for path, (state, file) in pending.states.items():
                row = (os.fsencode(path), state, json.dumps(index.value_of(file)))
                self._connection.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", row)
            for path in pending.removed:
                self._connection.execute("DELETE FROM file WHERE path = ?", (os.fsencode(path),))
            self.doomed.settle(pending.sequence, pending.removed)
            self._set("sequence", pending.sequence)
            self._set("digest", pending.digest)
            counted = pending.state_size is None
            self._set("since", [self.since[0] + 1, self.since[1] + pending.size] if counted else [0, 0])
            if pending.state_size is not None:
                self._set("state_size", pending.state_size)
                self._set("state_wanted", False)
            self._set("pending", None)

    @property
    def since(self) -> tuple[int, int]:
        """How many records there are since the last with a state, and their bytes."""
        count, size = self.meta("since", [0, 0])
        return int(count), int(size)

    def next_batch(self) -> int:
        """A number that no batch of objects had before."""
        number = int(self.meta("batch", 0)) + 1
        with self._connection:
            self._set("batch", number)
        return number

    # Objects

    def object(self, identity: bytes) -> Ref | None:
        """Where the content `identity` is: proved to be there, or staged."""
        row = self._connection.execute(
            "SELECT batch, name, length, stored FROM object WHERE identity = ?", (identity,)
        ).fetchone()
        return _ref(row) if row else None

    def stage(self, identity: bytes, ref: Ref) -> None:
        """Note that an object is on its way. It is on the disk of this machine with the next `save`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO object (identity, batch, name, length, stored, proved) VALUES (?, ?, ?, ?, ?, 0)",
            (identity, ref.batch, bytes.fromhex(ref.name), ref.length, ref.stored),
        )

    def save(self) -> None:
        """Bring what was noted to the disk."""
        self._connection.commit()

    def staged(self) -> list[Ref]:
        """The objects that are on their way."""
        rows = self._connection.execute("SELECT batch, name, length, stored FROM object WHERE proved = 0").fetchall()
        return list(map(_ref, rows))

    def proved(self, refs: Sequence[tuple[Ref, str]]) -> None:
        """Note that these objects are there, and the checksums that the target told."""
        with self._connection:
            self._connection.executemany(
                "UPDATE object SET proved = 1, checksum = ? WHERE batch = ? AND name = ?",
                [(checksum, ref.batch, bytes.fromhex(ref.name)) for ref, checksum in refs],
            )

    def drop(self, refs: Sequence[Ref]) -> None:
        """Forget these objects: they never arrived, or are not there any more."""
        with self._connection:
            self._connection.executemany(
                "DELETE FROM object WHERE batch = ? AND name = ?",
                [(ref.batch, bytes.fromhex(ref.name)) for ref in refs],
            )

    def identities(self, refs: Sequence[Ref]) -> list[tuple[Ref, bytes]]:
        """What these objects are."""
        found = []
        for ref in refs:
            row = self._connection.execute(
                "SELECT identity FROM object WHERE batch = ? AND name = ?", (ref.batch, bytes.fromhex(ref.name))
            ).fetchone()
            if row:
                found.append((ref, bytes(row[0])))
        return found

    def note(self, name: str, value: Any) -> None:
        """Note something that `meta` gives back."""
        with self._connection:
            self._set(name, value)

    def all_proved(self, after: tuple[int, str] = (-1, "")) -> Iterator[tuple[Ref, str]]:
        """The objects that should be there, with their checksums, batch by batch, from behind the one with the batch
        and name `after` on."""
        query = """SELECT batch, name, length, stored, checksum FROM object
            WHERE proved = 1 AND (batch, name) > (?, ?) ORDER BY batch, name"""
        with closing(self._connection.cursor()) as cursor:
            for row in cursor.execute(query, (after[0], bytes.fromhex(after[1]))):
                yield _ref(row[:4]), row[4] or ""

    def proved_bytes(self) -> int:
        """How much they are together."""
        return int(self._connection.execute("SELECT total(stored) FROM object WHERE proved = 1").fetchone()[0])

    def new_chunks(self, most: int) -> dict[str, Ref]:
        """The chunks that are there, and that no record tells; so many of them at most."""
        query = """SELECT identity, batch, name, length, stored FROM object
            WHERE told = 0 AND proved = 1 AND substr(identity, 1, 1) = ? LIMIT ?"""
        rows = self._connection.execute(query, (CHUNK, most)).fetchall()
        return {row[0][1:].hex(): _ref(row[1:]) for row in rows}

    # What is sent for itself: records, the store key, what restores without us

    def note_single(self, path: str, stored: Stored) -> None:
        """Note that a file is there, which is neither a chunk nor a part of a file."""
        with self._connection:
            row = (path, stored.size, stored.checksum)
            self._connection.execute("INSERT OR REPLACE INTO single VALUES (?, ?, ?)", row)

    def singles(self) -> dict[str, Stored]:
        """Those that should be there, by their paths."""
        rows = self._connection.execute("SELECT path, stored, checksum FROM single")
        return {path: Stored(size, checksum) for path, size, checksum in rows}

    def forget_singles(self, paths: Collection[str]) -> None:
        """They are not there any more. A lost record is made good by a state, with which reading begins."""
        with self._connection:
            self._connection.executemany("DELETE FROM single WHERE path = ?", [(path,) for path in paths])
            if any(path.startswith(f"{index.FOLDER}/") for path in paths):
                self._set("state_wanted", True)

    # Files

    def file(self, path: str) -> tuple[str, File] | None:
        """What the file looked like when it was sent, and what is told of it."""
        row = self._connection.execute("SELECT state, entry FROM file WHERE path = ?", (os.fsencode(path),)).fetchone()
        return (row[0], index.file_of(json.loads(row[1]))) if row else None

    def paths_below(self, folder: str, within: str = "") -> list[str]:
        """The files that are told of in `folder` ("" or with a slash at its end), or in those in it called `within`."""
        low, inner = os.fsencode(folder), os.fsencode(f"/{within}/" if within else "/")
        query = "SELECT path FROM file WHERE path >= ? AND instr(path, ?) ORDER BY path"
        found = []
        for (path,) in self._connection.execute(query, (low, inner)):
            if not path.startswith(low):
                break
            found.append(os.fsdecode(path))
        return found

    def told_files(self) -> Iterator[tuple[str, File]]:
        """The files that the records tell of, and that are there."""
        with closing(self._connection.cursor()) as cursor:
            for path, entry in cursor.execute("SELECT path, entry FROM file"):
                file = index.file_of(json.loads(entry))
                if all(map(self._is_there, file.parts)):
                    yield os.fsdecode(path), file

    def told_chunks(self) -> Iterator[tuple[str, Ref]]:
        """The chunks that the records tell of, and that are there."""
        query = "SELECT identity, batch, name, length, stored FROM object WHERE told > 0 AND proved = 1"
        with closing(self._connection.cursor()) as cursor:
            for row in cursor.execute(query):
                if row[0][:1] == CHUNK:
                    yield row[0][1:].hex(), _ref(row[1:])

    def _is_there(self, ref: Ref) -> bool:
        query = "SELECT 1 FROM object WHERE batch = ? AND name = ?"
        return self._connection.execute(query, (ref.batch, bytes.fromhex(ref.name))).fetchone() is not None

    def files_with(self, refs: set[tuple[int, str]]) -> list[str]:
        """The files that need any of the objects (batch, name)."""
        found = []
        for path, entry in self._connection.execute("SELECT path, entry FROM file"):
            if any((part.batch, part.name) in refs for part in index.file_of(json.loads(entry)).parts):
                found.append(os.fsdecode(path))
        return found

    def doubt(self, paths: Sequence[str]) -> None:
        """Have these files sent again."""
        with self._connection:
            self._connection.executemany(
                "UPDATE file SET state = '' WHERE path = ?", [(os.fsencode(path),) for path in paths]
            )


def _ref(row: Sequence[Any]) -> Ref:
    return Ref(int(row[0]), bytes(row[1]).hex(), int(row[2]), int(row[3]))
