"""A stream in the chunk store: cut while it comes, stored on all cores, read back ahead of who takes it.

Memory: a buffer of 12 MiB that is cut, those before it of which chunks are still being stored (at most 6 on 2 cores),
and 200 bytes for each chunk of 2 MiB that the stream has.
"""

import hashlib
import io
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from btw_backup import files, progress
from btw_backup.errors import TRY_ANOTHER, Damaged
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Produced, Source
from btw_backup.store import manifest
from btw_backup.store.chunker import Cutter
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.entry import entry_of
from btw_backup.store.manifest import Extent, Header, ManifestWriter, Member
from btw_backup.store.reader import Contents
from btw_backup.store.writer import ChunkWriter, Stored

_BLOCK = 1 << 20


class _Incoming:
    """A writable that puts into the store what is written to it. `extents` are then where it is, `size` its length."""

    def __init__(self, writer: ChunkWriter, advance: Advance) -> None:
        self._writer = writer
        self._advance = advance
        self._cutter = Cutter(self._put)
        self._waiting: deque[Future[Stored]] = deque()
        self.extents: list[Extent] = []
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take `data`, all of it."""
        self._advance(len(data))
        self.size += len(data)
        return self._cutter.write(data)

    def close(self) -> None:
        """Store what is left, and wait for all of it."""
        self._cutter.close()
        while self._waiting:
            self._settle()

    def _put(self, chunk: memoryview) -> None:
        self._waiting.append(self._writer.put([chunk]))
        while self._waiting and self._waiting[0].done():
            self._settle()
        if self._writer.is_full:
            self._writer.publish()

    def _settle(self) -> None:
        stored = self._waiting.popleft().result()
        self.extents.append((stored.name, 0, stored.length))


def write(source: Source, writer: ChunkWriter, temporary: Path) -> Produced:
    """Store what `source` produces, and write the manifest to `temporary`, onto the disk; nothing is published yet."""
    began = time.time_ns()
    with progress.shown(f"reading {source.name}", None) as advance:
        incoming = _Incoming(writer, advance)
        produced = source.produce(cast(BinaryIO, incoming))
        incoming.close()
    extents = tuple(incoming.extents)
    member = Member(
        path=source.file_name,
        kind="file",
        mode=0o600,
        uid=os.getuid(),
        gid=os.getgid(),
        mtime=began,
        ctime=began,
        size=incoming.size,
        extents=extents,
    )
    with files.create(temporary) as out:
        lines = ManifestWriter(out, Header(manifest.FORMAT, source.kind, source.name, began))
        lines.add(member)
        sha256, _ = lines.end(())
        os.fsync(out.fileno())
    content = produced.content or hashlib.sha256(repr(extents).encode()).hexdigest()
    return replace(produced, length=incoming.size, sha256=sha256, content=content)


def is_whole(store: ChunkStore, backup: Backup) -> bool:
    """Whether the store has all chunks of the stream `backup`, so far as their headers tell; they count as used."""
    try:
        found = _member(backup)
    except (Damaged, FileNotFoundError):
        return False
    return all(store.reuse_whole(name, length) for name, _, length in found.extents)


@contextmanager
def opened(store: ChunkStore, backup: Backup) -> Iterator[BinaryIO]:
    """The stream `backup`, every chunk of it proved. Reading it raises `Damaged`."""
    contents = Contents(store, [_member(backup)])
    try:
        _, pieces = next(iter(contents))
        yield cast(BinaryIO, io.BufferedReader(_Outgoing(pieces, backup), _BLOCK))
    finally:
        contents.close()


def _member(backup: Backup) -> Member:
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
