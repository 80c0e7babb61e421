"""Where backups go besides this machine, as the general configuration says: one address for each target.

``S3_URI_PREFIX`` and ``S3CMD_CONFIG`` are the first, called ``s3``; ``OFFSITE`` names the others.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from btw_backup.configuration import checks
from btw_backup.configuration.settings import BY_NAME
from btw_backup.errors import ImproperlyConfigured

FIRST = "s3"
"""The name of the target that ``S3_URI_PREFIX`` is."""

_PLACES = ("S3_URI_PREFIX", "S3CMD_CONFIG", "PATH")
_COMMON = (
    *("ENCRYPT_TO", "LAYOUT", "BANDWIDTH", "SERVER_SIDE_ENCRYPTION", "ALLOW_REMOVAL", "ALLOW_HTTP"),
    *("OBJECT_LOCK", "OBJECT_LOCK_MODE"),
)
"""What a target may say for itself; what it does not say is as in the general configuration."""


@dataclass(frozen=True, slots=True)
class Address:
    """A target: its `name`, where it is (``s3://…``, or the path of a folder), and how it wants to be treated.

    `encrypt_to` are public keys of age. `allow_removal`: what was removed here for good may be removed there.
    `allow_http`: it may be spoken to over HTTP; None if nobody said so, and the old script would have done it.
    What is written once is locked there for `object_lock` seconds, unless that is 0.
    """

    name: str
    place: str
    s3cmd_config: str = ""
    layout: str = "mirror"
    encrypt_to: tuple[str, ...] = ()
    bandwidth: checks.Rates = ()
    server_side_encryption: bool = True
    allow_removal: bool = False
    allow_http: bool | None = False
    object_lock: float = 0.0
    object_lock_mode: str = checks.LOCK_MODES[0]

    def rate(self, hour: int | None = None) -> int:
        """How many bytes per second may be sent at that hour, or now; 0 is as fast as can be."""
        hour = time.localtime().tm_hour if hour is None else hour
        rates = (rate for start, end, rate in self.bandwidth if _is_between(hour, start, end))
        return next(rates, 0)

    @property
    def encryption(self) -> str:
        """In a word, for people."""
        return "age" if self.encrypt_to else "none"


def _is_between(hour: int, start: int, end: int) -> bool:
    """Whether it is `start` o'clock or later, and not yet `end`; also over midnight."""
    return start <= hour < end if start <= end else hour >= start or hour < end


def addresses(general: Mapping[str, Any]) -> list[Address]:
    """All targets, the first one first. Raises `ImproperlyConfigured`."""
    for problem in problems(general):
        raise problem
    return [_address(name, entry, general) for name, entry in _entries(general)]


def problems(general: Mapping[str, Any]) -> Iterator[ImproperlyConfigured]:
    """What is wrong with the targets that `general`, checked name by name, speaks of."""
    seen: dict[str, str] = {}
    for name, entry in _entries(general):
        wrong = next(_problems_of(name, entry, general), None)
        if wrong:
            yield wrong
            continue
        place = _address(name, entry, general).place
        if place in seen:
            yield ImproperlyConfigured(f"the targets {seen[place]} and {name} are the same place: {place}")
        seen[place] = name


def _entries(general: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "S3_URI_PREFIX" in general and "S3CMD_CONFIG" in general:
        yield FIRST, {name: general[name] for name in _PLACES if name in general}
    yield from (general.get("OFFSITE") or {}).items()


def _problems_of(name: str, entry: Mapping[str, Any], general: Mapping[str, Any]) -> Iterator[ImproperlyConfigured]:
    what = "" if entry.keys() <= {*_PLACES[:2]} and name == FIRST else f"OFFSITE, target {name}: "
    if what and name == FIRST:
        yield ImproperlyConfigured(f"{what}the name {FIRST} belongs to S3_URI_PREFIX", "give it another name")
    for key, value in entry.items():
        if key not in (*_PLACES, *_COMMON):
            hint = "it may have " + ", ".join((*_PLACES, *_COMMON))
            yield ImproperlyConfigured(f"{what}there is no setting {key}", hint)
        elif not _is_good(key, value):
            kind = "an absolute path" if key == "PATH" else BY_NAME[key].kind
            yield ImproperlyConfigured(f"{what}{key} must be {kind}")
    if ("PATH" in entry) == ("S3_URI_PREFIX" in entry) or ("S3CMD_CONFIG" in entry) != ("S3_URI_PREFIX" in entry):
        yield ImproperlyConfigured(f"{what}it needs either PATH, or S3_URI_PREFIX and S3CMD_CONFIG")
    if "PATH" in entry and entry.get("OBJECT_LOCK") is not None:
        yield ImproperlyConfigured(f"{what}a folder cannot be locked", "OBJECT_LOCK is for targets in S3")
    address = _address(name, entry, general)
    if address.layout == "mirror" and address.encrypt_to:
        hint = 'LAYOUT = "objects", or ENCRYPT_TO = [] for that target'
        yield ImproperlyConfigured(f"{what}what is encrypted cannot be a mirror", hint)
    root = general.get("ROOT_PATH")
    if root and address.place.startswith("/") and _overlap(address.place, str(root)):
        yield ImproperlyConfigured(f"{what}{address.place} and ROOT_PATH lie in one another")


def _is_good(key: str, value: Any) -> bool:
    try:
        checks.folder(value) if key == "PATH" else BY_NAME[key].check(value)
    except (ValueError, TypeError):
        return False
    return True


def _overlap(one: str, other: str) -> bool:
    one, other = (os.path.realpath(path) for path in (one, other))
    return os.path.commonpath([one, other]) in (one, other)


def _address(name: str, entry: Mapping[str, Any], general: Mapping[str, Any]) -> Address:
    """The address that `entry`, which was checked, is."""

    def said(key: str) -> Any:
        if key in entry:
            return BY_NAME[key].check(entry[key])
        return general[key] if key in general else BY_NAME[key].default

    encrypt_to = said("ENCRYPT_TO")
    layout = said("LAYOUT") or ("objects" if encrypt_to else "mirror")
    unsaid = None if name == FIRST and layout == "mirror" else False
    return Address(
        name=name,
        place=checks.folder(entry["PATH"]) if "PATH" in entry else entry["S3_URI_PREFIX"].rstrip("/") + "/",
        s3cmd_config=entry.get("S3CMD_CONFIG", ""),
        layout=layout,
        encrypt_to=encrypt_to,
        bandwidth=said("BANDWIDTH") or (),
        server_side_encryption=said("SERVER_SIDE_ENCRYPTION"),
        allow_removal=said("ALLOW_REMOVAL"),
        allow_http=unsaid if (http := said("ALLOW_HTTP")) is None else http,
        object_lock=(said("OBJECT_LOCK") or 0.0) if "S3_URI_PREFIX" in entry else 0.0,
        object_lock_mode=said("OBJECT_LOCK_MODE"),
    )
