"""Jobs: what a configuration directory says is to be backed up, and how.

The layout is the old script's: ``<name>.<hash>/`` for a tree, ``<db>.py`` and ``global.py`` for databases. What is new
is ``command/<name>.py``.
"""

import base64
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mmh3

from btw_backup import files, locks
from btw_backup.configuration import config
from btw_backup.configuration.config import Config
from btw_backup.errors import FatalUserError, ImproperlyConfigured, WouldOverwrite

GLOBALS = "global"
"""The name that stands for a server's roles and tablespaces; no database can have it."""

_LONGEST_NAME = 200
"""Bytes: the name of a file that a stamp and endings are added to."""

LOCK_WAIT = 10.0
"""How many seconds two fs-init at once wait for each other."""


@dataclass(frozen=True, slots=True)
class Job:
    """One source and how it is kept. `stage` is a folder of ours for what must lie on disk meanwhile."""

    name: str
    source: str
    keeper: str
    settings: Config
    stage: Path


def hash_of(source: str) -> str:
    """The `<hash>` of a tree's working directory: murmur3 x86 32 bit, seed 0, as the old script wrote it.

    Big-endian without leading zero bytes, in URL-safe base64 without ``=``; ``/a/b`` gives ``tZj__w``.
    """
    digits = f"{mmh3.hash(os.fsencode(source), 0, signed=False):x}"
    return base64.urlsafe_b64encode(bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))).decode().rstrip("=")


def working_directory(config_dir: Path, source: str) -> Path | None:
    """The working directory of the tree `source`, or None; an error if there are two or it is another tree's.

    A slash at the end means nothing, unless an old working directory was made with it.
    """
    for path in dict.fromkeys((source, source.rstrip("/") or "/")):
        suffix = "." + hash_of(path)
        found = [folder for folder in _folders(config_dir) if folder.name.endswith(suffix)]
        if len(found) > 1:
            raise ImproperlyConfigured("duplicate working directories: " + ", ".join(map(str, found)))
        if found:
            if source_of(found[0]) != path:
                raise ImproperlyConfigured(f"found a working directory with the wrong path: {found[0]}")
            return found[0]
    return None


def source_of(folder: Path) -> str | None:
    """The tree that the working directory `folder` is for, as its link ``src`` says; None if that is no link."""
    try:
        return os.readlink(folder / "src")
    except OSError:
        return None


def tree_job(general: Config, config_dir: Path, source: str) -> Job:
    """The job of the tree `source`. Raises `FatalUserError` if fs-init was not run for it."""
    folder = working_directory(config_dir, source)
    if folder is None:
        raise FatalUserError(f"no working directory for: {source}")
    return _job_of(general, folder)


def all_tree_jobs(general: Config, config_dir: Path) -> list[Job]:
    """The jobs of all trees, in the order of their names."""
    return [_job_of(general, folder) for folder in tree_jobs(config_dir)]


def _job_of(general: Config, folder: Path) -> Job:
    settings = config.load(folder / "config.py", config.TREE, general)
    source = source_of(folder)
    if source is None:
        raise _no_source(folder)
    return Job(folder.name.rpartition(".")[0], source, settings.required("TYPE"), settings, folder / "backup")


def _no_source(folder: Path) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{folder / 'src'} is not a link to the tree", "remove the folder, and use fs-init")


def tree_jobs(config_dir: Path) -> list[Path]:
    """The working directories of all trees, in the order of their names; also those that something is wrong with."""
    return [folder for folder in _folders(config_dir) if source_of(folder) or (folder / "config.py").exists()]


def _folders(config_dir: Path) -> list[Path]:
    """What may be working directories: ``<name>.<hash>``, and not what a killed fs-init left."""
    if not config_dir.is_dir():
        return []
    return sorted(p for p in config_dir.iterdir() if not p.name.startswith(".") and "." in p.name and p.is_dir())


def make_working_directory(config_dir: Path, source: str, name: str, content: str) -> Path:
    """Create the working directory of a new tree with `content` as its config.py; the directory appears whole."""
    if not os.path.isabs(source):
        raise FatalUserError("the source path must be absolute")
    if "/" in name or not name or name.startswith(".") or not name.isprintable():
        raise FatalUserError(f"a name cannot hold a slash, nor start with a dot: {name!r}")
    source = source.rstrip("/") or "/"
    with locks.lock(config_dir, exclusive=True, wait=LOCK_WAIT):
        if working_directory(config_dir, source) is not None:
            raise FatalUserError("there is already a directory for this path")
        final = config_dir / f"{name}.{hash_of(source)}"
        for left in config_dir.glob(f"{files.TEMPORARY}*.{hash_of(source)}"):
            files.remove(left)
        temporary = files.temporary_name(config_dir, final.name)
        temporary.mkdir(0o700)
        try:
            os.symlink(source, temporary / "src")
            files.write_whole(temporary / "config.py", content.encode())
            files.publish(temporary, final)
        except BaseException:
            files.remove(temporary)
            raise
    return final


def database_job(config_dir: Path, database: str) -> Job:
    """The job of `database`, or with `GLOBALS` that of the server's globals; its file need not exist."""
    if "/" in database or database in ("", ".", ".."):
        settings = config.defaults(config_dir, config.DATABASE)  # such a name cannot have a file
    else:
        settings = _database_settings(config_dir, database)
    keeper = settings["TYPE"] or config.TYPES[config.DATABASE][0]
    return Job(database, database, keeper, settings, config_dir / ".stage")


