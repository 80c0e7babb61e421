"""A run of the chunks keeper that has something to read: chunks into the store, then the manifest and the record."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import zstandard

from btw_backup import files, memory
from btw_backup.keepers import Kept, unchanged
from btw_backup.keepers.chunks_recovery import check
from btw_backup.keepers.recording import Run
from btw_backup.records import Backup
from btw_backup.sources import Fingerprint, Produced, Source
from btw_backup.store import ENDING, mending
from btw_backup.store.chunks import store_of
from btw_backup.store.writer import ChunkWriter, writing

if TYPE_CHECKING:
    from btw_backup.sources.tree import Tree


def keep(run: Run, latest: Backup | None, seen: Fingerprint | None, *, reread: bool) -> Kept:
    """Read the source, and make a backup of it if it is not as `latest` has it. `seen` is how it looks now."""
    memory.reuse_large_pieces()
    place, source = run.place, run.source
    temporary = files.temporary_name(place.folder, "manifest")
    began = time.time()
    try:
        with writing(store_of(place.folder, place.dst), lambda path: run.owe("push", path)) as writer:
            if source.kind == "fs" and seen is not None:
                produced, same = _write_tree(cast("Tree", source), writer, latest, temporary, seen, reread=reread)
                programs = {}
            else:
                produced, same = _write_stream(source, writer, latest, temporary)
                _heal(run, writer)
                programs = dict(source.programs())
            if same:
                kept = run.unchanged(produced)
            else:
                programs["zstd"] = ".".join(map(str, zstandard.ZSTD_VERSION))
                stored = writer.stored + temporary.stat().st_size
                kept = run.publish(temporary, ENDING, produced, stored=stored, programs=programs)
                if kept.backup:
                    check(writer.store, kept.backup, began)
    finally:
        temporary.unlink(missing_ok=True)
    return run.conclude(kept, latest, seen)


def _write_tree(
    source: "Tree", writer: ChunkWriter, latest: Backup | None, temporary: Path, seen: Fingerprint, *, reread: bool
) -> tuple[Produced, bool]:
    """Store the tree, with its manifest in `temporary`; whether it is what `latest` has."""
    from btw_backup.keepers import chunks_run  # noqa: PLC0415 - what trees need, streams would wait for

    base = None if reread or not seen.reliable else latest
    produced = chunks_run.write(source, writer, base, temporary, seen)
    if not (latest and latest.record and latest.record.content == produced.content):
        return produced, False
    # What was stored replaces something that is gone, or only a pack of which little is used: then nothing is new.
    return produced, not writer.stored or chunks_run.is_whole(writer.store, latest)


def _heal(run: Run, writer: ChunkWriter) -> None:
    """Bring back what was lost of older backups of the stream, so far as it is known again."""
    if lost := frozenset(mending.lost(writer.store)):
        from btw_backup.keepers import chunks_healing  # noqa: PLC0415 - hardly ever needed
        from btw_backup.keepers.chunks import Chunks  # noqa: PLC0415 - it loads us

        chunks_healing.heal(writer, Chunks().find(run.place), lost)


def _write_stream(source: Source, writer: ChunkWriter, latest: Backup | None, temporary: Path) -> tuple[Produced, bool]:
    """Store the stream, with its manifest in `temporary`; whether it is what `latest` has, and nothing of that is gone.

    Equal content need not be equal bytes, which are then not published if that is known without reading them again.
    """
    from btw_backup.keepers import chunks_stream  # noqa: PLC0415 - as above

    produced = chunks_stream.write(source, writer, latest, temporary)
    store, known = writer.store, latest.record if latest else None
    comparable = latest and known and (known.kind, known.source) == (source.kind, source.name)
    if not (latest and known and comparable and chunks_stream.is_whole(store, latest)):
        writer.publish()
        return produced, False
    if known.content == produced.content:
        return produced, True
    writer.publish()
    new = replace(latest, path=temporary, record=None)
    return produced, unchanged.holds_the_same(
        source, lambda: chunks_stream.opened(store, latest), lambda: chunks_stream.opened(store, new)
    )
