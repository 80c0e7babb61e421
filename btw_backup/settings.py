"""Every name that a configuration file may set: where, what it must be, its default, and what it means."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytimeparse.timeparse import timeparse

COMPRESSIONS = ("zstd", "bzip2", "gzip", "xz", "none")
TYPES = ("tar", "rdiff", "chunks")
GENERAL, TREE, DATABASE = "config.py", "a filesystem's config.py", "a database's file"

Check = Callable[[Any], Any]
"""Gives back the value that the program works with; ValueError or TypeError if the one in the file is of no use."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One name that a configuration file may set.

    `kind` says in words what it must be; `example` is Python, the default where there is one. `needs` is another
    setting without which this one is worth nothing.
    """

    name: str
    where: tuple[str, ...]
    kind: str
    check: Check
    default: Any
    example: str
    meaning: str
    needs: str = ""


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError
    return text


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError
    return path


def _anything(value: Any) -> Any:
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    seconds = timeparse(_text(value))
    if seconds is None or not 0 <= seconds < 1e10:
        raise ValueError
    return float(seconds)


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError
        return value

    return check


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError
    return tuple(_text(item) for item in value)


def _targets(value: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError
    for name, target in value.items():
        if not isinstance(target, dict) or not _text(name).isidentifier():
            raise ValueError
    return MappingProxyType({name: MappingProxyType(dict(target)) for name, target in value.items()})


def _prefix(value: Any) -> str:
    text = _text(value)
    bucket = text.removeprefix("s3://").partition("/")[0]
    if not text.startswith("s3://") or not bucket:
        raise ValueError
    return text


SETTINGS = (
    Setting(
        "ROOT_PATH", (GENERAL,), "an absolute path", _path, None, '"/var/backups/btw-backup"',
        "the folder that holds all backups; every DST is relative to it. Required",
    ),
    Setting(
        "S3_URI_PREFIX", (GENERAL,), "s3://BUCKET/PATH", _prefix, None, '"s3://bucket/backups"',
        "where in S3 the backups go", needs="S3CMD_CONFIG",
    ),
    Setting(
        "S3CMD_CONFIG", (GENERAL,), "a path", _text, None, '"/root/.s3cfg"',
        "the configuration file that s3cmd is to use; needed with ``S3_URI_PREFIX``", needs="S3_URI_PREFIX",
    ),
    Setting(
        "OFFSITE", (GENERAL,), "a dictionary of dictionaries", _targets, None, "{}",
        "``{}`` says that backups stay on this machine only",
    ),
    Setting(
        "LOCK_WAIT", (GENERAL,), "a duration", _seconds, 600.0, '"10m"',
        "how long to wait for another run before giving up with status 4",
    ),
    Setting(
        "SYNC_TIMEOUT", (GENERAL,), "a duration", _seconds, 86400.0, '"24h"',
        "how long one call of s3cmd may take",
    ),
    Setting(
        "LOG", (GENERAL,), "an absolute path", _path, None, '"/var/log/btw-backup.log"',
        "the log file; by default ``btw-backup.log`` in the configuration directory",
    ),
    Setting(
        "AWSCLI_PROFILE", (GENERAL,), "anything", _anything, None, '"backup"',
        "not used any more; accepted because old files have it",
    ),
    Setting(
        "COMPRESSION", (GENERAL, TREE), "one of " + ", ".join(COMPRESSIONS), _one_of(*COMPRESSIONS), "zstd", '"zstd"',
        "how new archives of type ``tar`` are compressed; a filesystem's own comes before the general one",
    ),
    Setting(
        "TYPE", (TREE,), "one of " + ", ".join(TYPES), _one_of(*TYPES), None, '"tar"',
        "how backups are kept. Required",
    ),
    Setting(
        "MAX_INCREMENTAL_COUNT", (TREE, DATABASE), "a whole number", _count, 10, "10",
        "how many incrementals a full may have; type ``rdiff`` and databases",
    ),
    Setting(
        "MAX_INCREMENTAL_SPAN", (TREE, DATABASE), "a duration", _seconds, 86400.0, '"24h"',
        "how long after a full the next full is due; type ``rdiff`` and databases",
    ),
    Setting(
        "EXCLUDE", (TREE, DATABASE), "a list of texts", _texts, (), '["*.tmp", "/cache"]',
        "patterns of paths to leave out; in ``global.py``, of databases that ``db --all`` leaves out",
    ),
    Setting(
        "ONE_FILE_SYSTEM", (TREE,), "True or False", _flag, True, "True",
        "whether to stay on the filesystem of the source",
    ),
    Setting(
        "SKIP_CACHES", (TREE,), "True or False", _flag, True, "True",
        "whether to leave out folders that a valid ``CACHEDIR.TAG`` marks",
    ),
    Setting(
        "ALLOW_EMPTY", (TREE, DATABASE), "True or False", _flag, False, "False",
        "whether an empty source is a backup and not an error",
    ),
    Setting(
        "CONNECTION", (DATABASE,), "a connection string", _text, "", '"host=/run/postgresql port=5432"',
        "how to reach the server, as libpq has it; passwords belong in ``~/.pgpass``",
    ),
)  # fmt: skip
"""In the order of the manual's table, which a test compares with this."""

BY_NAME = {setting.name: setting for setting in SETTINGS}
