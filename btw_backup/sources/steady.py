"""The digest of an archive that GNU tar makes, without what differs between two archives of the same tree.

tar writes the number of its process into the header of every sparse file, ``./GNUSparseFile.NUMBER/NAME``, and no
option of format 1.0 keeps it from doing so: a tree with a hole in it would never be the same twice. The number may have
more digits the next time. So the headers are looked at one by one; what follows them is passed over.
"""

import hashlib
import re

_BLOCK = 512
_NAME, _SIZE, _CHECKSUM, _TYPE, _PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), 156, slice(345, 500)
_EXTENDED = b"x"[0]
_OCTAL = re.compile(rb"[0-7]+")
_RECORD_OF_SIZE = re.compile(rb"\d+ size=(\d+)\n")


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
        self._content = 0
        self._size: int | None = None

    def update(self, piece: bytes | memoryview) -> None:
        """Take what comes next. A header that is cut waits for the rest of it."""
        data = self._rest + piece if self._rest else bytes(piece)
        at = done = 0
        while True:
            passed = min(self._content, len(data) - at)
            at += passed
            self._content -= passed
            if self._content or len(data) - at < _BLOCK:
                break
            header = data[at : at + _BLOCK]
            size = _number(header[_SIZE])
            if header[_TYPE] == _EXTENDED:
                whole = at + _BLOCK + _padded(size)
                if whole > len(data):
                    break
                records = data[at + _BLOCK : at + _BLOCK + size]
                found = _RECORD_OF_SIZE.search(records)
                self._size = int(found[1]) if found else None
                if self._mark in records:
                    self._take(data[done:at], self._extended(header, records), data[at:whole])
                    done = whole
                at = whole
                continue
            self._content = _padded(size if self._size is None else self._size)
            self._size = None
            if self._mark in header:
                self._take(data[done:at], self._plain_header(header), header)
                done = at + _BLOCK
            at += _BLOCK
        self._take(data[done:at])
        self._rest = data[at:]

    def end(self) -> tuple[str, str]:
        """The digest of all as it was, and that without the number."""
        self._take(self._rest)
        return self._plain.hexdigest(), self._steady.hexdigest()

    def _take(self, same: bytes, instead: bytes = b"", other: bytes = b"") -> None:
        """Digest what is the `same`, and then `other`, for which there is `instead`."""
        self._plain.update(same)
        if self._steady is not self._plain:
            self._steady.update(same)
        elif other:
            self._steady = self._plain.copy()
        if other:
            self._plain.update(other)
            self._steady.update(instead)

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


def _number(field: bytes) -> int:
    """A number of a header: octal, or from 8 GiB on binary behind a bit. Zeros, at the end of the archive, are 0."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = _OCTAL.match(field)
    return int(digits[0], 8) if digits else 0


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
