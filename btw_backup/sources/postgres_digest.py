"""When two dumps hold the same: digests that leave out what differs between dumps of an unchanged database.

Two dumps of the format custom differ in the time of their making only (tried with 15.18, 16.14 and 18.4); that is in
the header, whose fields are those of WriteHead in src/bin/pg_dump/pg_backup_archiver.c. Plain SQL differs in the random
word after ``\\restrict`` (CVE-2025-8714) and, between releases, in the two lines that tell them.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

BLOCK = 1 << 20
HEAD = 64
"""Bytes: no known header up to the end of its time is longer."""

MAGIC = b"PGDMP"
_CUSTOM = 1
_COMPRESSION_IS_A_BYTE = (1, 15)
_NEWEST = (1, 16)
"""Of PostgreSQL 17 and 18. What a newer format has where is not known."""

_TIME_FIELDS = 7
_RESTRICT = re.compile(rb"\\restrict ([A-Za-z0-9]+)\n")
_RELEASES = re.compile(rb"-- Dumped (?:from database|by pg_dump) version .*\n")
_BEGINNING = 20
"""Lines, within which the word and the releases are told, before anything of the database's."""


def masked(head: bytes) -> bytes | None:
    """`head`, the first bytes of a dump, with its time blanked out; None if it is not of a format that we know."""
    version = tuple(head[5:7])
    if len(head) < HEAD or head[:5] != MAGIC or not (1, 12) <= version <= _NEWEST or head[10] != _CUSTOM:
        return None
    width = 1 + head[8]  # an integer is a byte for its sign and intSize bytes, the lowest first
    begin = 11 + (1 if version >= _COMPRESSION_IS_A_BYTE else width)
    end = begin + _TIME_FIELDS * width
    if head[8] != 4 or not _is_time([head[at : at + width] for at in range(begin, end, width)]):
        return None
    return head[:begin] + bytes(end - begin) + head[end:]


def _is_time(fields: Iterable[bytes]) -> bool:
    """Whether `fields` are second, minute, hour, day, month, years since 1900, and summer time, as in struct tm."""
    limits = ((0, 60), (0, 59), (0, 23), (1, 31), (0, 11), (90, 300), (-1, 1))
    numbers = (int.from_bytes(field[1:], "little") * (-1 if field[0] else 1) for field in fields)
    return all(low <= number <= high for number, (low, high) in zip(numbers, limits, strict=True))


def of_dump(file: BinaryIO) -> tuple[int, str, str | None]:
    """The length of the dump `file`, its SHA-256, and that without its time, None if we do not know where that is."""
    file.seek(0)
    head = file.read(HEAD)
    blanked = masked(head)
    whole, content = hashlib.sha256(head), hashlib.sha256(blanked or b"")
    length = len(head)
    while block := file.read(BLOCK):
        length += len(block)
        whole.update(block)
        if blanked:
            content.update(block)
    return length, whole.hexdigest(), content.hexdigest() if blanked else None


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of `stream`, very long ones in pieces, so that a row of a gigabyte needs no gigabyte."""
    while line := stream.readline(BLOCK):
        yield line


def of_sql(statements: Iterable[bytes]) -> str:
    """The digest of plain SQL without the random word and the releases.

    Only the word of the beginning is left out, where it stands alone on a line: a row that looks like such a line (COPY
    writes a carriage return as ``\\r``) still counts.
    """
    digest = hashlib.sha256()
    word = b""
    for number, line in enumerate(statements):
        if number < _BEGINNING and not word and (match := _RESTRICT.fullmatch(line)):
            word = match[1]
        beginning = number < _BEGINNING and _RELEASES.fullmatch(line)
        if not beginning and not (word and line in (b"\\restrict " + word + b"\n", b"\\unrestrict " + word + b"\n")):
            digest.update(line)
    return digest.hexdigest()
