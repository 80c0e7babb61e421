"""PostgreSQL as a source: a database through pg_dump, the server's roles and tablespaces through pg_dumpall."""

import bz2
import hashlib
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

from btw_backup import process
from btw_backup.configuration.jobs import GLOBALS
from btw_backup.errors import Damaged, ProgramFailed
from btw_backup.sources import OpenStream, Produced, postgres_client, postgres_stream
from btw_backup.sources import postgres_digest as digests
from btw_backup.sources.postgres_client import Client
from btw_backup.sources.postgres_dump import (
    contents,
    digest_of_bytes,
    digest_of_sql,
    file_behind,
    reader_of,
    spooled,
    write_all,
)

if TYPE_CHECKING:
    from btw_backup.sources.postgres_server import Server

LOCK_TIMEOUT = "--lock-wait-timeout=600000"
"""Milliseconds: pg_dump would wait for ever for a table that somebody has locked exclusively."""


def safe_name(name: str, also: str = "") -> str:
    """`name` as a file name: what would hurt there, and what is in `also`, as ``%2F``; `unquote` undoes it.

    Names without a slash, a percent sign, unprintable characters and a full stop in front stay as they are.
    """
    quoted = "".join(urllib.parse.quote(c, safe="") if c in "/%" + also or not c.isprintable() else c for c in name)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


class _Postgres:
    """What both kinds of source know: the server, asked once, and its client."""

    def __init__(self, connection: str, database: str) -> None:
        self._connection = connection
        self._database = database
        self._known: tuple[Server, Client] | None = None

    def unasked(self) -> tuple[str, Client] | None:
        """A conninfo, and the client, if there is nothing to ask the server for: the environment leads to it, and there
        is but one client. Asking takes 0.3 s."""
        client = postgres_client.only_one() if self._database and not self._connection else None
        return (postgres_client.conninfo_of(self._database), client) if client else None

    def ask(self) -> "tuple[Server, Client]":
        """The server and the client that suits it. Raises `ProgramFailed` if it does not answer, or none suits."""
        if self._known is None:
            from btw_backup.sources import postgres_server as servers  # noqa: PLC0415 - psycopg takes 0.1 s to load

            server = servers.reach(self._connection, self._database)
            self._known = server, server.client()
        return self._known

    def programs(self, program: str) -> dict[str, str]:
        """The versions of the client and of the server."""
        server, client = self.ask()
        return {program: str(client), "postgresql": server.version}


class Database:
    """The database `name`, as a dump of the format custom. `connection` is a conninfo; what it leaves out is in the
    environment, as for every program of PostgreSQL.

    `plain`: for a keeper that compresses; the dump is then written uncompressed, in one pass, and has no time in it.
    """

    kind = "db"

    def __init__(self, name: str, connection: str = "", *, plain: bool = False) -> None:
        self.name = name
        self._plain = plain
        self.file_name = safe_name(name) + ".dump"
        self._postgres = _Postgres(connection, name)
        self._programs: dict[str, str] = {}

    def fingerprint(self) -> None:
        """None: a database has to be read. Raises `ProgramFailed` if there is none, or `produce` does."""
        if not self._plain or self._postgres.unasked() is None:
            self._postgres.ask()

    def produce(self, out: BinaryIO) -> Produced:
        """Dump the database, and have pg_restore read the dump's table of contents."""
        if self._plain:
            self._programs = self._streamed(out)
            return Produced(0, "", "")
        server, client = self._postgres.ask()
        with file_behind(out) as dump:
            command = _command(client, server.conninfo)
            postgres_client.run(command, f"the dump of the database {self.name}", stdout=dump)
            contents(dump, client, f"the check of the dump of the database {self.name}")
            return Produced(*digest_of_bytes(dump), self._content(dump, client))

    def _streamed(self, out: BinaryIO) -> dict[str, str]:
        """Dump the database to `out`; the versions that the dump tells. What a server says of itself is clearer than
        what pg_dump says of it."""
        unasked, what = self._postgres.unasked(), f"the dump of the database {self.name}"
        if unasked is None:
            server, client = self._postgres.ask()
            return postgres_stream.dump(client, [*_command(client, server.conninfo), "--compress=0"], what, out)
        conninfo, client = unasked
        try:
            return postgres_stream.dump(client, [*_command(client, conninfo), "--compress=0"], what, out)
        except ProgramFailed:
            self._postgres.ask()
            raise

    def content_of(self, stream: BinaryIO) -> str:
        """The digest of the SQL that the dump stands for, with the properties of the database."""
        with spooled(stream) as dump:
            return self._content(dump, reader_of(dump))

    def holds_the_same(self, old: OpenStream, new: OpenStream) -> bool:
        """Whether two dumps stand for the same SQL; looked into only if nothing but the numbers of entries differs."""
        if not self._plain:
            return False
        unasked = self._postgres.unasked()
        if not postgres_stream.only_renumbered(old, new, unasked[1] if unasked else self._postgres.ask()[1]):
            return False
        with old() as before, new() as after:
            return self.content_of(before) == self.content_of(after)

    def _content(self, dump: BinaryIO, client: Client) -> str:
        if "\n" in self.name or "\r" in self.name:  # pg_restore makes no script for such a name: every dump is another
            return digest_of_bytes(dump)[1]
        return digest_of_sql(dump, client)

    def programs(self) -> Mapping[str, str]:
        """The versions of pg_dump and of the server."""
        return self._programs or self._postgres.programs("pg_dump")


