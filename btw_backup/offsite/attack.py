"""Tries, with this machine's own credentials and on an object of its own, what a thief of them would do to backups."""

import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from btw_backup import files
from btw_backup.clock import utc_now
from btw_backup.errors import FatalUserError, ProgramFailed
from btw_backup.offsite import Target
from btw_backup.offsite.signed import Retention, Signed

_FOLDER = "probe"
_SIZE = 64
_A_MINUTE = timedelta(minutes=1)


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


@dataclass(frozen=True, slots=True)
class LockAttacked:
    """What this machine's credentials allow to do to what is locked: to shorten its lock, to destroy it."""

    shorten: bool
    destroy: bool


def attack_lock(make: Callable[[Path], Target], signed: Signed, mode: str) -> LockAttacked:
    """Lock an object of our own for two minutes, and attack its lock. Raises `FatalUserError`."""
    with tempfile.TemporaryDirectory(prefix=".btw-backup-attack-") as name:
        folder, path = Path(name), f"{_FOLDER}/{secrets.token_hex(16)}"
        complaint = _put(make(folder), folder, path, secrets.token_bytes(_SIZE))
    version = next((one.identity for one in signed.versions(path) if not one.is_marker), "")
    if not version:
        raise FatalUserError(f"{signed.name}: cannot even write: {complaint or 'the object did not arrive'}")
    until = utc_now().replace(microsecond=0) + 2 * _A_MINUTE
    signed.retain(path, Retention(mode, until), version)
    with suppress(ProgramFailed):
        signed.retain(path, Retention(mode, until - _A_MINUTE), version, bypass=True)
    found = signed.retention(path, version)
    with suppress(ProgramFailed):
        signed.destroy(path, version)
    is_there = any(one.identity == version for one in signed.versions(path))
    return LockAttacked(shorten=found is None or found.until < until, destroy=not is_there)


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
