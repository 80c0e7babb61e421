"""Databases under names of our own, until they are complete: named, dropped, and swept when who made them is gone.

Who makes one holds an advisory lock of the server as long as it is needed. The server releases that when the session
ends, however it does; the number of a process would tell nothing to whoever asks from another machine.
"""

import re
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql

from btw_backup import log
from btw_backup.errors import ProgramFailed
from btw_backup.sources.postgres_client import one_line

Connecting = Callable[[], AbstractContextManager[Connection]]
"""Gives a session with the server. Raises `ProgramFailed`."""

_OURS = re.compile(r"btw_(?:restore|replaced)_([0-9a-f]{15})")

_LISTED = "SELECT datname FROM pg_database WHERE datname LIKE 'btw\\_%' AND pg_has_role(datdba, 'USAGE') ORDER BY 1"
_HELD = "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"


@dataclass(frozen=True, slots=True)
class Names:
    """What a database is called until it is complete, and what the one that it replaces is called then."""

    new: str
    old: str


def claimed(session: Connection) -> Names:
    """Names that nobody sweeps while `session` lasts."""
    key = secrets.randbits(60)
    session.execute("SELECT pg_advisory_lock(%s::bigint)", [key])
    return Names(f"btw_restore_{key:015x}", f"btw_replaced_{key:015x}")


def is_ours(name: str) -> bool:
    """Whether `name` is one of those that `claimed` gives."""
    return _OURS.fullmatch(name) is not None


def sweep(session: Connection) -> None:
    """Drop what runs left that died. One that was being replaced had its successor then."""
    names = [str(name) for (name,) in session.execute(_LISTED).fetchall()]
    held = {key for (key,) in session.execute(_HELD).fetchall()}  # after the names: the lock comes before the database
    for name in names:
        found = _OURS.fullmatch(name)
        if found and int(found[1], 16) not in held and drop(session, name):
            log.warn(f"the database {name}, which a restore left that died, was dropped")


def drop(session: Connection, name: str, again: Connecting | None = None) -> bool:
    """Drop a database of ours, in the session that `again` gives if this one is broken; if that fails, say what is
    left."""
    try:
        try:
            _drop(session, name)
        except psycopg.Error:
            if again is None or not session.broken:
                raise
            with again() as another:
                _drop(another, name)
    except (psycopg.Error, ProgramFailed) as error:
        log.warn(f"the database {name} is left behind: {one_line(error)}", "the next restore --database drops it")
        return False
    return True


def _drop(session: Connection, name: str) -> None:
    session.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
