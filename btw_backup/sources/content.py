"""Whether two archives hold the same tree, whoever wrote them, in whatever order and format.

The digest is the sum modulo 2**256 of the SHA-256 of every entry, which does not depend on the order and needs no
memory. Times count in seconds, as old archives have them; holes count as the zeros that they are read as.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged
from btw_backup.keepers.archive import Content, members

_ZEROS = bytes(1 << 20)


def archive_digest(stream: BinaryIO) -> str:
    """The digest of what the tar archive `stream` holds. Raises `Damaged` if it is not whole."""
    total = 0
    for entry, content in members(stream, _refuse):
        looks = hashlib.sha256(repr(_looks(entry)).encode("utf-8", "surrogateescape"))
        for piece in _plain(entry, content):
            looks.update(piece)
        total += int.from_bytes(looks.digest(), "big")
    return f"{total % (1 << 256):064x}"


def _refuse(complaint: str) -> None:
    raise Damaged(complaint)


def _looks(entry: Entry) -> tuple[object, ...]:
    size = entry.size if entry.kind is Kind.FILE else 0
    owner = (entry.mode, entry.uid, entry.gid)
    xattrs = tuple(sorted((name, bytes(value)) for name, value in entry.xattrs.items()))
    return (entry.path, entry.kind.value, *owner, entry.mtime // 10**9, size, entry.target, entry.device, xattrs)


def _plain(entry: Entry, content: Content) -> Iterator[memoryview | bytes]:
    """The content with its holes filled."""
    if entry.extents is None:
        yield from content
        return
    at, rest, pieces = 0, memoryview(b""), iter(content)
    for offset, length in (*entry.extents, (entry.size, 0)):
        yield from _hole(offset - at)
        at = offset
        while at < offset + length:
            rest = rest or next(pieces)
            part, rest = rest[: offset + length - at], rest[offset + length - at :]
            yield part
            at += len(part)


def _hole(length: int) -> Iterator[bytes]:
    while length > 0:
        yield _ZEROS[:length]
        length -= len(_ZEROS)
