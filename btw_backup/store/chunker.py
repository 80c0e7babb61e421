"""Cuts content where the content says so, so that an insertion moves no cut but those beside it.

FastCDC with normalisation level 2 and the published gear table, by the wheel pyfastcdc, which works outside the
interpreter's lock. `tests/test_store.py` holds it to golden vectors: other cuts would store everything anew.
"""

from collections.abc import Callable, Iterator

from pyfastcdc import FastCDC

SMALLEST, USUAL, LARGEST = 512 << 10, 2 << 20, 8 << 20
"""Bytes of a chunk. What is smaller than `SMALLEST` cannot be cut, and is packed with others."""

_READ = 12 << 20
"""Bytes that are cut at a time: what follows the last sure cut, 2 MiB of them, is looked at twice."""

Read = Callable[[int], bytes]
"""Gives up to so many bytes, fewer only near the end, none at the end."""


def cut(read: Read) -> Iterator[memoryview]:
    """The content that `read` gives, in chunks."""
    cutter = FastCDC(avg_size=USUAL, min_size=SMALLEST, max_size=LARGEST)
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


def _filled(read: Read, count: int) -> bytes:
    """`count` bytes, or all up to the end."""
    pieces = []
    while count and (piece := read(count)):
        pieces.append(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
