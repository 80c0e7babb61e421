"""Gives streams back: a dump or the output of a program to a file, a database or standard output."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from btw_backup import files, flushing, log, progress
from btw_backup.errors import TRY_ANOTHER, Damaged, FatalUserError, NotFound, WouldOverwrite
from btw_backup.keepers import Keeper
from btw_backup.records import Backup
from btw_backup.restoring import staging
from btw_backup.restoring.filling import fill
from btw_backup.restoring.restore import members
from btw_backup.stream import PIECE, read_ahead


def to_file(keeper: Keeper, backup: Backup, target: Path, *, force: bool) -> None:
    """Write a dump to the new file `target`, or with `force` to an existing one. Raises as `restore.tree` does."""
    if os.path.lexists(target) and not (force and target.is_file()):
        hint = "give the name of a file in it" if target.is_dir() else "give a new name, or --force to replace it"
        raise WouldOverwrite(f"{target} exists", hint)
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}", f"mkdir -p {target.parent}")
    staging.sweep(target)
    temporary = staging.temporary_name(target)
    final, error = target, None
    try:
        with files.create(temporary) as file, flushing.written_behind(file) as out:
            try:
                to_stream(keeper, backup, out)
            except Damaged as found:
                final, error = staging.damaged_name(target), found
                _fill_around(keeper, backup, file)
        files.publish(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    if error is not None:
        raise Damaged(f"{error.message}; what could be read of it is in {final}", error.hint)


def _fill_around(keeper: Keeper, backup: Backup, out: BinaryIO) -> None:
    """Write what is not damaged of a stream that is kept in chunks, each part at its place."""
    if backup.keeper != "chunks":
        return
    try:
        with members(keeper, backup, "restore", lambda entry: True, log.warn) as found:
            for entry, content in found:
                out.truncate(0)
                fill(out.fileno(), entry, content)
    except Damaged as error:
        log.warn(error.message)


def to_stream(keeper: Keeper, backup: Backup, out: BinaryIO) -> None:
    """Write the plain stream of `backup` to `out`: the tar archive of a tree, or the dump."""
    with _opened(keeper, backup, "restore") as stream:
        while piece := stream.read(PIECE):
            files.write_all(out.fileno(), piece)


def to_database(keeper: Keeper, backup: Backup, name: str, *, connection: str, force: bool) -> None:
    """Restore a dump into the new database `name`. It is read and proved once before the server sees any of it."""
    from btw_backup.sources import postgres_restore  # noqa: PLC0415 - psycopg takes 0.1 s to load

    if backup.kind != "db":
        raise FatalUserError(f"{backup.address} is not a dump of a database")
    with _opened(keeper, backup, "check") as stream:
        while stream.read(PIECE):
            pass
    with _opened(keeper, backup, "restore") as stream:
        beside = backup.path.parent  # has room for a dump, where the folder for temporary files may have none
        scratch = beside if os.access(beside, os.W_OK) else None
        postgres_restore.restore_database(stream, name, connection=connection, force=force, scratch=scratch)


@contextmanager
def _opened(keeper: Keeper, backup: Backup, what: str) -> Iterator[BinaryIO]:
    """The plain stream of `backup`, read ahead, with progress. The end of the block raises `Damaged` if nobody knows
    what it was."""
    total = backup.record.length if backup.record else None
    with progress.shown(what, total) as advance, keeper.open(backup) as stream, read_ahead(stream, advance) as ahead:
        yield ahead
    if backup.doubt:
        raise Damaged(f"{backup.address} is damaged: {backup.doubt}", TRY_ANOTHER)
