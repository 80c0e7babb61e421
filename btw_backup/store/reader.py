"""Reads the content of entries, each chunk once, ahead of who takes it, on all cores and within bounds of memory."""

import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from btw_backup.errors import Damaged, DamagedPart
from btw_backup.store import evidence
from btw_backup.store.chunks import LARGEST, ChunkStore
from btw_backup.store.manifest import Extent, Member

AHEAD = 10
"""Chunks that are read before anybody asked for them."""

_READERS = 2
"""Threads for each core: half of their time they wait for the disk."""

KEPT = 48 << 20
"""Bytes of chunks that stay for what comes next: a stream that changed often goes to and fro between the chunks of many
backups, and a tree between packs."""

MOST = 250
"""Chunks that stay, however small they are."""

_BAD = 4
"""Bad chunks of which is kept what can be read."""

SMALL = 64 << 20
"""Bytes of contents that lie in packs, so far as entries are looked at ahead of the one that is taken. Whenever a pack
is read, what they need of it is copied if that is little: after many backups neighbours lie in many packs, which would
be read again for each of them."""

_MEMBERS = 8192
"""Entries that are looked at ahead, however small they are."""


class _Chunk:
    """A chunk that was asked for. `size`: the bytes that it has in memory, or may have soon."""

    __slots__ = ("content", "size")

    def __init__(self, content: "Future[bytes]") -> None:
        self.content = content
        self.size = 0

    def measure(self) -> int:
        """Set `size`; how much more it is now."""
        before = self.size
        if not self.content.done():
            self.size = LARGEST
        else:
            self.size = 0 if self.content.exception() else len(self.content.result())
        return self.size - before


class _Pieces:
    """The content of one member, a piece an extent. No generator: that would have ended after its first error."""

    __slots__ = ("_contents", "_extents", "_sha256")

    def __init__(self, contents: "Contents", member: Member) -> None:
        self._contents = contents
        self._extents = iter(member.extents)
        self._sha256 = member.sha256

    def __iter__(self) -> "_Pieces":
        return self

    def __next__(self) -> memoryview:
        return self._contents.piece(next(self._extents), self._sha256)


