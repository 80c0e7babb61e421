"""What is kept: the backups of a dst, whoever keeps them, what was removed of it, and all dsts below ROOT_PATH."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from btw_backup import records
from btw_backup.clock import STAMP
from btw_backup.keepers import Keeper, Place
from btw_backup.records import Backup


def _tar() -> Keeper:
    from btw_backup.keepers.tar import Tar  # noqa: PLC0415 - a run needs one keeper, and each takes 10 ms to load

    return Tar()


def _rdiff() -> Keeper:
    from btw_backup.keepers.rdiff import Rdiff  # noqa: PLC0415 - as above

    return Rdiff()


def _chunks() -> Keeper:
    from btw_backup.keepers.chunks import Chunks  # noqa: PLC0415 - as above

    return Chunks()


def _file() -> Keeper:
    from btw_backup.keepers.file import File  # noqa: PLC0415 - as above

    return File()


_KEEPERS: Mapping[str, Callable[[], Keeper]] = {
    "tar": _tar,
    "rdiff": _rdiff,
    "chunks": _chunks,
    "file": _file,
}


@cache
def keeper(name: str) -> Keeper:
    """The keeper `name`."""
    return _KEEPERS[name]()


def keepers() -> list[Keeper]:
    """All keepers."""
    return [keeper(name) for name in _KEEPERS]


def keeper_of(backup: Backup) -> Keeper:
    """The keeper that made `backup`."""
    return keeper(backup.keeper)


def backups(place: Place) -> list[Backup]:
    """All backups in `place`, oldest first, each with its record."""
    return list(each(place))


def each(place: Place) -> Iterator[Backup]:
    """As `backups`, one after the other: of all others, what is in memory is their names (0.5 kB each)."""
    if place.folder.is_dir():
        yield from _joining(place, place.folder, records.FOLDER)


def _joining(place: Place, folder: Path, of_records: str) -> Iterator[Backup]:
    """What is in `folder`, with what the folder `of_records` of the place knows of it."""
    from btw_backup.keepers.chunks import kind_of  # noqa: PLC0415 - as above

    for backup in records.joining(found(replace(place, folder=folder)), place.folder, of_records):
        kind = kind_of(backup) if backup.keeper == "chunks" else backup.kind
        yield backup if kind == backup.kind else replace(backup, kind=kind)


def found(place: Place) -> Iterator[Backup]:
    """The backups in `place`, in any order, without their records."""
    return (backup for one in keepers() for backup in one.find(place))


def settle(place: Place) -> None:
    """Give the record that a dead run has prepared its name, if the backup got its own. The caller holds the lock."""
    record = records.prepared(place.folder)
    if record is None:
        return
    is_there = any(backup.stamp == record.stamp for backup in found(place))
    if is_there and record.stamp not in records.stamps(place.folder):
        records.complete(place.folder, record.stamp)
    else:
        (place.folder / records.FOLDER / records.NEXT).unlink()


def removed(place: Place) -> Iterator[Backup]:
    """What was removed from `place` and can be brought back, oldest first; where it is now is its `path`."""
    folder = place.folder / records.REMOVED
    if folder.is_dir() and not folder.is_symlink():
        yield from _joining(place, folder, records.REMOVED)


def places(root: Path, *, with_removed: bool = False) -> Iterator[Place]:
    """Every dst below ROOT_PATH that holds a backup, or a removed one, in the order of the names.

    Does not look into hidden folders, nor into what a stamp names.
    """
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not STAMP.match(name))
        place = Place(os.path.relpath(folder, root), Path(folder))
        if place.dst != "." and (_holds_any(place) or (with_removed and (place.folder / records.REMOVED).is_dir())):
            yield place


def _holds_any(place: Place) -> bool:
    return any(True for one in keepers() for _ in one.find(place))
