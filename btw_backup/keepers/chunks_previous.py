"""The last manifest, read beside the walk: what of it is certainly still so need not be read again."""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from btw_backup.errors import Damaged
from btw_backup.keepers.chunks_member import KINDS
from btw_backup.keepers.unchanged import RACY
from btw_backup.log import debug
from btw_backup.store.manifest import ManifestReader, Member, key_of
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
        self._member: tuple[Member, bytes] | None = None
        self._advance()
        self._closed = threading.Event()
        self._ahead = threading.Thread(target=self._look_ahead, args=(path,), daemon=True)
        self._ahead.start()

    def _look_ahead(self, path: Path) -> None:
        """Have the kernel know the chunks that the manifest at `path` names, before we ask: reading the inode of each
        from a cold disk takes as long as all the rest."""
        with suppress(OSError), open(path, "rb", buffering=0) as file:
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

    def same(self, path: str, status: os.stat_result) -> tuple[Member, bytes] | None:
        """The entry of `path` and its line, if what is there now is certainly the same, and its content is kept."""
        if self._path != path:
            self._go_to(path)
        found = self._member
        if found is None or self._path != path:
            return None
        member = found[0]
        if (
            member.inode != status.st_ino
            or member.ctime != status.st_ctime_ns
            or member.mtime != status.st_mtime_ns
            or member.kind != KINDS[stat.S_IFMT(status.st_mode)]
            or (member.kind == "file" and member.size != status.st_size)
            or member.torn
            or member.ctime >= self._settled
            or member.mtime >= self._settled
        ):
            return None
        for name, _, _ in member.extents:
            if name not in self._kept and not self._is_kept(name):
                return None
        return found

    def _go_to(self, path: str) -> None:
        """Pass what comes before `path`."""
        key = key_of(path)
        while self._member is not None and key_of(self._path) < key:
            self._advance()

    def _is_kept(self, name: str) -> bool:
        if name in self._wasteful or not self._writer.holds(name):
            return False
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept.add(name)
        return True

    def _advance(self) -> None:
        try:
            self._member = next(self._members, None)
        except Damaged as error:
            debug(f"reading everything from here on: {error.message}")
            self._member = None
        if self._member is not None:
            self._path = self._member[0].key
