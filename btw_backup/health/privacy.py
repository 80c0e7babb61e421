"""Whether anybody else can look into what we keep, or change it: modes and owners."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from btw_backup.clock import STAMP
from btw_backup.health.findings import OK, WARNING, Finding
from btw_backup.places import ID_FILE
from btw_backup.store.chunks import FOLDER


def of(path: Path) -> Finding:
    """Whether others can look into `path`."""
    what = f"permissions of {path}"
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(WARNING, what, f"others may look into it (mode {mode:04o})", f"chmod go= {path}")
    return Finding(OK, what, f"mode {mode:04o}, nobody else gets in")


def within(root: Path) -> Iterator[Finding]:
    """Whether others can look into anything in ROOT_PATH, and whether the store there is somebody else's."""
    loose: list[Path] = []
    foreign: list[Path] = []
    trusted = _trusted(root)
    for path in _entries(root):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o077:
            loose.append(path)
        if status.st_uid not in trusted and path.relative_to(root).parts[0] == FOLDER:
            foreign.append(path)
    what = f"permissions within {root}"
    if loose:
        first = f"{loose[0]} (mode {stat.S_IMODE(loose[0].lstat().st_mode):04o})"
        yield Finding(WARNING, what, f"{_counted(loose)} open to others, first {first}", f"chmod -R go= {root}")
    else:
        yield Finding(OK, what, "nothing is open to others")
    what = f"owner of {root / FOLDER}"
    if foreign:
        first = f"{foreign[0]} (owner {foreign[0].lstat().st_uid})"
        yield Finding(WARNING, what, f"{_counted(foreign)} of somebody else, first {first}", _give_back(root))
    elif (root / FOLDER).is_dir():
        yield Finding(OK, what, "nothing is somebody else's")


def why_loose(root: Path) -> tuple[str, str]:
    """Why others can look into the store, or change it, with a hint; "" and "" if they cannot. It is not gone
    through: who cannot enter it reaches nothing."""
    store = root / FOLDER
    try:
        status = store.lstat()
    except FileNotFoundError:
        return "", ""
    mode, hints, words = stat.S_IMODE(status.st_mode), [], []
    if mode & 0o077:
        words.append(f"mode {mode:04o}")
        hints.append(f"chmod -R go= {store}")
    if status.st_uid not in _trusted(root):
        words.append(f"owner {status.st_uid}")
        hints.append(_give_back(root))
    return f"others can look into {store}, or change it ({', '.join(words)})" if words else "", "; ".join(hints)


def _trusted(root: Path) -> set[int]:
    """Root, who runs this, and the owner of the mark that we made: on some mounts all files belong to one user."""
    try:
        return {0, os.geteuid(), (root / ID_FILE).lstat().st_uid}
    except FileNotFoundError:
        return {0, os.geteuid()}


def _give_back(root: Path) -> str:
    return f"chown -R {os.geteuid()} {root / FOLDER}"


def _counted(paths: list[Path]) -> str:
    return f"{len(paths)} file{'s' if len(paths) > 1 else ''} or folder{'s' if len(paths) > 1 else ''}"


def _entries(root: Path) -> Iterator[Path]:
    """What lies in ROOT_PATH, without what is inside of rdiff-backup's repositories."""
    for folder, folders, names in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *names))
        folders[:] = sorted(name for name in folders if not STAMP.match(name))
