"""The digest of an archive that GNU tar makes, without what differs between two archives of the same tree.

tar writes the number of its process into the header of every sparse file, ``./GNUSparseFile.NUMBER/NAME``, and no
option of format 1.0 keeps it from doing so: a tree with a hole in it would never be the same twice.
"""

import hashlib

_BLOCK = 512
_MAGIC, _CHECKSUM = 257, 148  # where in a header these are


class Steady:
    """Digests what the tar of the process `pid` writes: as it is, and with zeros for that number."""

    def __init__(self, pid: int) -> None:
        self._mark = b"/GNUSparseFile.%d/" % pid
        self._zeros = b"/GNUSparseFile." + b"0" * len(str(pid)) + b"/"
        self._plain = hashlib.sha256()
        self._steady = self._plain  # another one as soon as the number is met
        self._rest = b""

    def update(self, piece: bytes | memoryview) -> None:
        """Take what comes next. What is left of a block waits for the rest of it: no header is looked at in parts."""
        data = self._rest + bytes(piece)
        end = len(data) // _BLOCK * _BLOCK
        self._rest = data[end:]
        self._take(data[:end])

    def end(self) -> tuple[str, str]:
        """The digest of all as it was, and that without the number."""
        self._take(self._rest)
        return self._plain.hexdigest(), self._steady.hexdigest()

    def _take(self, blocks: bytes) -> None:
        if self._mark in blocks and self._steady is self._plain:
            self._steady = self._plain.copy()
        self._plain.update(blocks)
        if self._steady is not self._plain:
            self._steady.update(self._without_number(blocks))

    def _without_number(self, blocks: bytes) -> bytearray:
        found = bytearray(blocks.replace(self._mark, self._zeros))
        at = -1
        while (at := blocks.find(self._mark, at + 1)) >= 0:
            header = at // _BLOCK * _BLOCK
            if blocks.startswith(b"ustar", header + _MAGIC):
                found[header + _CHECKSUM : header + _CHECKSUM + 8] = bytes(8)
        return found
