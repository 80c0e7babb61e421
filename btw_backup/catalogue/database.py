"""The database of the catalogue: SQLite in the configuration directory, or the PostgreSQL that CATALOG names."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from btw_backup import files, regular
from btw_backup.catalogue.tables import METADATA, STATE, VERSION
from btw_backup.errors import NoCatalogue

FILE = "catalogue.sqlite"
"""In the configuration directory: ROOT_PATH may be slow, remote, read-only, and is copied off-site."""

PATIENCE = 5
"""Seconds to wait for a server, and for others that write."""

_PASSWORD = re.compile("://[^:/@]*:([^@]*)@")
_NOT_ITS_FAULT = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "FULL", "READONLY", "CANTOPEN", "IOERR", "PERM", "NOMEM", "NOLFS")
)
_KEY = 0x627477  # of the advisory lock: "btw"
_ALL = ""  # the installation of what holds for all

Answer = TypeVar("Answer")


def ask(config_dir: Path, url: str | None, question: Callable[[Connection], Answer]) -> Answer:
    """The answer to `question`. A file that is damaged is removed, and filled anew. Raises `NoCatalogue`."""
    try:
        return _ask(config_dir, url, question)
    except DBAPIError as error:
        name = getattr(error.orig, "sqlite_errorname", "")
        if url or name.startswith(_NOT_ITS_FAULT):
            raise _unusable(error, url) from None
    except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
        raise _unusable(error, url) from None
    try:
        remove(config_dir)
        return _ask(config_dir, url, question)
    except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
        raise _unusable(error, url) from None


def remove(config_dir: Path) -> None:
    """Remove the file, and what belongs to it."""
    for ending in ("-wal", "-shm", ""):
        files.remove(config_dir / (FILE + ending))


def _ask(config_dir: Path, url: str | None, question: Callable[[Connection], Answer]) -> Answer:
    engine = _postgresql(make_url(url)) if url else _sqlite(config_dir)
    with engine.connect() as connection:
        _make_sure_of_tables(connection)
        answer = question(connection)
        connection.commit()
        return answer


def _unusable(error: Exception, url: str | None) -> NoCatalogue:
    """The reason, without the password and without the statement."""
    reason = str(error.orig if isinstance(error, DBAPIError) and error.orig else error).strip().partition("\n")[0]
    password = _PASSWORD.search(url or "")
    for secret in {password[1], unquote(password[1])} - {""} if password else ():
        reason = reason.replace(secret, "***")
    return NoCatalogue(f"cannot use the catalogue: {reason}", "nothing is lost: what is asked for is read from files")


def _sqlite(config_dir: Path) -> Engine:
    for ending in ("", "-journal"):
        regular.check(config_dir / (FILE + ending))  # SQLite waits for ever for what writes to a FIFO
    engine = create_engine(
        URL.create("sqlite", database=str(config_dir / FILE)), connect_args={"timeout": PATIENCE}, poolclass=NullPool
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _postgresql(url: URL) -> Engine:
    settings = f"-c lock_timeout={PATIENCE}s -c statement_timeout=60s -c client_min_messages=error"
    arguments = {"connect_timeout": PATIENCE, "options": settings, "application_name": "btw-backup"}
    url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, connect_args=arguments, poolclass=NullPool, hide_parameters=True)


@contextmanager
def writing(connection: Connection) -> Iterator[None]:
    """A transaction that is the only one to write; nothing of it stays if it fails."""
    connection.commit()
    is_sqlite = connection.dialect.name == "sqlite"
    connection.execute(text("BEGIN IMMEDIATE" if is_sqlite else f"SELECT pg_advisory_xact_lock({_KEY})"))
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _make_sure_of_tables(connection: Connection) -> None:
    if _version(connection) == VERSION:
        return
    with writing(connection):
        found = _version(connection)  # another may have been faster
        if found is not None and found > VERSION:
            raise NoCatalogue(f"the catalogue has the newer version {found}", "use a newer btw-backup")
        if found != VERSION:
            METADATA.drop_all(connection)
            METADATA.create_all(connection)
            connection.execute(insert(STATE).values(installation=_ALL, name="version", value=str(VERSION)))


def _version(connection: Connection) -> int | None:
    """The version of the tables; None if there are none."""
    if not connection.dialect.has_table(connection, STATE.name):
        return None
    return int(state(connection, _ALL, "version") or "0")


def state(connection: Connection, installation: str, name: str) -> str | None:
    """What was noted under `name`."""
    found = select(STATE.c.value).where(STATE.c.installation == installation, STATE.c.name == name)
    value: str | None = connection.execute(found).scalar()
    return value


def note(connection: Connection, installation: str, name: str, value: str) -> None:
    """Note `value` under `name`; within `writing`."""
    connection.execute(STATE.delete().where(STATE.c.installation == installation, STATE.c.name == name))
    connection.execute(insert(STATE).values(installation=installation, name=name, value=value))
