"""The chunks keeper: a manifest a backup, ``<stamp>.manifest.zst``, and what it names in the store of ROOT_PATH."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import zstandard

from btw_backup import files, records
from btw_backup.clock import STAMP, free_stamp, stamp_of, utc_now
from btw_backup.entries import Entry
from btw_backup.errors import FatalUserError
from btw_backup.jobs import Job
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.recording import newest_stamp, record_of
from btw_backup.progress import Advance
from btw_backup.records import FOLDER, Backup
from btw_backup.sources import Produced, Source
from btw_backup.sources.tree import Tree
from btw_backup.store import ENDING
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.writer import writing

_WAIT = 3600.0
"""Seconds to wait for a sweep of the store to end."""


class Chunks:
    """Keeps manifests and chunks. Contract: `keepers.Keeper`."""

    name = "chunks"

    def find(self, place: Place) -> Iterator[Backup]:
        """The manifests in `place`."""
        for path in place.folder.iterdir():
            stamp = path.name.removesuffix(ENDING)
            if path.name != stamp and STAMP.fullmatch(stamp) and path.is_file() and not path.is_symlink():
                yield Backup(place.dst, stamp, self.name, "fs", path, path.name, stamp)

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`."""
        if not isinstance(source, Tree):
            raise FatalUserError(f"{source.name} cannot be kept in chunks", "only trees can")
        started = stamp_of(utc_now())
        latest = unchanged.latest_of(place, records.joined(list(self.find(place)), place.folder))
        seen = source.fingerprint()
        if unchanged.known_unchanged(place, source, latest, seen, reread=reread):
            return _nothing_new(place, owe, None)
        from btw_backup.keepers import chunks_run  # noqa: PLC0415 - what it needs takes 0.1 s to load

        store = _store(place.folder, place.dst)
        temporary = files.temporary_name(place.folder, "manifest")
        try:
            with writing(store, lambda path: owe("push", path), wait=_WAIT) as writer:
                base = None if reread or not seen.reliable else latest
                produced = chunks_run.write(source, writer, base, temporary, seen)
                same = latest and latest.record and latest.record.content == produced.content
                if same and not writer.stored:  # else something of it was gone from the store
                    kept = _nothing_new(place, owe, produced)
                else:
                    kept = self._publish(
                        source, place, owe, started=started, produced=produced, written=(temporary, writer.stored)
                    )
        finally:
            temporary.unlink(missing_ok=True)
        known = kept.backup or latest
        if produced.changed or produced.unread or known is None:
            unchanged.forget(place)
        else:
            unchanged.remember(place, source, known.stamp, seen)
        return kept

    def _publish(
        self, source: Source, place: Place, owe: Owe, *, started: str, produced: Produced, written: tuple[Path, int]
    ) -> Kept:
        """Make the manifest that was written, with its chunks, a backup."""
        temporary, stored = written
        stamp = free_stamp(newest_stamp(place, self.find(place)))
        final = place.folder / (stamp + ENDING)
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
            stored=stored + temporary.stat().st_size,
        )
        record = replace(record, programs={"zstd": ".".join(map(str, zstandard.ZSTD_VERSION))})  # tar has no part in it
        files.publish(temporary, final)
        records.write(place.folder, record, place.owner)
        backup = Backup(place.dst, stamp, self.name, source.kind, final, final.name, stamp, record)
        return Kept(backup, stamp, produced)

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`. Only the chunks of what is wanted are read, ahead, and on all cores."""
        from btw_backup.keepers import chunks_run  # noqa: PLC0415 - as below

        return chunks_run.members_of(_store(backup.path.parent, backup.dst), backup, wanted, report, advance)

    @contextmanager
    def open(self, backup: Backup) -> Iterator[BinaryIO]:
        """A tree has no stream in the store."""
        raise FatalUserError(f"{backup.address} is a tree in chunks: it has no plain stream", "restore it to a folder")
        yield  # what makes this a context manager

    def remove(self, backup: Backup) -> None:
        """Remove the record, then the manifest; the chunks stay for others."""
        (backup.path.parent / FOLDER / f"{backup.stamp}.json").unlink(missing_ok=True)
        backup.path.unlink()
        files.sync_folder(backup.path.parent)


def _store(folder: Path, dst: str) -> ChunkStore:
    """The store of the ROOT_PATH in which `folder` is the dst."""
    return ChunkStore(folder.parents[dst.count("/")])


def _nothing_new(place: Place, owe: Owe, produced: Produced | None) -> Kept:
    stamp = stamp_of(utc_now())
    unchanged.note_unchanged(place, stamp, "dropping backup", owe)
    return Kept(None, stamp, produced)
