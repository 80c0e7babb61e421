"""The program rdiff-backup, whatever its version, from 2.0 on."""

import re
from functools import cache
from pathlib import Path

from btw_backup import process
from btw_backup.errors import ProgramFailed

NAME = "rdiff-backup"
_ZONE = {"TZ": "UTC0"}
_WITH_WARNINGS = (0, 2, 8, 10)
"""Since 2.2 the bits 2 and 8 tell of warnings; what was stored is looked at after each session anyway."""


@cache
def version() -> str:
    """``2.2.2``."""
    said = process.run([NAME, "--version"], timeout=60).decode("utf-8", "replace")
    match = re.search(r"\d+(\.\d+)+\S*", said)
    if match is None:
        raise ProgramFailed(f"{NAME} --version does not tell its version: {said.strip()!r:.80}")
    return match[0]


def back_up(stage: Path, repository: Path, session: int, *, new: bool) -> None:
    """Add the file in the folder `stage` to `repository` as the session at `session`, in seconds since 1970.

    The time is given because rdiff-backup refuses a second session within a second, and does not end when the clock
    went back. Into a `new` repository, whose name is a temporary one, it need not fsync: we do that at the end.
    """
    options = ["--current-time", str(session), *(["--no-fsync"] if new and _modern() else [])]
    if _modern():
        _run([*options, "backup", str(stage), str(repository)])
    else:
        _run([*options, str(stage), str(repository)])


def regress(repository: Path) -> None:
    """Take back an interrupted session. It is forced because the marker's pid may have been given to somebody else:
    our lock says that nobody is at work here."""
    if _modern():
        _run(["--force", "regress", str(repository)])
    else:
        _run(["--force", "--check-destination-dir", str(repository)])


def _modern() -> bool:
    """Whether this one has the command line of 2.2; it warns of the old one on every call."""
    return tuple(int(number) for number in re.findall(r"\d+", version())[:2]) >= (2, 2)


def _run(arguments: list[str]) -> None:
    if _modern():
        process.run([NAME, "--api-version", "201", *arguments], env=_ZONE, accepted=_WITH_WARNINGS)
    else:
        process.run([NAME, *arguments], env=_ZONE)
