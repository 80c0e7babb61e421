"""Remembers how far the journal of a target went, so that one that was lost is told from one that is new.

The file holds the size of the journal, a digest of as much of it, and a checksum of both, of which half a line is found
out. It is written in place when something that was appended is on the disk, and removed before a journal is emptied: so
it tells at most what was there for sure. A journal that goes on behind that is right: who appended to it died before he
wrote this, or was an earlier version.
"""

import hashlib
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path

from btw_backup import files, regular

_LINE = re.compile(rb"(([0-9]{20}) ([0-9a-f]{64})) ([0-9a-f]{8})\n")

Seen = tuple[int, bytes]
"""A size, and the digest of as much of a journal."""

NOTHING: Seen = 0, hashlib.sha256().digest()


class Witness:
    """What the file `path` tells; without one, nothing is ever known. Only who has locked the journal changes it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def seen(self) -> Seen:
        """How far the journal went; `NOTHING` if that is not known."""
        with suppress(OSError):
            found = _LINE.fullmatch(regular.read(self._path)) if self._path else None
            if found and int(found[4], 16) == zlib.crc32(found[1]):
                return int(found[2]), bytes.fromhex(found[3].decode())
        return NOTHING

    def note(self, size: int, digest: bytes) -> None:
        """Remember how far the journal goes. If that cannot be written, less is remembered."""
        if self._path is None:
            return
        told = f"{size:020} {digest.hex()}".encode()
        with suppress(OSError):
            files.make_folder(self._path.parent)
            file = regular.descriptor_of(self._path, os.O_WRONLY | os.O_CREAT)
            try:
                files.write_all(file, b"%s %08x\n" % (told, zlib.crc32(told)))
            finally:
                os.close(file)

    def forget(self) -> None:
        """Know nothing any more, even if the power fails now."""
        with suppress(FileNotFoundError):
            if self._path:
                self._path.unlink()
                files.sync_folder(self._path.parent)
