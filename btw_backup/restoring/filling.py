"""Fills a file with its content: holes stay holes, and what is missing becomes a hole, so that all is at its place."""

import os
from collections.abc import Iterable, Iterator

from btw_backup import flushing
from btw_backup.entries import Entry
from btw_backup.errors import DamagedPart
from btw_backup.log import printable

_SHOWN = 100
"""How many ranges that are missing are told."""

Content = Iterable[memoryview | int]
"""Pieces; an int stands for so many bytes that are missing."""


def _pieces_of(content: Content) -> Iterator[memoryview | int]:
    """The pieces of `content`; where some are missing, and it goes on behind them, the number of the bytes."""
    pieces = iter(content)
    while True:
        try:
            yield from pieces
            return
        except DamagedPart as error:
            if not error.length:
                raise
            yield error.length


def fill(descriptor: int, entry: Entry, content: Content) -> None:
    """Write the content of a file; what lies between its extents becomes holes.

    So does what is missing: then raises `DamagedPart`, which tells the ranges, when all the rest is at its place.
    """
    missing: list[tuple[int, int]] = []
    pieces = _pieces_of(content)
    piece: memoryview | int | None = 0
    for offset, length in ((0, entry.size),) if entry.extents is None else entry.extents:
        at = offset
        while at < offset + length:
            piece = piece or next(pieces, None)
            if piece is None:
                return  # who gives the content has an error to raise
            if isinstance(piece, int):
                count = min(piece, offset + length - at)
                missing.append((at, at + count))
                piece -= count
            else:
                count = min(len(piece), offset + length - at)
                flushing.write_at(descriptor, piece[:count], at)
                piece = piece[count:]
            at += count
    if entry.extents is not None or missing:
        os.ftruncate(descriptor, entry.size)
    if missing:
        raise DamagedPart(f"{printable(entry.path)}: {_ranges(missing)}")


def _ranges(missing: list[tuple[int, int]]) -> str:
    """In words; neighbours as one, and no more of them than one can read."""
    joined: list[tuple[int, int]] = []
    for first, end in missing:
        if joined and joined[-1][1] == first:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((first, end))
    more = f" and {len(joined) - _SHOWN} more ranges" if len(joined) > _SHOWN else ""
    return "bytes " + ", ".join(f"{first}-{end - 1}" for first, end in joined[:_SHOWN]) + more + " are missing"
