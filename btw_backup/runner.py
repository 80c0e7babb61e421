"""One run of a job: keep, then send, and say honestly how it ended."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from btw_backup import log
from btw_backup.configuration.config import Config
from btw_backup.configuration.jobs import Job
from btw_backup.errors import FatalUserError, Incomplete, NotOffsite
from btw_backup.inventory.listing import keeper
from btw_backup.keepers import Kept, Place, unchanged
from btw_backup.offsite import sync
from btw_backup.records import Backup
from btw_backup.running import Running
from btw_backup.scrub import error_of, known
from btw_backup.scrub.announced import Announced
from btw_backup.sources import Produced, Source

SHOWN = 10
"""How many paths that could not be read are shown; the record has more."""


def back_up(
    general: Config,
    config_dir: Path,
    job: Job,
    source: Source,
    place: Place,
    *,
    wait: float,
    reread: bool = False,
    verify: bool = False,
    run: Running | None = None,
) -> None:
    """Make a backup of `source` and send what is owed, also what earlier runs could not send, also if keeping failed.

    `run` is told what was kept. Raises what keeping raised; else `NotOffsite`, which wins over `Incomplete`.
    """
    owe = Announced(sync.owe_all(general, config_dir))
    problems: list[FatalUserError] = []
    log.debug(f"backing up {source.kind} {source.name} to {place.dst}")
    try:
        with _limited(job.settings["TIMEOUT"]):
            alarm = unchanged.shrinking(place, source, source.fingerprint())
            kept = keeper(job.keeper).keep(job, source, place, owe, reread=reread)
    except FatalUserError as error:
        problems.append(error)
    else:
        if run:
            run.kept = kept
        known.note(general["ROOT_PATH"], [place.dst])
        problems.extend(_shortcomings(source, kept))
        if alarm:
            problems.append(Incomplete(alarm, "it is kept as it is now; is a disk missing?"))
        if kept.backup and (verify or job.settings["VERIFY"]):
            problems.extend(_verified(kept.backup, owe, wait))
        if kept.produced and job.keeper == "chunks":
            problems.extend(_judged(general["ROOT_PATH"], wait))
    try:
        sync.send(general, config_dir, wait=wait)
    except FatalUserError as error:
        problems.append(error)
    end(problems)


def _limited(seconds: float | None) -> AbstractContextManager[None]:
    """`process.limited`."""
    if seconds is None:
        return nullcontext()
    from btw_backup import process  # noqa: PLC0415 - as below

    return process.limited(seconds)


def _verified(backup: Backup, announced: Announced, wait: float) -> list[FatalUserError]:
    """What is wrong with what was just written."""
    from btw_backup.scrub.verification import verify  # noqa: PLC0415 - what it needs takes time to load

    try:
        verify(backup, announced.chunks(), wait=wait)
    except FatalUserError as error:
        return [error]
    return []


def _judged(root: Path, wait: float) -> list[FatalUserError]:
    """What earlier backups lack, of which the run found out that somebody died while he wrote it, or the machine."""
    from btw_backup.store import evidence  # noqa: PLC0415 - as above
    from btw_backup.store.chunks import ChunkStore  # noqa: PLC0415 - as above

    if not evidence.unjudged(ChunkStore(root)):
        return []
    from btw_backup.scrub.judgement import judged_late  # noqa: PLC0415 - as above

    found = judged_late(root, "run", wait)
    return [error_of(found)] if found else []


def each(things: Iterable[tuple[str, Callable[[], None]]]) -> None:
    """Do all of several things; one that fails does not stop the others. Raises the gravest of their errors."""
    problems: list[FatalUserError] = []
    for name, thing in things:
        try:
            thing()
        except FatalUserError as error:
            problems.append(type(error)(f"{name}: {error.message}", error.hint))
    end(problems)


def end(problems: list[FatalUserError]) -> None:
    """Say all problems but the gravest, and raise that one."""
    gravity = {Incomplete: 1, NotOffsite: 2}
    problems.sort(key=lambda error: gravity.get(type(error), 3))
    for error in problems[:-1]:
        log.warn(error.message, error.hint)
    if problems:
        raise problems[-1]


def _shortcomings(source: Source, kept: Kept) -> list[FatalUserError]:
    produced = kept.produced
    if produced is None or not (produced.changed or produced.unread or produced.left_out):
        return []
    for path, reason in [*produced.unread, *produced.changed][:SHOWN]:
        log.warn(f"{path}: {reason}")
    count = _count(produced)
    what = f"{count} path{'s' if count != 1 else ''} of {source.name} could not be read whole"
    return [Incomplete(what, "list --json shows them; the rest is kept" if count > SHOWN else "")]


def _count(produced: Produced) -> int:
    return len(produced.changed) + len(produced.unread) + produced.left_out
