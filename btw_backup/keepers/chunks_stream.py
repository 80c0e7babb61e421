"""A stream in the chunk store: cut while it comes, stored on all cores, read back ahead of who takes it.

Memory: a buffer of 12 MiB that is cut, those before it of which chunks are still being stored (at most 6 on 2 cores),
300 bytes for each part of 2 MiB that the stream has, and what `store.former` needs.
"""

import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from btw_backup import files, progress
from btw_backup.errors import TRY_ANOTHER, Damaged
from btw_backup.keepers.chunks_incoming import Incoming
from btw_backup.log import debug
from btw_backup.records import Backup
from btw_backup.sources import Produced, Source
from btw_backup.store import manifest
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.entry import entry_of
from btw_backup.store.former import Former
from btw_backup.store.manifest import Header, Member
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.reader import Contents
from btw_backup.store.writer import ChunkWriter

_BLOCK = 1 << 20


def write(source: Source, writer: ChunkWriter, latest: Backup | None, temporary: Path) -> Produced:
    """Store what `source` produces, and write the manifest to `temporary`, onto the disk; nothing is published yet.

    Of what `latest` has, only the differences are stored.
    """
    began = time.time_ns()
    with progress.shown(f"reading {source.name}", None) as advance:
        incoming = Incoming(writer, _former(writer, latest), advance)
        try:
            produced = source.produce(cast(BinaryIO, incoming))
            incoming.close()
        finally:
            incoming.stop()
    member = Member(
        path=source.file_name,
        kind="file",
        mode=0o600,
        uid=os.getuid(),
        gid=os.getgid(),
        mtime=began,
        ctime=began,
        size=incoming.size,
        extents=tuple(incoming.extents),
        segments=tuple(incoming.parts[: incoming.scattered]),
    )
    with files.create(temporary) as out:
        lines = ManifestWriter(out, Header.of(source.kind, source.name, began))
        lines.add(member)
        sha256, _ = lines.end(incoming.wasteful(writer.store.length))
        os.fsync(out.fileno())
    content = produced.content or _content_of(incoming.parts)
    return replace(produced, length=incoming.size, sha256=sha256, content=content)


def _content_of(parts: Iterable[tuple[str, int]]) -> str:
    """A digest of the stream, whatever chunks its parts are in: that of the extents, if each were one."""
    return hashlib.sha256(repr(tuple((name, 0, length) for name, length in parts)).encode()).hexdigest()


def _former(writer: ChunkWriter, latest: Backup | None) -> Former | None:
    """The stream `latest`, to be compared with, if it is fit to be built on."""
    if latest is None:
        return None
    try:
        return Former(writer.store, member_of(latest), frozenset(manifest.end_of(latest.path).wasteful))
    except (Damaged, FileNotFoundError) as error:
        debug(f"cannot build on {latest.address}: {error}")
        return None


def is_whole(store: ChunkStore, backup: Backup) -> bool:
    """Whether the store has all chunks of the stream `backup`, so far as their headers tell; they count as used."""
    try:
        found = member_of(backup)
    except (Damaged, FileNotFoundError):
        return False
    ends: dict[str, int] = {}
    for name, offset, length in found.extents:
        ends[name] = max(offset + length, ends.get(name, 0))
    return all(store.reuse_whole(name) and store.length(name) >= end for name, end in ends.items())


@contextmanager
def opened(store: ChunkStore, backup: Backup) -> Iterator[BinaryIO]:
    """The stream `backup`, every chunk of it proved. Reading it raises `Damaged`."""
    contents = Contents(store, [member_of(backup)])
    try:
        _, pieces = next(iter(contents))
        yield cast(BinaryIO, io.BufferedReader(_Outgoing(pieces, backup), _BLOCK))
    finally:
        contents.close()


def member_of(backup: Backup) -> Member:
    """The only entry of the manifest of a stream. Raises `Damaged` if that is not what was written."""
    found: Member | None = None
    with manifest.opened(backup.path) as lines:
        for member, _ in lines:
            if found is not None or lines.header.kind == "fs":
                raise _damaged(backup, "its manifest is not that of a stream")
            found = member
    if found is None or (backup.record and backup.record.sha256 not in ("", lines.sha256)):
        raise _damaged(backup, "its manifest is not what was written")
    try:
        entry_of(found)
    except ValueError as error:
        raise _damaged(backup, str(error)) from error
    return found


class _Outgoing(io.RawIOBase):
    """`pieces` as a file to read."""

    def __init__(self, pieces: Iterator[memoryview], backup: Backup) -> None:
        self._pieces = pieces
        self._backup = backup
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As of `io.RawIOBase`."""
        while not self._piece:
            try:
                self._piece = next(self._pieces)
            except StopIteration:
                return 0
            except Damaged as error:
                raise _damaged(self._backup, error.message) from error
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


def _damaged(backup: Backup, why: str) -> Damaged:
    return Damaged(f"{backup.address} is damaged: {why}", TRY_ANOTHER)
