"""The digest of an archive that GNU tar makes, without what differs between two archives of the same tree.

tar writes the number of its process into the header of every sparse file, ``./GNUSparseFile.NUMBER/NAME``, and no
option of format 1.0 keeps it from doing so: a tree with a hole in it would never be the same twice. The number may have
more digits the next time. So the headers are looked at one by one; what follows them is passed over.
"""

import hashlib
import re
import sys

from btw_backup.keepers.headers import BLOCK, LARGEST_EXTENDED, LOCAL, Extension, read_records, size_of, stored_size

_NAME, _PREFIX = slice(0, 100), slice(345, 500)
_SIZE, _CHECKSUM, _TYPE = slice(124, 136), slice(148, 156), slice(156, 157)


class Steady:
    """Digests what the tar of the process `pid` writes: as it is, and with 0 for that number.

    Memory: an extended header.
    """

    def __init__(self, pid: int) -> None:
        self._mark = b"GNUSparseFile.%d" % pid
        self._named = re.compile(rb"(?<![^/])" + re.escape(self._mark) + rb"(?![^/])")
        self._path = re.compile(rb"\d+ (path=[^\n]*)\n")
        self._plain = hashlib.sha256()
        self._steady = self._plain  # another one as soon as the number is met
        self._rest = b""
        self._content = self._done = 0
        self._records: dict[bytes, bytes] = {}

    def update(self, piece: bytes | memoryview) -> None:
        """Take what comes next. A header that is cut waits for the rest of it."""
        data = self._rest + piece if self._rest else bytes(piece)
        at = self._done = 0
        while True:
            passed = min(self._content, len(data) - at)
            at += passed
            self._content -= passed
            if self._content or len(data) - at < BLOCK:
                break
            try:
                length = self._header(data, at)
            except ValueError:  # no header of tar's: what follows is passed over, and counts as it is
                self._content = sys.maxsize
                continue
            if not length:
                break
            at += length
        self._take(data[self._done : at])
        self._rest = data[at:]

    def _header(self, data: bytes, at: int) -> int:
        """Look at the header there; its length with what extends it, 0 if not all of that is there."""
        header = data[at : at + BLOCK]
        if header[_TYPE] != LOCAL:
            self._content = _padded(stored_size(header, self._records))
            self._records = {}
            if self._mark in header:
                self._replace(data, at, BLOCK, self._plain_header(header))
            return BLOCK
        size = size_of(header)
        if size > LARGEST_EXTENDED:
            raise ValueError("an extended header is too long")
        length = BLOCK + _padded(size)
        if at + length > len(data):
            return 0
        text = data[at + BLOCK : at + BLOCK + size]
        if b" size=" in text:
            found = Extension()
            read_records(text, found)
            self._records = found.records
        if self._mark in text:
            self._replace(data, at, length, self._extended(header, text))
        return length

    def end(self) -> tuple[str, str]:
        """The digest of all as it was, and that without the number."""
        self._take(self._rest)
        return self._plain.hexdigest(), self._steady.hexdigest()

    def _take(self, same: bytes) -> None:
        self._plain.update(same)
        if self._steady is not self._plain:
            self._steady.update(same)

    def _replace(self, data: bytes, at: int, length: int, instead: bytes) -> None:
        """Digest what comes before a header, and that, for which there is `instead`."""
        self._take(data[self._done : at])
        if self._steady is self._plain:
            self._steady = self._plain.copy()
        self._plain.update(data[at : at + length])
        self._steady.update(instead)
        self._done = at + length

    def _without_number(self, path: bytes) -> bytes:
        return self._named.sub(b"GNUSparseFile.0", path)

    def _plain_header(self, header: bytes) -> bytes:
        found = bytearray(header)
        for part in (_NAME, _PREFIX):
            text = header[part]
            found[part] = self._without_number(text.rstrip(b"\0")).ljust(len(text), b"\0")
        found[_CHECKSUM] = bytes(8)
        return bytes(found)

    def _extended(self, header: bytes, records: bytes) -> bytes:
        """The header of `records` without their length, and these with the path without the number."""
        found = bytearray(header)
        found[_SIZE], found[_CHECKSUM] = bytes(12), bytes(8)
        return bytes(found) + self._path.sub(lambda one: self._without_number(one[1]) + b"\n", records)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
