"""Whether the time since a backup was removed has passed, or the clock only jumped.

Something is known of most days: backups were made, runs ended, backups were removed. Where nothing is for longer than
`JUMP`, the clock jumped, or the machine was off: what was removed before is then kept for another grace.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from btw_backup import files, records
from btw_backup.catalogue import journal
from btw_backup.clock import moment_of, stamp_of
from btw_backup.keepers import Place
from btw_backup.log import warn
from btw_backup.records import REMOVED

JUMP = timedelta(days=31)

NOTE = "clock-jumped"
"""In the configuration directory: the stamp of when the grace began anew."""

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_in_doubt(
    found: Sequence[Place], config_dir: Path, now: datetime, grace: timedelta, *, dry_run: bool = False
) -> bool:
    """Whether `grace` is over, for something that was removed from the places `found`, only because the clock jumped.

    That is said once, and noted: it is over when it has passed from then on. A note from the future says nothing.
    """
    note = config_dir / NOTE
    noted = _noted(note)
    if noted and noted > now and not dry_run:
        files.remove(note)
    moments = list(_removals(found, now, touch=not dry_run))
    if not grace or not any(now - moment >= grace for moment in moments):
        return False
    since, before = steady_since([*moments, *_lived(found, config_dir), *([noted] if noted else [])], now)
    if before is None or now - since >= grace:
        return False
    if noted is None or stamp_of(noted) != stamp_of(since):
        days = (since - before) // timedelta(days=1)
        hint = "if that is right, cleanup --grace 0 frees its room now"
        warn(f"the clock jumped by {days} days: what was removed is kept for another grace", hint)
        if not dry_run:
            files.write_whole(note, f"{stamp_of(since)}\n".encode())
    return True


def steady_since(moments: Iterable[datetime], now: datetime) -> tuple[datetime, datetime | None]:
    """The moment from which on to `now` there is one of `moments` at least every `JUMP`, and the one before, if any."""
    since = now
    for moment in sorted((moment for moment in moments if moment <= now), reverse=True):
        if since - moment > JUMP:
            return since, moment
        since = moment
    return since, None


def _noted(note: Path) -> datetime | None:
    try:
        return moment_of(note.read_text("ascii").strip())
    except (FileNotFoundError, ValueError):
        return None


def _lived(found: Iterable[Place], config_dir: Path) -> list[datetime]:
    """When backups were made and runs ended. What comes after in time, but came before, was another clock's."""
    stamps = sorted(stamp for place in found for stamp in records.stamps(place.folder))
    moments: list[datetime] = []
    for stamp in (*stamps, *(run.finished for run in journal.read(config_dir))):
        with suppress(ValueError):
            moment = moment_of(stamp)
            while moments and moments[-1] > moment:
                moments.pop()
            moments.append(moment)
    return moments


def _removals(found: Iterable[Place], now: datetime, *, touch: bool) -> Iterator[datetime]:
    """When the kernel gave what was removed its names. What it says is long after `now` gets to be of now: the clock
    went back, and nobody is to wait for it."""
    for place in found:
        try:
            folder = os.open(place.folder / REMOVED, _ENTER)
        except OSError:
            continue
        try:
            for name in os.listdir(folder):
                with suppress(FileNotFoundError):  # somebody brings it back
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    moment = datetime.fromtimestamp(status.st_ctime, UTC)
                    if moment - now > JUMP and touch:
                        os.chown(name, -1, -1, dir_fd=folder, follow_symlinks=False)
                    yield moment
        finally:
            os.close(folder)
