"""What rdiff-backup replaced in a repository, and so must not stay in the copy of it.

An increment takes away two files: the old ``current_mirror`` marker, after it wrote a newer one (a repository with
two is taken for an interrupted one), and the old ``.snapshot`` of the metadata, after it wrote a ``.diff`` in its
place. Nothing else is ever inferred from what is missing.
"""

import os
import re
from collections.abc import Collection, Iterable
from datetime import datetime

FOLDER = "rdiff-backup-data"

_MARKER = re.compile(r"current_mirror\.([^.]+)\.data(?:\.gz)?")
_SNAPSHOT = re.compile(r"(.+\.[^.]+)\.snapshot(?:\.gz)?")


def superseded(there: Iterable[str], here: Collection[str]) -> list[str]:
    """Those of the paths `there` that are not `here`, but whose successor is."""
    newest: dict[str, datetime] = {}
    for path in here:
        folder, moment = _marked(path)
        if moment is not None and (folder not in newest or moment > newest[folder]):
            newest[folder] = moment
    return [path for path in there if path not in here and (_is_old_marker(path, newest) or _was_replaced(path, here))]


def _marked(path: str) -> tuple[str, datetime | None]:
    """The folder of `path`, and the moment of the session that it marks if it is a marker."""
    folder, name = os.path.split(path)
    found = _MARKER.fullmatch(name)
    if found is None or os.path.basename(folder) != FOLDER:
        return folder, None
    try:
        moment = datetime.fromisoformat(found[1])
    except ValueError:
        return folder, None
    return folder, moment if moment.tzinfo else None


def _is_old_marker(path: str, newest: dict[str, datetime]) -> bool:
    folder, moment = _marked(path)
    return moment is not None and folder in newest and moment < newest[folder]


def _was_replaced(path: str, here: Collection[str]) -> bool:
    folder, name = os.path.split(path)
    found = _SNAPSHOT.fullmatch(name)
    if found is None or os.path.basename(folder) != FOLDER:
        return False
    return any(f"{folder}/{found[1]}.diff{ending}" in here for ending in ("", ".gz"))
