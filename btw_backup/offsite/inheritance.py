"""What another machine sent, and this one builds on: a part of the `ledger`.

Either that machine may be alive: then this one begins a chain of its own, and both go on. Or it is gone for good, and
this one goes on in its place, with its chain: all that the records tell is known here then, and can be removed.
"""

import json
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from btw_backup.offsite.contents import Contents, Head
from btw_backup.offsite.doomed import CHUNK, PART
from btw_backup.offsite.index import File, Ref, value_of


class Inheritance:
    """The tables of the new ledger that `connection` has open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def build_on(self, contents: Contents) -> None:
        """Have nothing sent again that is in `contents`. The chain is one of our own."""
        with self._connection:
            self._take(contents)

    def succeed(self, head: Head, looks: Callable[[str, File], str]) -> None:
        """Go on with the chain that ends in `head`: its records are ours, and all that they tell. `looks` says what a
        file looks like here.

        The parts of a large file have no content that is known here: their names stand for it.
        """
        with self._connection:
            self._take(head.contents)
            for path, file in head.contents.files():
                for part in file.parts if len(file.parts) > 1 else ():
                    self._add(PART + bytes.fromhex(part.name), part)
                row = (os.fsencode(path), looks(path, file), json.dumps(value_of(file)))
                self._connection.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", row)
            self._connection.execute("UPDATE object SET told = ?", (head.sequence,))
            self._set(chain=head.chain, sequence=head.sequence, digest=head.digest, state_wanted=True)

    def _take(self, contents: Contents) -> None:
        batch = 0
        for _, file in contents.files():
            batch = max([batch, *(part.batch for part in file.parts)])
            if len(file.parts) == 1:
                self._add(PART + bytes.fromhex(file.sha256), file.parts[0])
        for chunk, ref in contents.chunks():
            batch = max(batch, ref.batch)
            self._add(CHUNK + bytes.fromhex(chunk), ref)
        self._set(batch=batch)

    def _set(self, **values: Any) -> None:
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def _add(self, identity: bytes, ref: Ref) -> None:
        row = (identity, ref.batch, bytes.fromhex(ref.name), ref.length, ref.stored)
        self._connection.execute(
            "INSERT OR REPLACE INTO object (identity, batch, name, length, stored, proved) VALUES (?, ?, ?, ?, ?, 1)",
            row,
        )
