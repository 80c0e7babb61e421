"""Cuts content where the content says so, so that an insertion moves no cut but those beside it.

FastCDC with normalisation level 2 and the published gear table, by the wheel pyfastcdc, which works outside the
interpreter's lock. `tests/test_store.py` holds it to golden vectors: other cuts would store everything anew.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

SMALLEST, USUAL, LARGEST = 512 << 10, 2 << 20, 8 << 20
"""Bytes of a chunk. What is smaller than `SMALLEST` cannot be cut, and is packed with others."""

_READ = 12 << 20
"""Bytes that are cut at a time: what follows the last sure cut, 2 MiB of them, is looked at twice."""

_PIECE = (2 << 10, 8 << 10, 64 << 10)
"""Bytes of a piece by which contents are compared; nothing is stored by them."""

Read = Callable[[int], bytes]
"""Gives up to so many bytes, fewer only near the end, none at the end."""


def _cutter(smallest: int, usual: int, largest: int) -> "FastCDC":
    from pyfastcdc import FastCDC  # noqa: PLC0415 - it takes longer to load than a few small files to read

    return FastCDC(avg_size=usual, min_size=smallest, max_size=largest)


def fine(content: bytes | memoryview) -> list[int]:
    """The lengths of the pieces of `content` by which it is compared with another."""
    cutter = _cutter(*_PIECE)
    return [piece.length for piece in cutter.cut_buf(content)] if content else []


def cut(read: Read) -> Iterator[memoryview]:
    """The content that `read` gives, in chunks."""
    cutter = _cutter(SMALLEST, USUAL, LARGEST)
    rest = b""
    while True:
        fresh = _filled(read, _READ - len(rest))
        content = memoryview(rest + fresh if rest else fresh)
        ended = len(content) < _READ
        lengths = [chunk.length for chunk in cutter.cut_buf(content)] if content else []
        at = 0
        for length in lengths if ended else lengths[:-1]:
            yield content[at : at + length]
            at += length
        if ended:
            return
        rest = bytes(content[at:])


class Cutter:
    """Cuts what is written to it, as `cut` does; each chunk goes to `take`, and is valid as long as it is kept."""

    def __init__(self, take: Callable[[memoryview], object]) -> None:
        self._take = take
        self._cutter = _cutter(SMALLEST, USUAL, LARGEST)
        self._buffers = [bytearray(_READ)]
        self._buffer = self._buffers[0]
        self._filled = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take `data`, all of it."""
        left = memoryview(data)
        while left:
            part = left[: _READ - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == _READ:
                self._cut(ended=False)
        return len(data)

    def close(self) -> None:
        """Hand out what is left."""
        self._cut(ended=True)

    def _cut(self, *, ended: bool) -> None:
        """Hand out the chunks that are sure, and begin a new buffer with the rest: others still work on this one."""
        content = memoryview(self._buffer)[: self._filled]
        lengths = [chunk.length for chunk in self._cutter.cut_buf(content)] if content else []
        at = 0
        for length in lengths if ended else lengths[:-1]:
            self._take(content[at : at + length])
            at += length
        self._filled -= at
        self._buffer = bytearray() if ended else self._free_buffer()
        self._buffer[: self._filled] = content[at:]

    def _free_buffer(self) -> bytearray:
        """A buffer that nobody has a chunk of any more: one of before, because new memory costs time."""
        found = next((buffer for buffer in self._buffers if _is_free(buffer)), None)
        if found is None:
            found = bytearray(_READ)
            self._buffers.append(found)
        return found


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of `buffer` is left: only then Python lets its length be changed."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    buffer.pop()
    return True


def _filled(read: Read, count: int) -> bytes:
    """`count` bytes, or all up to the end."""
    pieces = []
    while count and (piece := read(count)):
        pieces.append(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
