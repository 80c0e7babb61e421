"""The mark beside a record that says that a backup is not to be trusted: what is wrong, who says so, since when.

``ROOT_PATH/<dst>/.records/<stamp>.damaged`` is a JSON object; that of a removed backup is in ``<dst>/.removed``. That
it is there is what counts: a mark that cannot be read is a mark all the same.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from btw_backup import files, regular
from btw_backup.records import DAMAGED, FOLDER, REMOVED, Backup

FORMAT = 1
MOST = 1000
"""How many chunks a mark names."""

_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """`by` is the command, or ``verify``, or ``run``; `why` says what is wrong; `chunks` are the first bad ones."""

    stamp: str
    since: str
    by: str
    why: tuple[str, ...]
    chunks: tuple[str, ...] = ()


def place_of(backup: Backup) -> Path:
    """Where the mark of `backup` is, if it has one: beside its record, and so beside it once it was removed."""
    folder = backup.path.parent
    return (folder if folder.name == REMOVED else folder / FOLDER) / (backup.stamp + DAMAGED)


def write(backup: Backup, mark: Mark) -> None:
    """Mark `backup`, in the place of an older mark; the mark belongs to whom the folder of the records belongs."""
    path = place_of(backup)
    files.make_folder(path.parent)
    content = json.dumps({"format": FORMAT, **asdict(mark)}, indent=1).encode() + b"\n"
    for last in (False, True):
        try:
            with files.published(path) as out:
                files.write_all(out.fileno(), content)
                status = path.parent.stat()
                files.change_owner(out.fileno(), (status.st_uid, status.st_gid))
            return
        except FileNotFoundError:  # a run that holds the lock of the dst, which we do not, swept what we wrote
            if last:
                raise


def read(backup: Backup) -> Mark | None:
    """The mark of `backup`; None if it has none, or one that cannot be read."""
    try:
        with regular.opened(place_of(backup)) as file:
            found = json.loads(file.read(_LARGEST))
        return Mark(**{f.name: _frozen(found[f.name]) for f in fields(Mark)})
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _frozen(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, list) else str(value)


def remove(backup: Backup) -> None:
    """Take the mark away: all of the backup was proved."""
    place_of(backup).unlink(missing_ok=True)
    files.sync_folder(place_of(backup).parent)
