"""The way of a tree into the chunk store: look, compare with the last manifest, read, cut, hash, compress, write.

The walk and all decisions, one a file or chunk, are the main thread's; threads read batches of files, others hash,
compress and write chunks. Whatever waits for another is bounded in number and in bytes. Entries are written down in the
order of the walk.
"""

import grp
import os
import pwd
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

from msgspec import structs

from btw_backup.errors import Damaged
from btw_backup.keepers.unchanged import RACY
from btw_backup.log import debug
from btw_backup.progress import Advance
from btw_backup.sources.reading import Reading, attributes_of, read_file
from btw_backup.sources.walk import Problems, Seen
from btw_backup.store.index import Index
from btw_backup.store.manifest import Extent, KindName, ManifestReader, ManifestWriter, Member, key_of, text_or_raw
from btw_backup.store.packing import Packed, Packer
from btw_backup.store.writer import ChunkWriter, Stored

_READERS = 3
"""Threads that read: more than cores, as a disk answers several questions at once."""

_BATCHES = 8
_BATCH_BYTES = 1 << 20
_BATCH_ITEMS = 256
_WAITING = 20_000
"""Entries that wait for a pack to be stored, before everything waits for it."""

_KINDS: dict[int, KindName] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Previous:
    """The last manifest, read beside the walk: what of it can be used again."""

    def __init__(self, manifest: ManifestReader, wasteful: frozenset[str], writer: ChunkWriter) -> None:
        self._members = iter(manifest)
        self._settled = manifest.header.began - RACY
        self._wasteful = wasteful
        self._writer = writer
        self._key = ""
        self._member: tuple[Member, bytes] | None = None
        self._advance()

    def same(self, path: str, status: os.stat_result) -> tuple[Member, bytes] | None:
        """The entry of `path` and its line, if what is there now is certainly the same, and its content is kept."""
        key = key_of(path)
        while self._member is not None and self._key < key:
            self._advance()
        found = self._member
        if found is None or self._key != key:
            return None
        member = found[0]
        if (
            member.inode != status.st_ino
            or member.ctime != status.st_ctime_ns
            or member.mtime != status.st_mtime_ns
            or member.kind != _KINDS[stat.S_IFMT(status.st_mode)]
            or (member.kind == "file" and member.size != status.st_size)
            or member.torn
            or max(member.ctime, member.mtime) >= self._settled
        ):
            return None
        return found if all(self._is_kept(name) for name, _, _ in member.extents) else None

    def _is_kept(self, name: str) -> bool:
        return name not in self._wasteful and self._writer.holds(name)

    def _advance(self) -> None:
        try:
            self._member = next(self._members, None)
        except Damaged as error:
            debug(f"reading everything from here on: {error.message}")
            self._member = None
        if self._member is not None:
            self._key = key_of(self._member[0].key)


@dataclass(slots=True)
class _Wanted:
    """A file to read: its path, the number of its folder in the batch, its name there; `links` if it has others."""

    path: str
    folder: int
    name: str


@dataclass(slots=True)
class _Batch:
    """Entries in the order of the walk, those to read among them; the descriptors are its own."""

    items: list[tuple[Member, bytes] | Member | _Wanted] = field(default_factory=list)
    folders: list[int] = field(default_factory=list)
    wanted: list[_Wanted] = field(default_factory=list)
    size: int = 0
    above: tuple[int, str] = (-1, "")
    readings: Future[list[Reading]] | None = None

    def want(self, seen: Seen) -> None:
        """Add a file to read."""
        path, status, folder, name = seen
        above = (folder, path[: len(path) - len(name)])
        if not self.folders or above != self.above:
            self.folders.append(os.dup(folder))
            self.above = above
        wanted = _Wanted(path, len(self.folders) - 1, name)
        self.items.append(wanted)
        self.wanted.append(wanted)
        self.size += status.st_size

    def close(self) -> None:
        """Close the folders."""
        while self.folders:
            os.close(self.folders.pop())


