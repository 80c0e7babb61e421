"""The content of files, at any offset: from a few chunks that stay in memory, and those that come next."""

import os
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

from btw_backup.errors import Damaged
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.entry import entry_of
from btw_backup.store.manifest import Member

AHEAD = 4
"""Chunks that are read before they are asked for, when a file is read from its beginning to its end."""

KEPT = 48 << 20
"""Bytes of chunks that stay in memory, besides those that are being read."""

_MOST = 250
"""Chunks that stay, however small they are."""


class ChunkCache:
    """The chunks of `store` that were asked for last. Threads share it."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._chunks: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Made when it is needed: threads do not survive that we become a daemon."""
        return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "chunk")

    def ask(self, name: str) -> "Future[bytes]":
        """Have the chunk `name` read."""
        with self._lock:
            found = self._chunks.get(name)
            if found is None or (found.done() and found.exception() is not None):  # it may have been mended since
                found = self._chunks[name] = self._pool.submit(self._store.read, name)
                self._let_go()
            self._chunks.move_to_end(name)
            return found

    def _let_go(self) -> None:
        """Let go of the chunks that were not asked for longest, if there are too many."""
        sizes = {name: len(chunk.result()) for name, chunk in self._chunks.items() if _is_read(chunk)}
        kept = sum(sizes.values())
        while self._chunks and (kept > KEPT or len(self._chunks) > _MOST):
            name, _ = self._chunks.popitem(last=False)
            kept -= sizes.get(name, 0)

    def read(self, name: str) -> bytes:
        """The content of the chunk `name`. Raises `Damaged`."""
        return self.ask(name).result()


class OpenFile:
    """A file that is being read. Raises `Damaged` for one that the manifest describes in a way that cannot be."""

    def __init__(self, member: Member, chunks: ChunkCache) -> None:
        try:
            entry_of(member)
        except ValueError as error:
            raise Damaged(str(error)) from error
        if any(offset < 0 or length < 0 for _, offset, length in member.extents):
            raise Damaged("the manifest asks for a part of a chunk that cannot be")
        self._chunks = chunks
        self._size = member.size
        self._extents = member.extents
        self._starts = _sums(length for _, _, length in member.extents)
        self._parts = member.parts
        self._offsets = array("Q", (offset for offset, _ in member.parts or ()))
        self._places = _sums(length for _, length in member.parts or ())
        self._last = -1

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer only at the end. Raises `Damaged`."""
        size = max(0, min(size, self._size - offset))
        if self._parts is None:
            return b"".join(self._content(offset, size))
        found = bytearray(size)
        for part in range(max(0, bisect_right(self._offsets, offset) - 1), len(self._parts)):
            start, length = self._parts[part]
            if start >= offset + size:
                break
            begin, end = max(offset, start), min(offset + size, start + length)
            at = begin - offset
            for piece in self._content(self._places[part] + begin - start, end - begin):
                found[at : at + len(piece)] = piece
                at += len(piece)
        return bytes(found)

    def _content(self, at: int, size: int) -> Iterator[memoryview]:
        """What is stored, without the holes: `size` bytes from `at` on."""
        number = max(0, bisect_right(self._starts, at) - 1)
        while size > 0:
            name, offset, length = self._extents[number]
            inside = at - self._starts[number]
            count = min(size, length - inside)
            if count > 0:
                self._look_ahead(number)
                yield self._slice(name, offset + inside, count)
                at, size = at + count, size - count
            number += 1

    def _slice(self, name: str, offset: int, length: int) -> memoryview:
        content = self._chunks.read(name)
        if offset + length > len(content):
            raise Damaged(f"the manifest asks for more than the chunk {name} has")
        return memoryview(content)[offset : offset + length]

    def _look_ahead(self, number: int) -> None:
        """Have the next chunks read, if this one follows the last."""
        if number == self._last + 1:
            for name, _, _ in self._extents[number : number + 1 + AHEAD]:
                self._chunks.ask(name)
        self._last = number


def _is_read(chunk: "Future[bytes]") -> bool:
    return chunk.done() and chunk.exception() is None


def _sums(lengths: Iterator[int]) -> "array[int]":
    """Where each begins, if they lie one behind the other."""
    found, at = array("Q"), 0
    for length in lengths:
        found.append(at)
        at += length
    return found
