"""How every keeper ends a run: a new backup is published and recorded, or a line says that nothing has changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from btw_backup import files, records
from btw_backup.clock import STAMP, free_stamp, stamp_of, utc_now
from btw_backup.keepers import Kept, Owe, Place, unchanged
from btw_backup.log import warn
from btw_backup.records import FOLDER, REMOVED, Backup, Record
from btw_backup.sources import Fingerprint, Produced, Source

_WAITED_FOR = timedelta(seconds=3)
"""What a clock may be behind the newest stamp without a word: several backups in one second are in order."""


def _now() -> str:
    return stamp_of(utc_now())


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a keeper: what it has to work with, and when it began. Made before the source is read."""

    keeper: str
    source: Source
    place: Place
    owe: Owe
    started: str = field(default_factory=_now)

    def unchanged(self, produced: Produced | None, words: str = "dropping backup") -> Kept:
        """Nothing has changed, and log.txt says so."""
        stamp = _now()
        unchanged.note_unchanged(self.place, stamp, words, self.owe)
        return Kept(None, stamp, produced)

    def free_stamp(self, backups: Iterable[Backup] = ()) -> str:
        """The stamp of a new backup: younger than all that anything in the place has, and than those of `backups`."""
        taken = {backup.stamp for backup in backups}
        for folder in (self.place.folder, self.place.folder / FOLDER, self.place.folder / REMOVED):
            taken.update(_stamps_in(folder))
        newest = max(taken, default=None)
        stamp = free_stamp(newest)
        if newest and stamp > stamp_of(utc_now() + _WAITED_FOR):
            behind = f"the clock is behind the newest backup, {self.place.dst}@{newest}"
            warn(f"{behind}: this one gets the stamp {stamp}", "set the clock; the order of the backups is kept")
        return stamp

    def publish(
        self, temporary: Path, ending: str, produced: Produced, *, stored: int, programs: Mapping[str, str]
    ) -> Kept:
        """Make the file `temporary`, which is on the disk, a backup: noted as owed, named, recorded.

        `stored` is what the backup takes on the disk, `programs` are those that took part.
        """
        place, stamp = self.place, self.free_stamp()
        final = place.folder / (stamp + ending)
        self.owe("push", f"{place.dst}/{final.name}")
        self.owe("push", f"{place.dst}/{FOLDER}/{stamp}.json")
        files.change_owner(temporary, place.owner)
        record = self.record(stamp, stamp, produced, stored=stored, programs=programs)
        if self.keeper == "chunks":  # whose writer leaves a mark until there is a record
            files.publish(temporary, final)
            records.write(place.folder, record, place.owner)
        else:
            records.prepare(place.folder, record, place.owner)
            files.publish(temporary, final)
            records.complete(place.folder, stamp)
        backup = Backup(place.dst, stamp, self.keeper, self.source.kind, final, final.name, stamp, record)
        return Kept(backup, stamp, produced)

    def record(self, stamp: str, full: str, produced: Produced, *, stored: int, programs: Mapping[str, str]) -> Record:
        """The record of a backup that ends now; its sequence number is the next one in the place."""
        import uuid  # noqa: PLC0415 - a run that finds nothing new writes no record

        incomplete = bool(produced.changed or produced.unread or produced.left_out)
        return Record(
            uid=uuid.uuid4().hex,
            stamp=stamp,
            sequence=records.next_sequence(self.place.folder),
            kind=self.source.kind,
            source=self.source.name,
            keeper=self.keeper,
            started=self.started,
            finished=_now(),
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
            programs=programs,
        )

    def conclude(self, kept: Kept, latest: Backup | None, seen: Fingerprint | None) -> Kept:
        """`kept`, after noting what the next run may believe: that at `seen` all was as the newest backup has it."""
        newest, produced = kept.backup or latest, kept.produced
        if newest is None or produced is None or produced.changed or produced.unread or produced.left_out:
            unchanged.forget(self.place)
        else:
            unchanged.remember(self.place, self.source, newest.stamp, seen)
        return kept


def _stamps_in(folder: Path) -> Iterable[str]:
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return [match[0] for name in names if (match := STAMP.match(name))]
