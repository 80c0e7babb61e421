"""Single lines of a manifest, for who does not need all of them, or not all of each."""

import os

import msgspec

from btw_backup.errors import Damaged
from btw_backup.store.manifest import Member


class Named(msgspec.Struct, frozen=True):
    """What of an entry tells where it is, and its attributes as they stand there."""

    path: str
    kind: str
    target: str = ""
    raw_path: bytes = b""
    raw_target: bytes = b""
    xattrs: msgspec.Raw = msgspec.Raw()

    @property
    def key(self) -> str:
        """The path, as `walk` gives it."""
        return os.fsdecode(self.raw_path) if self.raw_path else self.path


_MEMBER = msgspec.json.Decoder(Member)
_NAMED = msgspec.json.Decoder(Named)


def member_in(line: bytes) -> Member:
    """The entry that stands in `line`. Raises `Damaged`."""
    try:
        return _MEMBER.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _damaged(error) from error


def named_in(line: bytes) -> Named:
    """Of the entry that stands in `line`, where it is. Raises `Damaged`."""
    try:
        return _NAMED.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _damaged(error) from error


def target_of(entry: Member | Named) -> str:
    """The text of a link, or the path of the file that a hard link is a further name of."""
    return os.fsdecode(entry.raw_target) if entry.raw_target else entry.target


def _damaged(error: Exception) -> Damaged:
    return Damaged(f"an entry of the manifest cannot be read: {error}")
