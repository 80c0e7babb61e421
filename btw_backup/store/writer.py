"""Puts chunks into the store: on all cores, and so that no name appears before its content is on the disk.

A chunk is written under a temporary name. `publish` brings all of them to the disk by one syncfs, whose descriptor was
opened before the first write, so that it tells of every error since; then it renames them, and syncs the folders.
What a writer that died or was interrupted left is salvaged by the next one.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import zstandard

from btw_backup import files, flushing
from btw_backup.errors import Interrupted
from btw_backup.store import rescue, salvage
from btw_backup.store.chunks import FORMAT_FILE, ChunkStore
from btw_backup.store.mending import Mending
from btw_backup.store.salvage import MARKS, Announce

LEVEL = 2
"""Of zstd. Level 3 takes a third more processor time for 3 % less room."""

_FEW = 16
"""Chunks up to which each is brought to the disk alone, by the thread that wrote it: a syncfs waits for what others
wrote, too."""

_MOST = 4096
"""Chunks that are under temporary names at once: memory must not grow with the source."""

WAIT = 3600.0
"""Seconds to wait for a sweep of the store to end."""

Part = bytes | memoryview
Named = Callable[[bytes], None]
"""Is told the name of a new chunk, in binary, before it is written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A chunk that is in the store, or will be with the next `publish`. `fresh`: it was not before."""

    name: str
    length: int
    stored: int
    fresh: bool


class ChunkWriter:
    """Stores chunks. Made by `writing`."""

    def __init__(self, store: ChunkStore, descriptor: int, mark: str, announce: Announce) -> None:
        self.store = store
        self._descriptor = descriptor
        self._prefix = salvage.prefix_of(mark)
        self.journal = salvage.journal(store, mark)
        self._announce = announce
        self._cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._cores, "chunk")
        self._room = threading.BoundedSemaphore(2 * self._cores + 2)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._written: dict[str, bool] = {}  # and whether it is on the disk
        self.stored = 0
        self.mending = Mending(store, self._prefix, lambda parts: self.put(parts).result())

    def put(self, parts: Sequence[Part], named: Named | None = None) -> "Future[Stored]":
        """Store the content that `parts` make. Waits while too much is under way already."""
        self._room.acquire()
        try:
            future = self._pool.submit(self._put, parts, named)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def holds(self, name: str) -> bool:
        """Whether the store has the chunk `name`, which is then marked as used; for content that was not read."""
        return not self._is_first(name) or self.store.reuse(name) > 0 or self._forget(name)

    def has(self, name: str, length: int) -> bool:
        """Whether the store has the chunk `name`, of `length` plain bytes, and whole, or will have it."""
        with self._lock:
            if name in self._known:
                return True
        return self.store.reuse_whole(name, length)

    def _is_first(self, name: str) -> bool:
        """Whether this run has not met the chunk `name`; from now on it has."""
        with self._lock:
            if name in self._known:
                return False
            if len(self._known) > 25 * _MOST:
                self._known = set(self._written)
            self._known.add(name)
            return True

    def _forget(self, name: str) -> bool:
        with self._lock:
            self._known.discard(name)
        return False

    def _put(self, parts: Sequence[Part], named: Named | None) -> Stored:
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        name = hashlib.sha256(content).hexdigest()
        if not self._is_first(name) or self.store.reuse_whole(name, len(content)):
            return Stored(name, len(content), 0, False)
        if named is not None:
            named(bytes.fromhex(name))
        alone = len(self._written) < _FEW
        stored = self._write(self.store.folder / (self._prefix + name), content, sync=alone)
        with self._lock:
            self.stored += stored
            self._written[name] = alone
        return Stored(name, len(content), stored, True)

    def _write(self, path: Path, content: Part, *, sync: bool) -> int:
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        frame = compressor.compress(content)
        with files.create(path) as out:
            flushing.write_at(out.fileno(), frame, 0)
            if sync:
                os.fsync(out.fileno())
        return len(frame)

    @property
    def is_full(self) -> bool:
        """Whether it is time to `publish`."""
        return len(self._written) >= _MOST

    def publish(self) -> None:
        """Give the chunks whose `put` has ended their names."""
        with self._lock:
            written, self._written = self._written, {}
        if not written:
            return
        if not all(written.values()):
            files.sync_filesystem(self._descriptor)
        folders = set()
        for name in written:
            final = self.store.path(name)
            folders.add(final.parent)
            self._announce(os.path.relpath(final, self.store.folder.parent))
            temporary = self.store.folder / (self._prefix + name)
            try:
                os.rename(temporary, final)
            except FileNotFoundError:
                final.parent.mkdir(0o700, exist_ok=True)
                os.rename(temporary, final)
        if len(folders) > _FEW:
            files.sync_filesystem(self._descriptor)
            return
        for folder in (*folders, self.store.chunks):
            files.sync_folder(folder)

    def stop(self) -> None:
        """End the threads."""
        self.mending.close()
        self._pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the threads, and remove what was not published."""
        self.stop()
        for temporary in self.store.folder.glob(self._prefix + "*"):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(store: ChunkStore, announce: Announce, *, wait: float = WAIT) -> Iterator[ChunkWriter]:
    """A writer, while the block lasts; what it did not `publish` is then gone, unless we were interrupted.

    The store's lock is held shared, so that nothing is swept meanwhile. The writer's mark is on the disk before its
    first chunk: after a crash, whoever writes next looks at all chunks that are younger than it.
    """
    if not (store.folder / FORMAT_FILE).exists():
        announce(f"{store.folder.name}/{FORMAT_FILE}")
    store.open()
    with store.locked(exclusive=False, wait=wait):
        salvage.look_after_the_dead(store, announce)
        rescue.place(store.folder, announce)  # first: where it is missing beside a backup, it was lost
        with _mark(store.folder / MARKS) as mark:
            descriptor = os.open(store.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                writer = ChunkWriter(store, descriptor, mark, announce)
                try:
                    yield writer
                except Interrupted:
                    writer.stop()
                    raise
                except BaseException:
                    writer.close()
                    raise
                writer.close()
            finally:
                os.close(descriptor)


@contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """The name of a new mark, which stays if we are interrupted, as if we had died: what was written is not lost."""
    files.make_folder(folder)
    path = folder / os.urandom(16).hex()
    with files.create(path) as mark:
        os.fsync(mark.fileno())
        files.sync_folder(folder)
        try:
            yield path.name
        except Interrupted:
            with suppress(OSError):  # a full disk: then it counts as dead
                os.write(mark.fileno(), salvage.ORDERLY)
            raise
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
