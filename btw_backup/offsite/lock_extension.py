"""Renews the locks of what is kept at a target, so that no backup loses its chunks while it is kept.

What a backup uses may have been sent, and locked, long before it. So now and then all that is still needed is locked
anew, from now on for OBJECT_LOCK: what was proved to be there, and was not removed since. Of it the versions are locked
that have the size, and where that is known the checksum, of what was sent: not what somebody wrote over it.

Both what is needed and what is there come in the order of their paths, and are compared side by side. How far it came
is noted after each batch: who was interrupted goes on there.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path

from btw_backup import files, locks, progress, regular
from btw_backup.clock import moment_of, stamp_of
from btw_backup.configuration.addresses import Address
from btw_backup.configuration.config import Config
from btw_backup.errors import NotOffsite, ProgramFailed
from btw_backup.offsite import object_lock, storekey, sync
from btw_backup.offsite.debts import Owed
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.parts import files_in_order
from btw_backup.offsite.signed import AT_ONCE, Retention, Signed, Version
from btw_backup.offsite.together import together

AGAIN = "btw-backup lock extend goes on where it ended"
LOST = "btw-backup sync --verify names what is lost there, and sends it anew"

_BATCH = 500
_SAME = timedelta(days=1)  # one that began longer ago is begun anew
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Needed:
    """What was sent: its path, size, and checksum, "" if that is not known."""

    path: str
    size: int
    checksum: str = ""

    def is_it(self, version: Version) -> bool:
        """Whether `version` is what was sent."""
        return not version.is_marker and version.size == self.size and self.checksum in ("", version.checksum)


@dataclass(slots=True)
class Progress:
    """How far it came at `place`: all that is there was locked to `until`, or to `next` up to the path `after`."""

    place: str = ""
    until: str = ""
    next: str = ""
    after: str = ""
    objects: int = 0
    missing: int = 0
    lacking: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Extended:
    """What was locked: so many objects, until when."""

    target: str
    objects: int
    until: str


def extend(address: Address, general: Config, config_dir: Path, now: datetime, wait: float) -> Extended:
    """Renew the locks at a target. Raises `NotOffsite` if not all could be, or are not there; `Locked`."""
    known = storekey.private(config_dir / sync.KNOWN)
    with locks.lock(sync.lock_folder(config_dir, address), exclusive=True, wait=wait):
        path = _path(known, address)
        noted = _begun(_noted(path, address), object_lock.wanted(address, now))
        try:
            signed = Signed(address)
            object_lock.check(signed)
            needed = _needed(address, general, config_dir)
            _extend(signed, needed, noted, address.object_lock_mode, partial(_note, path, noted))
        except ProgramFailed as error:
            why = f"not all locks at {address.place} are renewed, because {error.message}"
            raise NotOffsite(why, error.hint or AGAIN) from error
        extended = Extended(address.name, noted.objects, noted.next)
        missing, lacking = noted.missing, noted.lacking
        _note(path, Progress(noted.place, noted.until if missing else noted.next))
    if missing:
        others = f" and {missing - 1} more" if missing > 1 else ""
        raise NotOffsite(f"{address.place} does not have any more what it had: {lacking[0]}{others}", LOST)
    return extended


def locked_until(config_dir: Path, address: Address) -> datetime | None:
    """Until when all is locked that was at a target when that was last extended; None if it never was."""
    noted = _noted(_path(config_dir / sync.KNOWN, address), address)
    return moment_of(noted.until) if noted.until else None


def _extend(signed: Signed, needed: Iterable[Needed], noted: Progress, mode: str, note: Callable[[], None]) -> None:
    retention = Retention(mode, moment_of(noted.next))
    wanted = (one for one in needed if one.path > noted.after)
    with progress.shown(f"locks at {signed.name}", None) as advance:
        for batch in _batches(_matched(wanted, signed.versions(after=noted.after))):
            jobs = [
                partial(signed.prolong, one.path, retention, each.identity) for one, found in batch for each in found
            ]
            together(jobs, AT_ONCE)
            lacking = [one.path for one, found in batch if not found]
            noted.after = batch[-1][0].path
            noted.objects += len(batch) - len(lacking)
            noted.missing += len(lacking)
            noted.lacking = [*noted.lacking, *lacking][:_SHOWN]
            note()
            advance(sum(one.size for one, _ in batch))


def _matched(needed: Iterable[Needed], versions: Iterable[Version]) -> Iterator[tuple[Needed, list[Version]]]:
    """What is needed, each with those of its versions that are it. Both come in the order of their paths."""
    groups = ((path, list(group)) for path, group in groupby(versions, lambda one: one.path))
    path, there = next(groups, ("", []))
    for one in needed:
        while path and path < one.path:
            path, there = next(groups, ("", []))
        yield one, [version for version in there if path == one.path and one.is_it(version)]


def _batches(found: Iterable[tuple[Needed, list[Version]]]) -> Iterator[list[tuple[Needed, list[Version]]]]:
    batch = []
    for one in found:
        batch.append(one)
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _needed(address: Address, general: Config, config_dir: Path) -> Iterator[Needed]:
    """What was sent to a target, and is needed, in the order of the paths there."""
    if address.layout == "objects":
        return _of_objects(config_dir / sync.KNOWN / f"{address.name}.sqlite")
    owed = Owed(debt.path for debt in sync.journal(config_dir, address.name).pending())
    return _of_mirror(general["ROOT_PATH"], owed)


def _of_objects(path: Path) -> Iterator[Needed]:
    if not path.exists():
        return  # nothing was sent yet
    with closing(Ledger(path)) as ledger:
        singles = ledger.singles()
        for single in sorted(one for one in singles if object_lock.is_written_once(one, "objects")):
            yield Needed(single, singles[single].size, singles[single].checksum)
        for ref, checksum in ledger.all_proved():
            yield Needed(ref.path, ref.stored, checksum)


def _of_mirror(root: Path, owed: Owed) -> Iterator[Needed]:
    for path, size in files_in_order(str(root)):
        if object_lock.is_written_once(path, "mirror") and not owed.touches(path):
            yield Needed(path, size)


# What is noted


def _path(known: Path, address: Address) -> Path:
    return known / f"{address.name}.locks.json"


def _noted(path: Path, address: Address) -> Progress:
    """What was noted of the place that the target is now."""
    try:
        found = Progress(**json.loads(regular.read(path)))
        for stamp in filter(None, (found.until, found.next)):
            moment_of(stamp)
    except (OSError, ValueError, TypeError):
        return Progress(address.place)
    return found if found.place == address.place else Progress(address.place)


def _begun(noted: Progress, wanted: Retention) -> Progress:
    """`noted`, to be gone on with, if that began not long ago."""
    if noted.next and noted.after and wanted.until - _SAME <= moment_of(noted.next) <= wanted.until:
        return noted
    return Progress(noted.place, noted.until, stamp_of(wanted.until))


def _note(path: Path, noted: Progress) -> None:
    files.write_whole(path, json.dumps(asdict(noted), indent=1).encode() + b"\n")
