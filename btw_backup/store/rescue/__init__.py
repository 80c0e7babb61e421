"""What lies in every store for the day when this program is gone: RESTORE.py, and a README.txt about the format."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from btw_backup import files
from btw_backup.log import debug

NAMES = ("README.txt", "RESTORE.py")
"""RESTORE.py comes last, as its version tells whether both are there."""

_VERSION = re.compile(rb"^VERSION = (\d{1,9})$", re.MULTILINE)
_HEAD = 8192
"""Bytes of RESTORE.py in which its version stands."""


def place(store: Path, announce: Callable[[str], None]) -> None:
    """Put both into the folder of a store, unless they are there in this version or a newer one.

    `announce` is told the path of each, relative to ROOT_PATH. No backup fails because these cannot be written.
    """
    here = Path(__file__).parent
    try:
        if _version_of(store / NAMES[-1]) >= _version_of(here / NAMES[-1]) and (store / NAMES[0]).exists():
            return
        for name in NAMES:
            announce(f"{store.name}/{name}")
            files.write_whole(store / name, (here / name).read_bytes())
    except OSError as error:
        debug(f"cannot put {' and '.join(NAMES)} into {store}: {error}")


def _version_of(path: Path) -> int:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = _VERSION.search(file.read(_HEAD))
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0
