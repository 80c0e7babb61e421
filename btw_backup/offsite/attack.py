"""Tries, with this machine's own credentials and on an object of its own, what a thief of them would do to backups."""

import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files
from btw_backup.errors import FatalUserError, ProgramFailed
from btw_backup.offsite import Target

_FOLDER = "probe"
_SIZE = 64


@dataclass(frozen=True, slots=True)
class Attacked:
    """What this machine's credentials allow: to overwrite what is there, to read it, to delete it."""

    overwrite: bool
    read: bool
    delete: bool


def attack(make: Callable[[Path], Target], below: str = "") -> Attacked:
    """Attack the target that `make` makes for a folder to mirror; in its folder `below` ("", or with a slash at its
    end). Raises `FatalUserError`.

    Each answer is what a listing says afterwards, not what the server claims. What cannot be deleted stays there, under
    ``probe/``, with 64 bytes.
    """
    with tempfile.TemporaryDirectory(prefix=".btw-backup-attack-") as name:
        folder = Path(name)
        target, path = make(folder), f"{below}{_FOLDER}/{secrets.token_hex(16)}"
        target.probe()
        first, second = secrets.token_bytes(_SIZE), secrets.token_bytes(_SIZE)
        complaint = _put(target, folder, path, first)
        if target.unproved([path], target.listing(path, recursive=False)):
            raise FatalUserError(f"{target.name}: cannot even write: {complaint or 'the object did not arrive'}")
        _put(target, folder, path, second)
        overwrite = not target.unproved([path], target.listing(path, recursive=False))
        read = _can_read(target, path, folder / "out", second if overwrite else first)
        with suppress(ProgramFailed):  # refused in a way that s3cmd takes for the end of the world
            target.remove([path])
        return Attacked(overwrite, read, path not in target.listing(path, recursive=False))


def _put(target: Target, folder: Path, path: str, content: bytes) -> str:
    files.make_folder((folder / path).parent)
    (folder / path).write_bytes(content)
    try:
        return target.send([path])
    except ProgramFailed as error:
        return error.message


def _can_read(target: Target, path: str, out: Path, content: bytes) -> bool:
    try:
        target.fetch([path], out)
        return (out / path).read_bytes() == content
    except (ProgramFailed, OSError):
        return False
