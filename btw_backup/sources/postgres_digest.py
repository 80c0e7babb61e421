"""When two dumps hold the same: a digest of the SQL that they stand for, without what differs between equal ones.

The bytes of a dump of the format custom do not tell: its header has the time, and the numbers of its entries change
with every temporary table that somebody has open meanwhile (seen with 15.18 and 18.4). The SQL differs in the random
word after ``\\restrict`` (CVE-2025-8714) and, between releases, in the two lines that name them.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

BLOCK = 1 << 20

_RESTRICT = re.compile(rb"\\restrict ([A-Za-z0-9]{32,})\n")
_RELEASES = re.compile(rb"-- Dumped (?:from database|by pg_dump) version .*\n")
_BEGINNING = 20
"""Lines, within which the word and the releases are told, before anything that a user of the database could write."""


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of the beginning of `stream`, then the rest in blocks: a row may have a gigabyte."""
    for _ in range(_BEGINNING):
        yield stream.readline(BLOCK)
    while block := stream.read(BLOCK):
        yield block


def of_sql(script: Iterable[bytes]) -> str:
    """The digest of the SQL in the `pieces` of a script.

    Left out is the word itself, which nobody could know, and not what looks like its line: COPY writes a carriage
    return as ``\\r``, so a row may begin with ``\\restrict``.
    """
    digest = hashlib.sha256()
    left = iter(script)
    beginning = list(itertools.islice(left, _BEGINNING))
    word = next((match[1] for line in beginning if (match := _RESTRICT.fullmatch(line))), b"")
    kept = (line for line in beginning if not _RELEASES.fullmatch(line))
    for piece in _without(word, itertools.chain(kept, left)):
        digest.update(piece)
    return digest.hexdigest()


def _without(word: bytes, script: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of `script` without `word`, also where it lies across two of them."""
    tail = b""
    for piece in script:
        joined = (tail + piece).replace(word, b"") if word else piece
        tail = joined[-len(word) + 1 :] if word else b""
        yield joined[: len(joined) - len(tail)]
    yield tail
