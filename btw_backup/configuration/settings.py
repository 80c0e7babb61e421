"""Every name that a configuration file may set: where, what it must be, its default, and what it means."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from btw_backup.clock import seconds_of
from btw_backup.configuration import checks

COMPRESSIONS = ("zstd", "bzip2", "gzip", "xz", "none")
GENERAL, TREE, DATABASE, COMMAND = "config.py", "a filesystem's config.py", "a database's file", "a command's file"
TYPES = {TREE: ("tar", "rdiff", "chunks"), DATABASE: ("rdiff", "chunks", "file"), COMMAND: ("chunks", "file")}
"""The keepers that each kind of source can have, and how it is kept if nobody says: the first."""

Check = Callable[[Any], Any]
"""Gives back the value that the program works with; ValueError or TypeError if the one in the file is of no use."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One name that a configuration file may set.

    `kind` says in words what it must be; `example` is Python, the default where there is one. `needs` is another
    setting without which this one is worth nothing. `choices` are the only values in some kinds of files.
    """

    name: str
    where: tuple[str, ...]
    kind: str
    check: Check
    default: Any
    example: str
    meaning: str
    needs: str = ""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def kind_in(self, where: str) -> str:
        """What it must be in a file of the kind `where`."""
        return "one of " + ", ".join(self.choices[where]) if where in self.choices else self.kind


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
    seconds = seconds_of(_text(value))
    if seconds is None or not 0 <= seconds < 1e10:
        raise ValueError
    return seconds


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


def _command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(word, str) for word in value):
        raise ValueError
    program = _text(value[0])
    if any("\0" in word for word in value) or ("/" in program and not os.path.isabs(program)):
        raise ValueError
    return tuple(value)


def _url(value: Any) -> str:
    found = re.fullmatch(r"https?://(?P<host>[^/?#@\s]+)(?:[/?][^#\s]*)?", _text(value))
    if not found or not found[0].isascii() or not found[0].isprintable():
        raise ValueError
    return found[0]


def _targets(value: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError
    for name, target in value.items():
        if not isinstance(target, dict) or not _text(name).isidentifier():
            raise ValueError
    return MappingProxyType({name: MappingProxyType(dict(target)) for name, target in value.items()})


def _postgresql(value: Any) -> str:
    text = _text(value)
    if not text.startswith(("postgresql://", "postgresql+psycopg://")):
        raise ValueError
    return text


def _prefix(value: Any) -> str:
    text = _text(value)
    bucket = text.removeprefix("s3://").partition("/")[0]
    if not text.startswith("s3://") or not bucket:
        raise ValueError
    return text


def _types_in_words() -> str:
    return "one of " + "; ".join(f"{', '.join(types)} in {where}" for where, types in TYPES.items())


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
        "further targets by their names: each has ``PATH``, or ``S3_URI_PREFIX`` and ``S3CMD_CONFIG``, and may have "
        "its own ``LAYOUT``, ``ENCRYPT_TO``, ``BANDWIDTH``, ``SERVER_SIDE_ENCRYPTION``, ``ALLOW_REMOVAL``, "
        "``ALLOW_HTTP``, ``OBJECT_LOCK`` and ``OBJECT_LOCK_MODE``. ``{}`` says that backups stay on this machine only",
    ),
    Setting(
        "ENCRYPT_TO", (GENERAL,), "a list of public keys of age, age1…", checks.recipients, (), "[]",
        "for whom everything is encrypted before it leaves this machine, which cannot read it then; ``keys generate`` "
        "makes a key. Makes ``LAYOUT`` objects",
    ),
    Setting(
        "LAYOUT", (GENERAL,), "one of " + ", ".join(checks.LAYOUTS), _one_of(*checks.LAYOUTS), None, '"mirror"',
        "how targets are laid out: the same paths as below ``ROOT_PATH``, or objects that are written once. By default "
        "mirror, with ``ENCRYPT_TO`` objects",
    ),
    Setting(
        "BANDWIDTH", (GENERAL,), "bytes per second, such as 500k, or a dictionary of them by the hours of the day",
        checks.bandwidth, None, '{"08-18": "500k"}',
        "how fast anything is sent to each target, at most; in the hours that are not named, as fast as can be",
    ),
    Setting(
        "SERVER_SIDE_ENCRYPTION", (GENERAL,), "True or False", _flag, True, "True",
        "whether S3 is asked to encrypt on its side, too; some servers refuse to be asked",
    ),
    Setting(
        "ALLOW_REMOVAL", (GENERAL,), "True or False", _flag, False, "False",
        "whether what ``rm`` removed and ``cleanup`` freed here is removed at the targets, too; else nothing ever is",
    ),
    Setting(
        "ALLOW_HTTP", (GENERAL,), "True or False", _flag, None, "True",
        "whether s3cmd may speak HTTP to another machine, which everybody on the way can read and fake. By default it "
        "may not, but for what the old script has sent over HTTP, which goes on with a warning",
    ),
    Setting(
        "OBJECT_LOCK", (GENERAL,), "a duration of a day or more, or None", checks.lock_span, None, '"30 days"',
        "how long nobody may delete or change what was sent to S3, in buckets that were made with object lock; ``lock "
        "extend`` renews it for what is still kept",
    ),
    Setting(
        "OBJECT_LOCK_MODE", (GENERAL,), "one of " + ", ".join(checks.LOCK_MODES), _one_of(*checks.LOCK_MODES),
        "GOVERNANCE", '"GOVERNANCE"',
        "who may lift that: the owner of the bucket if need be, or with COMPLIANCE nobody, whatever it costs",
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
        "GRACE", (GENERAL,), "a duration", _seconds, 86400.0, '"24h"',
        "how long ``undelete`` can bring back what ``rm`` removed, before ``cleanup`` frees its room",
    ),
    Setting(
        "PROTECT_YOUNG", (GENERAL,), "a duration", _seconds, 86400.0, '"24h"',
        "``rm`` removes a backup that is younger only with ``--force``",
    ),
    Setting(
        "LOG", (GENERAL,), "an absolute path", _path, None, '"/var/log/btw-backup.log"',
        "the log file; by default ``btw-backup.log`` in the configuration directory",
    ),
    Setting(
        "CATALOG", (GENERAL,), "postgresql+psycopg://USER@HOST/DATABASE", _postgresql, None,
        '"postgresql+psycopg://backup@db.example.org/catalogue"',
        "the database of the catalogue; several installations may share it. By default ``catalogue.sqlite`` in the "
        "configuration directory. Passwords belong in ``~/.pgpass``",
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
        "TYPE", (TREE, DATABASE, COMMAND), _types_in_words(), _text, None, '"chunks"',
        "how backups are kept. Required for a filesystem; else the first of those is the default", choices=TYPES,
    ),
    Setting(
        "COMMAND", (COMMAND,), "a list: a program, by its name or absolute path, and its arguments", _command,
        None, '["mysqldump", "--all-databases"]',
        "what is run, without a shell; its standard output is the backup, if it ends with 0",
    ),
    Setting(
        "URL", (COMMAND,), "a URL that begins with http:// or https://, without a password", _url, None,
        '"https://wiki.example.org/export"', "what is fetched, in place of ``COMMAND``",
    ),
    Setting(
        "TOKEN_FILE", (COMMAND,), "an absolute path", _path, None, '"/root/wiki-token"',
        "the file with the bearer token for ``URL``, which nobody else may read",
    ),
    Setting(
        "TIMEOUT", (TREE, DATABASE, COMMAND), "a duration", _seconds, None, '"24h"',
        "how long ``COMMAND`` or ``URL`` may take altogether, by default 24h; else how long each program may take that "
        "a backup runs, such as tar, rdiff-backup or pg_dump, by default for ever. For a filesystem of type ``chunks`` "
        "none is run",
    ),
    Setting(
        "MAX_INCREMENTAL_COUNT", (TREE, DATABASE), "a whole number", _count, 10, "10",
        "how many incrementals a full may have; type ``rdiff``",
    ),
    Setting(
        "MAX_INCREMENTAL_SPAN", (TREE, DATABASE), "a duration", _seconds, 86400.0, '"24h"',
        "how long after a full the next full is due; type ``rdiff``",
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
        "ALLOW_EMPTY", (TREE, DATABASE, COMMAND), "True or False", _flag, False, "False",
        "whether an empty source is a backup and not an error",
    ),
    Setting(
        "VERIFY", (TREE, DATABASE), "True or False", _flag, False, "False",
        "whether to read back from the disk what a run has written, and to compare it",
    ),
    Setting(
        "CONNECTION", (DATABASE,), "a connection string", _text, "", '"host=/run/postgresql port=5432"',
        "how to reach the server, as libpq has it; passwords belong in ``~/.pgpass``",
    ),
)  # fmt: skip
"""In the order of the manual's table, which a test compares with this."""

BY_NAME = {setting.name: setting for setting in SETTINGS}
