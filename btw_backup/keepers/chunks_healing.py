"""Puts lost chunks of a stream together again, after a run that stored anew what the stream has now.

A part of a stream that has a chunk of its own comes back by itself. What lies in several chunks, beside what other
backups had, does not: after damage the next run stores each such part whole. So that what older backups have in common
with it is not lost to them, every place of a lost chunk that they name is filled from those parts, over what is still
readable of the chunk; if its SHA-256 is then right, so is all of it.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator

from btw_backup.errors import Damaged
from btw_backup.keepers.chunks_stream import member_of
from btw_backup.log import debug
from btw_backup.records import Backup
from btw_backup.store import evidence
from btw_backup.store.chunks import LARGEST, ChunkStore
from btw_backup.store.manifest import Member
from btw_backup.store.writer import ChunkWriter

_MOST = 100
"""Backups that are healed."""

_AT_ONCE = 8
"""Lost chunks that are in memory, of 9 MiB at most."""

Piece = tuple[str, int, memoryview]
"""Of a chunk: its name, an offset in it, and what is there."""


def heal(writer: ChunkWriter, backups: Iterable[Backup], lost: Collection[str]) -> None:
    """Store those of the `lost` chunks anew that can be put together from what the newest of `backups`, all streams,
    share with what is in the store."""
    for backup in sorted(backups, key=lambda backup: backup.stamp, reverse=True)[:_MOST]:
        try:
            member = member_of(backup)
        except (Damaged, FileNotFoundError):
            continue
        wanted = sorted({name for name, _, _ in member.extents}.intersection(lost))
        for first in range(0, len(wanted), _AT_ONCE):
            _heal(writer, member, wanted[first : first + _AT_ONCE])
    writer.publish()


def _heal(writer: ChunkWriter, member: Member, lost: Collection[str]) -> None:
    """Put together what `member` needs of the `lost` chunks."""
    found = {name: bytearray(evidence.best_of(writer.store, name)) for name in lost}
    for name, offset, content in _known(writer.store, member, lost):
        plain = found[name]
        plain.extend(bytes(max(0, offset - len(plain))))
        plain[offset : offset + len(content)] = content
    for name, plain in found.items():
        if hashlib.sha256(plain).hexdigest() == name:
            writer.put([bytes(plain)]).result()
            debug(f"the chunk {name}, which was damaged, was put together again")


def _known(store: ChunkStore, member: Member, lost: Collection[str]) -> Iterator[Piece]:
    """What is known of the `lost` chunks from parts of the stream `member` that are in the store as they are."""
    extents = iter(member.extents)
    name, offset, left = "", 0, 0
    for sha256, length in member.pieces:
        at, places = 0, []
        while at < length:
            if not left:
                name, offset, left = next(extents, ("", 0, length - at))
            count = min(left, length - at)
            if name in lost and offset + count <= LARGEST:
                places.append((name, offset, slice(at, at + count)))
            at, offset, left = at + count, offset + count, left - count
        content = memoryview(_content(store, sha256) if places else b"")
        if len(content) == length:
            yield from ((chunk, begin, content[part]) for chunk, begin, part in places)


def _content(store: ChunkStore, name: str) -> bytes:
    try:
        return store.read(name) if store.path(name).exists() else b""
    except Damaged:
        return b""
