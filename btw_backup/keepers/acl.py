"""Access control lists: the text that tar archives hold, as the bytes that the kernel takes."""

import grp
import pwd
import struct
from collections.abc import Callable

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF
_TAGS = {  # (word, is somebody named): the kernel's ACL_* constants
    ("user", False): 0x01,
    ("user", True): 0x02,
    ("group", False): 0x04,
    ("group", True): 0x08,
    ("mask", False): 0x10,
    ("other", False): 0x20,
}
_WORDS = {"u": "user", "g": "group", "m": "mask", "o": "other"}


def binary(text: bytes) -> bytes:
    """The value of ``system.posix_acl_*`` for an ACL such as ``user::rw-,user:1000:r--,group::r--,…``.

    ValueError if it is none, or names somebody whom this machine does not know.
    """
    lines = text.decode("utf-8", "surrogateescape").replace(",", "\n").splitlines()
    entries = sorted(_entry(line) for line in (line.partition("#")[0].strip() for line in lines) if line)
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _entry(line: str) -> tuple[int, int, int]:
    word, _, rest = line.partition(":")
    whom, _, rest = rest.partition(":")
    permissions, _, number = rest.partition(":")  # star appends the number to a name
    tag = _TAGS.get((_WORDS.get(word, word), bool(whom)))
    if tag is None:
        raise ValueError(f"not an entry of an ACL: {line:.60}")
    return tag, _bits(permissions), _number(word, number or whom) if whom else _NOBODY


def _bits(permissions: str) -> int:
    if len(permissions) != 3 or any(c not in ("-", letter) for c, letter in zip(permissions, "rwx", strict=True)):
        raise ValueError(f"not the permissions of an ACL: {permissions:.20}")
    return sum(bit for c, bit in zip(permissions, (4, 2, 1), strict=True) if c != "-")


def _number(word: str, whom: str) -> int:
    if whom.isascii() and whom.isdigit() and int(whom[:11]) < _NOBODY:
        return int(whom)
    look_up: Callable[[str], int] = _user if word.startswith("u") else _group
    try:
        return look_up(whom)
    except KeyError:
        raise ValueError(f"an ACL names {whom:.60}, whom nobody knows here") from None


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid
