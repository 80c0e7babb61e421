"""The program rdiff-backup, whatever its version, from 2.0 on."""

import re
from functools import cache
from pathlib import Path

from btw_backup import process
from btw_backup.errors import ProgramFailed

NAME = "rdiff-backup"
UTC = {"TZ": "UTC0"}
"""For repositories whose names are in UTC, as ours are. Those of the old script are in the machine's zone, and stay so:
rdiff-backup replaces a ``.snapshot`` by a ``.diff`` of the same time, and off-site the one is told by the other."""

_WITH_WARNINGS = (0, 2, 8, 10)
"""Since 2.2 the bits 2 and 8 tell of warnings; what was stored is looked at after each session anyway."""


def version() -> str:
    """``2.2.2``."""
    return _version_of(process.locate(NAME))


@cache
def _version_of(path: str) -> str:
    """The version of the program at `path`: it takes a while to tell."""
    said = process.run([path, "--version"], timeout=60).decode("utf-8", "replace")
    match = re.search(r"\d+(\.\d+)+\S*", said)
    if match is None:
        raise ProgramFailed(f"{NAME} --version does not tell its version: {said.strip()!r:.80}")
    return match[0]


def back_up(stage: Path, repository: Path, session: int, *, fsync: bool, utc: bool) -> None:
    """Add the file in the folder `stage` to `repository` as the session at `session`, in seconds since 1970.

    The time is given because rdiff-backup refuses a second session within a second, and does not end when the clock
    went back. Under a temporary name it need not `fsync`, which syncs all filesystems: we bring it to the disk after.
    """
    _run(backing_up(stage, repository, session, fsync=fsync), utc)


def regress(repository: Path, *, utc: bool) -> None:
    """Take back an interrupted session. It is forced because the marker's pid may have been given to somebody else:
    our lock says that nobody is at work here."""
    action = ["regress"] if _modern() else ["--check-destination-dir"]
    _run(_command("--force", *action, str(repository)), utc)


def backing_up(stage: Path, repository: Path, session: int, *, fsync: bool) -> list[str]:
    """The command line of `back_up`."""
    time = ["--current-time", str(session)]
    if not _modern():
        return _command(*time, str(stage), str(repository))
    return _command(*time, *([] if fsync else ["--no-fsync"]), "backup", str(stage), str(repository))


def _command(*words: str) -> list[str]:
    """Since 2.2 there is another command line; it warns of the old one, and without 201 of that."""
    return [NAME, *(["--api-version", "201"] if _modern() else []), *words]


def _modern() -> bool:
    return tuple(int(number) for number in re.findall(r"\d+", version())[:2]) >= (2, 2)


def _run(command: list[str], utc: bool) -> None:
    process.locate("ps")  # it is asked for the name of a pid, and on a small Debian nothing brings it
    process.run(command, env=UTC if utc else None, accepted=_WITH_WARNINGS if _modern() else (0,))
