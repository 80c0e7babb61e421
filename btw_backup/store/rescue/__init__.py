"""What lies in every store for the day when this program is gone: RESTORE.py, and a README.txt about the format.

The last line of each is the SHA-256 of all above it: so everybody can tell whether it is whole, of whatever version.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from btw_backup import files, regular
from btw_backup.log import debug

NAMES = ("README.txt", "RESTORE.py")
"""RESTORE.py comes last, as its version tells whether both are there."""

_VERSION = re.compile(rb"^VERSION = (\d{1,9})$", re.MULTILINE)
_LAST_LINES = {
    "README.txt": re.compile(rb"\nSHA-256 of all above: ([0-9a-f]{64})\n\Z"),
    "RESTORE.py": re.compile(rb"\n# SHA-256 of all above: ([0-9a-f]{64})\n\Z"),
}
_LARGEST = 1 << 20


def place(store: Path, announce: Callable[[str], None]) -> None:
    """Put both into the folder of a store, unless they are there, whole, in this version or a newer one.

    `announce` is told the path of each, relative to ROOT_PATH. No backup fails because these cannot be written.
    """
    try:
        if any(why_spoilt(store, name) for name in NAMES) or _version(_there(store, NAMES[-1])) < _version(_ours()):
            for name in NAMES:
                announce(f"{store.name}/{name}")
                renew(store, name)
    except OSError as error:
        debug(f"cannot put {' and '.join(NAMES)} into {store}: {error}")


def why_spoilt(store: Path, name: str) -> str:
    """Why what a store has under one of `NAMES` is not what some version has put there; "" if it is."""
    try:
        content = _there(store, name)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    found = _LAST_LINES[name].search(content)
    whole = found and hashlib.sha256(content[: found.start() + 1]).hexdigest().encode() == found[1]
    return "" if whole else "it is not what was written"


def renew(store: Path, name: str) -> None:
    """Put one of `NAMES` into the folder of a store, in this version."""
    files.write_whole(store / name, (Path(__file__).parent / name).read_bytes())


def _ours() -> bytes:
    return (Path(__file__).parent / NAMES[-1]).read_bytes()


def _there(store: Path, name: str) -> bytes:
    with regular.opened(store / name) as file:
        return file.read(_LARGEST)


def _version(script: bytes) -> int:
    found = _VERSION.search(script)
    return int(found[1]) if found else 0
