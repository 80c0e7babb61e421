"""What the settings of targets may be. ValueError or TypeError for anything else, as `settings.Check` has it."""

import os
import re
from typing import Any

from btw_backup.clock import seconds_of

LAYOUTS = ("mirror", "objects")
"""How a target is laid out: the same paths as below ROOT_PATH, or objects that are written once, and an index."""

LOCK_MODES = ("GOVERNANCE", "COMPLIANCE")
"""How S3 locks an object: so that a right of its own is needed to lift that, or so that nobody can."""

_DAY, _LONGEST = 86400, 36500 * 86400  # S3 takes no more than 100 years
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_RATE = re.compile(r"(\d{1,12})([kKMG]?)")
_HOURS = re.compile(r"(\d\d)-(\d\d)")
_UNITS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30}


def folder(value: Any) -> str:
    """The absolute path of a folder."""
    path = os.fspath(value)
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        raise ValueError
    return path


def recipients(value: Any) -> tuple[str, ...]:
    """Public keys of age, X25519, and nothing else: a plugin's name would run a program (GHSA-32gq-x56h-299c)."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError
    if not all(_RECIPIENT.fullmatch(one) for one in value):
        raise ValueError
    if value:
        import pyrage  # noqa: PLC0415 - who does not encrypt need not load it

        for one in value:
            try:
                pyrage.x25519.Recipient.from_str(one)
            except pyrage.RecipientError as error:
                raise ValueError from error
    return tuple(value)


Rates = tuple[tuple[int, int, int], ...]
"""Bytes per second, each from one hour of the day to another."""


def bandwidth(value: Any) -> Rates:
    """A rate such as 500k or 2M, or rates by the hours of the day in which they hold: {"08-18": "500k"}."""
    if isinstance(value, str):
        return ((0, 24, _rate(value)),)
    if not isinstance(value, dict) or not value:
        raise ValueError
    return tuple((*_hours(hours), _rate(rate)) for hours, rate in value.items())


def _rate(value: Any) -> int:
    found = _RATE.fullmatch(value)
    if not found or not int(found[1]):
        raise ValueError
    return int(found[1]) << _UNITS[found[2]]


def _hours(value: Any) -> tuple[int, int]:
    found = _HOURS.fullmatch(value)
    if not found or int(found[1]) > 24 or int(found[2]) > 24:
        raise ValueError
    return int(found[1]), int(found[2])


def lock_span(value: Any) -> float:
    """How many seconds objects are locked; 0 for not at all."""
    if value is None:
        return 0.0
    seconds = seconds_of(value) if isinstance(value, str) else None
    if seconds is None or not _DAY <= seconds <= _LONGEST:
        raise ValueError
    return seconds
