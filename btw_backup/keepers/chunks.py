"""The chunks keeper: a manifest a backup, ``<stamp>.manifest.zst``, and what it names in the store of ROOT_PATH."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import zstandard

from btw_backup import files, progress, records
from btw_backup.clock import STAMP, free_stamp, stamp_of, utc_now
from btw_backup.entries import Entry
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.jobs import Job
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.chunks_previous import Previous
from btw_backup.keepers.chunks_tree import TreeWriter
from btw_backup.keepers.recording import newest_stamp, record_of
from btw_backup.log import debug
from btw_backup.progress import Advance
from btw_backup.records import FOLDER, Backup
from btw_backup.sources import Fingerprint, Produced, Source
from btw_backup.sources.tree import Tree
from btw_backup.store import manifest
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.index import Index
from btw_backup.store.manifest import ENDING, Header, ManifestReader, ManifestWriter, Member, entry_of
from btw_backup.store.reader import Contents
from btw_backup.store.writer import ChunkWriter, writing

_OTHERS = "another backup may be well; list shows them"

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
        store = ChunkStore(_root(place.folder, place.dst))
        temporary = files.temporary_name(place.folder, "manifest")
        try:
            with writing(store, lambda path: owe("push", path), wait=_WAIT) as writer:
                produced = _write(source, writer, None if reread or not seen.reliable else latest, temporary, seen)
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

    @contextmanager
    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> Iterator[Iterator[tuple[Entry, Content]]]:
        """Contract: `keepers.Keeper.members`. Only the chunks of what is wanted are read, ahead, and on all cores."""
        with manifest.opened(backup.path) as opened:
            entries: deque[Entry] = deque()
            contents = Contents(
                ChunkStore(_root(backup.path.parent, backup.dst)), _chosen(opened, wanted, report, entries)
            )
            try:
                yield _advancing(contents, entries, advance)
            finally:
                contents.close()
            if opened.end and backup.record and backup.record.sha256 not in ("", opened.sha256):
                raise Damaged(f"{backup.path} is damaged: its SHA-256 is not that of what was stored", _OTHERS)

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


def _root(folder: Path, dst: str) -> Path:
    """ROOT_PATH, in which `folder` is the dst."""
    return folder.parents[dst.count("/")]


def _nothing_new(place: Place, owe: Owe, produced: Produced | None) -> Kept:
    stamp = stamp_of(utc_now())
    unchanged.note_unchanged(place, stamp, "dropping backup", owe)
    return Kept(None, stamp, produced)


def _write(source: Tree, writer: ChunkWriter, base: Backup | None, temporary: Path, seen: Fingerprint) -> Produced:
    """Store what the tree holds, and write the manifest to `temporary`, onto the disk."""
    header = Header(manifest.FORMAT, source.kind, source.name, seen.began)
    index = Index(writer.store.folder)
    with ExitStack() as stack:
        out = stack.enter_context(files.create(temporary))
        advance = stack.enter_context(progress.shown(f"reading {source.name}", seen.size))
        previous, wasteful = _previous(base, header, writer, stack)
        lines = ManifestWriter(out, header)
        tree = TreeWriter(writer, index, lines, previous, wasteful)
        tree.write(source, advance)
        sha256, content = lines.end(tree.wasteful(writer.store.length))
        writer.publish()
        index.save()
        os.fsync(out.fileno())
    changed, unread = tree.changed, tree.unread
    left_out = changed.left_out + unread.left_out + source.problems.left_out
    return Produced(
        lines.size, sha256, content, tuple(changed.found), (*source.problems.found, *unread.found), left_out
    )


def _previous(
    base: Backup | None, header: Header, writer: ChunkWriter, stack: ExitStack
) -> tuple[Previous | None, frozenset[str]]:
    """The manifest of the last backup of the same tree, if it is fit to be built on, and the packs to avoid."""
    if base is None:
        return None, frozenset()
    try:
        wasteful = frozenset(manifest.end_of(base.path).wasteful)
        opened = stack.enter_context(manifest.opened(base.path))
    except (Damaged, FileNotFoundError) as error:
        debug(f"cannot build on {base.address}: {error}")
        return None, frozenset()
    if opened.header.source != header.source or opened.header.began > header.began:
        return None, wasteful
    return Previous(opened, wasteful, writer), wasteful


def _chosen(opened: ManifestReader, wanted: Wanted, report: Report, entries: deque[Entry]) -> Iterator[Member]:
    """The members that are wanted; each adds its entry to `entries`. What cannot be an entry is reported."""
    for member, _ in opened:
        try:
            entry = entry_of(member)
        except ValueError as error:
            report(f"an entry of the manifest is left out: {error}")
            continue
        if wanted(entry):
            entries.append(entry)
            yield member


def _advancing(contents: Contents, entries: deque[Entry], advance: Advance) -> Iterator[tuple[Entry, Content]]:
    for member, content in contents:
        yield entries.popleft(), content
        advance(member.size)
