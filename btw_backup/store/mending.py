"""Puts lost packs together again, from the small contents that a run meets and from what was set aside.

A large chunk that is gone comes back by itself, when the same content is cut and stored again. A pack does not: what is
packed together depends on what else is new. So whoever finds it bad writes down what was in it (`evidence`), and what
runs have met of it is kept in ``.store/damaged/<name>.part``, plain, each content at its place, until nothing is
lacking. Readers find there what is packed with others, and prove it by its SHA-256 (`evidence.part`).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from btw_backup import files, regular
from btw_backup.log import debug
from btw_backup.store import evidence
from btw_backup.store.chunks import DAMAGED, LARGEST, ChunkStore

_MOST = 200_000
"""Contents that are looked out for, in 60 MB of memory; what is put together is in files."""

Put = Callable[[list[bytes]], Any]
"""Stores a chunk, and has done so when it comes back."""


class Mending:
    """The packs that the store lacks, each a temporary file ``<prefix><name>.mend`` until all of it is there."""

    def __init__(self, store: ChunkStore, prefix: str, put: Put) -> None:
        self._store = store
        self._prefix = prefix
        self._put = put
        self._wanted: dict[bytes, list[tuple[str, int]]] = {}
        self._lacking: dict[str, int] = {}
        self._given: set[str] = set()
        self._count = 0
        for name in lost(store):
            self._begin(name)

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def give(self, digest: bytes, content: bytes) -> None:
        """Use the content of a file, whose SHA-256 is `digest`, where it is wanted."""
        for name, offset in self._wanted.pop(digest, ()):
            self._write(name, offset, content)
            self._given.add(name)
            self._lacking[name] -= 1
            if not self._lacking[name]:
                self._finish(name)

    def _begin(self, name: str) -> None:
        plain = evidence.best_of(self._store, name)
        if hashlib.sha256(plain).hexdigest() == name:
            self._put([plain])
            return
        contents = _contents(self._store, name)
        lacking = [(offset, digest) for offset, length, digest in contents
                   if hashlib.sha256(plain[offset : offset + length]).digest() != digest]  # fmt: skip
        if not contents or self._count + len(lacking) > _MOST:
            return
        self._write(name, 0, plain)
        if len(lacking) < len(contents) and not evidence.part_of(self._store, name).exists():
            self._given.add(name)  # what is right of what was set aside
        self._count += len(lacking)
        self._lacking[name] = len(lacking)
        for offset, digest in lacking:
            self._wanted.setdefault(digest, []).append((name, offset))

    def close(self) -> None:
        """Keep what was met of packs that are not complete."""
        for name in self._lacking:
            if name in self._given:
                with regular.opened(self._path(name)) as file:
                    os.fsync(file.fileno())
                files.publish(self._path(name), evidence.part_of(self._store, name))

    def _path(self, name: str) -> Path:
        return self._store.folder / f"{self._prefix}{name}.mend"

    def _write(self, name: str, offset: int, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._path(name), flags, 0o600), "wb", buffering=0) as file:
            file.seek(offset)
            file.write(content)

    def _finish(self, name: str) -> None:
        content = regular.read(self._path(name))
        if hashlib.sha256(content).hexdigest() == name:
            self._put([content])
            debug(f"the chunk {name}, which was damaged, was put together again")
            del self._lacking[name]


def lost(store: ChunkStore) -> Iterator[str]:
    """The chunks of which there is a report, and nothing in the store."""
    try:
        reports = sorted(name for name in os.listdir(store.folder / DAMAGED) if name.endswith(".json"))
    except FileNotFoundError:
        return
    for report in reports:
        name = report.removesuffix(".json")
        if evidence.report(store, name) and not store.path(name).exists():
            yield name


def _contents(store: ChunkStore, name: str) -> list[tuple[int, int, bytes]]:
    """The (offset, length, SHA-256) of what was packed into a chunk, if that can be."""
    try:
        found = [(int(o), int(n), bytes.fromhex(digest)) for o, n, digest in evidence.report(store, name)["contents"]]
    except (LookupError, TypeError, ValueError):
        return []
    return found if all(0 <= o <= o + n <= LARGEST and len(digest) == 32 for o, n, digest in found) else []
