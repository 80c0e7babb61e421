"""What a writer left that died or was interrupted: what proves to be whole stays, so that the next run goes on there.

Its chunks under temporary names, which have the name of its mark in theirs, are synced, and then read back from the
disk: nobody knows whether an error of their writing was told to somebody else already, and after a power cut they may
be short or zeros. A chunk whose SHA-256 is its name gets that name; what is not whole is deleted. Chunks that have
their name, and that the dead may have written or used, are proved, too: a bad one is set aside, with what manifests
tell of its contents, so that the writer who comes now can put it together again (`mending`). The journal of the dead
says what is packed in which chunk, which is proved, too, and goes to the index: else a tree that changed a little
meanwhile would be packed otherwise, and stored anew.

Memory: a chunk for each core, and the journal.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from btw_backup import files, regular
from btw_backup.errors import Damaged
from btw_backup.log import debug, warn
from btw_backup.store import evidence
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.index import FOLDER as INDEX
from btw_backup.store.index import Index, journal_of

MARKS = "writing"
"""The folder below the store where every running writer has a file that it holds a lock on: its mark."""

Announce = Callable[[str], None]
"""Is told the path of every new chunk, relative to ROOT_PATH, before its name appears."""

ORDERLY = b"interrupted"
"""What a mark holds whose writer did not die, but ended early: what it published can be believed."""

_MARKED = re.compile(re.escape(files.TEMPORARY) + r"([0-9a-f]{32})-")
_Given = TypeVar("_Given")
_Proved = TypeVar("_Proved")


def prefix_of(mark: str) -> str:
    """How the temporary names of the writer with that mark begin; a chunk's go on with its name."""
    return f"{files.TEMPORARY}{mark}-"


def journal(store: ChunkStore, mark: str) -> Path:
    """Where the writer with that mark notes what it packs."""
    return store.folder / (prefix_of(mark) + "packed")


def look_after_the_dead(store: ChunkStore, announce: Announce) -> None:
    """Salvage what dead writers left. For who holds the store's lock, shared or not."""
    _sweep_unmarked(store)
    folder = store.folder / MARKS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            mark = regular.opened(path)
        except FileNotFoundError:
            continue
        with mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it lives
            debug(f"a run died while it wrote to {store.folder}: looking at its chunks")
            moment = None if mark.read(len(ORDERLY)) == ORDERLY else os.fstat(mark.fileno()).st_mtime
            _Salvage(store, path.name, announce).run(moment)
            sweep_dead(store)
            path.unlink(missing_ok=True)


def _sweep_unmarked(store: ChunkStore) -> None:
    """Remove the temporary files of writers that came to their end. A writer removes its mark last, but a power cut may
    undo what came before, and not that."""
    left = [(path, match[1]) for path in store.folder.iterdir() if (match := _MARKED.match(path.name))]
    for path, mark in left:
        if not os.path.lexists(store.folder / MARKS / mark):
            path.unlink(missing_ok=True)


def sweep_dead(store: ChunkStore) -> None:
    """Remove the temporary files in the store that are no chunks and belong to nobody."""
    for folder in (store.folder, store.folder / INDEX):
        if folder.is_dir():
            files.sweep_dead(folder)


class _Salvage:
    """Salvages what the writer with one mark left."""

    def __init__(self, store: ChunkStore, mark: str, announce: Announce) -> None:
        self._store = store
        self._prefix = prefix_of(mark)
        self._announce = announce
        self._journal = journal(store, mark)
        self._rows = journal_of(self._journal)
        self._index = Index(store.folder)

    def run(self, began: float | None) -> None:
        """Keep what is whole; of the chunks that have their name, those that are younger than `began` are proved."""
        temporaries = [path for path in self._store.folder.glob(self._prefix + "*") if path != self._journal]
        whole = self._proved_temporaries(temporaries)
        self._publish(whole)
        for path in temporaries:
            path.unlink(missing_ok=True)
        if began is not None:
            young = [path for path in self._store.chunks.glob("*/*.zst") if path.lstat().st_mtime >= began - 2]
            self._prove_named(path.stem for path in young if path.stem not in whole)
        self._index.save()
        self._journal.unlink(missing_ok=True)

    def _proved_temporaries(self, temporaries: list[Path]) -> set[str]:
        """The names of those that are whole, now on the disk."""
        if not temporaries:
            return set()
        descriptor = os.open(self._store.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.sync_filesystem(descriptor)
        finally:
            os.close(descriptor)

        def prove(path: Path) -> str:
            name = path.name.removeprefix(self._prefix)
            try:
                self._prove_rows(name, self._store.read_at(path, name, from_disk=True))
            except Damaged:
                return ""
            return name

        return set(_in_threads(prove, temporaries)) - {""}

    def _prove_rows(self, name: str, content: bytes) -> None:
        """Note what is packed in a chunk, as far as the journal tells the truth."""
        rows = self._rows.pop(name, ())
        for digest, offset, length in rows:
            inside = offset + length <= len(content)
            if inside and hashlib.sha256(content[offset : offset + length]).digest() == digest:
                self._index.add(digest, (bytes.fromhex(name), offset, length))

    def _publish(self, names: set[str]) -> None:
        folders = set()
        for name in names:
            final = self._store.path(name)
            folders.add(final.parent)
            self._announce(os.path.relpath(final, self._store.folder.parent))
            final.parent.mkdir(0o700, exist_ok=True)
            os.rename(self._store.folder / (self._prefix + name), final)
        for folder in (*folders, *([self._store.chunks] if folders else ())):
            files.sync_folder(folder)

    def _prove_named(self, names: Iterable[str]) -> None:
        def prove(name: str) -> str:
            try:
                self._prove_rows(name, self._store.read(name))
            except Damaged as error:
                warn(f"{error.message}; it was set aside: {evidence.set_aside(self._store, name, error.message)}")
                return name
            return ""

        bad = set(_in_threads(prove, names)) - {""}
        if bad:
            from btw_backup.store import packed, uses  # noqa: PLC0415 - hardly ever needed

            with suppress(Damaged):  # a folder that cannot be listed
                for name, contents in packed.contents(uses.needing(self._store.folder.parent, bad)).items():
                    evidence.add(self._store, name, {"contents": sorted(contents)})


def _in_threads(prove: Callable[[_Given], _Proved], given: Iterable[_Given]) -> list[_Proved]:
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "salvage")
    try:
        return list(pool.map(prove, given))
    finally:
        pool.shutdown(cancel_futures=True)
