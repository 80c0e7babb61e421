"""Older states of a file in an rdiff-backup repository, put together while they are read.

rdiff-backup keeps the newest state as it is and, for each older one, a delta that makes it from the next newer. We
read the deltas ourselves: its own restore writes into the repository that it reads, and needs room for whole copies.
A delta is a list of commands; a chain of them is folded into one list of pieces, each a range of one of the files, so
that no state in between is ever written anywhere.

The format is librsync's (doc/format.md and src/prototab.c of librsync): the magic number, then commands of one byte
with big-endian arguments. 0x00 ends; 0x01 to 0x40 is a literal of that length; 0x41 to 0x44 a literal whose length
takes 1, 2, 4 or 8 bytes; 0x45 to 0x54 copies from the basis, with a start and a length of 1, 2, 4 or 8 bytes each.
"""

import bisect
import errno
import gzip
import io
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from btw_backup.errors import Damaged

MAGIC = b"rs\x026"
_WIDTHS = (1, 2, 4, 8)
_BLOCK = 1 << 18
_REWINDS = 8
"""How often a compressed file is read from its beginning again before it is unpacked instead."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A file of the chain: the newest state, a whole older one, or a delta from the state before to the next older."""

    path: Path
    compressed: bool = False
    delta: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes at `offset` of the file number `origin`."""

    origin: int
    offset: int
    length: int


class _Origin:
    """A file that is read at any offset; a compressed one is fast as long as the offsets mostly grow."""

    def __init__(self, layer: Layer) -> None:
        self._path = layer.path
        self._rewinds = 0
        self._compressed = layer.compressed
        file = _opened(layer.path)
        self.stream: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if layer.compressed else file
        self._below = file

    def close(self) -> None:
        """Close the files behind it."""
        self.stream.close()
        self._below.close()

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Read from `offset`; raises `Damaged` if nothing is there."""
        with _damage_named(self._path):
            if offset != self.stream.tell():
                self._seek(offset)
            block = self.stream.read(len(buffer))
        if not block:
            raise Damaged(f"{self._path} ends too early")
        buffer[: len(block)] = block
        return len(block)

    def length(self) -> int:
        """How long it is, uncompressed."""
        if not self._compressed:
            return os.fstat(self.stream.fileno()).st_size
        with _damage_named(self._path):
            while self.stream.read(_BLOCK):
                pass
            return self.stream.tell()

    def _seek(self, offset: int) -> None:
        if self._compressed and offset < self.stream.tell():
            self._rewinds += 1
            if self._rewinds > _REWINDS:
                self._unpack()
        self.stream.seek(offset)

    def _unpack(self) -> None:
        unpacked = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # closed by close()
        self.stream.seek(0)
        shutil.copyfileobj(self.stream, unpacked, _BLOCK)
        self.stream.close()
        self.stream, self._compressed = unpacked, False


class _Pieces(io.RawIOBase):
    """A stream of pieces, one after the other."""

    def __init__(self, origins: Sequence[_Origin], pieces: Sequence[Piece]) -> None:
        self._origins = origins
        self._pieces = iter(pieces)
        self._rest = Piece(0, 0, 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As of `io.RawIOBase`; raises `Damaged`."""
        while not self._rest.length:
            following = next(self._pieces, None)
            if following is None:
                return 0
            self._rest = following
        rest = self._rest
        count = self._origins[rest.origin].readinto(memoryview(buffer)[: rest.length], rest.offset)
        self._rest = Piece(rest.origin, rest.offset + count, rest.length - count)
        return count


@contextmanager
def opened(layers: Sequence[Layer]) -> Iterator[BinaryIO]:
    """The state that the last of `layers` leads to; the first is whole, the others deltas. Raises `Damaged`."""
    with ExitStack() as stack:
        origins = []
        for layer in layers:
            origins.append(_Origin(layer))
            stack.callback(origins[-1].close)
        pieces = [Piece(0, 0, origins[0].length())]
        for number, layer in enumerate(layers[1:], 1):
            with _damage_named(layer.path):
                pieces = _folded(pieces, _commands(origins[number].stream, number), layer.path)
        yield cast(BinaryIO, io.BufferedReader(_Pieces(origins, pieces), _BLOCK))


def prove_whole(path: Path) -> None:
    """Raises `Damaged` unless the file at `path` is gzip from its first byte to its last, the trailer.

    Whoever reads a delta to its last command does not come to the trailer; rdiff-backup does, and fails there, or takes
    what is behind it for all there is.
    """
    unpacked = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    with _damage_named(path), _opened(path) as file:
        while not unpacked.eof and (block := unpacked.unconsumed_tail or file.read(_BLOCK)):
            unpacked.decompress(block, _BLOCK)
        if not unpacked.eof:
            raise Damaged("its end is missing")
        if unpacked.unused_data or file.read(1):
            raise Damaged("something is behind its end")


def _folded(basis: Sequence[Piece], commands: Iterator[Piece], path: Path) -> list[Piece]:
    """What `commands` make of `basis`, in which a copy is a piece of origin -1."""
    starts = [0]
    for piece in basis:
        starts.append(starts[-1] + piece.length)
    result: list[Piece] = []
    for command in commands:
        if command.origin >= 0:
            _append(result, command)
            continue
        if command.offset + command.length > starts[-1]:
            raise Damaged(f"{path} does not belong to the state that it is to be applied to")
        for piece in _part(basis, starts, command.offset, command.length):
            _append(result, piece)
    return result


def _part(basis: Sequence[Piece], starts: Sequence[int], offset: int, length: int) -> Iterator[Piece]:
    """The pieces that make up `length` bytes of `basis` from `offset` on."""
    number = bisect.bisect_right(starts, offset) - 1
    while length:
        piece, skipped = basis[number], offset - starts[number]
        count = min(piece.length - skipped, length)
        yield Piece(piece.origin, piece.offset + skipped, count)
        offset, length, number = offset + count, length - count, number + 1


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Add `piece`, to the last one if it goes on where that ends."""
    last = pieces[-1] if pieces else None
    if last and last.origin == piece.origin and last.offset + last.length == piece.offset:
        pieces[-1] = Piece(last.origin, last.offset, last.length + piece.length)
    elif piece.length:
        pieces.append(piece)


def _commands(delta: BinaryIO, origin: int) -> Iterator[Piece]:
    """The commands of `delta`: a literal as a piece of `origin`, where it lies in it, a copy as one of -1."""
    if delta.read(len(MAGIC)) != MAGIC:
        raise Damaged("it is no delta")
    while code := _number(delta, 1):
        if code > 0x54:
            raise Damaged(f"unknown command {code:#x}")
        if code > 0x44:
            start = _number(delta, _WIDTHS[(code - 0x45) // 4])
            yield Piece(-1, start, _number(delta, _WIDTHS[(code - 0x45) % 4]))
            continue
        length = code if code <= 0x40 else _number(delta, _WIDTHS[code - 0x41])
        yield Piece(origin, delta.tell(), length)
        delta.seek(length, os.SEEK_CUR)


def _number(delta: BinaryIO, width: int) -> int:
    digits = delta.read(width)
    if len(digits) != width:
        raise Damaged("it ends too early")
    return int.from_bytes(digits, "big")


def _opened(path: Path) -> BinaryIO:
    """A regular file, never through a link: with ``-u`` the repository belongs to somebody else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged(f"{path} is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path} is not a regular file")
    return open(descriptor, "rb", buffering=_BLOCK)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name `path` in what is wrong with its content."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    except Damaged as error:
        raise error if str(path) in error.message else Damaged(f"{path} is damaged: {error.message}") from error
