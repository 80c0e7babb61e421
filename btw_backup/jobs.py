"""Jobs: what a configuration directory says is to be backed up, and how.

The layout is the old script's: ``<name>.<hash>/`` for a tree, ``<db>.py`` and ``global.py`` for databases.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import mmh3

from btw_backup import config, files
from btw_backup.config import Config
from btw_backup.errors import FatalUserError, ImproperlyConfigured

GLOBALS = "global"
"""The name that stands for a server's roles and tablespaces; no database can have it."""


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
    """The working directory of the tree `source`, or None; an error if there are two or it is another tree's."""
    suffix = "." + hash_of(source)
    found = sorted(p for p in config_dir.iterdir() if p.name.endswith(suffix)) if config_dir.is_dir() else []
    if len(found) > 1:
        raise ImproperlyConfigured("duplicate working directories: " + ", ".join(map(str, found)))
    if not found:
        return None
    link = found[0] / "src"
    if not link.is_symlink() or os.readlink(link) != source:
        raise ImproperlyConfigured(f"found a working directory with the wrong path: {found[0]}")
    return found[0]


def tree_job(config_dir: Path, source: str) -> Job:
    """The job of the tree `source`. Raises `FatalUserError` if fs-init was not run for it."""
    folder = working_directory(config_dir, source)
    if folder is None:
        raise FatalUserError(f"no working directory for: {source}")
    settings = config.load(folder / "config.py", config.TREE)
    name = folder.name.rpartition(".")[0]
    return Job(name, source, settings.required("TYPE"), settings, folder / "backup")


def tree_jobs(config_dir: Path) -> list[Path]:
    """The working directories of all trees, in the order of their names."""
    return sorted(p.parent for p in config_dir.glob("*.*/src") if p.is_symlink())


def make_working_directory(config_dir: Path, source: str, name: str, content: str) -> Path:
    """Create the working directory of a new tree with `content` as its config.py; the directory appears whole."""
    if not os.path.isabs(source):
        raise FatalUserError("the source path must be absolute")
    if "/" in name or name in ("", ".", "..") or "\n" in name:
        raise FatalUserError(f"a name cannot hold a slash: {name}")
    if working_directory(config_dir, source) is not None:
        raise FatalUserError("there is already a directory for this path")
    final = config_dir / f"{name}.{hash_of(source)}"
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


def _database_settings(config_dir: Path, database: str) -> Config:
    places = [config_dir / f"{database}.py", config_dir / "db" / f"{database}.py"]
    if database == "config":
        places = places[1:]  # <config-dir>/config.py is the general configuration
    present = [path for path in places if path.exists()]
    if len(present) > 1:
        raise ImproperlyConfigured(f"two configurations for one database: {present[0]} and {present[1]}", "remove one of them")
    return config.load(present[0], config.DATABASE) if present else config.defaults(places[0], config.DATABASE)
