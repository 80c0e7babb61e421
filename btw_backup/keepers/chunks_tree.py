"""The way of a tree into the chunk store: look, compare with the last manifest, read, cut, hash, compress, write.

The walk and all decisions, one a file or chunk, are the main thread's; threads read batches of files, others hash,
compress and write chunks. Whatever waits for another is bounded in number and in bytes. Entries are written down in the
order of the walk.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from msgspec import structs

from btw_backup.keepers.chunks_member import described, member_of
from btw_backup.keepers.chunks_previous import Previous
from btw_backup.progress import Advance
from btw_backup.sources.folders import Folders
from btw_backup.sources.memory import Remembered, status_of
from btw_backup.sources.reading import Reading, read_file
from btw_backup.sources.tree import Tree
from btw_backup.sources.walk import Problems
from btw_backup.store.index import Index
from btw_backup.store.manifest import Known, Member
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.packing import LARGEST, Packed, Packer
from btw_backup.store.writer import ChunkWriter, Stored

_READERS = 3
"""Threads that read: more than cores, as a disk answers several questions at once."""

_BATCHES = 8
_BATCH_BYTES = 1 << 20
_BATCH_ITEMS = 256
_WAITING = 20_000
"""Entries that wait for a pack to be stored, before everything waits for it."""


@dataclass(slots=True)
class _Wanted:
    """A file to read: its path, the number of its folder in the batch, its name there; `links` if it has others."""

    path: str
    folder: int
    name: str


@dataclass(slots=True)
class _Batch:
    """Entries in the order of the walk, those to read among them; the descriptors are its own."""

    items: list[list[Known] | Member | _Wanted] = field(default_factory=list)
    folders: list[int] = field(default_factory=list)
    wanted: list[_Wanted] = field(default_factory=list)
    count: int = 0
    size: int = 0
    above: str = ""
    readings: Future[list[Reading]] | None = None

    def keep(self, known: Known) -> None:
        """Add an entry that is as it was."""
        last = self.items[-1] if self.items else None
        if isinstance(last, list):
            last.append(known)
        else:
            self.items.append([known])
        self.count += 1

    def add(self, member: Member) -> None:
        """Add an entry that needs not be read."""
        self.items.append(member)
        self.count += 1

    def want(self, path: str, size: int, folders: Folders) -> None:
        """Add a file to read."""
        above, _, name = path.rpartition("/")
        if not self.folders or above != self.above:
            self.folders.append(os.dup(folders.open(above)))
            self.above = above
        wanted = _Wanted(path, len(self.folders) - 1, name)
        self.items.append(wanted)
        self.count += 1
        self.wanted.append(wanted)
        self.size += size

    def close(self) -> None:
        """Close the folders."""
        while self.folders:
            os.close(self.folders.pop())


Ready = list[Known] | tuple[Member, Packed | list[Future[Stored]] | None]
"""Entries as they were, or one with what it waits for: nothing, a pack, or the chunks of a large file."""


class TreeWriter:
    """Writes one tree into the store and its manifest. `changed` and `unread` tell what was not as it should be."""

    def __init__(
        self,
        writer: ChunkWriter,
        index: Index,
        manifest: ManifestWriter,
        previous: Previous | None,
        avoid: frozenset[str],
    ) -> None:
        self._writer = writer
        self._index = index
        self._manifest = manifest
        self._previous = previous
        self._packer = Packer(writer, index, avoid)
        self._batches: deque[_Batch] = deque()
        self._ready: deque[Ready] = deque()
        self._waiting = 0
        self._links: dict[tuple[int, int], str] = {}
        self._used: Counter[str] = Counter()
        self.changed = Problems()
        self.unread = Problems()

    def write(self, source: Tree, advance: Advance) -> None:
        """Store all entries."""
        folders = Folders(source.name)
        readers = ThreadPoolExecutor(_READERS, "read")
        batch = _Batch()
        try:
            for seen in source.entries():
                self._look(batch, seen, folders)
                if batch.size >= _BATCH_BYTES or batch.count >= _BATCH_ITEMS:
                    advance(self._start(batch, readers))
                    batch = _Batch()
            self._start(batch, readers)
            while self._batches:
                self._settle(self._batches.popleft())
            self._packer.flush()
            self._drain(all_of_it=True)
        finally:
            readers.shutdown(cancel_futures=True)
            batch.close()
            folders.close()

    def wasteful(self, length: Callable[[str], int]) -> tuple[str, ...]:
        """The packs of which this backup uses less than half."""
        few = [(name, used) for name, used in self._used.items() if 2 * used < LARGEST]  # to ask reads the disk
        return tuple(sorted(name for name, used in few if 2 * used < length(name)))

    def _look(self, batch: _Batch, seen: Remembered, folders: Folders) -> None:
        """Decide what to do about one entry."""
        path, mode, inode, device, links, _, _, size, _, _, _, _ = seen
        if links > 1 and not stat.S_ISDIR(mode):
            first = self._links.setdefault((device, inode), path)
            if first != path:
                batch.add(member_of(path, status_of(seen), "hard link", {}, target=first))
                return
        if self._previous is not None and (known := self._previous.same(seen)):
            batch.keep(known)
            return
        try:
            if stat.S_ISREG(mode):
                batch.want(path, size, folders)
            else:
                batch.add(described(seen, folders.open(path.rpartition("/")[0])))
        except OSError as error:
            self.unread.add(path, f"cannot be read: {error.strerror}")

    def _start(self, batch: _Batch, readers: ThreadPoolExecutor) -> int:
        """Have a batch read; the bytes that it has."""
        if batch.wanted:
            batch.readings = readers.submit(_read_batch, batch, self._writer)
            batch.readings.add_done_callback(lambda _: batch.close())
        self._batches.append(batch)
        while len(self._batches) > _BATCHES or (self._batches and self._batches[0].readings is None):
            self._settle(self._batches.popleft())
        return batch.size

    def _settle(self, batch: _Batch) -> None:
        """Place what was read."""
        readings = iter(batch.readings.result() if batch.readings else ())
        batch.readings = None
        self._waiting += batch.count
        for item in batch.items:
            if isinstance(item, list):
                self._ready.append(item)
            elif isinstance(item, Member):
                self._ready.append((item, None))
            else:
                self._place(item, next(readings))
        self._drain(all_of_it=False)

    def _place(self, wanted: _Wanted, reading: Reading) -> None:
        if reading.problem or reading.status is None:
            self.unread.add(wanted.path, reading.problem)
            return
        if reading.torn:
            self.changed.add(wanted.path, reading.torn)
        member = member_of(wanted.path, reading.status, "file", reading.xattrs, reading=reading)
        if not reading.content:
            self._ready.append((member, reading.chunks or None))
            return
        place = self._packer.add(reading.content, reading.sha256)
        if isinstance(place, Packed):
            self._ready.append((member, place))
        else:
            self._ready.append((structs.replace(member, extents=(place,)), None))

    def _drain(self, *, all_of_it: bool) -> None:
        """Write down the entries that wait for nothing."""
        while self._ready:
            ready = self._ready[0]
            if isinstance(ready, list):
                self._manifest.add_known(ready)
                self._use(member for member, _ in ready)
                self._waiting -= len(ready)
            else:
                member, waits = ready
                may_wait = all_of_it or self._waiting > _WAITING
                if isinstance(waits, Packed):
                    if not (may_wait or self._packer.ready(waits)):
                        break
                    member = structs.replace(member, extents=(self._packer.extent(waits),))
                elif waits:
                    if not (may_wait or waits[-1].done()):
                        break
                    stored = [future.result() for future in waits]
                    member = structs.replace(member, extents=tuple((one.name, 0, one.length) for one in stored))
                self._manifest.add(member)
                self._use([member])
                self._waiting -= 1
            self._ready.popleft()
        if self._index.is_full or self._writer.is_full:
            self._writer.publish()
            self._index.save()

    def _use(self, members: Iterable[Member]) -> None:
        """Add up what of the packs is used."""
        for member in members:
            if member.sha256 and member.extents:
                name, _, length = member.extents[0]
                self._used[name] += length


def _read_batch(batch: _Batch, writer: ChunkWriter) -> list[Reading]:
    return [read_file(batch.folders[wanted.folder], wanted.name, writer.put) for wanted in batch.wanted]
