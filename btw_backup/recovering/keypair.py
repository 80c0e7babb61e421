"""The key that everything can be read with that was sent: made here, and to be kept elsewhere."""

import os
import re
from pathlib import Path

import pyrage

from btw_backup import files
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import FatalUserError, WouldOverwrite

_PIN = re.compile(r"^# store key: ([0-9a-f]{16})\s*$", re.MULTILINE)


def generate(path: Path) -> str:
    """Write a new secret key to the new file `path`, as the program age has it; the public key."""
    if os.path.lexists(path):
        raise WouldOverwrite(f"{path} exists", "give a new name: what was encrypted to the old key needs that")
    if not path.parent.is_dir():
        raise FatalUserError(f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    key = pyrage.x25519.Identity.generate()
    public = str(key.to_public())
    files.write_whole(path, f"# created: {stamp_of(utc_now())}Z\n# public key: {public}\n{key}\n".encode())
    return public


def pins_in(text: str) -> list[str]:
    """The fingerprints of store keys that are noted in the file of a key."""
    return _PIN.findall(text)


def pin(path: Path, fingerprint: str) -> None:
    """Note the fingerprint of a store key in the file of a key."""
    content = path.read_bytes()
    if fingerprint not in pins_in(content.decode("utf-8", "replace")):
        files.write_whole(path, content.rstrip(b"\n") + f"\n# store key: {fingerprint}\n".encode())
