"""Backups and what is known of them: the record beside each, and how a SPEC names one.

A record is ``ROOT_PATH/<dst>/.records/<stamp>.json``, one JSON object. Backups that the
old script made have none; whatever can be known without is then filled in.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pytimeparse.timeparse import timeparse

from btw_backup import files
from btw_backup.clock import STAMP, moment_of, stamp_of
from btw_backup.errors import Damaged, FatalUserError, NotFound, UsageError

FOLDER = ".records"
FORMAT = 1


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
    full; `name` what ``list`` prints; `record` None if it was made by the old script, or its record is lost.
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

    @property
    def address(self) -> str:
        """``DST@STAMP``."""
        return f"{self.dst}@{self.stamp}"


def write(place: Path, record: Record, owner: tuple[int, int] | None = None) -> None:
    """Write the record into the dst `place`, owned by `owner`; it is there whole or not at all."""
    folder = place / FOLDER
    files.make_folder(folder)
    files.change_owner(folder, owner)
    content = json.dumps({"format": FORMAT, **asdict(record)}, indent=1, ensure_ascii=True)
    with files.published(folder / f"{record.stamp}.json") as out:
        files.write_all(out.fileno(), content.encode() + b"\n")
        files.change_owner(out.fileno(), owner)


def read(path: Path) -> Record:
    """The record in the file `path`. Raises `Damaged` if it is none, `FatalUserError` if it is of a newer format."""
    try:
        found = json.loads(path.read_bytes())
        if found["format"] > FORMAT:
            raise FatalUserError(f"{path} has the newer format {found['format']}", "use a newer btw-backup")
        known = {f.name: found[f.name] for f in fields(Record) if f.name in found}
        record = Record(**{name: _frozen(value) for name, value in known.items()})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"the record {path} cannot be read: {error}", "the backup itself may be well") from error
    if record.stamp != path.stem:
        raise Damaged(f"the record {path} is of another backup, {record.stamp}")
    return record


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def read_all(place: Path) -> dict[str, Record]:
    """The records in the dst `place` by stamp; one that cannot be read is left out."""
    found = {}
    for path in sorted((place / FOLDER).glob("*.json")):
        if STAMP.fullmatch(path.stem):
            try:
                found[path.stem] = read(path)
            except Damaged:
                continue
    return found


def joined(backups: Sequence[Backup], place: Path) -> list[Backup]:
    """`backups` in the order of their stamps, each with its record."""
    known = read_all(place)
    return sorted((replace(b, record=known.get(b.stamp)) for b in backups), key=lambda b: (b.stamp, b.name))


_RELATIVE = re.compile(r"(?P<span>.+?)\s+ago", re.IGNORECASE)
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})([T ](\d{2}):(\d{2})(:(\d{2}))?)?Z?")
_DAYS = {"today": 0, "yesterday": 1}


def address(text: str) -> tuple[str, str]:
    """Split ``DST[@SPEC]`` at its last ``@``; without one the SPEC is ``latest``."""
    dst, at, spec = text.rpartition("@")
    return (dst, spec or "latest") if at else (text, "latest")


def one(backups: Sequence[Backup], spec: str, now: datetime) -> Backup:
    """The single backup that `spec` names. Raises `NotFound`; `UsageError` if it names several."""
    found = resolve(backups, spec, now)
    if len(found) > 1:
        raise UsageError(f"{spec} names {len(found)} backups, and one is needed", "give a full stamp; list shows them")
    return found[0]


def resolve(backups: Sequence[Backup], spec: str, now: datetime) -> list[Backup]:
    """The backups that `spec` names, oldest first; `backups` are in that order.

    A full stamp or unique prefix, a uid, ``N`` (the N-th newest), ``latest``, ``first``, ``all``, ``tag:NAME``, a date
    or duration that means the newest backup not younger ("yesterday", "2h ago", "2026-11-21 13:00"), ``A..B``, and
    these joined by ``and``, ``or``, ``not``. Raises `NotFound` if there is none, `UsageError` if it makes no sense.
    """
    found = _either(list(backups), spec.strip(), now)
    if not found:
        raise NotFound(f"there is no backup {spec}" + ("" if backups else ": there are no backups here"))
    return found


def _either(backups: list[Backup], spec: str, now: datetime) -> list[Backup]:
    chosen = [b for part in re.split(r"\s+or\s+", spec) for b in _both(backups, part, now)]
    return [b for b in backups if b in chosen]


def _both(backups: list[Backup], spec: str, now: datetime) -> list[Backup]:
    chosen = backups
    for part in re.split(r"\s+and\s+", spec):
        unwanted = part.startswith("not ")
        matching = _single(backups, part.removeprefix("not ").strip(), now)
        chosen = [b for b in chosen if (b in matching) != unwanted]
    return chosen


def _single(backups: list[Backup], spec: str, now: datetime) -> list[Backup]:
    first, dots, last = spec.partition("..")
    if dots:
        return _between(backups, first, last, now)
    if spec == "all":
        return backups
    if spec in ("latest", "first"):
        return backups[-1:] if spec == "latest" else backups[:1]
    if spec.startswith("tag:"):
        return [b for b in backups if b.record and spec[4:] in b.record.tags]
    if spec.isdecimal() and len(spec) < 4:
        return backups[-1 - int(spec) :][:1] if int(spec) < len(backups) else []
    named = [b for b in backups if spec and (b.stamp == spec or (b.record and b.record.uid == spec))]
    return named or _by_prefix(backups, spec) or _not_younger(backups, _moment(spec, now))


def _by_prefix(backups: list[Backup], spec: str) -> list[Backup]:
    """Backups of a unique stamp or uid prefix. A whole date is a time, not a prefix."""
    if len(spec) < 4 or _DATE.fullmatch(spec):
        return []
    found = [
        b
        for b in backups
        if b.stamp.startswith(spec) or (b.record and len(spec) >= 6 and b.record.uid.startswith(spec))
    ]
    if len(found) > 1:
        raise UsageError(f"{spec} is the beginning of {len(found)} stamps", "give more of it; list shows them")
    return found


def _not_younger(backups: list[Backup], moment: datetime | None) -> list[Backup]:
    return [b for b in backups if b.stamp <= stamp_of(moment)][-1:] if moment else []


def _between(backups: list[Backup], first: str, last: str, now: datetime) -> list[Backup]:
    low = _edge(backups, first, now) if first else ""
    high = _edge(backups, last, now) if last else "9"
    if first.lower() in _DAYS or re.fullmatch(r"\d{4}-\d{2}-\d{2}", first):
        low = low[:10]  # from the beginning of that day
    return [b for b in backups if low <= b.stamp <= high]


def _edge(backups: list[Backup], spec: str, now: datetime) -> str:
    """The stamp where a range ends: a time as it is, anything else that of the backup it names."""
    moment = _moment(spec, now, strict=False)
    if moment:
        return stamp_of(moment)
    found = _single(backups, spec, now)
    if len(found) != 1:
        raise NotFound(f"there is no backup {spec}")
    return found[0].stamp


def _moment(spec: str, now: datetime, strict: bool = True) -> datetime | None:
    """The time that `spec` means; a date without a time of day means its end."""
    if STAMP.fullmatch(spec):
        return moment_of(spec)
    if spec.lower() in _DAYS:
        return _end_of_day(now - timedelta(days=_DAYS[spec.lower()]))
    try:
        if date := _DATE.fullmatch(spec):
            year, month, day = (int(date[n]) for n in (1, 2, 3))
            if not date[4]:
                return _end_of_day(datetime(year, month, day, tzinfo=UTC))
            return datetime(year, month, day, int(date[5]), int(date[6]), int(date[8] or 59), tzinfo=UTC)
        if relative := _RELATIVE.fullmatch(spec):
            seconds = timeparse(relative["span"])
            if seconds is not None:
                return now - timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{spec} is no date: {error}") from error
    if strict and not re.fullmatch(r"[0-9A-Za-z:-]{1,40}", spec):
        raise UsageError(f"{spec} is no SPEC", "a stamp, its beginning, N, latest, first, a date, “2h ago”, or A..B")
    return None


def _end_of_day(moment: datetime) -> datetime:
    return moment.replace(hour=23, minute=59, second=59, microsecond=0)
