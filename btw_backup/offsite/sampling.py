"""Fetches what a target holds, all of it or a part that goes round and round, and compares it with what was sent."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from btw_backup import files, regular
from btw_backup.offsite import Target
from btw_backup.offsite.delivery import Delivery
from btw_backup.offsite.index import Ref
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.parts import files_below
from btw_backup.offsite.vault import Thing, batches, fetched

_PIECE = 1 << 20
_POSITION = "scrubbed"

Bad = dict[str, str]
"""What is not what was sent, by its path, and why."""


def of_objects(delivery: Delivery, ledger: Ledger, percent: float | None) -> dict[Ref, str]:
    """Compare objects with their names, for which no key is needed: those that are bad, and why."""
    chosen = _first(_round(ledger), ledger.proved_bytes(), percent)
    bad: dict[Ref, str] = {}
    for batch in batches(chosen):
        bad.update(delivery.read_back([ref for ref, _ in batch]))
        ledger.note(_POSITION, batch[-1][0].path)
    return bad


def of_mirror(target: Target, root: Path, scratch: Path, known: Path, percent: float | None) -> Bad:
    """Compare what a mirror holds with the files below `root`; `known` is the file that says how far that went."""
    found = [(path, os.lstat(root / path).st_size) for path in _existing(root, target)]
    bad: Bad = {}
    for batch in batches(_part(found, str, _read(known), percent)):
        paths = [path for path, _ in batch]
        bad.update(fetched(target, paths, scratch, lambda path: _difference(scratch / path, root / path)))
        files.remove(scratch)
        files.write_whole(known, json.dumps({"path": paths[-1]}).encode() + b"\n")
    return bad


def _existing(root: Path, target: Target) -> Iterator[str]:
    """The files below `root` that the target has: what it lacks, `sync` tells."""
    there = target.listing("", recursive=True)
    for path in files_below(str(root), "", lambda folder, error: None):
        if path in there:
            yield path


def _difference(there: Path, here: Path) -> str:
    """Why a file that was fetched is not the one that is here; "" if it is, or if that is gone."""
    try:
        with regular.opened(here) as one, open(there, "rb") as other:
            while True:
                piece = one.read(_PIECE)
                if piece != other.read(_PIECE):
                    return "its content there is another"
                if not piece:
                    return ""
    except FileNotFoundError:
        return ""


def _read(known: Path) -> str:
    try:
        return str(json.loads(regular.read(known))["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _part(
    found: Sequence[tuple[Thing, int]], key: Callable[[Thing], str], after: str, percent: float | None
) -> Iterator[tuple[Thing, int]]:
    """So many percent of the bytes of `found`, at least one thing, from behind `after` on and round; None is all."""
    ordered = sorted(found, key=lambda one: (key(one[0]) <= after, key(one[0])))
    return _first(ordered, sum(size for _, size in found), percent)


def _round(ledger: Ledger) -> Iterator[tuple[Ref, int]]:
    """The objects, from behind the one that was looked at last, and round."""
    _, batch, name = str(ledger.meta(_POSITION, "objects/-1/")).split("/")
    after = int(batch, 16), name
    for ref, _ in ledger.all_proved(after):
        yield ref, ref.stored
    for ref, _ in ledger.all_proved():
        if (ref.batch, ref.name) > after:
            return
        yield ref, ref.stored


def _first(ordered: Iterable[tuple[Thing, int]], total: int, percent: float | None) -> Iterator[tuple[Thing, int]]:
    """The first of `ordered` that are so many percent of `total` bytes, at least one; None is all."""
    left = total * (100.0 if percent is None else percent) / 100
    for thing, size in ordered:
        yield thing, size
        left -= size
        if percent is not None and left <= 0:
            return
