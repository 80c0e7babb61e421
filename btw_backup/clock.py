"""Stamps and durations; aware UTC inside, ``2026-11-21T01:23:45`` on disk."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

STAMP = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")
STAMP_FORMAT = "%Y-%m-%dT%H:%M:%S"


def utc_now() -> datetime:
    """The present, aware, in UTC."""
    return datetime.now(UTC)


def stamp_of(moment: datetime) -> str:
    """The stamp of an aware moment, to the second."""
    return moment.astimezone(UTC).strftime(STAMP_FORMAT)


def moment_of(stamp: str) -> datetime:
    """The aware moment that a stamp names; ValueError if it is none."""
    if not STAMP.fullmatch(stamp):
        raise ValueError(f"not a stamp: {stamp}")
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC)  # strptime takes 4 ms to load


def seconds_of(duration: str) -> float | None:
    """The seconds of a duration in words, such as "24h" or "2 days"; None if it is none."""
    from pytimeparse.timeparse import timeparse  # noqa: PLC0415 - most runs have no duration to read

    seconds = timeparse(duration)
    return None if seconds is None else float(seconds)


def free_stamp(taken: str | None, now: Callable[[], datetime] = utc_now) -> str:
    """A stamp younger than `taken`, the newest one in use.

    Waits for the next second if that is all it takes; if the clock went back
    further than two seconds, the stamp is one second after `taken` instead, so
    that the order of backups is kept and nobody waits for a clock.
    """
    deadline = time.monotonic() + 2.5
    while True:
        stamp = stamp_of(now())
        if taken is None or stamp > taken:
            return stamp
        behind = moment_of(taken) - now()
        if behind > timedelta(seconds=2) or time.monotonic() > deadline:
            return stamp_of(moment_of(taken) + timedelta(seconds=1))
        time.sleep(0.05)
