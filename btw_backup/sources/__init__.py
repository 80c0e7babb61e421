"""Where the bytes come from."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, runtime_checkable

OpenStream = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens a plain stream, which can be done several times."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a tree looks like without reading a file.

    `digest` covers every entry's path, type, mode, owner, size, mtime, ctime, inode and link target, in walk order,
    and the rules that chose them. `newest` is the youngest mtime or ctime seen, `began` when the walk began, both in
    nanoseconds since 1970. `reliable` is False where the filesystem's ctime or inodes mean nothing.
    """

    digest: str
    began: int
    newest: int
    reliable: bool
    entries: int
    size: int


@dataclass(frozen=True, slots=True)
class Produced:
    """What a source wrote: see `records.Record` for the fields of the same names.

    `sha256` and `content` are "" where the bytes alone tell: whoever they went to has digested them anyway.
    """

    length: int
    sha256: str
    content: str
    changed: tuple[tuple[str, str], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    left_out: int = 0
    sockets: tuple[Mapping[str, Any], ...] = ()


class Source(Protocol):
    """The contract of a source.

    `kind` is ``fs``, ``db``, ``globals`` or ``command``; `name` the path, the database, or the command's; `file_name`
    what its plain stream is called where it lies as a file (``backup.tar``, ``shop.dump``, ``global.sql.bz2``).
    """

    kind: str
    name: str
    file_name: str

    def fingerprint(self) -> Fingerprint | None:
        """A cheap look, or None if only reading tells. Raises `FatalUserError` if the source is missing or empty."""

    def produce(self, out: BinaryIO) -> Produced:
        """Write the plain stream to `out`, once, and return only if every producer ended well.

        `out` is a file, or something with a ``write``. Raises `ProgramFailed` and others; what was written is then
        worthless. What could not be read is in the result.
        """

    def content_of(self, stream: BinaryIO) -> str:
        """A digest of what a plain stream holds, equal for equal content whoever wrote it and in whatever order.

        Compares a new stream with that of an old backup without a record; slower than `Produced.content`.
        """

    def programs(self) -> Mapping[str, str]:
        """The programs and server versions that take part, for the record."""


@runtime_checkable
class Varying(Protocol):
    """A source whose streams may hold the same though their bytes differ, and that does not know it without a look."""

    def holds_the_same(self, old: OpenStream, new: OpenStream) -> bool:
        """Whether two streams with different bytes hold the same. Cheap where they usually do not."""
