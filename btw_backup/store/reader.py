"""Reads the content of entries, each chunk once, ahead of who takes it, on all cores and within bounds of memory."""

import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from btw_backup.errors import Damaged, DamagedPart
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.manifest import Extent, Member

AHEAD = 6
"""Chunks that are read before anybody asked for them."""

KEPT = 10
"""Chunks that stay for the next entry: the packs of as many backups, between which a walk goes to and fro."""

_MEMBERS = 4096
"""Entries that are looked at ahead of the one that is taken."""


class _Chunk:
    """A chunk that was asked for. `taken`: somebody has used it, so that it may go."""

    __slots__ = ("content", "taken")

    def __init__(self, content: "Future[bytes]") -> None:
        self.content = content
        self.taken = False


class Contents:
    """Goes through `members`, and has their content. `close` ends its threads."""

    def __init__(self, store: ChunkStore, members: Iterable[Member]) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "chunk")
        self._members: deque[Member] = deque()
        self._coming = self._look_ahead(iter(members))
        self._chunks: OrderedDict[str, _Chunk] = OrderedDict()
        self._untaken = 0

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        """The members, each with its content, to be read before the next or not at all.

        Reading a content raises `Damaged`; that of the next member may be well.
        """
        while True:
            while not self._members:  # what comes before the next member is of the last one, which is done
                if next(self._coming, None) is None:
                    return
            self._fill()
            member = self._members.popleft()
            yield member, self._content(member.extents)
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
        while self._untaken < AHEAD and len(self._members) < _MEMBERS:
            name = next(self._coming, None)
            if name is None:
                return
            if name and name not in self._chunks:
                self._ask(name)

    def _ask(self, name: str) -> _Chunk:
        chunk = self._chunks[name] = _Chunk(self._pool.submit(self._store.read, name))
        self._untaken += 1
        if len(self._chunks) > AHEAD + KEPT:
            gone = next((name for name, chunk in self._chunks.items() if chunk.taken), None)
            if gone is not None:
                del self._chunks[gone]
        return chunk

    def _content(self, extents: tuple[Extent, ...]) -> Iterator[memoryview]:
        for name, offset, length in extents:
            chunk = self._chunks.get(name) or self._ask(name)
            self._take(name)
            self._fill()
            try:
                content = memoryview(chunk.content.result())
            except Damaged as error:
                raise DamagedPart(error.message) from error
            if not 0 <= offset <= offset + length <= len(content):
                raise DamagedPart(f"the manifest asks for more than the chunk {name} has")
            yield content[offset : offset + length]

    def _take(self, name: str) -> None:
        chunk = self._chunks.get(name)
        if chunk is None:
            return
        if not chunk.taken:
            chunk.taken = True
            self._untaken -= 1
        self._chunks.move_to_end(name)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
