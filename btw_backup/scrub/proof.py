"""Proves one backup, or many chunks: on all cores, within bounds of memory, from the disk and not from its cache."""

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from btw_backup import locks, regular
from btw_backup.errors import Damaged, FatalUserError, unreadable
from btw_backup.inventory import listing
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.store import evidence, frames, manifest
from btw_backup.store.chunks import ChunkStore
from btw_backup.stream import PIECE

_KNOWN = 200_000
"""Names of chunks that were found to be there, so that one that many backups share is looked for once: 30 MB."""


def chunks_needed(backup: Backup) -> Iterator[str]:
    """The chunks that `backup`, a manifest, needs, each once; the manifest is proved. Raises `Damaged`, at the end too.

    Memory: about 100 bytes a chunk of this backup.
    """
    seen: set[bytes] = set()
    try:
        with manifest.opened(backup.path) as opened:
            for member, _ in opened:
                for name, _, _ in member.extents:
                    binary = bytes.fromhex(name)
                    if binary not in seen:
                        seen.add(binary)
                        yield name
            if backup.record and backup.record.sha256 not in ("", opened.sha256):
                raise Damaged("its SHA-256 is not that of what was stored")
    except OSError as error:
        raise unreadable("it", error) from error
    except ValueError as error:
        raise Damaged(f"it names a chunk that cannot be: {error}") from error


class Prover:
    """Proves backups, one after the other; the chunks of a manifest are only looked for, and not read."""

    def __init__(self, store: ChunkStore, wait: float, *, locked: bool = False) -> None:
        """`locked`: the caller holds the lock of the dst."""
        self._store = store
        self._wait = wait
        self._locked = locked
        self._known: set[str] = set()

    def missing(self, backup: Backup, advance: Advance) -> list[str]:
        """Prove `backup`; the chunks of it that are not there. Raises `Damaged`."""
        if backup.path.is_dir() and not self._locked:  # a repository, which is changed in place
            with locks.lock(backup.path.parent, exclusive=False, wait=self._wait):
                _read_through(backup, advance)
            return []
        if backup.keeper != "chunks":
            _read_through(backup, advance)
            return []
        found = [name for name in chunks_needed(backup) if not self._is_there(name)]
        advance(size_of(backup))
        return sorted(lacking(self._store, backup, found)) if found else []

    def _is_there(self, name: str) -> bool:
        if name in self._known:
            return True
        if not self._store.path(name).is_file():
            return False
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known.add(name)
        return True


def lacking(store: ChunkStore, backup: Backup, names: Collection[str]) -> set[str]:
    """Those of the bad chunks `names` without which `backup` is not whole: others are packs of which all is known again
    that it needs. Raises `Damaged`."""
    doubtful = {name for name in names if evidence.part_of(store, name).exists()}
    found = set(names) - doubtful
    if doubtful:
        with manifest.opened(backup.path) as opened:
            for member, _ in opened:
                for name, offset, length in member.extents:
                    if name in doubtful and evidence.part(store, name, offset, length, member.sha256) is None:
                        found.add(name)
    return found


def _read_through(backup: Backup, advance: Advance) -> None:
    try:
        if backup.keeper == "rdiff":
            from btw_backup.keepers.rdiff import Rdiff  # noqa: PLC0415 - as in `listing`

            Rdiff().prove_restorable(backup)
        with listing.keeper_of(backup).open(backup) as stream:
            while piece := stream.read(PIECE):
                advance(len(piece))
        if backup.path.suffix == ".zst":
            with regular.opened(backup.path) as file:
                if frames.is_cut(file.fileno()):
                    raise Damaged(f"{backup.address} is damaged: its end is missing, though its content is all there")
    except OSError as error:
        raise unreadable(backup.address, error) from error


def size_of(backup: Backup) -> int:
    """The bytes that proving `backup` deals with: its file, or of a repository the plain stream."""
    if backup.path.is_dir():
        return backup.record.length if backup.record else sum(path.lstat().st_size for path in backup.path.iterdir())
    try:
        return backup.path.stat().st_size
    except FileNotFoundError:
        return 0


def unsound(store: ChunkStore, names: Iterable[tuple[str, int]], advance: Advance) -> Iterator[tuple[str, str]]:
    """Those of the chunks (name, length) that are not what was stored, with the reason.

    Memory: the content and the frame of a chunk for each core, 18 MB at most.
    """
    cores = len(os.sched_getaffinity(0))
    under_way: deque[tuple[str, int, Future[str]]] = deque()
    pool = ThreadPoolExecutor(cores, "scrub")

    def settled() -> Iterator[tuple[str, str]]:
        name, length, future = under_way.popleft()
        if why := future.result():
            yield name, why
        advance(length)

    try:
        for name, length in names:
            under_way.append((name, length, pool.submit(why_unsound, store, name)))
            if len(under_way) > 4 * cores:
                yield from settled()
        while under_way:
            yield from settled()
    finally:
        pool.shutdown(cancel_futures=True)


def why_unsound(store: ChunkStore, name: str) -> str:
    """Why the chunk `name` is not what was stored; "" if it is."""
    try:
        store.read(name, from_disk=True)
    except Damaged as error:
        return error.message
    return ""


def why_damaged(prover: Prover, backup: Backup, advance: Advance) -> tuple[str, list[str]]:
    """Why the backup's own file is not what was stored, "" if it is, and the chunks that it lacks.

    What was removed meanwhile is not damaged. Raises `FatalUserError` for what only a newer version can read.
    """
    try:
        return "", prover.missing(backup, advance)
    except Damaged as error:
        return (error.message if os.path.lexists(backup.path) else ""), []
    except FatalUserError:
        if os.path.lexists(backup.path):
            raise
        return "", []
