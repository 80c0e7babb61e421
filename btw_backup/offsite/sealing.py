"""Encryption before anything leaves the machine, in the format of age, to public keys alone.

An object is padded with zeros before it is encrypted, so that its size tells little: up to 12 % for small ones, 3 % for
chunks (Padmé: a length keeps as many leading bits as its logarithm has).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyrage

from btw_backup.errors import Damaged, FatalUserError, ProgramFailed

LEAST = 256
"""Bytes that every object has at least."""

Seal = Callable[[bytes], bytes]
"""Makes of what is to be stored what leaves the machine."""

_MARK = "AGE-SECRET-KEY-1"


def sealing(recipients: Sequence[str]) -> Seal:
    """What encrypts to all of `recipients`; if there are none, what leaves everything as it is."""
    if not recipients:
        return lambda content: content
    keys = [pyrage.x25519.Recipient.from_str(one) for one in recipients]

    def seal(content: bytes) -> bytes:
        try:
            return bytes(pyrage.encrypt(content + bytes(padded(len(content)) - len(content)), keys))
        except pyrage.EncryptError as error:
            raise ProgramFailed(f"cannot encrypt: {error}") from error

    return seal


def padded(length: int) -> int:
    """The length that a content of `length` bytes is given."""
    length = max(length, LEAST)
    exponent = length.bit_length() - 1
    unit = 1 << (exponent - exponent.bit_length())
    return -(-length // unit) * unit


class Identities:
    """The secret keys with which what was encrypted can be read. Each file is read once: it may be a pipe. `text` is
    what is in all of them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        contents = {path: _content(path) for path in paths}
        self.text = "\n".join(contents.values())
        self._keys = [key for path, content in contents.items() for key in _keys_in(path, content)]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def public(self) -> list[str]:
        """The public keys that belong to them."""
        return [str(key.to_public()) for key in self._keys]

    def open(self, content: bytes) -> bytes:
        """What `content` was, with its padding. Raises `Damaged`; `FatalUserError` if none of the keys opens it."""
        if not content.startswith(b"age-encryption.org/v1\n"):
            return content  # a target without encryption
        if not self._keys:
            raise FatalUserError("it is encrypted, and needs a key", "--identity KEYFILE, as keys generate made it")
        try:
            return bytes(pyrage.decrypt(content, self._keys))
        except pyrage.DecryptError as error:
            if "matching" in str(error).lower():
                mine = ", ".join(self.public())
                message = f"no key given opens it: it was not encrypted to {mine}"
                raise FatalUserError(message, "give another --identity") from error
            raise Damaged(f"it cannot be decrypted: {error}") from error


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise FatalUserError(f"the key {path} cannot be read: {error.strerror}") from error


def _keys_in(path: Path, content: str) -> list["pyrage.x25519.Identity"]:
    if content.startswith(("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE")):
        hint = f"--identity <(age -d {path}) gives the key itself"
        raise FatalUserError(f"the key {path} is protected by a passphrase", hint)
    found = []
    for line in content.splitlines():
        if line.strip().upper().startswith(_MARK):
            try:
                found.append(pyrage.x25519.Identity.from_str(line.strip()))
            except pyrage.IdentityError as error:
                raise FatalUserError(f"the key in {path} cannot be: {error}", "has a character been lost?") from error
    if not found:
        raise FatalUserError(f"there is no key in {path}", f"a line that begins with {_MARK} is one")
    return found