Ready = tuple[Member, bytes | Packed | list[Future[Stored]] | None]
"""An entry, and what it waits for: nothing (it may have its line), a pack, or the chunks of a large file."""


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
        self._links: dict[tuple[int, int], str] = {}
        self._used: Counter[str] = Counter()
        self.changed = Problems()
        self.unread = Problems()

    def write(self, entries: Iterator[Seen], advance: Advance) -> None:
        """Store all entries."""
        readers = ThreadPoolExecutor(_READERS, "read")
        batch = _Batch()
        try:
            for seen in entries:
                self._look(batch, seen)
                if batch.size >= _BATCH_BYTES or len(batch.items) >= _BATCH_ITEMS:
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

    def wasteful(self, length: Callable[[str], int]) -> tuple[str, ...]:
        """The packs of which this backup uses less than half."""
        return tuple(sorted(name for name, used in self._used.items() if 2 * used < length(name)))

    def _look(self, batch: _Batch, seen: Seen) -> None:
        """Decide what to do about one entry."""
        path, status, folder, name = seen
        is_file = stat.S_ISREG(status.st_mode)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                batch.items.append(_member(path, status, "hard link", {}, target=first))
                return
        if self._previous is not None and (known := self._previous.same(path, status)):
            batch.items.append(known)
        elif is_file:
            batch.want(seen)
        else:
            try:
                batch.items.append(_described(path, status, folder, name))
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
        for item in batch.items:
            if isinstance(item, Member):
                self._ready.append((item, None))
            elif isinstance(item, tuple):
                self._ready.append(item)
            else:
                self._place(item, next(readings))
        self._drain(all_of_it=False)

    def _place(self, wanted: _Wanted, reading: Reading) -> None:
        if reading.problem or reading.status is None:
            self.unread.add(wanted.path, reading.problem)
            return
        if reading.torn:
            self.changed.add(wanted.path, reading.torn)
        member = _member(wanted.path, reading.status, "file", reading.xattrs, reading=reading)
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
            member, waits = self._ready[0]
            may_wait = all_of_it or len(self._ready) > _WAITING
            if isinstance(waits, Packed):
                if not (may_wait or self._packer.ready(waits)):
                    break
                member = structs.replace(member, extents=(self._packer.extent(waits),))
            elif isinstance(waits, list):
                if not (may_wait or waits[-1].done()):
                    break
                stored = [future.result() for future in waits]
                member = structs.replace(member, extents=tuple((one.name, 0, one.length) for one in stored))
            self._ready.popleft()
            self._write_down(member, waits if isinstance(waits, bytes) else b"")
        if self._index.is_full or self._writer.is_full:
            self._writer.publish()
            self._index.save()

    def _write_down(self, member: Member, line: bytes) -> None:
        if line:
            self._manifest.add_again(member, line)
        else:
            self._manifest.add(member)
        if member.sha256 and member.extents:
            name, _, length = member.extents[0]
            self._used[name] += length


def _read_batch(batch: _Batch, writer: ChunkWriter) -> list[Reading]:
    return [read_file(batch.folders[wanted.folder], wanted.name, writer.put) for wanted in batch.wanted]


def _described(path: str, status: os.stat_result, folder: int, name: str) -> Member:
    """What is no file."""
    there = f"/proc/self/fd/{folder}/{name}"
    target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(status.st_mode) else ""
    return _member(path, status, _KINDS[stat.S_IFMT(status.st_mode)], attributes_of(there), target=target)


def _member(
    path: str,
    status: os.stat_result,
    kind: KindName,
    xattrs: dict[str, bytes],
    *,
    target: str = "",
    reading: Reading | None = None,
) -> Member:
    text, raw = text_or_raw(path)
    target, raw_target = text_or_raw(target)
    is_device = kind in ("character device", "block device")
    return Member(
        path=text,
        raw_path=raw,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=reading.size if reading else 0,
        target=target,
        raw_target=raw_target,
        uname=_user(status.st_uid),
        gname=_group(status.st_gid),
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
        xattrs=xattrs,
        parts=reading.parts if reading else None,
        sha256=reading.sha256.hex() if reading else "",
        ctime=status.st_ctime_ns,
        inode=status.st_ino,
        torn=bool(reading and reading.torn),
    )


@cache
def _user(uid: int) -> str:
    try:
        return text_or_raw(pwd.getpwuid(uid).pw_name)[0]
    except KeyError:
        return ""


@cache
def _group(gid: int) -> str:
    try:
        return text_or_raw(grp.getgrgid(gid).gr_name)[0]
    except KeyError:
        return ""
