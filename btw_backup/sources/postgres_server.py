"""A PostgreSQL server: how it is reached, what it holds, and which client suits it; asked through psycopg.

Passwords come from ``~/.pgpass`` or ``PGPASSWORD``; never from an argument list, which everybody can read.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import conninfo

from btw_backup.errors import ImproperlyConfigured, ProgramFailed
from btw_backup.sources import postgres_client, postgres_temporary
from btw_backup.sources.postgres_client import Client, one_line

_SECRETS = ("password", "sslpassword", "oauth_client_secret")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answered: how to reach the database that was asked for, and its version as the server tells it."""

    conninfo: str
    number: int
    version: str

    @property
    def major(self) -> int:
        """15 of 15.18."""
        return self.number // 10000

    def client(self) -> Client:
        """The client that suits this server."""
        return postgres_client.suitable(postgres_client.installed(), self.major)[0]


def reach(connection: str, database: str = "") -> Server:
    """Ask the server behind `connection` for its version, through `database`. Raises `ProgramFailed`."""
    with connected(connection, database) as session:
        version = session.info.parameter_status("server_version") or "?"
        return Server(reaching(connection, database), session.info.server_version, version)


def databases(connection: str) -> list[str]:
    """Every database of the server but the templates, those that let nobody in, and those of restores that are not
    complete; in the order of their names."""
    with connected(connection) as session:
        rows = session.execute("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
        return [name for (name,) in rows.fetchall() if not postgres_temporary.is_ours(name)]


def reaching(connection: str, database: str = "") -> str:
    """`connection` as a conninfo that leads to `database`, with time limits; safe to be seen by others.

    Without a database: the one that it names, or ``PGDATABASE``, or ``postgres``. Raises `ImproperlyConfigured`.
    """
    try:
        given = conninfo.conninfo_to_dict(connection)
        if secrets := [name for name in _SECRETS if given.get(name)]:
            raise ImproperlyConfigured(
                f"CONNECTION must not hold a {secrets[0]}, because other users of this machine could read it",
                "put it into ~/.pgpass, mode 0600, as HOST:PORT:DATABASE:USER:PASSWORD",
            )
        name = database or given.get("dbname") or os.environ.get("PGDATABASE") or "postgres"
        for limit, value in postgres_client.time_limits().items():
            given.setdefault(limit, value)
        return conninfo.make_conninfo("", **{**given, "dbname": name})
    except psycopg.Error as error:
        raise ImproperlyConfigured(f"CONNECTION makes no sense: {one_line(error)}") from error


@contextmanager
def connected(connection: str, database: str = "") -> Iterator[psycopg.Connection]:
    """A session in `database` while the block lasts, each statement for itself. Raises `ProgramFailed`."""
    where = f"the database {database}" if database else "the PostgreSQL server"
    try:
        session = psycopg.connect(reaching(connection, database), autocommit=True, client_encoding="UTF8")
    except psycopg.Error as error:
        reason = one_line(error).removeprefix("connection failed: ").removeprefix("connection is bad: ")
        raise ProgramFailed(f"cannot reach {where}: {reason}", _hint(reason)) from error
    with session:
        try:
            yield session
        except psycopg.Error as error:
            raise ProgramFailed(f"{where}: {one_line(error)}") from error


def _hint(reason: str) -> str:
    if re.search(r"role \S+ does not exist|[Pp]eer authentication|password|pg_hba", reason):
        return "say who connects, with PGUSER or with CONNECTION in the database's file; passwords belong in ~/.pgpass"
    if "No such file or directory" in reason or "refused" in reason or "timeout" in reason:
        return "is the server running? PGHOST and PGPORT, or CONNECTION in the database's file, say where it is"
    return ""
