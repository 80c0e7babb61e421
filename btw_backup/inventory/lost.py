"""Backups of type chunks of which nothing is left but the record: the manifest was lost, and nobody removed it.

It may be fetched from a target, and then its chunks must be there. A run gives a backup its manifest before its record,
and a purge takes the record away before the manifest: who dies between the two leaves nothing that looks lost.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from btw_backup import records
from btw_backup.errors import Damaged
from btw_backup.inventory import listing, removal
from btw_backup.keepers import Place
from btw_backup.records import FOLDER, REMOVED

_OF_RDIFF = "rdiff-backup-data"
"""Where it is, there is a repository, in which there are no dsts, but whatever somebody has."""


def each(root: Path, now: datetime, grace: timedelta) -> Iterator[tuple[Place, str]]:
    """The dsts and stamps of all that are lost below ROOT_PATH; of what was removed, until its grace is over."""
    for folder, folders, _ in os.walk(root):
        if FOLDER in folders or REMOVED in folders:
            place = Place(os.path.relpath(folder, root), Path(folder))
            yield from ((place, stamp) for stamp in stamps(place, now, grace))
        folders[:] = [] if _OF_RDIFF in folders else sorted(name for name in folders if not name.startswith("."))


def stamps(place: Place, now: datetime, grace: timedelta) -> Iterator[str]:
    """As `each`, of `place`. Raises `FatalUserError` for a record of a newer format."""
    known = {name: sorted(records.stamps(place.folder, name)) for name in (FOLDER, REMOVED)}
    there = {backup.stamp for folder in _folders(place) for backup in listing.found(replace(place, folder=folder))}
    for name, found in known.items():
        for stamp in found:
            path = place.folder / name / f"{stamp}.json"
            if stamp not in there and not (name == REMOVED and removal.is_over(path, now, grace)) and _needs(path):
                yield stamp


def _folders(place: Place) -> Iterator[Path]:
    yield place.folder
    removed = place.folder / REMOVED
    if removed.is_dir() and not removed.is_symlink():
        yield removed


def _needs(path: Path) -> bool:
    """Whether the record at `path` is of a backup that needs chunks, or nobody can tell."""
    try:
        return records.read(path).keeper == "chunks"
    except Damaged:
        return os.path.lexists(path)


def is_among(place: Place, stamp: str, forgotten: Collection[str]) -> bool:
    """Whether `forgotten` names the dst, or the backup."""
    return place.dst in forgotten or f"{place.dst}@{stamp}" in forgotten


def check(root: Path, now: datetime, grace: timedelta, forgotten: Collection[str] = ()) -> None:
    """Raise `Damaged` if a backup is lost that is not `forgotten`: its chunks are not known."""
    found = [(place, stamp) for place, stamp in each(root, now, grace) if not is_among(place, stamp, forgotten)]
    if not found:
        return
    place, stamp = found[0]
    address = f"{place.dst}@{stamp}"
    what = address if len({place.dst for place, _ in found}) > 1 or len(found) == 1 else place.dst
    which = f"{address} is" if len(found) == 1 else f"{address} and {len(found) - 1} more are"
    raise Damaged(
        f"{which} lost: there is nothing but the record; no chunk was removed",
        f"import --from TARGET brings back what was sent; if it is gone on purpose: cleanup --forget {what}",
    )
