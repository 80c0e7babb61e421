"""The rdiff keeper: folders named by a stamp, each a repository of rdiff-backup with one file.

The first session of a repository is a full backup, named by the folder; the later ones are its incrementals. A
repository whose last session was interrupted is mended, or never added to again: what it held before stays.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from btw_backup import files, log, records
from btw_backup.clock import STAMP, moment_of, stamp_of, utc_now
from btw_backup.configuration.jobs import Job
from btw_backup.entries import Entry
from btw_backup.errors import TRY_ANOTHER, Damaged, NotFound, ProgramFailed
from btw_backup.keepers import (
    Content,
    Kept,
    Owe,
    Place,
    Report,
    Wanted,
    rdiff_delta,
    rdiff_program,
    rdiff_repository,
    unchanged,
)
from btw_backup.keepers.rdiff_change import changed, finish
from btw_backup.keepers.rdiff_repository import Repository
from btw_backup.keepers.rdiff_stage import Stage, staged
from btw_backup.keepers.recording import Run
from btw_backup.keepers.streamed import members_of
from btw_backup.keepers.verified import verified
from btw_backup.progress import Advance
from btw_backup.records import FOLDER, Backup, Record
from btw_backup.sources import Source


class Rdiff:
    """Keeps rdiff-backup's repositories. Contract: `keepers.Keeper`."""

    name = "rdiff"

    def find(self, place: Place) -> Iterator[Backup]:
        """The complete sessions of all repositories in `place`; no program is started."""
        for repository in _repositories(place):
            full = repository.path.name
            kind = _kind(repository)
            for session in repository.sessions:
                stamp = full if session == repository.sessions[0] else _stamp(session)
                yield Backup(place.dst, stamp, self.name, kind, repository.path, stamp, full)

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`."""
        _sweep(place)
        newest = max(_repositories(place), key=lambda found: found.path.name, default=None)
        repository = _continuable(newest, place, owe) if newest else None
        found = records.joined(list(self.find(place)), place.folder)
        trusted = repository or (newest and newest.interrupted)  # what a damaged one holds is stored anew
        latest = unchanged.latest_of(place, found) if trusted else None
        if repository and (_full_is_due(job, source, repository) or _is_marked(repository, found)):
            repository = None
        run = Run(self.name, source, place, owe)
        nothing_new = f"skipping creation of new {'incremental' if repository else 'full'} backup"
        seen = source.fingerprint()
        if unchanged.known_unchanged(place, source, latest, seen, reread=reread):
            return run.unchanged(None, nothing_new)
        latest = records.recorded(latest, place.folder)
        with staged(job, place, source) as stage:
            produced = stage.produced
            if latest and unchanged.same_as(source, latest, produced, lambda: self.open(latest), stage.open):
                kept = run.unchanged(produced, nothing_new)
            else:
                stamp = run.free_stamp(self.find(place))
                record = _add(run, stage, repository, stamp)
                kept = Kept(self._found(place, record), stamp, produced)
        return run.conclude(kept, latest, seen)

    @contextmanager
    def open(self, backup: Backup) -> Iterator[BinaryIO]:
        """The file as it was at a session. Contract: `keepers.Keeper.open`. Reads only, and starts no program."""
        repository, session = _session_of(backup)
        stored = repository.stored(session)
        try:
            with (
                rdiff_delta.opened(repository.layers(session)) as stream,
                verified(stream, backup, length=stored.size, sha1=stored.sha1) as checked,
            ):
                yield checked
        except Damaged as error:
            if why := repository.missing_increment(session):
                raise Damaged(f"{backup.address} is damaged: {why}", TRY_ANOTHER) from error
            raise

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`."""
        return members_of(self.open(backup), wanted, report, advance)

    def prove_restorable(self, backup: Backup) -> None:
        """Raises `Damaged` unless all is whole that `open` does not need, and rdiff-backup does to restore `backup`."""
        repository, session = _session_of(backup)
        repository.prove(session)

    def _found(self, place: Place, record: Record) -> Backup:
        path = place.folder / record.full
        return Backup(place.dst, record.stamp, self.name, record.kind, path, record.stamp, record.full, record)


def _repositories(place: Place) -> Iterator[Repository]:
    """The repositories in `place` that hold at least one complete session, oldest first."""
    names = sorted(filter(STAMP.fullmatch, os.listdir(place.folder))) if place.folder.is_dir() else ()
    for path in map(place.folder.joinpath, names):
        if path.is_dir() and not path.is_symlink():
            repository = rdiff_repository.read(path)
            if repository:
                yield repository


def _sweep(place: Place) -> None:
    """Remove what dead runs left, of ours and of rdiff-backup."""
    files.sweep(place.folder)
    if (place.folder / FOLDER).is_dir():
        files.sweep(place.folder / FOLDER)
    for repository in _repositories(place):
        for left in repository.temporaries():
            files.remove(left)


def _kind(repository: Repository) -> str:
    """What kind of source the repository is of, told by its file's name."""
    mirror = repository.mirror
    name = mirror.name if mirror else ""
    return "globals" if name == "global.sql.bz2" else "db" if name.endswith(".dump") else "fs"


def _stamp(session: int) -> str:
    return stamp_of(datetime.fromtimestamp(session, UTC))


def _session_of(backup: Backup) -> tuple[Repository, int]:
    """The repository of `backup`, and the time of the session that it is."""
    repository = rdiff_repository.read(backup.path)
    if repository:
        first, *later = repository.sessions
        found = [first] if backup.stamp == backup.full else [one for one in later if _stamp(one) == backup.stamp]
        if found:
            return repository, found[0]
    raise NotFound(f"there is no backup {backup.address}")


