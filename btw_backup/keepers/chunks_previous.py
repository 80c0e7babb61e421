"""The last manifest, read beside the walk: what of it is certainly still so need not be read again."""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from btw_backup import regular
from btw_backup.errors import Damaged
from btw_backup.keepers.chunks_member import KINDS
from btw_backup.keepers.unchanged import RACY
from btw_backup.log import debug
from btw_backup.sources.memory import Remembered
from btw_backup.store.manifest import Known, ManifestReader, key_of
from btw_backup.store.names import Names
from btw_backup.store.writer import ChunkWriter

_MOST = 10_000
"""Names of chunks that are remembered to be there."""


class Previous:
    """The last manifest, read beside the walk: what of it can be used again."""

    def __init__(self, manifest: ManifestReader, path: Path, wasteful: frozenset[str], writer: ChunkWriter) -> None:
        self._members = iter(manifest)
        self._settled = manifest.header.began - RACY
        self._wasteful = wasteful
        self._writer = writer
        self._kept: set[str] = set()
        self._path = ""
        self._found: Known | None = None
        self._met = False  # and is behind the walk now
        self._advance()
        self._closed = threading.Event()
        self._ahead = threading.Thread(target=self._look_ahead, args=(path,), daemon=True)
        self._ahead.start()

    def _look_ahead(self, path: Path) -> None:
        """Have the kernel know the chunks that the manifest at `path` names, before we ask: reading the inode of each
        from a cold disk takes as long as all the rest."""
        with suppress(OSError), regular.opened(path) as file:
            names = Names(file.fileno())
            for name in names if names.found else ():
                if self._closed.is_set():
                    return
                with suppress(OSError):
                    os.stat(self._writer.store.path(name.hex()))

    def close(self) -> None:
        """End the look ahead."""
        self._closed.set()
        self._ahead.join()

    def same(self, seen: Remembered) -> Known | None:
        """The entry of what was seen, and its line, if it is certainly the same, and its content is kept."""
        path, mode, inode, _, _, _, _, size, mtime, ctime, _, _ = seen
        if self._met:
            self._advance()
        if self._path != path:
            self._go_to(path)
        found = self._found
        if found is None or self._path != path:
            return None
        self._met = True
        member = found[0]
        if (
            member.inode != inode
            or member.ctime != ctime
            or member.mtime != mtime
            or member.kind != KINDS[stat.S_IFMT(mode)]
            or (member.size != size and member.kind == "file")
            or member.torn
            or ctime >= self._settled
            or mtime >= self._settled
        ):
            return None
        for name, _, _ in member.extents:
            if name not in self._kept and not self._is_kept(name):
                return None
        return found

    def _go_to(self, path: str) -> None:
        """Pass what comes before `path`."""
        key = key_of(path)
        while self._found is not None and key_of(self._path) < key:
            self._advance()

    def _is_kept(self, name: str) -> bool:
        if name in self._wasteful or not self._writer.holds(name):
            return False
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept.add(name)
        return True

    def _advance(self) -> None:
        self._met = False
        try:
            self._found = next(self._members, None)
        except Damaged as error:
            debug(f"reading everything from here on: {error.message}")
            self._found = None
        if self._found is not None:
            self._path = self._found[0].key
