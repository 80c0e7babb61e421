"""A dump made a database again: whole under a name of its own first, then under the name that was asked for."""

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psycopg
from psycopg import Connection, sql

from btw_backup import log
from btw_backup.errors import FatalUserError, ProgramFailed, WouldOverwrite
from btw_backup.sources import postgres_server, postgres_temporary
from btw_backup.sources.postgres_client import Client, one_line, remedy
from btw_backup.sources.postgres_dump import read, reader_of, spooled
from btw_backup.sources.postgres_temporary import Connecting, Names

_RENAMING = sql.SQL("ALTER DATABASE {} RENAME TO {}")
_AGAIN = 0.05  # seconds between two looks for sessions in a database that is to be replaced

_OF_THE_DATABASE = re.compile(rb"\d+; \d+ \d+ (?:(?:COMMENT|ACL|SECURITY LABEL) - )?DATABASE(?: PROPERTIES)? .*")
"""The entries of ``pg_restore --create --list`` that are about the database itself, and not about what is in it."""

_NAME = rb'(?:"(?:[^"]|"")*"|[^\s"]+)'
_PIECE = re.compile(rb"""\s*(?:--[^\n]*\n|\\[^\n]*\n|(?P<statement>(?:[^;'"]|'(?:[^']|'')*'|"(?:[^"]|"")*")+);)""")
_ABOUT = re.compile(
    rb"(?P<verb>CREATE|ALTER|COMMENT ON|ALTER ROLE " + _NAME + rb" IN|(?:GRANT|REVOKE) [A-Z, ]+ ON|"
    rb"SECURITY LABEL FOR " + _NAME + rb" ON) DATABASE " + _NAME + rb" (?P<rest>.*)",
    re.DOTALL,
)
"""A statement about a database, as pg_restore --create writes it (dumpDatabase in pg_dump.c)."""

_ENCODING = re.compile(rb"SET (?:client_encoding|standard_conforming_strings) = ")
"""How the others are to be read."""


