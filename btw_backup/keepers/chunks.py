"""The chunks keeper: a manifest a backup, ``<stamp>.manifest.zst``, and what it names in the store of ROOT_PATH."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO

from btw_backup import records
from btw_backup.clock import STAMP
from btw_backup.configuration.jobs import Job
from btw_backup.entries import Entry
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.recording import Run
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Source
from btw_backup.store import ENDING

if TYPE_CHECKING:
    from btw_backup.store.shares import Share


class Chunks:
    """Keeps manifests and chunks. Contract: `keepers.Keeper`. With a `share`, `members` gives only that."""

    name = "chunks"

    def __init__(self, share: "Share | None" = None) -> None:
        self._share = share

    def find(self, place: Place) -> Iterator[Backup]:
        """The manifests in `place`."""
        with os.scandir(place.folder) as entries:
            for entry in entries:
                stamp = entry.name.removesuffix(ENDING)
                if entry.name != stamp and STAMP.fullmatch(stamp) and entry.is_file(follow_symlinks=False):
                    yield Backup(place.dst, stamp, self.name, "fs", place.folder / entry.name, entry.name, stamp)

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`."""
        run = Run(self.name, source, place, owe)
        found = list(self.find(place))
        if {backup.stamp for backup in found}.difference(records.stamps(place.folder)):
            from btw_backup.keepers.chunks_recovery import recover  # noqa: PLC0415 - as below

            recover(place, found)
        latest = unchanged.latest_of(place, found)
        seen = source.fingerprint()
        if unchanged.known_unchanged(place, source, latest, seen, reread=reread):
            return run.unchanged(None)
        latest = records.recorded(latest, place.folder)
        from btw_backup.keepers import chunks_keep  # noqa: PLC0415 - what it needs takes 0.1 s to load

        return chunks_keep.keep(run, latest, seen, reread=reread)

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`. Only the chunks of what is wanted are read, ahead, and on all cores."""
        from btw_backup.keepers import chunks_run  # noqa: PLC0415 - as above

        return chunks_run.members_of(backup, wanted, report, advance, self._share)

    def open(self, backup: Backup) -> AbstractContextManager[BinaryIO]:
        """Contract: `keepers.Keeper.open`. A tree has no stream in the store."""
        from btw_backup.keepers import chunks_stream  # noqa: PLC0415 - as above
        from btw_backup.store.chunks import store_of  # noqa: PLC0415 - as above

        if kind_of(backup) == "fs":
            hint = "restore it to a folder"
            raise FatalUserError(f"{backup.address} is a tree in chunks: it has no plain stream", hint)
        return chunks_stream.opened(store_of(backup.path.parent, backup.dst), backup)


def kind_of(backup: Backup) -> str:
    """The kind of its source: what the record says, or without one the manifest."""
    if backup.record:
        return backup.record.kind
    from btw_backup.store import manifest  # noqa: PLC0415 - msgspec takes a while to load

    try:
        with manifest.opened(backup.path) as opened:
            return opened.header.kind
    except (Damaged, FileNotFoundError):
        return backup.kind