def _conflict(found: list[Path]) -> ImproperlyConfigured:
    message = f"two configurations for one database: {found[0]} and {found[1]}"
    return ImproperlyConfigured(message, "remove one of them")


def database_files(config_dir: Path, database: str) -> list[Path]:
    """The files that hold the settings of `database`: as documented, or in ``db/`` where older installations have
    them. More than one is a mistake."""
    found = [config_dir / f"{database}.py", config_dir / "db" / f"{database}.py"]
    if database == "config":
        found = found[1:]  # <config-dir>/config.py is the general configuration
    return [path for path in found if path.exists()]


def database_names(config_dir: Path) -> list[str]:
    """The databases that have a file; others have jobs too, on the command line."""
    found = {path.stem for path in (*config_dir.glob("*.py"), *config_dir.glob("db/*.py"))}
    return sorted(name for name in found if not name.startswith(".") and database_files(config_dir, name))


def _database_settings(config_dir: Path, database: str) -> Config:
    found = database_files(config_dir, database)
    if len(found) > 1:
        raise _conflict(found)
    if found:
        return config.load(found[0], config.DATABASE)
    return config.defaults(config_dir / f"{database}.py", config.DATABASE)


def command_file(config_dir: Path, name: str) -> Path:
    """The file of the command `name`. Raises `FatalUserError` for what cannot be a name."""
    if "/" in name or not name or name.startswith(".") or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise FatalUserError(f"a name cannot hold a slash, start with a dot, or have more than 200 bytes: {name!r}")
    return config_dir / "command" / f"{name}.py"


def command_job(config_dir: Path, name: str, *, from_stdin: bool = False) -> Job:
    """The job of the command `name`; one that takes standard input need not have a file."""
    path = command_file(config_dir, name)
    if path.exists():
        settings = config.load(path, config.COMMAND)
        for problem in () if from_stdin else _unclear(settings):
            raise problem
    elif from_stdin:
        settings = config.defaults(path, config.COMMAND)
    else:
        hint = f"command-init {shlex.quote(name)} -- PROGRAM ARGS… makes it; --stdin keeps standard input"
        raise FatalUserError(f"there is no command {name}: {path} is missing", hint)
    return Job(name, name, settings["TYPE"] or config.TYPES[config.COMMAND][0], settings, config_dir / ".stage")


def _unclear(settings: Config) -> Iterator[ImproperlyConfigured]:
    """What is wrong with a command's file as a whole. TYPE alone is fine, for standard input."""
    given = [name for name in ("COMMAND", "URL") if name in settings]
    if len(given) != 1:
        what = "COMMAND and URL both" if given else "neither COMMAND nor URL"
        yield ImproperlyConfigured(f"{settings.path} sets {what}, and one is needed", "" if given else "or use --stdin")
    if "TOKEN_FILE" in settings and "URL" not in settings:
        yield ImproperlyConfigured(f"{settings.path} sets TOKEN_FILE without URL")


def command_names(config_dir: Path) -> list[str]:
    """The commands that have a file."""
    return sorted(path.stem for path in (config_dir / "command").glob("*.py") if not path.name.startswith("."))


def make_command(config_dir: Path, name: str, content: str) -> Path:
    """Create the file of a new command; it appears whole."""
    path = command_file(config_dir, name)
    files.make_folder(path.parent)
    with locks.lock(config_dir, exclusive=True, wait=LOCK_WAIT):
        if os.path.lexists(path):
            raise WouldOverwrite(f"there is already a command {name}: {path}")
        files.write_whole(path, content.encode())
        try:
            command_job(config_dir, name)
        except FatalUserError:
            path.unlink()
            raise
    return path


def examined(config_dir: Path) -> Iterator[tuple[Path, list[ImproperlyConfigured]]]:
    """Every file of the configuration, with all that is wrong with it."""
    general, problems = config.examine(config_dir / "config.py", config.GENERAL)
    yield general.path, problems or list(config.shortcomings(general))
    for folder in tree_jobs(config_dir):
        settings, problems = config.examine(folder / "config.py", config.TREE)
        if not problems and "TYPE" not in settings:
            problems.append(ImproperlyConfigured(f"you must specify TYPE in {settings.path}"))
        yield settings.path, [*problems, *_misplaced(config_dir, folder)]
    for database in database_names(config_dir):
        found = database_files(config_dir, database)
        for path in found:
            conflict = [_conflict(found)] if path in found[1:] else []
            yield path, config.examine(path, config.DATABASE)[1] + conflict
    for name in command_names(config_dir):
        settings, problems = config.examine(command_file(config_dir, name), config.COMMAND)
        only_type = not {"COMMAND", "URL", "TOKEN_FILE"} & settings.values.keys()
        yield settings.path, problems or ([] if only_type else list(_unclear(settings)))


def _misplaced(config_dir: Path, folder: Path) -> list[ImproperlyConfigured]:
    """What is wrong with the working directory itself, not with its config.py."""
    source = source_of(folder)
    if source is None:
        return [_no_source(folder)]
    try:
        found = working_directory(config_dir, source)
    except ImproperlyConfigured as problem:
        return [problem]
    if found == folder:
        return []
    hint = f"its name has to end in .{hash_of(source)}"
    return [ImproperlyConfigured(f"{folder} is not found, because its name is not that of {source}", hint)]
