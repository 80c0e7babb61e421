"""How a SPEC names backups: by stamp, uid, number, tag or time."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from btw_backup.clock import STAMP, moment_of, seconds_of, stamp_of
from btw_backup.errors import NotFound, UsageError
from btw_backup.records import Backup

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
    chosen = {id(b) for part in re.split(r"\s+or\s+", spec) for b in _both(backups, part, now)}
    return [b for b in backups if id(b) in chosen]


def _both(backups: list[Backup], spec: str, now: datetime) -> list[Backup]:
    chosen = backups
    for part in re.split(r"\s+and\s+", spec):
        unwanted = part.startswith("not ")
        matching = {id(b) for b in _single(backups, part.removeprefix("not ").strip(), now)}
        chosen = [b for b in chosen if (id(b) in matching) != unwanted]
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


def moment(text: str, now: datetime) -> datetime:
    """The time that somebody gives where a SPEC could give one. Raises `UsageError` if it is none."""
    found = _moment(text.strip(), now, strict=False)
    if found is None:
        raise UsageError(f"{text} is no time", 'a stamp, a date, "yesterday", "2h ago" or "2026-11-21 13:00"')
    return found


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
            seconds = seconds_of(relative["span"])
            if seconds is not None:
                return now - timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{spec} is no date: {error}") from error
    if strict and not re.fullmatch(r"[0-9A-Za-z:-]{1,40}", spec):
        raise UsageError(f"{spec} is no SPEC", "a stamp, its beginning, N, latest, first, a date, “2h ago”, or A..B")
    return None


def _end_of_day(moment: datetime) -> datetime:
    return moment.replace(hour=23, minute=59, second=59, microsecond=0)
