"""What every keeper writes down about a backup that it made."""

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from btw_backup import records
from btw_backup.clock import STAMP, stamp_of, utc_now
from btw_backup.keepers import Place
from btw_backup.records import FOLDER, Backup, Record
from btw_backup.sources import Produced, Source


def record_of(
    place: Place,
    source: Source,
    *,
    stamp: str,
    full: str,
    keeper: str,
    started: str,
    produced: Produced,
    stored: int,
    programs: Mapping[str, str] | None = None,
) -> Record:
    """The record of a backup that ends now; its sequence number is the next one in `place`.

    `stored` is what it takes on the disk; `programs` are those of the keeper, beside the source's.
    """
    incomplete = bool(produced.changed or produced.unread or produced.left_out)
    return Record(
        uid=uuid.uuid4().hex,
        stamp=stamp,
        sequence=1 + max((record.sequence for record in records.read_all(place.folder).values()), default=0),
        kind=source.kind,
        source=source.name,
        keeper=keeper,
        started=started,
        finished=stamp_of(utc_now()),
        length=produced.length,
        sha256=produced.sha256,
        content=produced.content,
        stored=stored,
        full=full,
        status=3 if incomplete else 0,
        changed=produced.changed,
        unread=produced.unread,
        left_out=produced.left_out,
        sockets=produced.sockets,
        programs={**source.programs(), **(programs or {})},
    )


def newest_stamp(place: Place, backups: Iterable[Backup]) -> str | None:
    """The newest stamp that anything in `place` has, be it half-made or only a record; a new one must be younger."""
    taken = {backup.stamp for backup in backups}
    for folder in (place.folder, place.folder / FOLDER):
        taken.update(_stamps_in(folder))
    return max(taken, default=None)


def _stamps_in(folder: Path) -> Iterable[str]:
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return [match[0] for name in names if (match := STAMP.match(name))]
