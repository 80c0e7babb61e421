"""The tar keeper: one compressed archive a backup, ``<stamp>.tar.zst``; plain tar and zstd restore it."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from btw_backup import files, records
from btw_backup.clock import STAMP
from btw_backup.configuration.jobs import Job
from btw_backup.entries import Entry
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.compression import ENDINGS, opened, written
from btw_backup.keepers.recording import Run
from btw_backup.keepers.streamed import members_of
from btw_backup.keepers.verified import plain
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Source

_NAME = re.compile(f"({STAMP.pattern})({'|'.join(re.escape(ending) for ending in ENDINGS.values())})")


class Tar:
    """Keeps compressed archives. Contract: `keepers.Keeper`."""

    name = "tar"

    def find(self, place: Place) -> Iterator[Backup]:
        """The archives in `place`, those of the old script among them."""
        with os.scandir(place.folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    yield Backup(place.dst, match[1], self.name, "fs", place.folder / entry.name, entry.name, match[1])

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`. The archive is written once, in one pass, and renamed in at the end."""
        run = Run(self.name, source, place, owe)
        latest = unchanged.latest_of(place, self.find(place))
        seen = source.fingerprint()
        if unchanged.known_unchanged(place, source, latest, seen, reread=reread):
            return run.unchanged(None)
        latest = records.recorded(latest, place.folder)
        compression = job.settings["COMPRESSION"]
        ending = ENDINGS[compression]
        temporary = files.temporary_name(place.folder, "archive" + ending)
        try:
            produced, stored = written(temporary, compression, source.produce)
            if unchanged.same_as(source, latest, produced, lambda: self.open(latest), lambda: opened(temporary)):  # type: ignore[arg-type]
                kept = run.unchanged(produced)
            else:
                kept = run.publish(temporary, ending, produced, stored=stored, programs=source.programs())
        finally:
            temporary.unlink(missing_ok=True)
        return run.conclude(kept, latest, seen)

    def open(self, backup: Backup) -> AbstractContextManager[BinaryIO]:
        """The plain archive. Contract: `keepers.Keeper.open`."""
        return plain(backup)

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`."""
        return members_of(self.open(backup), wanted, report, advance)
