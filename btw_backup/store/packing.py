"""Puts small contents together, in the order in which they come, into chunks of about 4 MiB."""

from concurrent.futures import Future

from btw_backup.store.chunker import SMALLEST
from btw_backup.store.index import Index
from btw_backup.store.manifest import Extent
from btw_backup.store.writer import ChunkWriter, Stored

SIZE = 4 << 20
LARGEST = SIZE + 2 * SMALLEST
"""Bytes that no pack exceeds, whatever grows while it is read."""

_MOST = 8192
"""Contents in a pack: very small ones must not wait for each other for ever."""


class Pack:
    """A chunk of small contents; `stored` is set when it is complete, and the contents are then the writer's alone."""

    __slots__ = ("contents", "parts", "size", "stored")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.contents: list[tuple[bytes, int]] = []
        self.size = 0
        self.stored: Future[Stored] | None = None


class Packed:
    """Where in which pack a content is."""

    __slots__ = ("length", "offset", "pack")

    def __init__(self, pack: Pack, length: int) -> None:
        self.pack = pack
        self.offset = pack.size
        self.length = length


class Packer:
    """Packs what the store does not have. `avoid` are packs that nothing new is to depend on."""

    def __init__(self, writer: ChunkWriter, index: Index, avoid: frozenset[str]) -> None:
        self._writer = writer
        self._index = index
        self._avoid = avoid
        self._open = Pack()
        self._under_way: dict[bytes, Packed] = {}

    def add(self, content: bytes, digest: bytes) -> Extent | Packed:
        """Where `content` is, or will be."""
        if self._writer.mending:
            self._writer.mending.give(digest, content)
        known = self._under_way.get(digest) or self._find(digest, len(content))
        if known is not None:
            return known
        packed = self._under_way[digest] = Packed(self._open, len(content))
        self._open.parts.append(content)
        self._open.contents.append((digest, len(content)))
        self._open.size += len(content)
        if self._open.size >= SIZE or len(self._open.parts) >= _MOST:
            self.flush()
        return packed

    def _find(self, digest: bytes, length: int) -> Extent | None:
        for binary, offset, stored in self._index.find(digest):
            name = binary.hex()
            if stored == length and name not in self._avoid and self._writer.holds(name):
                return name, offset, length
        return None

    def flush(self) -> None:
        """Store the pack that is open, as it is."""
        if self._open.parts:
            contents = self._open.contents
            self._open.stored = self._writer.put(self._open.parts, lambda name: self._index.jot(name, contents))
            self._open.parts = []
            self._open = Pack()

    def ready(self, packed: Packed) -> bool:
        """Whether `extent` has not to wait."""
        return packed.pack.stored is not None and packed.pack.stored.done()

    def extent(self, packed: Packed) -> Extent:
        """Where the content is. Waits for it to be stored."""
        pack = packed.pack
        if pack.stored is None:
            self.flush()
        assert pack.stored is not None
        stored = pack.stored.result()
        if pack.contents:
            self._settle(pack, bytes.fromhex(stored.name))
        return stored.name, packed.offset, packed.length

    def _settle(self, pack: Pack, name: bytes) -> None:
        """Let go of the contents of a stored pack, and note where they are."""
        offset = 0
        for digest, length in pack.contents:
            del self._under_way[digest]
            self._index.add(digest, (name, offset, length))
            offset += length
        pack.contents = []
