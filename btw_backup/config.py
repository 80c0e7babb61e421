"""Configuration files: Python that is executed, checked name by name, and frozen.

A file must belong to root or to who runs us, and nobody else may be able to write
it, nor any folder above it: it is code that runs as root.
"""

import difflib
import os
import stat
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytimeparse

from btw_backup.errors import ImproperlyConfigured

COMPRESSIONS = ("zstd", "bzip2", "gzip", "xz", "none")
TYPES = ("tar", "rdiff")
GENERAL, TREE, DATABASE = "config.py", "a filesystem's config.py", "a database's file"

Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One name that a configuration file may set: where, what it must be (in words), how it is checked, its default."""

    name: str
    where: tuple[str, ...]
    kind: str
    check: Check
    default: Any
    meaning: str


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError
    return path


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    seconds = pytimeparse.parse(_text(value))
    if seconds is None or seconds < 0:
        raise ValueError
    return float(seconds)


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

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
    if not text.startswith("s3://") or len(text) == len("s3://"):
        raise ValueError
    return text


SETTINGS = (
    Setting("ROOT_PATH", (GENERAL,), "an absolute path", _path, None, "the folder that holds all backups; every DST is relative to it. Required"),
    Setting("S3CMD_CONFIG", (GENERAL,), "a path", _text, None, "the configuration file that s3cmd is to use; needed with ``S3_URI_PREFIX``"),
    Setting("S3_URI_PREFIX", (GENERAL,), "s3://BUCKET/PATH", _prefix, None, "where in S3 the backups go"),
    Setting("OFFSITE", (GENERAL,), "a dictionary of dictionaries", _targets, None, "``{}`` says that backups stay on this machine only"),
    Setting("LOCK_WAIT", (GENERAL,), "a duration", _seconds, 600.0, "how long to wait for another run before giving up with status 4"),
    Setting("SYNC_TIMEOUT", (GENERAL,), "a duration", _seconds, 86400.0, "how long one call of s3cmd may take"),
    Setting("LOG", (GENERAL,), "an absolute path", _path, None, "the log file; by default ``btw-backup.log`` in the configuration directory"),
    Setting("AWSCLI_PROFILE", (GENERAL,), "a text", _text, None, "not used any more; accepted because old files have it"),
    Setting("COMPRESSION", (GENERAL, TREE), "one of " + ", ".join(COMPRESSIONS), _one_of(*COMPRESSIONS), "zstd", "how new archives of type ``tar`` are compressed"),
    Setting("TYPE", (TREE,), "one of " + ", ".join(TYPES), _one_of(*TYPES), None, "how backups are kept. Required"),
    Setting("MAX_INCREMENTAL_COUNT", (TREE, DATABASE), "a whole number", _count, 10, "how many incrementals a full may have; type ``rdiff`` and databases"),
    Setting("MAX_INCREMENTAL_SPAN", (TREE, DATABASE), "a duration", _seconds, 86400.0, "how long after a full the next full is due; type ``rdiff`` and databases"),
    Setting("EXCLUDE", (TREE, DATABASE), "a list of texts", _texts, (), "patterns of paths to leave out; in ``global.py``, of databases that ``db --all`` leaves out"),
    Setting("ONE_FILE_SYSTEM", (TREE,), "True or False", _flag, True, "whether to stay on the filesystem of the source"),
    Setting("SKIP_CACHES", (TREE,), "True or False", _flag, True, "whether to leave out folders that a valid ``CACHEDIR.TAG`` marks"),
    Setting("ALLOW_EMPTY", (TREE, DATABASE), "True or False", _flag, False, "whether an empty source is a backup and not an error"),
    Setting("CONNECTION", (DATABASE,), "a connection string", _text, "", "how to reach the server, as libpq's ``host=… port=… user=…``; passwords belong in ``~/.pgpass``"),
)  # fmt: skip
"""Every name that there is; the manual's table is compared with this by a test."""


@dataclass(frozen=True, slots=True)
class Config:
    """The checked names of one file. ``config["NAME"]`` is its value or its default."""

    path: Path
    where: str
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        return next(setting.default for setting in SETTINGS if setting.name == name)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def required(self, name: str) -> Any:
        """The value of `name`; `ImproperlyConfigured` if the file does not set it."""
        if name not in self.values:
            where = "the general configuration" if self.where == GENERAL else str(self.path)
            raise ImproperlyConfigured(f"you must specify {name} in {where}")
        return self.values[name]


def load(path: Path, where: str) -> Config:
    """Execute and check the file `path`, which is one of the kinds `GENERAL`, `TREE`, `DATABASE`.

    Raises `ImproperlyConfigured`, naming file and line.
    """
    source = _read_checked(path)
    names: dict[str, Any] = {"__file__": str(path), "__name__": "btw_backup_config"}
    try:
        exec(compile(source, str(path), "exec"), names)
    except SyntaxError as error:
        raise ImproperlyConfigured(f"{path} line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        raise ImproperlyConfigured(f"{path} line {frames[-1] if frames else 1}: {type(error).__name__}: {error}") from error
    given = {name: value for name, value in names.items() if name.isupper() and not name.startswith("_")}
    return Config(path, where, MappingProxyType({n: _checked(n, v, path, where, source) for n, v in given.items()}))


def defaults(path: Path, where: str) -> Config:
    """The configuration of a file that need not exist."""
    return Config(path, where, MappingProxyType({}))


def _checked(name: str, value: Any, path: Path, where: str, source: bytes) -> Any:
    place = f"{path} line {_line_of(name, source)}"
    known = {setting.name: setting for setting in SETTINGS}
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "a variable of your own starts with _ or is in lower case"
        raise ImproperlyConfigured(f"{place}: there is no setting {name}", hint)
    setting = known[name]
    if where not in setting.where:
        raise ImproperlyConfigured(f"{place}: {name} does not belong here, but in {' or '.join(setting.where)}")
    try:
        return setting.check(value)
    except ValueError:
        raise ImproperlyConfigured(f"{place}: {name} must be {setting.kind}, not {value!r:.200}") from None


def _line_of(name: str, source: bytes) -> int:
    lines = source.decode("utf-8", "replace").splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.lstrip().startswith(name)), 1)


def _read_checked(path: Path) -> bytes:
    """The bytes of a file that nobody else could have written; of the very descriptor that was checked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "btw-backup init makes a first configuration" if path.name == GENERAL else ""
        raise ImproperlyConfigured(f"cannot read the configuration {path}: {error.strerror}", hint) from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImproperlyConfigured(f"{path} is not a regular file")
        _refuse_writable_by_others(path, status)
        for folder in path.resolve().parents:
            _refuse_writable_by_others(folder, folder.stat())
        return file.read()


def _refuse_writable_by_others(path: Path, status: os.stat_result) -> None:
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    trusted = status.st_uid in (0, os.geteuid())
    if trusted and (sticky or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return
    raise ImproperlyConfigured(
        f"{path} can be changed by others (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}), and it decides what root executes",
        f"chown root {path}; chmod go-w {path}",
    )
