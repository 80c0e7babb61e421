"""A PostgreSQL server: how it is reached, what it holds, and which of the installed clients suits it.

Passwords come from ``~/.pgpass`` or ``PGPASSWORD``; never from an argument list, which everybody can read.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import psycopg
from psycopg import conninfo, pq

from btw_backup import process
from btw_backup.errors import FatalUserError, ImproperlyConfigured, MissingProgram, ProgramFailed

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian and the packages of postgresql.org put the clients of each version."""

CONNECT_TIMEOUT = "10"
"""Seconds; a server that does not answer is an error, not a wait."""

KEEPALIVES_IDLE = "60"
"""Seconds without a word after which the connection is probed: a machine that died takes minutes, not hours."""

_SECRETS = ("password", "sslpassword", "oauth_client_secret")


@dataclass(frozen=True, slots=True)
class Client:
    """One installed version of the client programs: their folder, and its major and full version."""

    folder: str
    version: tuple[int, int]

    def program(self, name: str) -> str:
        """The path of the program `name`; ``BTW_PG_DUMP=/x`` in the environment wins."""
        path = f"{self.folder}/{name}"
        return process.locate(name) if "BTW_" + name.upper() in os.environ or not os.path.exists(path) else path

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


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
        return suitable(installed(), self.major)[0]


def reach(connection: str, database: str = "") -> Server:
    """Ask the server behind `connection` for its version, through `database`. Raises `ProgramFailed`."""
    with connected(connection, database) as session:
        version = session.info.parameter_status("server_version") or "?"
        return Server(reaching(connection, database), session.info.server_version, version)


def databases(connection: str) -> list[str]:
    """Every database of the server but the templates and those that let nobody in, in the order of their names."""
    with connected(connection) as session:
        rows = session.execute("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
        return [str(name) for (name,) in rows.fetchall()]


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
        given.setdefault("keepalives_idle", KEEPALIVES_IDLE)
        if "PGCONNECT_TIMEOUT" not in os.environ:
            given.setdefault("connect_timeout", CONNECT_TIMEOUT)
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


def one_line(error: psycopg.Error) -> str:
    """What `error` says, on one line."""
    return re.sub(r"\s+", " ", str(error)).strip()


def environment() -> dict[str, str]:
    """The variables of our environment that libpq knows, for its programs; a password among them goes nowhere else."""
    names = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    names |= {"PGSERVICEFILE", "PGTZ", "KRB5CCNAME"}
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}


def run(
    command: Sequence[str], what: str, *, stdin: BinaryIO | int | None = None, stdout: BinaryIO | None = None
) -> bytes:
    """Run one of the clients and give back what it printed, if not to `stdout`. Its failure is blamed on `what`.

    Raises `ProgramFailed` with the reason that it gave first, not with the details that follow.
    """
    with process.started(command, stdin=stdin, stdout=stdout, env=environment()) as child:
        output = b"" if stdout else child.stdout.read()
        check(child, what)
        return output


def check(child: process.Child, what: str) -> None:
    """Wait for the end of a client, and raise `ProgramFailed` if it was not a good one."""
    try:
        child.finish()
    except ProgramFailed as error:
        complaints = (re.match(r"pg_\w+: (?:error|fatal): (.*)", line) for line in child.last_lines)
        reason = next((match[1] for match in complaints if match), error.message)
        raise ProgramFailed(f"{what} failed: {reason}", remedy(reason), error.returncode) from error


def remedy(reason: str) -> str:
    """What to do about a client's or a server's `reason` for failing, if we know."""
    if re.search(r"role \S+ does not exist|tablespace \S+ does not exist", reason):
        return "restore the globals of the server that it comes from first, or create what is missing"
    if "permission denied" in reason:
        return "a role that may read everything: GRANT pg_read_all_data TO …; large objects need a superuser"
    if "unsupported version" in reason or "server version mismatch" in reason:
        return "a newer version made it: install a newer postgresql-client"
    return ""


@cache
def installed() -> tuple[Client, ...]:
    """The clients of this machine, oldest first; only one if ``BTW_PG_DUMP`` says which."""
    if "BTW_PG_DUMP" in os.environ:
        return (client_of(process.locate("pg_dump")),)
    paths = [str(path) for pattern in FOLDERS for path in Path("/").glob(f"{pattern[1:]}/pg_dump")]
    try:
        first = os.path.realpath(process.locate("pg_dump"))
        if os.path.basename(first) == "pg_dump":  # Debian's is a wrapper that chooses for itself
            paths.append(first)
    except MissingProgram:
        if not paths:
            raise
    found = (client_of(path) for path in dict.fromkeys(paths))
    return tuple(sorted(found, key=lambda client: client.version))


def client_of(pg_dump: str) -> Client:
    """The client that the program `pg_dump` belongs to."""
    printed = process.run([pg_dump, "--version"], timeout=20).decode(errors="replace")
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", printed)
    if not match:
        raise FatalUserError(f"{pg_dump} does not tell its version, but {printed.strip()}")
    return Client(os.path.dirname(pg_dump), (int(match[1]), int(match[2] or 0)))


def suitable(clients: Iterable[Client], major: int) -> list[Client]:
    """Those of `clients` that can dump a server of the version `major`, the best first.

    An older client refuses a newer server. A newer one can read it, but what it makes need not go back: a dump of a
    15.18 by pg_dump 18.4 begins with ``SET transaction_timeout``, at which the 15.18 stops. So the server's own version
    is the best, its newest release first, and then the next one.
    """
    found = [client for client in clients if client.version[0] >= major]
    if not found:
        newest = max(clients, key=lambda client: client.version)
        raise ProgramFailed(
            f"the server is PostgreSQL {major}, and the newest client here is {newest}, which cannot read it",
            f"apt-get install postgresql-client-{major}; apt.postgresql.org has every version",
        )
    return sorted(found, key=lambda client: (client.version[0], -client.version[1]))
