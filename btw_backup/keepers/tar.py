"""The tar keeper: one compressed archive a backup, ``<stamp>.tar.zst``; plain tar and zstd restore it."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from btw_backup import files, records
from btw_backup.clock import STAMP, free_stamp, stamp_of, utc_now
from btw_backup.entries import Entry
from btw_backup.jobs import Job
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.compression import ENDINGS, CompressedFile, opened
from btw_backup.keepers.recording import newest_stamp, record_of
from btw_backup.keepers.streamed import members_of
from btw_backup.keepers.verified import verified
from btw_backup.progress import Advance
from btw_backup.records import FOLDER, Backup
from btw_backup.sources import Produced, Source

_NAME = re.compile(f"({STAMP.pattern})({'|'.join(re.escape(ending) for ending in ENDINGS.values())})")


class Tar:
    """Keeps compressed archives. Contract: `keepers.Keeper`."""

    name = "tar"

    def find(self, place: Place) -> Iterator[Backup]:
        """The archives in `place`, those of the old script among them."""
        for path in place.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and path.is_file() and not path.is_symlink():
                yield Backup(place.dst, match[1], self.name, "fs", path, path.name, match[1])

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`. The archive is written once, in one pass, and renamed in at the end."""
        started = stamp_of(utc_now())
        latest = unchanged.latest_of(place, records.joined(list(self.find(place)), place.folder))
        seen = source.fingerprint()
        if unchanged.known_unchanged(place, source, latest, seen, reread=reread):
            return self._nothing_new(place, owe, None)
        ending = ENDINGS[job.settings["COMPRESSION"]]
        temporary = files.temporary_name(place.folder, "archive" + ending)
        try:
            produced, stored = _write(source, temporary, job.settings["COMPRESSION"])
            whole = not (produced.changed or produced.unread)
            if unchanged.same_as(source, latest, produced, lambda: self.open(latest), lambda: opened(temporary)):  # type: ignore[arg-type]
                kept, known = self._nothing_new(place, owe, produced), latest.stamp  # type: ignore[union-attr]
            else:
                stamp = known = free_stamp(newest_stamp(place, self.find(place)))
                final = place.folder / (stamp + ending)
                owe("push", f"{place.dst}/{final.name}")
                owe("push", f"{place.dst}/{FOLDER}/{stamp}.json")
                files.change_owner(temporary, place.owner)
                record = record_of(
                    place,
                    source,
                    stamp=stamp,
                    full=stamp,
                    keeper=self.name,
                    started=started,
                    produced=produced,
                    stored=stored,
                )
                files.publish(temporary, final)
                records.write(place.folder, record, place.owner)
                kept = Kept(
                    Backup(place.dst, stamp, self.name, "fs", final, final.name, stamp, record), stamp, produced
                )
        finally:
            temporary.unlink(missing_ok=True)
        unchanged.remember(place, source, known, seen) if whole else unchanged.forget(place)
        return kept

    @contextmanager
    def open(self, backup: Backup) -> Iterator[BinaryIO]:
        """The plain archive. Contract: `keepers.Keeper.open`."""
        with opened(backup.path) as stream, verified(stream, backup) as checked:
            yield checked

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`."""
        return members_of(self.open(backup), wanted, report, advance)

    def remove(self, backup: Backup) -> None:
        """Remove the record, then the archive."""
        (backup.path.parent / FOLDER / f"{backup.stamp}.json").unlink(missing_ok=True)
        backup.path.unlink()
        files.sync_folder(backup.path.parent)

    def _nothing_new(self, place: Place, owe: Owe, produced: Produced | None) -> Kept:
        stamp = stamp_of(utc_now())
        unchanged.note_unchanged(place, stamp, "dropping backup", owe)
        return Kept(None, stamp, produced)


def _write(source: Source, temporary: Path, compression: str) -> tuple[Produced, int]:
    """Write the compressed stream to `temporary`, onto the disk; what was produced, and the file's length."""
    with files.create(temporary) as file, files.written_behind(file) as out:
        compressed = CompressedFile(out, compression)
        produced = source.produce(compressed)  # type: ignore[arg-type]
        compressed.close()
    return produced, compressed.length
