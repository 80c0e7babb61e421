"""What a run notices of what went wrong around it: a run that died before its record, a chunk that was set aside."""

import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from btw_backup import marks, records
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import Damaged
from btw_backup.keepers import Place
from btw_backup.log import warn
from btw_backup.marks import Mark
from btw_backup.records import FOLDER, Backup, Record
from btw_backup.store.chunks import ChunkStore

if TYPE_CHECKING:
    from btw_backup.store.manifest import ManifestReader, Member


def recover(place: Place, found: Iterable[Backup]) -> None:
    """Give those of `found`, all backups in `place`, that have no record at all one, told from their manifests.

    A run that died between its manifest and its record has left a backup that is complete. What nobody knows any more
    is left out of the record; nothing is compared with it if that is the content, as of a dump.
    """
    for backup in found:
        _recover(place, backup)


def _recover(place: Place, backup: Backup) -> None:
    path = place.folder / FOLDER / f"{backup.stamp}.json"
    if path.exists():  # what is there and cannot be read is left for who may want to look at it
        return
    try:
        record = _told_by_manifest(place, backup)
    except (Damaged, OSError):
        return
    records.write(place.folder, record, place.owner)
    warn(f"{backup.address} had no record, because its run died: it has one now")


def _told_by_manifest(place: Place, backup: Backup) -> Record:
    from btw_backup.store import manifest  # noqa: PLC0415 - what it needs takes time to load, and is needed hardly ever

    size = 0

    def counted(members: "ManifestReader") -> Iterator["tuple[Member, bytes]"]:
        nonlocal size
        for member, line in members:
            size += member.size if member.kind == "file" else 0
            yield member, line

    with manifest.opened(backup.path) as opened:
        content = manifest.content_in(counted(opened))
    return Record(
        uid=uuid.uuid4().hex,
        stamp=backup.stamp,
        sequence=records.next_sequence(place.folder),
        kind=opened.header.kind,
        source=opened.header.source,
        keeper=backup.keeper,
        started=backup.stamp,
        finished=backup.stamp,
        length=size,
        sha256=opened.sha256,
        content=content if opened.header.kind == "fs" else "",
        stored=backup.path.stat().st_size,
        full=backup.stamp,
        recovered=True,
    )


def check(store: ChunkStore, backup: Backup, began: float) -> None:
    """Raise `Damaged`, and mark the new `backup`, if a chunk that it relies on was set aside since `began`.

    Its manifest must be there: who sets a chunk aside looks for manifests afterwards, so one of the two sees the other.
    """
    from btw_backup.store import evidence, uses  # noqa: PLC0415 - as above

    names = evidence.set_aside_since(store, began)
    if not names:
        return
    needed = sorted(name for name in uses.chunks_of(backup.path) if name in names and not store.path(name).exists())
    if needed:
        why = f"the chunk {needed[0]} was found to be damaged while it was used"
        marks.write(backup, Mark(backup.stamp, stamp_of(utc_now()), "scrub", (why,), tuple(needed[: marks.MOST])))
        raise Damaged(f"{backup.address} is damaged: {why}", "run it again: what is missing is then stored anew")
