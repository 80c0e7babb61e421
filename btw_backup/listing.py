"""What is kept: the backups of a dst, whoever keeps them, and all dsts below ROOT_PATH."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from btw_backup import records
from btw_backup.clock import STAMP
from btw_backup.keepers import Keeper, Place
from btw_backup.keepers.chunks import Chunks
from btw_backup.keepers.rdiff import Rdiff
from btw_backup.keepers.tar import Tar
from btw_backup.records import Backup

KEEPERS: Mapping[str, Keeper] = {"tar": Tar(), "rdiff": Rdiff(), "chunks": Chunks()}


def keeper_of(backup: Backup) -> Keeper:
    """The keeper that made `backup`."""
    return KEEPERS[backup.keeper]


def backups(place: Place) -> list[Backup]:
    """All backups in `place`, oldest first, each with its record."""
    if not place.folder.is_dir():
        return []
    return records.joined([backup for keeper in KEEPERS.values() for backup in keeper.find(place)], place.folder)


def places(root: Path) -> Iterator[Place]:
    """Every dst below ROOT_PATH that holds a backup, in the order of the names.

    Does not look into hidden folders, nor into what a stamp names.
    """
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not STAMP.match(name))
        place = Place(os.path.relpath(folder, root), Path(folder))
        if place.dst != "." and _holds_any(place):
            yield place


def _holds_any(place: Place) -> bool:
    return any(True for keeper in KEEPERS.values() for _ in keeper.find(place))