def restore_database(
    stream: BinaryIO, name: str, *, connection: str = "", force: bool = False, scratch: Path | None = None
) -> None:
    """Restore the dump `stream` into the new database `name`, with the properties that the database had.

    Raises `WouldOverwrite` if there is such a database; with `force` it is replaced, when the new one is complete. A
    failure leaves everything as it was, and a death too, but for a database that the next restore drops. `scratch` is a
    folder for a copy of a stream that is not a file.
    """
    maintenance = "template1" if name == "postgres" else "postgres"
    connecting = partial(postgres_server.connected, connection, maintenance)
    with spooled(stream, scratch) as dump, connecting() as session:
        postgres_temporary.sweep(session)
        exists = _check(session, name, force)
        client = reader_of(dump, session.info.server_version // 10000)
        statements = _statements(dump, client, name)
        names = postgres_temporary.claimed(session)
        with _temporary_database(session, connecting, names.new, statements):
            target = postgres_server.reaching(connection, names.new)
            read(dump, client, f"the restore of {name}", "--exit-on-error", f"--dbname={target}")
            with postgres_server.connected(connection, names.new) as inside:  # a comment is in the encoding from there
                _restore_properties(inside, statements, names.new)
            if exists:
                _replace(session, connecting, names, name)
            else:
                session.execute(_RENAMING.format(sql.Identifier(names.new), sql.Identifier(name)))


def _check(session: Connection, name: str, force: bool) -> bool:
    """Whether there is a database `name` that shall be replaced."""
    if not name or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > 63:
        raise FatalUserError(f"no database can be called {name!r}, because a name has 1 to 63 bytes")
    if postgres_temporary.is_ours(name):
        raise FatalUserError(f"a database called {name} would be dropped by the next restore", "choose another name")
    row = session.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", [name]).fetchone()
    if row is not None and row[0]:
        raise WouldOverwrite(f"the database {name} is a template of this server", "restore into another name")
    if row is not None and not force:
        raise WouldOverwrite(f"there is a database {name} already", "another name leaves it alone; --force replaces it")
    return row is not None


def _statements(dump: BinaryIO, client: Client, name: str) -> list[bytes]:
    """The statements about the database itself in `dump`, the creation first; `client_encoding` as they need it."""
    listed = read(dump, client, f"the reading of the dump of {name}", "--create", "--list").splitlines()
    chosen = b"\n".join(line for line in listed if _OF_THE_DATABASE.fullmatch(line))
    try:
        text = _sql_of(dump, client, chosen)
    except ProgramFailed as error:  # a name with a newline cannot be in such a script
        log.warn(f"the properties of the database are not restored: {error.message}")
        return []
    return [match["statement"] for match in _PIECE.finditer(text) if match["statement"]]


def _sql_of(dump: BinaryIO, client: Client, entries: bytes) -> bytes:
    """The SQL that creates the database, and that of `entries`, as they were listed."""
    with tempfile.NamedTemporaryFile() as listed:
        listed.write(entries + b"\n")
        listed.flush()
        return read(dump, client, "the reading of the dump", "--create", f"--use-list={listed.name}", "--file=-")


@contextmanager
def _temporary_database(
    session: Connection, connecting: Connecting, name: str, statements: list[bytes]
) -> Iterator[None]:
    """The new database `name`, made as the first of `statements` says, that is dropped if the block ends badly."""
    creation = next(
        (found for found in map(_ABOUT.fullmatch, statements) if found and found["verb"] == b"CREATE"), None
    )
    _execute(
        session, b"CREATE DATABASE %s %s" % (quoted(name), creation["rest"] if creation else b"TEMPLATE template0")
    )
    try:
        yield
    except BaseException:
        postgres_temporary.drop(session, name, connecting)
        raise


def _restore_properties(session: Connection, statements: list[bytes], name: str) -> None:
    """Give the database `name` owner, comment, rights and settings; last, because they may forbid to write."""
    for statement in statements:
        about = _ABOUT.fullmatch(statement)
        if _ENCODING.match(statement):
            _execute(session, statement)
        elif about and about["verb"] != b"CREATE":
            _execute(session, b"%s DATABASE %s %s" % (about["verb"], quoted(name), about["rest"]))


def _replace(session: Connection, connecting: Connecting, names: Names, name: str) -> None:
    """Let the new database take the name `name`, and drop the one that had it.

    Until both are renamed, nothing about the old one changes that a death of ours could leave changed.
    """
    with _nobody_in(session, connecting, name), session.transaction():
        session.execute(_RENAMING.format(sql.Identifier(name), sql.Identifier(names.old)))
        session.execute(_RENAMING.format(sql.Identifier(names.new), sql.Identifier(name)))
    postgres_temporary.drop(session, names.old, connecting)


@contextmanager
def _nobody_in(session: Connection, connecting: Connecting, name: str) -> Iterator[None]:
    """All sessions in the database `name` are ended, again and again while the block lasts: whoever comes in before the
    server has locked the name, to rename it, would be in the way."""
    row = session.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone()
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datid = %s"
    session.execute(ending, row)
    done = threading.Event()
    with connecting() as other:

        def keep_out() -> None:
            while not done.wait(_AGAIN):
                try:
                    other.execute(ending, row)
                except psycopg.Error:  # the renaming fails then, and says why
                    return

        thread = threading.Thread(target=keep_out)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _execute(session: Connection, statement: bytes) -> None:
    """Execute a statement that pg_restore wrote. Raises `ProgramFailed`."""
    try:
        session.execute(statement)
    except psycopg.Error as error:
        reason = one_line(error)
        raise ProgramFailed(f"the server refuses a property of the database: {reason}", remedy(reason)) from error


def quoted(name: str) -> bytes:
    """`name` as an identifier of SQL."""
    return b'"' + name.encode().replace(b'"', b'""') + b'"'
