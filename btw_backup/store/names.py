"""The names of the chunks that a manifest needs, behind its text in a frame that decompressors skip.

RFC 8878, 3.1.2: a magic number, a length, and then what is ours: the names in binary, sorted, each once; a marker,
their number, the SHA-256 of the text, that of its frame, and one of all this and of where it stands. So who only wants
to know which chunks are in use need not read the text, which takes a hundred times as long.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from btw_backup import files
from btw_backup.errors import TRY_ANOTHER, Damaged
from btw_backup.store import frames

_HEAD = struct.Struct("<II")
_MAGIC = 0x184D2A5B
_FOOT = struct.Struct("<8sQ32s32s32s")
_MARKER = b"btwnames"
_NAME = 32
_PIECE = _NAME << 13


class BadNames(Damaged):
    """A manifest is not what was written, but its text is."""


def write(out: BinaryIO, names: Iterable[bytes], text: bytes, frame: bytes) -> None:
    """Append the names, which are sorted, to the manifest in `out`. `text` and `frame` are the digests of its text, and
    of the frame that it is in. The number of names must stand before them, so it is filled in at the end."""
    out.flush()
    at = out.tell()
    digest, count = _digest(at), 0
    files.write_all(out.fileno(), _HEAD.pack(_MAGIC, 0))
    for piece in _pieces(names):
        digest.update(piece)
        files.write_all(out.fileno(), piece)
        count += len(piece) // _NAME
    length = count * _NAME + _FOOT.size
    if length >= 1 << 32:  # 270 TB of chunks: who wants the names reads the text
        os.ftruncate(out.fileno(), at)
        return
    digest.update(_FOOT.pack(_MARKER, count, text, frame, b"")[:-_NAME])
    files.write_all(out.fileno(), _FOOT.pack(_MARKER, count, text, frame, digest.digest()))
    os.pwrite(out.fileno(), _HEAD.pack(_MAGIC, length), at)


def _pieces(names: Iterable[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for name in names:
        piece += name
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _digest(at: int) -> "hashlib._Hash":
    return hashlib.sha256(at.to_bytes(8, "little"))


class Names:
    """The frame at the end of the manifest in the open `file`, proved. `at` is where it begins, `text` the digest of
    the text. `found` says whether there is one; one that is not what was written is none."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.found = False
        size = os.fstat(file).st_size
        foot = os.pread(file, _FOOT.size, max(0, size - _FOOT.size))
        if len(foot) < _FOOT.size:
            return
        marker, self._count, self.text, self._frame, digest = _FOOT.unpack(foot)
        self.at = size - _FOOT.size - self._count * _NAME - _HEAD.size
        if marker != _MARKER or self.at < 0:
            return
        length = self._count * _NAME + _FOOT.size
        if os.pread(file, _HEAD.size, self.at) != _HEAD.pack(_MAGIC, length & 0xFFFFFFFF):
            return
        proof = _digest(self.at)
        for piece in self._read():
            proof.update(piece)
        proof.update(foot[:-_NAME])
        self.found = proof.digest() == digest

    def __iter__(self) -> Iterator[bytes]:
        """The names, sorted, each once."""
        for piece in self._read():
            for start in range(0, len(piece), _NAME):
                yield piece[start : start + _NAME]

    def follow(self, end: int, text: bytes) -> bool:
        """Whether they follow the text with the digest `text`, whose frame ends at `end` and is what was written."""
        if not self.found or self.at != end or self.text != text:
            return False
        frame = hashlib.sha256()
        for piece in self._between(0, end):
            frame.update(piece)
        return frame.digest() == bytes(self._frame)

    def _read(self) -> Iterator[bytes]:
        at = self.at + _HEAD.size
        return self._between(at, at + self._count * _NAME)

    def _between(self, at: int, end: int) -> Iterator[bytes]:
        while at < end and (piece := os.pread(self._file, min(_PIECE, end - at), at)):
            yield piece
            at += len(piece)


def check(file: int, text: bytes, name: str) -> None:
    """Raise `Damaged` unless nothing follows the text of the manifest in the open `file`, as in older ones, or just
    what belongs there; `BadNames` if it is that alone. `text` is the digest of the text, as it was read."""
    end, size = frames.end_of(file), os.fstat(file).st_size
    if not 0 < end <= size:
        raise Damaged(f"{name} is damaged: it is cut", TRY_ANOTHER)
    if end < size and not Names(file).follow(end, text):
        raise BadNames(f"{name} is damaged: what follows the text is not what was written", TRY_ANOTHER)
