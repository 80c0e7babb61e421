"""The store key of this installation: with it the records of what was sent are authenticated.

Whoever has a public key can encrypt to it; only who has the store key can say that this installation did. It is in the
configuration directory, and, encrypted like everything else, at each target with the layout objects.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

from btw_backup import files, locks, regular
from btw_backup.errors import Damaged

LENGTH = 32
LOCK_WAIT = 10.0
_KEY = re.compile(rb"[0-9a-f]{64}\n")


def store_key(folder: Path) -> bytes:
    """The key in `folder`, made if there is none."""
    path = folder / "store-key"
    if not path.exists():
        with locks.lock(folder, exclusive=True, wait=LOCK_WAIT):
            if not path.exists():
                files.write_whole(path, text_of(secrets.token_bytes(LENGTH)))
    return parsed(regular.read(path, links=True), str(path))


def adopt(folder: Path, key: bytes) -> bool:
    """Make `key`, of the installation that this one continues, the key of `folder`; False if that has another."""
    path = folder / "store-key"
    if not path.exists():
        files.make_folder(folder)
        files.write_whole(path, text_of(key))
    return parsed(regular.read(path, links=True), str(path)) == key


def text_of(key: bytes) -> bytes:
    """The key as a line."""
    return key.hex().encode() + b"\n"


def parsed(content: bytes, where: str) -> bytes:
    """The key that is in `content`. Raises `Damaged`."""
    if not _KEY.fullmatch(content):
        raise Damaged(f"{where} is no store key", "without it, remove the file: then everything is sent anew")
    return bytes.fromhex(content.decode())


def fingerprint(key: bytes) -> str:
    """What tells a key from others, and nothing about it: to be written down beside the identity."""
    return hashlib.sha256(b"btw-backup store key\n" + key).hexdigest()[:16]


def private(folder: Path) -> Path:
    """`folder`, made if it is not there."""
    files.make_folder(folder)
    os.chmod(folder, 0o700)
    return folder
