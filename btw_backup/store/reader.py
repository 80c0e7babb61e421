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
"""Bytes of chunks that stay for what comes next: a walk goes to and fro between the packs of many backups, and a stream
that changed often, too, but not farther than the bytes that are new to a pack lie apart."""

MOST = 250
"""Chunks that stay, however small they are."""

_BAD = 4
"""Bad chunks of which is kept what can be read."""

_MEMBERS = 4096
"""Entries that are looked at ahead of the one that is taken."""


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
    """Goes through `members`, and has their content. `close` ends its threads."""

    def __init__(self, store: ChunkStore, members: Iterable[Member]) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(_READERS * len(os.sched_getaffinity(0)), "chunk")
        self._members: deque[Member] = deque()
        self._coming = self._look_ahead(iter(members))
        self._untaken: dict[str, _Chunk] = {}
        self._taken: OrderedDict[str, _Chunk] = OrderedDict()  # who was not used for longest comes first
        self._kept = 0
        self._bad: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        """The members, each with its content, to be read before the next or not at all.

        Reading a content raises `DamagedPart` where a chunk is not what was stored, and goes on behind it.
        """
        while True:
            while not self._members:  # what comes before the next member is of the last one, which is done
                if next(self._coming, None) is None:
                    return
            self._fill()
            member = self._members.popleft()
            yield member, _Pieces(self, member)
            for name, _, _ in member.extents:
                self._take(name)

    def _look_ahead(self, members: Iterator[Member]) -> Iterator[str]:
        """The chunks that the members need, in order; "" where a member begins."""
        for member in members:
            self._members.append(member)
            yield ""
            for name, _, _ in member.extents:
                yield name

    def _fill(self) -> None:
        """Ask for what is needed next, so far as there is room."""
        while len(self._untaken) < AHEAD and len(self._members) < _MEMBERS:
            name = next(self._coming, None)
            if name is None:
                return
            if name and name not in self._untaken and name not in self._taken:
                self._ask(name)

    def _ask(self, name: str) -> _Chunk:
        """Have a chunk read, and let go of those that were used, if they are too many."""
        chunk = self._untaken[name] = _Chunk(self._pool.submit(self._store.read, name))
        while self._taken and (self._kept > KEPT or len(self._taken) + len(self._untaken) > MOST):
            self._kept -= self._taken.popitem(last=False)[1].size
        return chunk

    def piece(self, extent: Extent, sha256: str) -> memoryview:
        """The content of one extent; `sha256` is that of a file that is packed with others. Raises `DamagedPart`."""
        name, offset, length = extent
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
        chunk = self._untaken.pop(name, None) or self._taken.pop(name, None)
        if chunk:
            self._taken[name] = chunk
            self._kept += chunk.measure()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
