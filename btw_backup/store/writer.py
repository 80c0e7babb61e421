"""Puts chunks into the store: on all cores, and so that no name appears before its content is on the disk.

A chunk is written under a temporary name. `publish` brings all of them to the disk by one syncfs, whose descriptor was
opened before the first write, so that it tells of every error since; then it renames them, and syncs the folders.
"""

import fcntl
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from btw_backup import files, locks
from btw_backup.errors import Damaged
from btw_backup.log import debug, warn
from btw_backup.store.chunks import ChunkStore

LEVEL = 3

_FEW = 64
"""Chunks up to which each is brought to the disk alone, by the thread that wrote it: a syncfs waits for what others
wrote, too."""

_MOST = 4096
"""Chunks that are under temporary names at once: memory must not grow with the source."""

MARKS = "writing"
"""The folder below the store where every running writer has a file that it holds a lock on: its mark."""

Part = bytes | memoryview
Announce = Callable[[str], None]
"""Is told the path of every new chunk, relative to ROOT_PATH, before its name appears."""


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
        self._prefix = f"{files.TEMPORARY}{mark}-"
        self._announce = announce
        self._cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._cores, "chunk")
        self._room = threading.BoundedSemaphore(2 * self._cores + 2)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._written: dict[str, bool] = {}  # and whether it is on the disk
        self.stored = 0

    def put(self, parts: Sequence[Part]) -> "Future[Stored]":
        """Store the content that `parts` make. Waits while too much is under way already."""
        self._room.acquire()
        try:
            future = self._pool.submit(self._put, parts)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def holds(self, name: str) -> bool:
        """Whether the store has the chunk `name`, which is then marked as used; for content that was not read."""
        return not self._is_first(name) or self.store.reuse(name) > 0 or self._forget(name)

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

    def _put(self, parts: Sequence[Part]) -> Stored:
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        name = hashlib.sha256(content).hexdigest()
        if not self._is_first(name) or self.store.reuse_whole(name, len(content)):
            return Stored(name, len(content), 0, False)
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
            files.write_all(out.fileno(), frame)
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
        for folder in (*folders, self.store.chunks):
            files.sync_folder(folder)

    def close(self) -> None:
        """End the threads, and remove what was not published."""
        self._pool.shutdown(cancel_futures=True)
        for temporary in self.store.folder.glob(self._prefix + "*"):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(store: ChunkStore, announce: Announce, *, wait: float) -> Iterator[ChunkWriter]:
    """A writer, while the block lasts; what it did not `publish` is then gone.

    The store's lock is held shared, so that nothing is swept meanwhile. The writer's mark is on the disk before its
    first chunk: after a crash, whoever writes next looks at all chunks that are younger than it.
    """
    store.open()
    with locks.lock(store.folder, exclusive=False, wait=wait):
        _look_after_the_dead(store)
        with _mark(store.folder / MARKS) as mark:
            descriptor = os.open(store.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                writer = ChunkWriter(store, descriptor, mark, announce)
                try:
                    yield writer
                finally:
                    writer.close()
            finally:
                os.close(descriptor)


@contextmanager
def _mark(folder: Path) -> Iterator[str]:
    files.make_folder(folder)
    path = folder / uuid.uuid4().hex
    with files.create(path) as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        os.fsync(mark.fileno())
        files.sync_folder(folder)
        try:
            yield path.name
        finally:
            path.unlink(missing_ok=True)


def _look_after_the_dead(store: ChunkStore) -> None:
    """Where a writer died, by a power cut perhaps: prove the chunks that are younger than its mark.

    Its temporaries, which have the name of its mark in theirs, go too.
    """
    folder = store.folder / MARKS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            mark = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")  # noqa: SIM115
        except FileNotFoundError:
            continue
        with mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it lives
            debug(f"a run died while it wrote to {store.folder}: looking at its chunks")
            _prove_younger(store, os.fstat(mark.fileno()).st_mtime)
            for left in store.folder.glob(f"{files.TEMPORARY}{path.name}-*"):
                left.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _prove_younger(store: ChunkStore, moment: float) -> None:
    for path in store.chunks.glob("*/*.zst"):
        if path.lstat().st_mtime >= moment - 2:
            try:
                store.read(path.stem)
            except Damaged as error:
                warn(f"{error.message}; it was set aside: {store.set_aside(path.stem)}")
