"""A stream on its way into the chunk store, cut into parts of 2 MiB while it comes.

A part that the store does not have as it is, is compared with the stream of the last backup (`store.former`). What is
new in it is packed with what else is new near by, and the rest of it is where it was, so that an entry has several
extents a part. That must not cost more than it saves:

- A part of which less than half is found is stored whole; so is one that would be in more than 512 places, and at last
  every one, when the stream is in 100,000 places that are no whole parts, or has as many parts, which are 200 GB: the
  entry has 24 MB then, and we 50 MB.
- A pack has at most what is new in 32 MiB of the stream, or 4 MiB. So whoever reads it needs few packs at a time; and
  a stream of 100 GB that changed a little everywhere gets 3,200 packs, where it would get 50,000 whole parts.
- A chunk of which the backup uses less than half is avoided by the next one: what it needs of it is stored anew.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from btw_backup.progress import Advance
from btw_backup.store.chunker import Cutter
from btw_backup.store.former import Former, Stretch
from btw_backup.store.manifest import Extent
from btw_backup.store.packing import SIZE
from btw_backup.store.writer import ChunkWriter, Stored

_UNDECIDED = 2
"""Parts that wait for it to be known what of them is new."""

_NEAR_BY = 32 << 20
_MOST_IN_A_PART, _MOST = 512, 100_000
"""Extents of a part that is not whole, and of all of them; and parts, among which such may be."""


@dataclass(slots=True)
class _Pack:
    """New content from several parts; `stored` when it is complete."""

    begun: int
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    stored: "Future[Stored] | None" = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which pack a content will be, or a chunk that it is alone in."""

    pack: "_Pack | Future[Stored]"
    offset: int = 0
    length: int = 0

    @property
    def stored(self) -> "Future[Stored] | None":
        """The chunk; None if the pack is not complete yet."""
        return self.pack.stored if isinstance(self.pack, _Pack) else self.pack


class Incoming:
    """A writable that puts into the store what is written to it. Then `extents` are where it is, `size` its length, and
    `parts` the digests and lengths of its parts, of which all behind the first `scattered` ones are whole chunks."""

    def __init__(self, writer: ChunkWriter, former: Former | None, advance: Advance) -> None:
        self._writer = writer
        self._former = former
        self._advance = advance
        self._cutter = Cutter(self._put)
        self._thread = ThreadPoolExecutor(1, "former")
        self._undecided: deque[tuple[memoryview, Future[tuple[str, list[Stretch]]]]] = deque()
        self._waiting: deque[Extent | _Place] = deque()
        self._pack = _Pack(0)
        self._decided = self._places = 0
        self.extents: list[Extent] = []
        self.parts: list[tuple[str, int]] = []
        self.scattered = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take `data`, all of it."""
        self._advance(len(data))
        self.size += len(data)
        return self._cutter.write(data)

    def close(self) -> None:
        """Store what is left, and wait for all of it."""
        self._cutter.close()
        while self._undecided:
            self._decide()
        self._flush()
        while self._waiting:
            self._settle()

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def wasteful(self, length: Callable[[str], int]) -> tuple[str, ...]:
        """The chunks of which less than half is used."""
        used: Counter[str] = Counter()
        for name, _, count in self.extents:
            used[name] += count
        return tuple(sorted(name for name, count in used.items() if 2 * count < length(name))) if self.scattered else ()

    def _put(self, part: memoryview) -> None:
        if self._former is None:
            self._waiting.append(_Place(self._writer.put([part])))
        else:
            self._undecided.append((part, self._thread.submit(self._look, self._former, part)))
        while self._undecided and (len(self._undecided) > _UNDECIDED or self._undecided[0][1].done()):
            self._decide()
        while self._waiting and self._is_stored(self._waiting[0]):
            self._settle()
        if self._writer.is_full:
            self._writer.publish()

    def _look(self, former: Former, part: memoryview) -> tuple[str, list[Stretch]]:
        """The digest of a part, and what the store has of it; nothing, if it has less than half.

        This runs in a thread of its own, for one part after the other.
        """
        name, length = hashlib.sha256(part).hexdigest(), len(part)
        if self._writer.has(name, length):
            former.passed(name, length)
            return name, [(0, length, (name, 0, length))]
        found = former.stretches(name, part)
        known = sum(end - begin for begin, end, extent in found if extent)
        return name, found if 2 * known >= length else []

    def _decide(self) -> None:
        """Say where the next part is, or is to be stored."""
        part, looked = self._undecided.popleft()
        name, stretches = looked.result()
        self.parts.append((name, len(part)))
        is_whole = [extent for _, _, extent in stretches] == [(name, 0, len(part))]
        count = 0 if is_whole else len(stretches) + 1
        is_full = count > _MOST_IN_A_PART or max(self._places + count, len(self.parts)) > _MOST
        if not stretches or (is_full and not is_whole):
            self._waiting.append(_Place(self._writer.put([part])))
        else:
            self._places += count
            self.scattered = self.scattered if is_whole else len(self.parts)
            for begin, end, extent in stretches:
                self._waiting.append(extent or self._packed(bytes(part[begin:end])))
        self._decided += len(part)
        if self._pack.size >= SIZE or self._decided - self._pack.begun >= _NEAR_BY:
            self._flush()

    def _packed(self, content: bytes) -> _Place:
        if not self._pack.parts:
            self._pack.begun = self._decided
        place = _Place(self._pack, self._pack.size, len(content))
        self._pack.parts.append(content)
        self._pack.size += len(content)
        return place

    def _flush(self) -> None:
        """Store the pack that is open, as it is."""
        if self._pack.parts:
            self._pack.stored = self._writer.put(self._pack.parts)
            self._pack.parts = []
        self._pack = _Pack(self._decided)

    def _is_stored(self, place: Extent | _Place) -> bool:
        return not isinstance(place, _Place) or (place.stored is not None and place.stored.done())

    def _settle(self) -> None:
        """Note where the next content is. Waits for it to be stored."""
        place = self._waiting.popleft()
        if isinstance(place, _Place):
            assert place.stored is not None
            stored = place.stored.result()
            place = (stored.name, place.offset, place.length or stored.length)
            if self._former is None:
                self.parts.append((stored.name, stored.length))
        last = self.extents[-1] if self.extents else ("", 0, 0)
        if last[0] == place[0] and last[1] + last[2] == place[1]:
            self.extents[-1] = (last[0], last[1], last[2] + place[2])
        else:
            self.extents.append(place)
