"""Frees the room of the chunks that no manifest names any more: first marks those that are named, then sweeps.

The mark goes through all manifests while others write. The sweep holds the store's lock, and whoever writes, removes or
brings back a backup holds it shared to the end: so all that came since the mark is there to be read before the first
chunk goes, and nothing rests on any clock. That a chunk must be older than a grace period, too, is the second belt.
Who is killed has removed some chunks that nobody needs; the next one goes on.

Memory: that of two `Tally`, the names in the largest folder, and 100 bytes a backup.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from btw_backup import files, regular
from btw_backup.errors import Damaged
from btw_backup.log import warn
from btw_backup.records import FOLDER as RECORDS
from btw_backup.records import REMOVED
from btw_backup.store.chunks import FOLDER, ChunkStore
from btw_backup.store.index import Index
from btw_backup.store.salvage import Announce, look_after_the_dead, sweep_dead
from btw_backup.store.tally import Row, Tally
from btw_backup.store.uses import manifests, names_of

_CHUNK = re.compile(r"[0-9a-f]{64}\.zst")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_OF_A_PROCESS = re.compile(re.escape(files.TEMPORARY) + r"\d{1,10}-")


@dataclass(frozen=True, slots=True)
class Swept:
    """How many chunks were removed, or would be, and the bytes of their files."""

    chunks: int = 0
    size: int = 0


Leave = Callable[[Sequence[str]], None]
"""Is told the paths of chunks, relative to ROOT_PATH, before they are removed."""

_AT_ONCE = 1000  # chunks


def collect(
    root: Path,
    announce: Announce,
    leave: Leave,
    *,
    grace: float,
    now: float,
    forgotten: Collection[str],
    wait: float,
    check_lost: Callable[[], None] = lambda: None,
) -> Swept:
    """Remove the chunks that are in no manifest and not younger than `grace` seconds; wait at most `wait` for others.

    What a dead writer left whole is kept like any other chunk; `announce` is told. `leave` is told what goes.

    Raises `Damaged`, and removes nothing, if it is not certain what is needed: also if a dst is gone that is not
    `forgotten`, or `check_lost` raises that, which is called when nothing comes or goes any more.
    """
    store = _opened(root)
    if store is None:
        return Swept()
    with store.locked(exclusive=False, wait=wait):
        look_after_the_dead(store, announce)
    sweep = _Sweep(store, grace, now)
    with Tally(store.folder) as doomed:
        with Tally(store.folder) as named:
            marks = _Marks(root)
            marks.read(named)
            doomed.add(name for name, _ in sweep.unnamed(named))
        with store.locked(exclusive=True, wait=wait), Tally(store.folder) as late:
            marks.read(late, locked=True)
            marks.check_gone(forgotten)
            check_lost()
            swept = sweep.remove(_without((name for name, _ in doomed), iter(late)), leave)
            marks.remember()
            _remove_litter(store)
    with store.locked(exclusive=False, wait=wait):
        if swept.chunks:
            Index(store.folder).prune(lambda name: store.path(name.hex()).exists())
    return swept


def foreseen(
    root: Path,
    *,
    grace: float,
    now: float,
    forgotten: Collection[str],
    doomed: Collection[Path],
    check_lost: Callable[[], None] = lambda: None,
) -> Swept:
    """What `collect` would remove if the manifests `doomed` were gone already."""
    store = _opened(root)
    if store is None:
        return Swept()
    sweep = _Sweep(store, grace, now)
    with Tally() as named:
        marks = _Marks(root, doomed)
        marks.read(named)
        marks.check_gone(forgotten)
        check_lost()
        swept = Swept()
        for _, size in sweep.unnamed(named):
            swept = Swept(swept.chunks + 1, swept.size + size)
    return swept


def _opened(root: Path) -> ChunkStore | None:
    """The store, if there is one. Raises `FatalUserError` if it is of a newer format."""
    store = ChunkStore(root)
    if not store.chunks.is_dir():
        return None
    store.open()
    return store


class _Marks:
    """Reads manifests, each once; but not the `ignored`. Notes in which dsts they are."""

    def __init__(self, root: Path, ignored: Collection[Path] = ()) -> None:
        self._root = root
        self._ignored = ignored
        self._read: set[tuple[int, int, int]] = set()
        self._dsts: set[str] = set()
        self._list = root / FOLDER / "dsts.json"

    def read(self, named: Tally, *, locked: bool = False) -> None:
        """Note what is named by manifests that came since the last time. Raises `Damaged` if one cannot be read.

        Unless the store is `locked`, one may be moved or purged meanwhile; at the latest under the lock it is met.
        """
        bad: list[Damaged] = []
        for path in manifests(self._root):
            folder = path.parent.parent if path.parent.name == REMOVED else path.parent
            self._dsts.add(os.path.relpath(folder, self._root))
            try:
                status = os.lstat(path)
                identity = (status.st_ino, status.st_size, status.st_mtime_ns)
                if identity not in self._read and path not in self._ignored:
                    named.add(names_of(path))
                    self._read.add(identity)
            except OSError as error:
                if locked or not isinstance(error, FileNotFoundError):
                    bad.append(Damaged(f"{path} cannot be read: {error.strerror}"))
            except Damaged as error:
                bad.append(error)
        for one in bad[:-1]:
            warn(one.message)
        if bad:
            hint = "the chunks that it needs are not known: remove it with rm, or move it out of ROOT_PATH"
            raise Damaged(f"{bad[-1].message}; no chunk was removed", hint)

    def check_gone(self, forgotten: Collection[str]) -> None:
        """Raise `Damaged` if a dst that had manifests at the last sweep is not there at all: then they were not removed
        by rm, and may come back with the disk that they are on."""
        try:
            known = json.loads(regular.read(self._list))
        except (OSError, ValueError):
            return
        for dst in sorted(set(map(str, known)).difference(self._dsts, forgotten)):
            if not (self._root / dst / RECORDS).is_dir():
                hint = f"is its disk mounted? if it was removed on purpose: cleanup --forget {dst}"
                raise Damaged(f"{dst} had backups, and is not there any more; no chunk was removed", hint)

    def remember(self) -> None:
        """Note the dsts for the next sweep."""
        files.write_whole(self._list, json.dumps(sorted(self._dsts)).encode() + b"\n")


class _Sweep:
    """Finds chunks that are not named, and removes them, if they are not too young."""

    def __init__(self, store: ChunkStore, grace: float, now: float) -> None:
        self._store = store
        self._grace = grace
        self._now = now

    def unnamed(self, named: Tally) -> Iterator[Row]:
        """The chunks that are not `named`, and their sizes."""
        for name in _without(self._stored(), iter(named)):
            size = self._size_if_old(self._store.path(name.hex()))
            if size is not None:
                yield name, size

    def remove(self, doomed: Iterator[bytes], leave: Leave) -> Swept:
        """Remove chunks, and folders that are empty then."""
        chunks = size = 0
        while names := list(islice(doomed, _AT_ONCE)):
            paths = [self._store.path(name.hex()) for name in names]
            found = {path: length for path in paths if (length := self._size_if_old(path)) is not None}
            leave([os.path.relpath(path, self._store.folder.parent) for path in found])
            for path in found:
                path.unlink()
            chunks, size = chunks + len(found), size + sum(found.values())
        for prefix in os.listdir(self._store.chunks):
            if _PREFIX.fullmatch(prefix):
                with suppress(OSError):  # it is not empty
                    os.rmdir(self._store.chunks / prefix)
        return Swept(chunks, size)

    def _stored(self) -> Iterator[bytes]:
        """The names of all chunks, in their order."""
        for prefix in sorted(os.listdir(self._store.chunks)):
            folder = self._store.chunks / prefix
            if _PREFIX.fullmatch(prefix) and not folder.is_symlink():
                for name in sorted(os.listdir(folder)):
                    if _CHUNK.fullmatch(name) and name.startswith(prefix):
                        yield bytes.fromhex(name[:64])

    def _size_if_old(self, path: Path) -> int | None:
        """The bytes of a chunk, None if it is too young or gone. What seems to come from the future is old, too: the
        clock went back."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        is_old = stat.S_ISREG(status.st_mode) and abs(self._now - status.st_mtime) >= self._grace
        return status.st_size if is_old else None


def _without(names: Iterator[bytes], others: Iterator[Row]) -> Iterator[bytes]:
    """Those of the sorted `names` that are not among the sorted `others`."""
    other = next(others, None)
    for name in names:
        while other is not None and other[0] < name:
            other = next(others, None)
        if other is None or other[0] != name:
            yield name


def _remove_litter(store: ChunkStore) -> None:
    """Remove what dead runs left under temporary names; the caller's lock says that no writer lives."""
    sweep_dead(store)
    for path in store.folder.glob(files.TEMPORARY + "*"):
        if not _OF_A_PROCESS.match(path.name):
            files.remove(path)
