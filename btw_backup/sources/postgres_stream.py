"""A dump as a stream: written once, through a pipe, uncompressed, and the same bytes for the same content.

What differs between dumps of the format custom that hold the same is the time in the header, which is made `EPOCH`
here, and the numbers of the entries, which a temporary table shifts that somebody has open meanwhile.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO, cast

from btw_backup import files, process
from btw_backup.sources import OpenStream, relay
from btw_backup.sources import postgres_client as clients
from btw_backup.sources.postgres_client import Client

EPOCH = (0, 0, 0, 1, 0, 100, 0)
"""2000-01-01 00:00:00 as a ``struct tm``: seconds, minutes, hours, day, month from 0, year from 1900, summer time."""

_MAGIC = b"PGDMP"
_HEADER = 512
"""Bytes in which the time is, whatever the version, and what follows it: the name of the database, with 63 bytes at
most, and the versions. Every dump has more."""

_INTEGER = 5
_NUMBER = re.compile(rb"^\d+; ", re.MULTILINE)
_VERSION = re.compile(rb"\d+(\.\d+)?")
_COMMENT = re.compile(rb"^;.*\n", re.MULTILINE)


def dump(client: Client, command: list[str], what: str, out: BinaryIO) -> dict[str, str]:
    """Have the pg_dump `command` write to `out`, while pg_restore reads the table of contents of what it writes.

    The versions of both sides, as `versions` has them. Raises `ProgramFailed` unless both end well.
    """
    found: dict[str, str] = {}
    with (
        open(os.devnull, "wb") as nowhere,
        process.started(command, env=clients.environment()) as dumper,
        _listing(client, nowhere) as listing,
    ):
        for number, block in enumerate(_with_timeless_head(relay.pieces(dumper.stdout.fileno()))):
            if not number:
                found = versions(bytes(block[:_HEADER]))
            out.write(block)
            listing.write(block)
        clients.check(dumper, what)
        listing.check(f"the check of {what}")
    return found


def _with_timeless_head(blocks: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _HEADER:
            break
    yield timeless(head)
    yield from blocks


def timeless(head: bytes) -> bytes:
    """`head`, the first `_HEADER` bytes of a dump or more, with the time `EPOCH`; as it is if its form is not known."""
    at = _time_in(head)
    time = b"".join(b"\0" + number.to_bytes(4, "little") for number in EPOCH)
    return head[:at] + time + head[at + len(time) :] if at else head


def versions(head: bytes) -> dict[str, str]:
    """Which PostgreSQL a dump comes from, and which pg_dump made it: nothing if its `head` is of no known form."""
    found, at = [], _time_in(head)
    if not at:
        return {}
    at += len(EPOCH) * _INTEGER
    for _ in range(3):  # the name of the database, and the versions
        length = int.from_bytes(head[at + 1 : at + _INTEGER], "little")
        at += _INTEGER + length
        found.append(head[at - length : at])
    number = _VERSION.match(found[2])
    if at > len(head) or number is None:
        return {}
    return {"pg_dump": number[0].decode(), "postgresql": found[1].decode(errors="replace")}


def _time_in(head: bytes) -> int:
    """Where the time stands in the head of a dump; 0 if it is of no known form.

    pg_backup_archiver.c, WriteHead: the magic, three bytes of version, the sizes of an integer and of an offset, the
    format, the compression (an integer, from 1.15 on a byte), seven integers, each with a byte for its sign, and three
    texts, each with its length.
    """
    if not head.startswith(_MAGIC) or not (1, 12) <= tuple(head[5:7]) <= (1, 16) or head[8:9] != b"\4":
        return 0
    return 11 + (1 if tuple(head[5:7]) >= (1, 15) else _INTEGER)


def only_renumbered(old: OpenStream, new: OpenStream, client: Client) -> bool:
    """Whether the tables of contents of two dumps have the same entries with other numbers: then their bytes tell
    nothing, and the SQL has to be compared. Raises `ProgramFailed`, `Damaged`."""
    before, after = (_contents(stream, client) for stream in (old, new))
    return before != after and _NUMBER.sub(b"", before) == _NUMBER.sub(b"", after)


def _contents(opened: OpenStream, client: Client) -> bytes:
    """What ``pg_restore -l`` lists of a dump, without the comments; no more of it is read than that takes."""
    with tempfile.TemporaryFile() as printed:
        with opened() as stream, _listing(client, cast(BinaryIO, printed)) as listing:
            while listing.wanted and (block := stream.read(relay.BLOCK)):
                listing.write(block)
            listing.check("the reading of the dump")
        printed.seek(0)
        return _COMMENT.sub(b"", printed.read())


class _Listing:
    """A ``pg_restore --list`` that reads a stream as long as it likes."""

    def __init__(self, child: process.Child) -> None:
        self._child = child
        self._pipe = child.take_stdin()
        self.wanted = True

    def write(self, block: bytes | memoryview) -> None:
        """Give it `block`, if it still reads."""
        if self.wanted:
            try:
                files.write_all(self._pipe, block)
            except BrokenPipeError:
                self.close()

    def check(self, what: str) -> None:
        """It gets no more. Raises `ProgramFailed`, which blames `what`, if it did not end well."""
        self.close()
        clients.check(self._child, what)

    def close(self) -> None:
        """It gets no more."""
        if self.wanted:
            self.wanted = False
            os.close(self._pipe)


@contextmanager
def _listing(client: Client, printed: BinaryIO) -> Iterator[_Listing]:
    """One that prints to the file `printed`: with a pipe, it and we could wait for each other."""
    command = [client.program("pg_restore"), "--list"]
    with (
        process.started(command, stdin=process.PIPE, stdout=printed) as child,
        closing(_Listing(child)) as listing,
    ):
        yield listing