class Contents:
    """Goes through `members`, and has their content. `close` ends its threads.

    If it is one `among` several at work at the same time, each has its part of threads and memory.
    """

    def __init__(self, store: ChunkStore, members: Iterable[Member], among: int = 1) -> None:
        self._store = store
        self._among = among
        self._pool = ThreadPoolExecutor(max(1, _READERS * len(os.sched_getaffinity(0)) // among), "chunk")
        self._coming = iter(members)
        self._ended = False
        self._error: Damaged | None = None
        self._members: deque[Member] = deque()
        self._unasked: deque[Member] = deque()  # those of them whose chunks nobody asked for yet
        self._asking: Iterator[Extent] = iter(())
        self._ahead = 0
        self._needed: dict[str, deque[Extent]] = {}  # what they need of packs, in that order
        self._copies: dict[Extent, bytes] = {}
        self._untaken: dict[str, _Chunk] = {}
        self._taken: OrderedDict[str, _Chunk] = OrderedDict()  # who was not used for longest comes first
        self._kept = 0
        self._bad: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        """The members, each with its content, to be read before the next or not at all.

        Reading a content raises `DamagedPart` where a chunk is not what was stored, and goes on behind it.
        """
        while True:
            self._look_ahead()
            if not self._members:
                if self._error:
                    raise self._error
                return
            self._fill()
            member = self._members.popleft()
            yield member, _Pieces(self, member)
            for extent in member.extents:
                if member.sha256:
                    self._needs_no_more(extent)
                self._take(extent[0])

    def _look_ahead(self) -> None:
        """Look at the next members, so far as there is room."""
        while self._ahead < SMALL // self._among and len(self._members) < _MEMBERS and not self._ended:
            try:
                member = next(self._coming, None)
            except Damaged as error:  # what comes before is good
                member, self._error = None, error
            if member is None:
                self._ended = True
                return
            self._members.append(member)
            self._unasked.append(member)
            for extent in member.extents if member.sha256 else ():
                self._needed.setdefault(extent[0], deque()).append(extent)
                self._ahead += max(extent[2], 0)

    def _needs_no_more(self, extent: Extent) -> None:
        """The first of the members that needs this part of a pack is done."""
        needed = self._needed[extent[0]]
        needed.popleft()
        self._ahead -= max(extent[2], 0)
        if extent in self._copies and extent not in needed:
            del self._copies[extent]
        if not needed:
            del self._needed[extent[0]]

    def _fill(self) -> None:
        """Ask for what is needed next, so far as there is room, and more is known of what will be needed of it."""
        most = max(2, AHEAD // self._among)
        while len(self._untaken) < most and (self._ended or len(self._unasked) * 2 >= len(self._members)):
            extent = self._next_extent()
            if extent is None:
                return
            name = extent[0]
            if name not in self._untaken and name not in self._taken and extent not in self._copies:
                self._ask(name)

    def _next_extent(self) -> Extent | None:
        while (extent := next(self._asking, None)) is None and self._unasked:
            self._asking = iter(self._unasked.popleft().extents)
        return extent

    def _ask(self, name: str) -> _Chunk:
        """Have a chunk read, and let go of those that were used, if they are too many."""
        chunk = self._untaken[name] = _Chunk(self._pool.submit(self._store.read, name))
        most = MOST // self._among
        while self._taken and (self._kept > KEPT // self._among or len(self._taken) + len(self._untaken) > most):
            self._kept -= self._taken.popitem(last=False)[1].size
        return chunk

    def piece(self, extent: Extent, sha256: str) -> memoryview:
        """The content of one extent; `sha256` is that of a file that is packed with others. Raises `DamagedPart`."""
        name, offset, length = extent
        if sha256 and extent in self._copies:
            self._fill()
            return memoryview(self._copies[extent])
        chunk = self._untaken.get(name) or self._taken.get(name) or self._ask(name)
        self._fill()
        try:
            content = memoryview(chunk.content.result())
        except Damaged as error:
            found = self._salvaged(name)[offset : offset + length] if sha256 else b""
            if not sha256 or hashlib.sha256(found).hexdigest() != sha256:
                raise DamagedPart(error.message, length=length) from error
            return memoryview(found)
        finally:
            self._take(name)
        if not 0 <= offset <= offset + length <= len(content):
            raise DamagedPart(f"the manifest asks for more than the chunk {name} has", length=length)
        return content[offset : offset + length]

    def _salvaged(self, name: str) -> bytes:
        """What there is of a bad pack: files in it that are right prove it by their SHA-256."""
        if name not in self._bad:
            if len(self._bad) >= _BAD:
                del self._bad[next(iter(self._bad))]
            self._bad[name] = evidence.best_of(self._store, name)
        return self._bad[name]

    def _take(self, name: str) -> None:
        """Whoever asked for a chunk has it, or does not want it: it may go from now on."""
        asked = self._untaken.pop(name, None)
        chunk = asked or self._taken.pop(name, None)
        if chunk and not (asked and self._copy(name, asked)):
            self._taken[name] = chunk
            self._kept += chunk.measure()

    def _copy(self, name: str, chunk: _Chunk) -> bool:
        """Copy what is needed of a pack that was read, if it is little; whether it was."""
        needed = self._needed.get(name)
        if not needed or not chunk.content.done() or chunk.content.exception():
            return False
        content = chunk.content.result()
        if sum(length for _, _, length in needed) * 2 > len(content):
            return False
        for extent in needed:
            _, offset, length = extent
            if 0 <= offset <= offset + length <= len(content):
                self._copies[extent] = content[offset : offset + length]
        return True

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
