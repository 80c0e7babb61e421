"""Goes on with a restore that was killed: what it left is proved, file by file, and moved to where it is built anew.

Nothing of the old folder is believed but a file's content, after its SHA-256: after a power cut it may be zeros. What
is not moved goes with the old folder; so nothing can be in the result that this restore did not write or prove. Of a
large file the chunks at its beginning that are right are kept, and the others are read from the store.
"""

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence

from btw_backup import files, flushing
from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged
from btw_backup.keepers import Wanted
from btw_backup.log import debug, printable
from btw_backup.records import Backup
from btw_backup.restoring.attributes import Complaints, Dresser
from btw_backup.sources.folders import Folders
from btw_backup.sources.reading import Parts, Regions
from btw_backup.store.chunks import ChunkStore, store_of

_DEEPEST = 100
"""Folders above a file that is still looked for: each of them is held open."""

_PIECE = 1 << 20
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def identity_of(backup: Backup, paths: Sequence[str]) -> str:
    """Digits that tell what is restored; "" for what has no digest for each file, so that nothing could be proved."""
    if backup.keeper != "chunks" or backup.record is None:
        return ""
    told = repr((backup.record.uid, backup.record.sha256, sorted(paths)))
    return f"{int(hashlib.sha256(told.encode(errors='surrogateescape')).hexdigest()[:12], 16):015}"


class Resumption:
    """Moves what is right from the open folders `left` to the open and private folder `new`, whatever `wanted` takes.

    All of it is done when a file is asked for, which is before anything that comes after it is written: so the folders
    above it have not got their attributes yet.
    """

    def __init__(self, backup: Backup, left: Sequence[int], new: int, wanted: Wanted, complaints: Complaints) -> None:
        self._store = store_of(backup.path.parent, backup.dst) if left else None
        self._wanted = wanted
        self._dresser = Dresser(complaints)
        self._left = [Folders(f"/proc/self/fd/{descriptor}") for descriptor in left]
        self._new = Folders(f"/proc/self/fd/{new}")
        self._last = b""
        self._in_order = True
        for descriptor in left:
            files.sync_filesystem(descriptor)
        self.moved = 0

    def takes(self, entry: Entry) -> bool:
        """Whether `entry` is wanted, and is not there yet."""
        if not self._wanted(entry):
            return False
        return not (self._may_be_left(entry) and any(self._moved(entry, left) for left in self._left))

    def _may_be_left(self, entry: Entry) -> bool:
        """Whether to look for it: as long as each path comes once, or another entry could be mistaken for it."""
        if not self._left:
            return False
        key = entry.path.replace(b"/", b"\0")
        self._in_order = self._in_order and (key > self._last or not key)
        self._last = key
        return self._in_order and entry.kind is Kind.FILE and entry.path.count(b"/") < _DEEPEST

    def _moved(self, entry: Entry, left: Folders) -> bool:
        """Whether `left` had it, or its beginning, and it is now where it belongs."""
        parent, _, name = os.fsdecode(entry.path).rpartition("/")
        try:
            old = left.open(parent)
            file = os.open(name, _FILE, dir_fd=old)
        except OSError:
            return False
        try:
            if not self._is_whole(file, entry):
                return False
            os.rename(name, name, src_dir_fd=old, dst_dir_fd=self._made(parent))
            self._dresser.dress(file, entry, new=False)
        except (OSError, Damaged) as error:
            debug(f"{printable(entry.path)} is made anew: {error}")
            return False
        finally:
            os.close(file)
        self.moved += 1
        return True

    def _is_whole(self, file: int, entry: Entry) -> bool:
        """Whether an open file is what `entry` says, after what a large one lacks was added. Raises `Damaged`."""
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > entry.size:
            return False
        right = _right(file, entry)
        if right < len(entry.digests):
            if not right or self._store is None:
                return False
            _complete(file, entry, right, self._store)
        os.ftruncate(file, entry.size)  # a hole at its end
        return all(_is_hole(file, start, end) for start, end in _holes(entry))

    def _made(self, parent: str) -> int:
        """The descriptor of the new folder `parent`, which is made if it is not there yet."""
        try:
            return self._new.open(parent)
        except FileNotFoundError:
            parts = parent.split("/")
            for depth, part in enumerate(parts):
                above = self._new.open("/".join(parts[:depth]))
                try:
                    os.mkdir(part, 0o700, dir_fd=above)
                except FileExistsError:
                    continue
            return self._new.open(parent)

    def close(self) -> None:
        """Close the folders."""
        if self.moved:
            debug(f"{self.moved} files were there already")
        for folders in (*self._left, self._new):
            folders.close()


def _regions(entry: Entry) -> Parts:
    return ((0, entry.size),) if entry.extents is None else entry.extents


def _right(file: int, entry: Entry) -> int:
    """How many of the digests of `entry`, from the first on, are those of what the disk has in an open file."""
    flushing.let_go(file)
    content = Regions(file, _regions(entry))
    for number, (sha256, whole) in enumerate(entry.digests):
        digest, length = hashlib.sha256(), whole
        while length and (piece := content(min(length, _PIECE))):
            digest.update(piece)
            length -= len(piece)
        if digest.hexdigest() != sha256:
            return number
    return len(entry.digests)


def _complete(file: int, entry: Entry, right: int, store: ChunkStore) -> None:
    """Write all but the first `right` chunks of a large file. Raises `Damaged`."""
    left = deque(region for region in _regions(entry) if region[1])
    _pass(left, sum(length for _, length in entry.digests[:right]))
    for name, length in entry.digests[right:]:
        content = memoryview(store.read(name))
        if len(content) != length:
            raise Damaged(f"the chunk {name} is not all of a part")
        while content:
            offset, room = left[0]
            written = os.pwrite(file, content[:room], offset)
            content = content[written:]
            _pass(left, written)


def _pass(regions: deque[tuple[int, int]], count: int) -> None:
    """Take `count` bytes from the beginning of `regions`."""
    while count:
        offset, length = regions.popleft()
        if count < length:
            regions.appendleft((offset + count, length - count))
        count -= min(count, length)


def _holes(entry: Entry) -> Iterator[tuple[int, int]]:
    at = 0
    for offset, length in entry.extents or ():
        yield at, offset
        at = offset + length
    if entry.extents is not None:
        yield at, entry.size


def _is_hole(file: int, start: int, end: int) -> bool:
    """Whether an open file has nothing but zeros there."""
    while start < end:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO  # nothing but a hole follows
        piece = os.pread(file, max(0, min(_PIECE, end - start)), start)
        if piece.strip(b"\0"):
            return False
        start += len(piece) or end
    return True
