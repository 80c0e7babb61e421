"""Backups and what is known of them: the record beside each.

A record is ``ROOT_PATH/<dst>/.records/<stamp>.json``, one JSON object. Backups that the
old script made have none; whatever can be known without is then filled in.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btw_backup import files, regular, sealed
from btw_backup.clock import STAMP
from btw_backup.errors import Damaged, FatalUserError, unreadable

if TYPE_CHECKING:
    import msgspec

FOLDER = ".records"
FORMAT = 1

NEXT = ".next.json"
"""Among the records, that of the backup which a run is about to give its name. If it dies then, the next one in the dst
gives the record its own; so a backup of ours without any has lost it."""

REMOVED = ".removed"
"""The folder of a dst where a removed backup lies, with its record and its mark, until a cleanup purges it."""

DAMAGED = ".damaged"
"""The ending, in place of ``.json``, of the mark of a backup that a scrub found damaged: JSON, what and when."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a run knew of the backup that it made.

    `length` and `sha256` are of the plain stream (the tar archive or the dump, before compression); `content` is the
    digest that says whether two streams hold the same, for a dump that of the SQL it stands for. `changed`
    and `unread` list paths with the reason, the first thousand; `left_out` counts the rest. `sockets` holds what an
    archive cannot. `sequence` numbers the backups of a dst.
    """

    uid: str
    stamp: str
    sequence: int
    kind: str
    source: str
    keeper: str
    started: str
    finished: str
    length: int
    sha256: str
    content: str
    stored: int = 0
    full: str = ""
    status: int = 0
    changed: tuple[tuple[str, str], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    left_out: int = 0
    sockets: tuple[Mapping[str, Any], ...] = ()
    tags: tuple[str, ...] = ()
    programs: Mapping[str, str] = field(default_factory=dict)
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup in a dst, as a keeper found it.

    `path` is its file, or its rdiff-backup repository; `full` the stamp of the full that it depends on, its own for a
    full; `name` what ``list`` prints; `record` None if it was made by the old script, or its record is lost. `doubt`
    says why what is at the place of its record is none of its own; nobody knows what it was then, and it is not valid.
    """

    dst: str
    stamp: str
    keeper: str
    kind: str
    path: Path
    name: str
    full: str
    record: Record | None = None
    valid: bool = True
    doubt: str = ""

    @property
    def address(self) -> str:
        """``DST@STAMP``."""
        return f"{self.dst}@{self.stamp}"


def write(place: Path, record: Record, owner: tuple[int, int] | None = None) -> None:
    """Write the record into the dst `place`, owned by `owner`; it is there whole or not at all."""
    _write(place, f"{record.stamp}.json", record, owner)


def prepare(place: Path, record: Record, owner: tuple[int, int] | None = None) -> None:
    """As `write`, before its backup gets its name: after that comes `complete`."""
    _write(place, NEXT, record, owner)


def complete(place: Path, stamp: str) -> None:
    """Give the record that was prepared, of the backup at `stamp`, its name."""
    files.publish(place / FOLDER / NEXT, place / FOLDER / f"{stamp}.json")


def prepared(place: Path) -> Record | None:
    """The record that was prepared, of a backup that may have got its name, or may not."""
    path = place / FOLDER / NEXT
    try:
        return parsed(regular.read(path), str(path))
    except (OSError, Damaged):
        return None


def _write(place: Path, name: str, record: Record, owner: tuple[int, int] | None) -> None:
    folder = place / FOLDER
    if folder.is_symlink():
        raise FatalUserError(f"{folder} is a link", "look who put that there, and remove it")
    files.make_folder(folder)
    files.change_owner(folder, owner)
    with files.published(folder / name) as out:
        files.write_all(out.fileno(), sealed.text_of({"format": FORMAT, **asdict(record)}))
        files.change_owner(out.fileno(), owner)


_NAMES = frozenset(f.name for f in fields(Record))


@cache
def _decoder() -> "msgspec.json.Decoder[Record]":
    from msgspec.json import Decoder  # noqa: PLC0415 - 10 ms, and a run that finds nothing new reads no record

    return Decoder(Record)


def read(path: Path) -> Record:
    """The record in the file `path`. Raises `Damaged` if it is none, `FatalUserError` if it is of a newer format."""
    try:
        record = parsed(regular.read(path), str(path))
    except OSError as error:
        raise unreadable(f"the record {path}", error, "the backup itself may be well") from error
    if record.stamp != path.stem:
        raise Damaged(f"the record {path} is of another backup, {record.stamp}")
    return record


def parsed(content: bytes, where: str) -> Record:
    """The record that `content`, which was found at `where`, is. Raises as `read` does."""
    try:
        found = sealed.format_of(content)
        record = sealed.decoded(content, _decoder(), _NAMES) if found <= FORMAT else None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"the record {where} cannot be read: {error}", "the backup itself may be well") from error
    if record is None:
        raise FatalUserError(f"{where} has the newer format {found}", "use a newer btw-backup")
    return record


def next_sequence(place: Path) -> int:
    """The sequence number of the next backup in the dst `place`: one more than that of the youngest that can be read,
    so that a run costs the same however many there are."""
    young = (_read_if_any(place / FOLDER, stamp)[0] for stamp in sorted(stamps(place), reverse=True))
    return 1 + next((record.sequence for record in young if record), 0)


def stamps(place: Path, folder: str = FOLDER) -> Iterator[str]:
    """The stamps that have a record in the `folder` of the dst `place`, readable or not, in any order."""
    names = (name[:-5] for name in _names(place / folder) if name.endswith(".json"))
    return (name for name in names if STAMP.fullmatch(name))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_if_any(folder: Path, stamp: str) -> tuple[Record | None, str]:
    """The record of `stamp`, or why what is there is none; "" if nothing is."""
    path = folder / f"{stamp}.json"
    try:
        return read(path), ""
    except Damaged as error:
        return None, error.message if os.path.lexists(path) else ""


def joined(backups: Iterable[Backup], place: Path, folder: str = FOLDER) -> list[Backup]:
    """`backups` in the order of their stamps, each with its record in `folder`, and whether it is valid."""
    return list(joining(backups, place, folder))


def is_valid(backup: Backup, place: Path) -> bool:
    """Whether no scrub has found `backup` damaged."""
    return not (place / FOLDER / (backup.stamp + DAMAGED)).exists()


def recorded(backup: Backup | None, place: Path) -> Backup | None:
    """`backup` with its record, if there is one; None if what is there is none: nothing is built on such a backup."""
    found = joined([backup], place)[0] if backup else None
    return None if found and found.doubt else found


def joining(backups: Iterable[Backup], place: Path, folder: str = FOLDER) -> Iterator[Backup]:
    """As `joined`, one after the other: a record is in memory as long as the caller keeps it."""
    there = frozenset(_names(place / folder))
    for backup in sorted(backups, key=lambda backup: (backup.stamp, backup.name)):
        known = f"{backup.stamp}.json" in there
        record, doubt = _read_if_any(place / folder, backup.stamp) if known else (None, "")
        valid = not doubt and backup.stamp + DAMAGED not in there
        yield replace(backup, record=record, valid=valid, doubt=doubt)
