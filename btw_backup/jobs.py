"""Jobs: what a configuration directory says is to be backed up, and how.

The layout is the old script's: ``<name>.<hash>/`` for a tree, ``<db>.py`` and ``global.py`` for databases.
"""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mmh3

from btw_backup import config, files, locks
from btw_backup.config import Config
from btw_backup.errors import FatalUserError, ImproperlyConfigured

GLOBALS = "global"
"""The name that stands for a server's roles and tablespaces; no database can have it."""

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
    return Job(database, database, "rdiff", settings, config_dir / ".stage")


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
