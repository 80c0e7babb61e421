"""The programs of PostgreSQL's clients: which are installed, which suits a server, how they are run.

Nothing here asks a server, or needs psycopg, which takes longer to load than a small dump to make.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from btw_backup import process
from btw_backup.errors import FatalUserError, MissingProgram, ProgramFailed

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian and the packages of postgresql.org put the clients of each version."""

CONNECT_TIMEOUT = "10"
"""Seconds; a server that does not answer is an error, not a wait."""

KEEPALIVES_IDLE = "60"
"""Seconds without a word after which the connection is probed: a machine that died takes minutes, not hours."""

_VARIABLE = re.compile(r"PG[A-Z0-9]+|KRB5CCNAME")
"""What libpq reads, and PGDATA, which is the server's. PG_COLOR would put colours into what we read of complaints."""


@dataclass(frozen=True, slots=True)
class Client:
    """One installed version of the client programs: their folder, and its version; (0, 0) if nobody asked for it."""

    folder: str
    version: tuple[int, int] = (0, 0)

    def program(self, name: str) -> str:
        """The path of the program `name`; ``BTW_PG_DUMP=/x`` in the environment wins."""
        path = f"{self.folder}/{name}"
        return process.locate(name) if "BTW_" + name.upper() in os.environ or not os.path.exists(path) else path

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


def conninfo_of(database: str) -> str:
    """The conninfo of a database that the environment leads to; `postgres_server.reaching` takes a CONNECTION, too."""
    given = {"dbname": database, **time_limits()}
    return " ".join(f"{name}={_quoted(value)}" for name, value in given.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def time_limits() -> dict[str, str]:
    """What a conninfo says of time, unless it was told otherwise."""
    limit = {} if "PGCONNECT_TIMEOUT" in os.environ else {"connect_timeout": CONNECT_TIMEOUT}
    return {"keepalives_idle": KEEPALIVES_IDLE, **limit}


def environment() -> dict[str, str]:
    """The variables of our environment that libpq knows, for its programs; a password among them goes nowhere else."""
    names = (name for name in sorted(os.environ) if _VARIABLE.fullmatch(name) and name != "PGDATA")
    return {name: os.environ[name] for name in names}


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
    return tuple(sorted((client_of(path) for path in _paths()), key=lambda client: client.version))


def only_one() -> Client | None:
    """The client of this machine, if there is no other to choose; its version was not asked for then."""
    paths = _paths()
    return Client(os.path.dirname(paths[0])) if len(paths) == 1 else None


def _paths() -> list[str]:
    """The pg_dump of each client. Raises `MissingProgram` if there is none."""
    if "BTW_PG_DUMP" in os.environ:
        return [process.locate("pg_dump")]
    paths = [str(path) for pattern in FOLDERS for path in Path("/").glob(f"{pattern[1:]}/pg_dump")]
    try:
        first = os.path.realpath(process.locate("pg_dump"))
        if os.path.basename(first) == "pg_dump":  # Debian's is a wrapper that chooses for itself
            paths.append(first)
    except MissingProgram:
        if not paths:
            raise
    return list(dict.fromkeys(paths))


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


def one_line(error: Exception) -> str:
    """What `error` says, on one line."""
    return re.sub(r"\s+", " ", str(error)).strip()
