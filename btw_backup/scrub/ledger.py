"""How far a scrub of a part went, so that the next goes on from there: ``ROOT_PATH/.scrub.json``; it can be deleted.

Chunks and backups are each taken in a fixed order, that of SHA-256s, round and round: a part of p percent is at least
so many of the bytes that are there, so 100 / p parts have proved everything that was there from the first to the last.
Drawn at random, seven times 15 % would be 68 % of it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from btw_backup import files, regular

NAME = ".scrub.json"
FORMAT = 1
_MOST = 1000
"""How many scopes are remembered."""

_LARGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """The last chunk, and the key of the last backup, that were proved in a scope; for ``--source`` the last path."""

    chunk: str = ""
    backup: str = ""
    path: str = ""


def read(root: Path, scope: str) -> Position:
    """Where the last scrub of `scope` ended; the beginning, if nobody knows."""
    found = _read_all(root).get(scope, [])
    texts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return Position(*texts) if len(texts) == 3 else Position()


def write(root: Path, scope: str, position: Position) -> None:
    """Note where a scrub of `scope` ended."""
    known = _read_all(root)
    known.pop(scope, None)
    known[scope] = [position.chunk, position.backup, position.path]
    kept = dict(list(known.items())[-_MOST:])
    files.write_whole(root / NAME, json.dumps({"format": FORMAT, "ended": kept}).encode() + b"\n")


def _read_all(root: Path) -> dict[str, object]:
    try:
        with regular.opened(root / NAME) as file:
            found = json.loads(file.read(_LARGEST))
        return dict(found["ended"]) if found["format"] == FORMAT else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


Thing = TypeVar("Thing")


def part(things: Iterable[tuple[Thing, int]], percent: float | None, total: int) -> Iterator[tuple[Thing, int]]:
    """The first of `things` with their lengths, up to `percent` of `total`, and at least one; None is all of them."""
    left = total * (100.0 if percent is None else percent) / 100
    for thing, length in things:
        yield thing, length
        left -= length
        if percent is not None and left <= 0:
            return