def _full_is_due(job: Job, source: Source, repository: Repository) -> bool:
    """Whether the next backup is a full one, although an incremental could be added to `repository`."""
    mirror = repository.mirror
    span = timedelta(seconds=job.settings["MAX_INCREMENTAL_SPAN"])
    age = max(utc_now() - moment_of(repository.path.name), timedelta(0))  # the clock may have gone back
    return (
        len(repository.sessions) - 1 >= job.settings["MAX_INCREMENTAL_COUNT"]
        or age >= span
        or mirror is None
        or mirror.name != source.file_name
    )


def _is_marked(repository: Repository, found: Sequence[Backup]) -> bool:
    """Whether any backup in `repository` is not valid: then nothing is added to it."""
    return any(not backup.valid for backup in found if backup.full == repository.path.name)


def _continuable(repository: Repository, place: Place, owe: Owe) -> Repository | None:
    """The newest `repository`, mended if its last session was interrupted; None if it must not be added to.

    rdiff-backup itself cannot repair an interrupted second session as long as its folder ``increments`` is empty, and
    then refuses every later one (measured: 27 of 119 moments). Such a repository stays as it is: its markers tell.
    """
    if not (why := repository.problem()):
        return repository
    if repository.interrupted and repository.has_increments:
        try:
            return _mended(repository, place, owe)
        except (ProgramFailed, Damaged) as error:
            why += f", and could not be taken back ({error.message})"
    log.warn(f"{repository.path}: {why}; it is left as it is, and a new full backup is made")
    return None


def _mended(repository: Repository, place: Place, owe: Owe) -> Repository:
    """Let rdiff-backup take back the interrupted session, and read what it made of it."""
    owe("sync", f"{place.dst}/{repository.path.name}/")
    with changed(repository.path, place) as path:
        rdiff_program.regress(path, utc=repository.utc)
        made = rdiff_repository.read(path)
        if made is None or made.problem():
            raise Damaged(made.problem() if made else "nothing was left")
        sha1 = made.stored(made.sessions[-1]).sha1
        if sha1 and made.sha1_of_mirror() != sha1:
            raise Damaged("its newest file is damaged")
    log.warn(f"{repository.path}: its last session was interrupted, and was taken back")
    return rdiff_repository.read(repository.path) or repository


def _add(run: Run, stage: Stage, repository: Repository | None, stamp: str) -> Record:
    """Add a session to `repository`, or without one make a new one; the record that was written of it."""
    place, full = run.place, repository.path.name if repository else stamp
    programs = {**run.source.programs(), rdiff_program.NAME: rdiff_program.version()}
    record = run.record(stamp, full, stage.produced, stored=0, programs=programs)
    records.prepare(place.folder, record, place.owner)
    stored = _add_incremental(run, stage, repository, stamp) if repository else _add_full(run, stage, stamp)
    record = replace(record, stored=stored, finished=stamp_of(utc_now()))
    records.prepare(place.folder, record, place.owner)
    records.complete(place.folder, stamp)
    return record


def _add_full(run: Run, stage: Stage, stamp: str) -> int:
    """Make a new repository, which gets its name when it is whole and on the disk; what it takes there."""
    place = run.place
    temporary = files.temporary_name(place.folder, stamp)
    try:
        _run_session(stage, temporary, stamp, fsync=False)
        finish(temporary, place)
        run.owe("push", f"{place.dst}/{stamp}/")
        run.owe("push", f"{place.dst}/{FOLDER}/{stamp}.json")
        stored = _size(temporary)
        files.publish(temporary, place.folder / stamp)
    finally:
        files.remove(temporary)
    return stored


def _add_incremental(run: Run, stage: Stage, repository: Repository, stamp: str) -> int:
    """Add a session to `repository`; what it takes on the disk."""
    place = run.place
    run.owe("sync", f"{place.dst}/{repository.path.name}/")
    run.owe("push", f"{place.dst}/{FOLDER}/{stamp}.json")
    before = _size(repository.path)
    with changed(repository.path, place) as path:
        _run_session(stage, path, stamp, fsync=path == repository.path)
    return max(0, _size(repository.path) - before)


def _run_session(stage: Stage, path: Path, stamp: str, *, fsync: bool) -> None:
    """Run rdiff-backup, and look whether it has stored what it was given: its exit status does not tell."""
    session = int(moment_of(stamp).timestamp())
    repository = rdiff_repository.read(path)
    mirror = repository.mirror if repository else None
    # rdiff-backup takes a file of the same size and second for unchanged, and keeps no fractions of seconds
    mtime = max(session, int(mirror.stat().st_mtime) + 1 if mirror else 0)
    os.utime(stage.file, (mtime, mtime))
    utc = repository is None or repository.utc
    rdiff_program.back_up(stage.folder, path, session, fsync=fsync, utc=utc)
    made = rdiff_repository.read(path)
    if made is None or made.problem() or made.sessions[-1] != session:
        raise ProgramFailed(
            "rdiff-backup did not complete its session", "the older backups are as they were; run it again"
        )
    stored = made.stored(session)
    if (stored.size, stored.mtime) != (stage.produced.length, mtime):
        raise ProgramFailed(
            f"rdiff-backup did not store the new {stored.name}", "the older backups are as they were; run it again"
        )


def _size(top: Path) -> int:
    """The sum of the sizes of all files below `top`."""
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(top) for name in names)
