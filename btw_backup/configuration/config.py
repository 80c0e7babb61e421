"""Configuration files: Python that is executed, checked name by name, and frozen.

A file must belong to root or to who runs us, and nobody else may be able to write
it, nor any folder or link on the way to it: it is code that runs as root.
"""

import ast
import os
import re
import shlex
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from btw_backup.configuration import addresses
from btw_backup.configuration.settings import (
    BY_NAME,
    COMMAND,
    COMPRESSIONS,
    DATABASE,
    GENERAL,
    SETTINGS,
    TREE,
    TYPES,
    Setting,
)
from btw_backup.errors import ImproperlyConfigured, Interrupted

__all__ = [
    "COMMAND", "COMPRESSIONS", "DATABASE", "GENERAL", "SETTINGS", "TREE", "TYPES",
    "Config", "Setting", "defaults", "examine", "inheriting", "load", "refuse_changeable", "shortcomings",
]  # fmt: skip

_MAX_SIZE = 1 << 20
_MAX_LINKS = 40
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]*(?=@)")
_SECRET_KEY = re.compile("AGE-SECRET-KEY-[0-9A-Z]*", re.IGNORECASE)
_Lines = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Config:
    """The checked names of one file. ``config["NAME"]`` is its value, or the general one, or the default."""

    path: Path
    where: str
    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    general: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        return self.general[name] if name in self.general else BY_NAME[name].default

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def required(self, name: str) -> Any:
        """The value of `name`; `ImproperlyConfigured` if the file does not set it."""
        if name not in self.values:
            where = "the general configuration" if self.where == GENERAL else str(self.path)
            raise ImproperlyConfigured(f"you must specify {name} in {where}")
        return self.values[name]


def load(path: Path, where: str, general: Config | None = None) -> Config:
    """Execute and check the file `path`, which is one of the kinds `GENERAL`, `TREE`, `DATABASE`.

    What may stand in `general` as well is taken from there if the file does not set it. Raises
    `ImproperlyConfigured`, naming file and line.
    """
    config, problems = examine(path, where)
    for problem in problems:
        raise problem
    return inheriting(config, general) if general else config


def examine(path: Path, where: str) -> tuple[Config, list[ImproperlyConfigured]]:
    """What is good in the file `path`, and everything that is wrong with it."""
    try:
        names, lines = _execute(path, _read_checked(path, where))
    except ImproperlyConfigured as problem:
        return defaults(path, where), [problem]
    given = {name: value for name, value in names.items() if name.isupper() and not name.startswith("_")}
    values, problems = {}, []
    for name in sorted(given, key=lambda name: lines.get(name, 0)):
        try:
            values[name] = _checked(name, given, f"{path} line {lines.get(name, 1)}", where)
        except ImproperlyConfigured as problem:
            problems.append(problem)
    return Config(path, where, MappingProxyType(values), lines), problems


def shortcomings(general: Config) -> Iterator[ImproperlyConfigured]:
    """What a general configuration lacks for a backup to be made and sent."""
    missing = [name for name in ("S3_URI_PREFIX", "S3CMD_CONFIG") if name not in general]
    others = len(missing) == 2 and "OFFSITE" in general
    hint = "or say OFFSITE = {} to keep backups on this machine only" if len(missing) == 2 else ""
    if "ROOT_PATH" not in general:
        yield ImproperlyConfigured("you must specify ROOT_PATH in the general configuration")
    if missing and not others:
        yield ImproperlyConfigured(f"you must specify {missing[0]} in the general configuration", hint)
    yield from addresses.problems(general.values)


def defaults(path: Path, where: str) -> Config:
    """The configuration of a file that need not exist."""
    return Config(path, where, MappingProxyType({}))


def inheriting(config: Config, general: Config) -> Config:
    """`config`, with what only `general` sets among the names that may stand in both."""
    common = {name: value for name, value in general.values.items() if config.where in BY_NAME[name].where}
    return Config(config.path, config.where, config.values, config.lines, MappingProxyType(common))


