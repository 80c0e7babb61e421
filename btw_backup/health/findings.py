"""What an installation's doctor finds, and the rules by which he judges; nothing here looks at anything."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from btw_backup.log import size_text

OK, WARNING, ERROR = "ok", "warning", "error"
EARLIEST, LATEST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""This program is younger than the one, and nobody lives to see the other."""

TOLERANCE = timedelta(minutes=1)
LEAST_FREE = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    level: str
    what: str
    detail: str
    hint: str = ""


def judge_clock(now: datetime, address: str | None, newest: datetime | None) -> Finding:
    """Whether `now` can be the time, if the backup `address` was made at `newest`."""
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    hint = "set the clock, and let a time service such as chrony or systemd-timesyncd keep it"
    if not EARLIEST <= now <= LATEST:
        return Finding(ERROR, "clock", f"{shown} cannot be the time", hint)
    if newest and now < newest - TOLERANCE:
        return Finding(ERROR, "clock", f"{shown} is before the newest backup, {address}", hint)
    return Finding(OK, "clock", shown + (f", after the newest backup, {address}" if address else ""))


def judge_space(what: str, free: int, total: int, names: bool, largest: int) -> Finding:
    """Whether the next backup will fit: `names` says if there are inodes left, `largest` is the size of the last."""
    detail = f"{size_text(free)} of {size_text(total)} free"
    if not names:
        return Finding(ERROR, what, "no inodes left", "remove files there, or make the filesystem anew with more")
    if free < LEAST_FREE:
        return Finding(ERROR, what, detail, "make room")
    if free < largest:
        return Finding(
            WARNING, what, f"{detail}, and the largest of the newest backups took {size_text(largest)}", "make room"
        )
    if free < total / 20:
        return Finding(WARNING, what, detail, "make room")
    return Finding(OK, what, detail)