def _command(client: Client, conninfo: str) -> list[str]:
    return [client.program("pg_dump"), "--format=custom", LOCK_TIMEOUT, f"--dbname={conninfo}"]


class Globals:
    """The roles and tablespaces of a server, as SQL under bzip2, or `plain` for a keeper that compresses."""

    kind = "globals"
    name = GLOBALS

    def __init__(self, connection: str = "", *, plain: bool = False) -> None:
        self.file_name = "global.sql" if plain else "global.sql.bz2"
        self._plain = plain
        self._postgres = _Postgres(connection, "")

    def fingerprint(self) -> None:
        """None: they have to be read. Raises `ProgramFailed` if the server does not answer."""
        self._postgres.ask()

    def produce(self, out: BinaryIO) -> Produced:
        """Write them. The random word stays in: it protects whoever feeds this to psql."""
        server, client = self._postgres.ask()
        packed = _Packed(out, _AsItIs() if self._plain else bz2.BZ2Compressor())
        command = [client.program("pg_dumpall"), "--globals-only", LOCK_TIMEOUT, f"--dbname={server.conninfo}"]
        with process.started(command, env=postgres_client.environment()) as child:
            content = digests.of_sql(packed.written(piece) for piece in digests.pieces(child.stdout))
            postgres_client.check(child, "the dump of the globals")
        packed.end()
        return Produced(packed.length, packed.digest.hexdigest(), content)

    def content_of(self, stream: BinaryIO) -> str:
        """The digest of the SQL in `stream`."""
        if self._plain:
            return digests.of_sql(digests.pieces(stream))
        try:
            with bz2.open(stream) as statements:
                return digests.of_sql(digests.pieces(cast(BinaryIO, statements)))
        except (OSError, EOFError) as error:
            raise Damaged(f"the globals cannot be unpacked: {error}") from error

    def programs(self) -> Mapping[str, str]:
        """The versions of pg_dumpall and of the server."""
        return self._postgres.programs("pg_dumpall")


class _AsItIs:
    """What packs nothing."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Packed:
    """`out` behind a compressor, with the length and the digest of what went there."""

    def __init__(self, out: BinaryIO, packer: "bz2.BZ2Compressor | _AsItIs") -> None:
        self._out = out
        self._packer = packer
        self.digest = hashlib.sha256()
        self.length = 0

    def written(self, piece: bytes) -> bytes:
        """Write `piece`, and give it back."""
        self._put(self._packer.compress(piece))
        return piece

    def end(self) -> None:
        """Write what is left."""
        self._put(self._packer.flush())

    def _put(self, block: bytes) -> None:
        write_all(self._out, block)
        self.digest.update(block)
        self.length += len(block)
