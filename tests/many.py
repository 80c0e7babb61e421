"""Many backups and many chunks, made quickly: by our own writers, but without content that anybody reads."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from btw_backup import records
from btw_backup.clock import stamp_of
from btw_backup.records import Record
from btw_backup.store import ENDING
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.manifest import FORMAT, Header, Member
from btw_backup.store.manifest_writer import ManifestWriter

BEGAN = datetime(2020, 1, 1, tzinfo=UTC)
SIZE = 100
"""Bytes of the file of every chunk."""

_NAMES = 10_000
"""Of one file; ext4 allows 65,000."""


@contextmanager
def unsynced() -> Iterator[None]:
    """Without fsync: what is made here need not survive a power cut, and ten thousand of them take minutes."""
    fsync, os.fsync = os.fsync, lambda descriptor: None  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = fsync


def name_of(number: int) -> str:
    """The name of the chunk `number`."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def make_chunks(root: Path, numbers: Iterable[int], size: int = SIZE) -> None:
    """The files of these chunks, as if they were years old.

    Many names are links to one file: to make and to remove a million of files takes twenty times as long.
    """
    store = ChunkStore(root)
    store.open()
    for prefix in range(256):
        (store.chunks / f"{prefix:02x}").mkdir(exist_ok=True)
    for count, number in enumerate(numbers):
        path = store.path(name_of(number))
        if count % _NAMES == 0:
            first = path
            path.write_bytes(b"x" * size)
            os.utime(path, (BEGAN.timestamp(), BEGAN.timestamp()))
        else:
            os.link(first, path)


def make_backup(place: Path, number: int, chunks: Iterable[int]) -> str:
    """The backup `number` of the dst `place`, which needs `chunks`; its stamp."""
    stamp = stamp_of(BEGAN + timedelta(hours=number))
    place.mkdir(parents=True, exist_ok=True)
    with open(place / (stamp + ENDING), "xb") as out:
        lines = ManifestWriter(out, Header(FORMAT, "fs", "/many", number))
        for member in _members(chunks):
            lines.add(member)
        sha256, content = lines.end(())
    _write_record(place, stamp, number, (sha256, content))
    return stamp


def _members(chunks: Iterable[int]) -> Iterator[Member]:
    for at, number in enumerate(chunks):
        extents = ((name_of(number), 0, 1),)
        yield Member(f"{at:09}", "file", 0o600, 0, 0, 0, 1, sha256="0" * 64, extents=extents)


def _write_record(place: Path, stamp: str, number: int, digests: tuple[str, str]) -> None:
    record = Record(uuid.uuid4().hex, stamp, number, "fs", "/many", "chunks", stamp, stamp, 1, *digests, full=stamp)
    records.write(place, record)
