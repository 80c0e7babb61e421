"""One dump of the format custom, as a file: made, looked into, compared."""

import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from btw_backup import process
from btw_backup.errors import ProgramFailed
from btw_backup.sources import postgres_client, postgres_digest
from btw_backup.sources.postgres_client import Client

BLOCK = 1 << 20


def contents(dump: BinaryIO, client: Client, what: str) -> bytes:
    """What ``pg_restore -l`` lists of `dump`. Raises `ProgramFailed` if it is not a dump that `client` can read."""
    return read(dump, client, what, "--list")


def read(dump: BinaryIO, client: Client, what: str, *options: str) -> bytes:
    """What pg_restore prints of `dump` with `options`. Raises `ProgramFailed`, which blames `what`."""
    dump.seek(0)
    return postgres_client.run([client.program("pg_restore"), *options], what, stdin=dump)


def reader_of(dump: BinaryIO, major: int = 0) -> Client:
    """The installed client nearest to a server of the version `major` that can read `dump`. Raises `ProgramFailed`."""
    *nearer, last = postgres_client.suitable(postgres_client.installed(), major)
    for client in nearer:
        try:
            contents(dump, client, "the reading of the dump")
            return client
        except ProgramFailed:
            continue
    contents(dump, last, "the reading of the dump")
    return last


def digest_of_sql(dump: BinaryIO, client: Client) -> str:
    """The digest of the SQL that `dump` stands for, the properties of its database included."""
    dump.seek(0)
    command = [client.program("pg_restore"), "--create", "--file=-"]
    with process.started(command, stdin=dump) as child:
        digest = postgres_digest.of_sql(postgres_digest.pieces(child.stdout))
        postgres_client.check(child, "the reading of the dump")
        return digest


def digest_of_bytes(dump: BinaryIO) -> tuple[int, str]:
    """The length of `dump` and its SHA-256."""
    dump.seek(0)
    digest = hashlib.sha256()
    while block := dump.read(BLOCK):
        digest.update(block)
    return dump.tell(), digest.hexdigest()


@contextmanager
def file_behind(out: BinaryIO) -> Iterator[BinaryIO]:
    """A file to dump to: `out` if it is an empty one, else another, copied to `out` when the block has ended.

    pg_dump goes back in a file to write where everything is into the table of contents, and leaves that out in a pipe.
    """
    if _is_file(out) and os.fstat(out.fileno()).st_size == 0:
        yield out
        return
    with tempfile.TemporaryFile(buffering=0) as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        _copy(cast(BinaryIO, file), out)


@contextmanager
def spooled(stream: BinaryIO, folder: Path | None = None) -> Iterator[BinaryIO]:
    """`stream` as a file that can be read again: itself if it is one, else a copy of it in `folder`, without a name."""
    if _is_file(stream):
        yield stream
        return
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        _copy(stream, cast(BinaryIO, file))
        file.seek(0)
        yield cast(BinaryIO, file)


def write_all(out: BinaryIO, block: bytes) -> None:
    """Write all of `block`, however short the single writes are."""
    left = memoryview(block)
    while left:
        left = left[out.write(left) :]


def _copy(stream: BinaryIO, out: BinaryIO) -> None:
    while block := stream.read(BLOCK):
        write_all(out, block)


def _is_file(stream: BinaryIO) -> bool:
    """Whether `stream` is a regular file, at its beginning, and not what something else makes of one: a `bz2.BZ2File`
    has the ``fileno`` of the file that it unpacks."""
    raw = getattr(stream, "raw", stream)
    return isinstance(raw, io.FileIO) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode) and stream.tell() == 0
