"""The stream of the last backup, beside which a new one is stored: of a part that changed a little, the rest is found.

A part of the new stream that is not in the store as it is is compared with the old stream, from where that was left on.
After a difference both go on where a little later 1 KiB is the same again, or else at the next piece of about 8 KiB,
cut by content, that both have; and from there back to the last byte that is the same. So a row that changed among
others that did not costs the row, not the 2 MiB around it. Everything is compared byte by byte; the old content was
proved by its SHA-256 when it was read.

Memory: the old stream, from 1 MiB behind where we are to 13 MiB ahead, or 37 MiB if nothing was found for a while; 200
bytes for each piece of it; a few chunks; and 250 bytes for each extent and each part of the old backup. What moved
farther is found again only as a whole part.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator

from btw_backup.errors import Damaged
from btw_backup.log import debug
from btw_backup.store import chunker
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.manifest import Extent, Member

_BEHIND = 1 << 20
_AHEAD = chunker.LARGEST + (1 << 20)
_FARTHEST = 4 * chunker.LARGEST + (1 << 20)
_STEP = 4 << 20
"""Bytes of the old stream that are kept behind where we are, looked at ahead of it, the same if nothing was found for
a while, and read at a time."""

_CHUNKS = 4
"""Chunks of the old backup that stay in memory, besides."""

_FIRST_LOOK = 1 << 12
"""Bytes that are compared at once to begin with, and then twice as many each time."""

_SKIPPED = (0, 256, 4096)
_NEEDLE, _NEAR, _ENOUGH = 128, 64 << 10, 1 << 10
"""After a difference: how many new bytes are passed over before so many are looked for in the old stream, how far, and
how many then have to be the same, because short ones may be so by chance."""

Stretch = tuple[int, int, Extent | None]
"""Of a part: where it begins and ends, and where the store has that, if it does."""


class Former:
    """The stream `member` of an older backup. `avoid` are chunks that nothing new is to depend on."""

    def __init__(self, store: ChunkStore, member: Member, avoid: Collection[str]) -> None:
        self._store = store
        self._avoid = avoid
        self._extents = [(sys.intern(name), offset, length) for name, offset, length in member.extents]
        self._starts = array("Q")
        self._size = 0
        for _, _, length in self._extents:
            self._starts.append(self._size)
            self._size += length
        self._parts: dict[str, int] = {}
        at = 0
        for sha256, length in member.pieces:
            self._parts.setdefault(sha256, at)
            at += length
        self._usable: dict[str, bool] = {}
        self._chunks: OrderedDict[str, bytes] = OrderedDict()
        self._text, self._low = bytearray(), 0
        self._spots: dict[int, int] = {}
        self._indexed: deque[tuple[int, int]] = deque()
        self._to_index = 0
        self._here = self._missed = 0

    def passed(self, sha256: str, length: int) -> None:
        """The new stream has a part that needs not be looked for; if the old one has it, we are behind it now."""
        if (at := self._parts.get(sha256)) is not None:
            self._here, self._missed = at + length, 0

    def stretches(self, sha256: str, part: memoryview) -> list[Stretch]:
        """A part of the new stream in stretches, one behind the other, that the old stream has, or has not.

        `sha256` is its digest. What the old stream has as it is, is not read.
        """
        at, found = self._parts.get(sha256), list[Stretch]()
        if at is not None and len(part) <= self._size - at:
            self._map(found, 0, at, len(part))
            if all(extent for _, _, extent in found):
                self.passed(sha256, len(part))
                return found
        return self._compared(bytes(part))

    def _compared(self, content: bytes) -> list[Stretch]:
        found: list[Stretch] = []
        pieces: list[int] = []
        at = done = 0
        while at < len(content):
            self._read_to(self._here + _AHEAD)
            same = _same_after(content, at, self._text, self._here - self._low)
            if same:
                _add(found, done, at, None)
                self._map(found, at, self._here, same)
                at = done = at + same
                self._here, self._missed = self._here + same, 0
                continue
            spot = self._near_by(content, at)
            if spot is None:
                pieces = pieces or list(_sums(chunker.fine(content)))
                spot = self._next_piece(content, at, pieces)
            if spot is None:
                self._missed += len(content) - at
                break
            begin, old = spot
            back = _same_before(content, begin, self._text, old - self._low, begin - at)
            at, self._here = begin - back, old - back
        _add(found, done, len(content), None)
        return found

    def _near_by(self, content: bytes, at: int) -> tuple[int, int] | None:
        """Where in both streams the same follows, just behind where they differ."""
        here = self._here - self._low
        for skipped in _SKIPPED:
            begin = at + skipped
            needle = content[begin : begin + _NEEDLE]
            old = self._text.find(needle, here, here + skipped + _NEAR) if len(needle) == _NEEDLE else -1
            if old >= 0 and _same_after(content, begin, self._text, old) >= min(_ENOUGH, len(content) - begin):
                return begin, old + self._low
        return None

    def _next_piece(self, content: bytes, at: int, ends: list[int]) -> tuple[int, int] | None:
        """The next piece of `content` from `at` on that the old stream has near by: where it begins in both."""
        self._read_to(min(self._here + _AHEAD + self._missed, self._here + _FARTHEST))
        self._index()
        view = memoryview(content)
        first = bisect_left(ends, at) + 1 if at else 0
        begin = ends[first - 1] if first else 0
        for end in ends[first:]:
            old = self._spots.get(hash(view[begin:end]), -1) - self._low
            if old >= 0 and self._text[old : old + end - begin] == view[begin:end]:
                return begin, old + self._low
            begin = end
        return None

    def _read_to(self, end: int) -> None:
        """Have the old stream in memory from a little before where we are up to `end`, and not much else."""
        if not self._low <= self._here <= self._low + len(self._text):
            first = max(0, bisect_right(self._starts, self._here) - 1)
            self._low, self._text = self._starts[first] if self._starts else 0, bytearray()
            self._spots.clear()
            self._indexed.clear()
            self._to_index = self._low
        high = self._low + len(self._text)
        if high >= min(end, self._size):
            return
        drop = max(0, self._here - _BEHIND - self._low)
        del self._text[:drop]
        self._low += drop
        for name, offset, length in self._extents_of(high, min(self._size, end + _STEP) - high):
            self._text += self._taken(name, offset, length)
        self._to_index = max(self._to_index, self._low)
        while self._indexed and self._indexed[0][0] < self._low:
            offset, key = self._indexed.popleft()
            if self._spots.get(key) == offset:
                del self._spots[key]

    def _index(self) -> None:
        """Note where the pieces are of what was read since the last time. The last one may go on."""
        at, begin = self._to_index, 0
        with memoryview(self._text)[at - self._low :] as view:
            ends = list(_sums(chunker.fine(view)))
            for end in ends if at + len(view) == self._size else ends[:-1]:
                key = hash(bytes(view[begin:end]))
                if self._spots.setdefault(key, at + begin) == at + begin:
                    self._indexed.append((at + begin, key))
                begin = end
        self._to_index = at + begin

    def _taken(self, name: str, offset: int, length: int) -> bytes:
        """What the old stream has in a chunk; zeros where that cannot be used."""
        if self._is_usable(name):
            try:
                content = self._chunks.pop(name, None) or self._store.read(name)
            except Damaged as error:
                debug(f"nothing new will depend on it: {error.message}")
                self._usable[name] = False
                return bytes(length)
            self._chunks[name] = content
            if len(self._chunks) > _CHUNKS:
                self._chunks.popitem(last=False)
            if len(content) >= offset + length:
                return content[offset : offset + length]
            self._usable[name] = False
        return bytes(length)

    def _map(self, found: list[Stretch], at: int, old: int, length: int) -> None:
        """Add to `found` where the store has what the old stream has there; what cannot be used has to be kept anew."""
        for name, offset, count in self._extents_of(old, length):
            _add(found, at, at + count, (name, offset, count) if self._is_usable(name) else None)
            at += count

    def _extents_of(self, at: int, length: int) -> Iterator[Extent]:
        """Where the store has a stretch of the old stream."""
        number = bisect_right(self._starts, at) - 1
        while length:
            name, offset, count = self._extents[number]
            skipped = at - self._starts[number]
            taken = min(length, count - skipped)
            if taken:
                yield name, offset + skipped, taken
            at, length, number = at + taken, length - taken, number + 1

    def _is_usable(self, name: str) -> bool:
        """Whether a chunk is there, looks whole, and is not to be avoided; it then counts as used just now."""
        if name not in self._usable:
            self._usable[name] = name not in self._avoid and self._store.reuse_whole(name)
        return self._usable[name]


def _add(found: list[Stretch], begin: int, end: int, extent: Extent | None) -> None:
    """Add a stretch, to the last one if it goes on there."""
    if begin == end:
        return
    if found:
        start, _, last = found[-1]
        if extent is None and last is None:
            found[-1] = (start, end, None)
            return
        if extent and last and last[0] == extent[0] and last[1] + last[2] == extent[1]:
            found[-1] = (start, end, (last[0], last[1], last[2] + extent[2]))
            return
    found.append((begin, end, extent))


def _sums(lengths: list[int]) -> Iterator[int]:
    at = 0
    for length in lengths:
        at += length
        yield at


def _same_after(one: bytes, at: int, other: bytearray, there: int) -> int:
    """How many bytes are the same in both from there on."""
    most = min(len(one) - at, len(other) - there)
    same, look = 0, _FIRST_LOOK
    while same < most:
        look = min(look, most - same)
        a, b = one[at + same : at + same + look], other[there + same : there + same + look]
        if a != b:
            return same + _first_difference(a, b)
        same, look = same + look, look * 2
    return most


def _first_difference(one: bytes, other: bytearray) -> int:
    """Where two texts of the same length, which are not the same, begin to differ."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _same_before(one: bytes, at: int, other: bytearray, there: int, most: int) -> int:
    """How many bytes are the same in both just before, at `most` so many."""
    most = min(most, there)
    same, look = 0, _FIRST_LOOK
    while same < most:
        look = min(look, most - same)
        a, b = one[at - same - look : at - same], other[there - same - look : there - same]
        if a != b:
            return same + _first_difference(a[::-1], b[::-1])
        same, look = same + look, look * 2
    return most
