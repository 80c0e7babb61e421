"""A stream that knows, once it was read to its end, whether it is what was stored."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from btw_backup.errors import TRY_ANOTHER, Damaged
from btw_backup.keepers.compression import opened
from btw_backup.records import Backup

BLOCK = 1 << 20


class _Checked(io.RawIOBase):
    """Hands out what `stream` has, and digests and counts it on the way."""

    def __init__(self, stream: BinaryIO, algorithm: str) -> None:
        self._stream = stream
        self._digest = hashlib.new(algorithm, usedforsecurity=False)
        self.length = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As of `io.RawIOBase`."""
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self._digest.update(block)
        self.length += len(block)
        self.ended = not block
        return len(block)

    def hexdigest(self) -> str:
        """The digest of what was handed out."""
        return self._digest.hexdigest()


@contextmanager
def verified(stream: BinaryIO, backup: Backup, *, length: int | None = None, sha1: str = "") -> Iterator[BinaryIO]:
    """`stream`, the plain content of `backup`, to be read once.

    The end of the block raises `Damaged` if the stream was read to its end and is not what the record tells, or,
    without one, what the caller knows of it (`length`, `sha1`).
    """
    record = backup.record if backup.record and backup.record.sha256 else None
    expected, algorithm, digest = (record.length, "sha256", record.sha256) if record else (length, "sha1", sha1)
    checked = _Checked(stream, algorithm)
    yield cast(BinaryIO, io.BufferedReader(checked, BLOCK))
    if expected is not None and checked.length < expected and not checked.ended:
        return  # whoever read it did not want all of it
    if expected is not None and checked.length != expected:
        raise _damaged(backup, f"it has {checked.length} bytes and not {expected}")
    if digest and (checked.ended or expected is not None) and checked.hexdigest() != digest:
        raise _damaged(backup, f"its {algorithm.upper()} is not that of what was stored")


@contextmanager
def plain(backup: Backup) -> Iterator[BinaryIO]:
    """The plain content of `backup`, a compressed file, to be read once; as `verified`."""
    with opened(backup.path) as stream, verified(stream, backup) as checked:
        yield checked


def _damaged(backup: Backup, why: str) -> Damaged:
    return Damaged(f"{backup.address} is damaged: {why}", TRY_ANOTHER)