def _execute(path: Path, source: bytes) -> tuple[dict[str, Any], _Lines]:
    """The names that the code leaves behind, and the line where each got its value last."""
    names: dict[str, Any] = {"__file__": str(path), "__name__": "btw_backup_config"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, str(path))
            exec(compile(tree, str(path), "exec", dont_inherit=True), names)  # noqa: S102 that is what they are
    except (Interrupted, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        raise ImproperlyConfigured(f"{path} line {error.lineno or 1}: {error.msg}") from error
    except BaseException as error:  # also SystemExit: a file does not end the program
        import traceback  # noqa: PLC0415 - hardly ever needed

        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, kind = (frames[-1] if frames else 1), type(error).__name__
        raise ImproperlyConfigured(f"{path} line {line}: {kind}" + (f": {error}" if str(error) else "")) from error
    return names, _lines(tree)


def _lines(tree: ast.AST) -> _Lines:
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    lines: dict[str, int] = {}
    for node in sorted(assigned, key=lambda node: node.lineno):
        lines[node.id] = node.lineno
    return lines


def _checked(name: str, given: Mapping[str, Any], place: str, where: str) -> Any:
    setting = BY_NAME.get(name)
    if setting is None:
        raise ImproperlyConfigured(f"{place}: there is no setting {name}", _suggestion(name, where))
    if where not in setting.where:
        raise ImproperlyConfigured(f"{place}: {name} does not belong here, but in {' or '.join(setting.where)}")
    try:
        value = setting.check(given[name])
        if where in setting.choices and value not in setting.choices[where]:
            raise ValueError
        return value
    except (ValueError, TypeError, OverflowError):
        if setting.needs and setting.needs not in given:  # the graver one, and what the old script said
            raise ImproperlyConfigured(f"you must specify {setting.needs} in the general configuration") from None
        message = f"{place}: {name} must be {setting.kind_in(where)}, not {_shown(given[name])}"
        raise ImproperlyConfigured(message) from None


def _suggestion(name: str, where: str) -> str:
    import difflib  # noqa: PLC0415 - most configurations have no mistake

    allowed = [setting.name for setting in SETTINGS if where in setting.where]
    close = difflib.get_close_matches(name, allowed, 1) or difflib.get_close_matches(name, BY_NAME, 1)
    return f"did you mean {close[0]}?" if close else "a variable of your own starts with _ or is in lower case"


def _shown(value: Any) -> str:
    try:
        return _SECRET_KEY.sub("AGE-SECRET-KEY-***", _PASSWORD.sub(r"\1***", f"{value!r:.200}"))
    except ValueError:  # a number of more digits than Python prints
        return f"this {type(value).__name__}"


def _read_checked(path: Path, where: str) -> bytes:
    """The bytes of a file that nobody else could have written; of the very descriptor that was checked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        hint = (
            "btw-backup init makes a first configuration"
            if where == GENERAL and isinstance(error, FileNotFoundError)
            else ""
        )
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImproperlyConfigured(f"cannot read the configuration {path}: {reason}", hint) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImproperlyConfigured(f"{path} is not a regular file")
        refuse_changeable(path)
        _refuse_writable_by_others(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_SIZE + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_SIZE:
        raise ImproperlyConfigured(f"{path} is too big for a configuration: more than {_MAX_SIZE} bytes")
    return content


def refuse_changeable(path: Path) -> None:
    """Refuse `path` if somebody else could put another file in its place: walk it as the kernel does."""
    at, parts, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    _refuse_writable_by_others(at, at.lstat())
    while parts:
        part = parts.pop()
        at = at.parent if part == ".." else at / part
        status = at.lstat()
        _refuse_writable_by_others(at, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise ImproperlyConfigured(f"{path} is reached through too many links")
            target = Path(os.readlink(at))
            at = Path("/") if target.is_absolute() else at.parent
            parts.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def _refuse_writable_by_others(path: Path, status: os.stat_result) -> None:
    """A link's mode means nothing; in a sticky folder only an entry's owner can replace it."""
    foreign = status.st_uid not in (0, os.geteuid())
    harmless = stat.S_ISLNK(status.st_mode) or (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX)
    loose = not harmless and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not foreign and not loose:
        return
    quoted = shlex.quote(str(path))
    cures = [f"chown -h {os.geteuid()} {quoted}"] * foreign + [f"chmod go-w {quoted}"] * bool(loose)
    raise ImproperlyConfigured(
        f"{path} can be changed by others (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}), "
        "and it decides what is executed",
        "; ".join(cures),
    )
