"""The manifest of a backup: a header, an entry a line in the order of the walk, an end; JSON lines in one zstd frame.

Behind it are the names of the chunks (`store.names`). Paths that are no UTF-8 are in `raw_path`, as base64.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import zstandard

from btw_backup import regular
from btw_backup.errors import TRY_ANOTHER, Damaged, FatalUserError
from btw_backup.store import names
from btw_backup.store.shares import Share

FORMAT = 1
LONGEST_LINE = 64 << 20
"""Bytes: a file of 1.5 TB has as many extents as fit. Memory is bounded, whatever a manifest says."""

_MAX_WINDOW = 8 << 20
_PIECE = 1 << 18

Extent = tuple[str, int, int]
"""The name of a chunk, an offset in its plain content, a length."""

KindName = Literal["file", "folder", "link", "hard link", "fifo", "socket", "character device", "block device"]


class Header(msgspec.Struct, frozen=True, tag="header", tag_field="type"):
    """The first line. `began` is when the walk began, in nanoseconds since 1970.

    With `kind` ``fs`` the entries are those of a tree; with any other, a stream, there is exactly one: a file whose
    path is what the stream is called where it lies as a file (`Source.file_name`).
    """

    format: int
    kind: str
    source: str
    began: int

    @classmethod
    def of(cls, kind: str, source: str, began: int) -> "Header":
        """That of a manifest that begins now; bytes of the source's name that are no UTF-8 are escaped."""
        return cls(FORMAT, kind, os.fsencode(source).decode(errors="backslashreplace"), began)


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry: `Entry`, what it looked like (`ctime`, `inode`), and where its content is.

    `sha256` is that of the content of a file that is packed with others; of larger ones the names of the chunks tell.
    `parts` are what is not holes. `torn`: it changed while it was read, so that its content may never have been so.
    `segments` are the digests and lengths of the parts in which a stream came, up to the last one that is not in one
    chunk of its own; what follows them are whole chunks.
    What is not content (when and where it was seen, and how it is kept) stands at the end of the line.
    """

    path: str
    kind: KindName
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: str = ""
    uname: str = ""
    gname: str = ""
    device: tuple[int, int] | None = None
    xattrs: dict[str, bytes] = {}
    raw_path: bytes = b""
    raw_target: bytes = b""
    parts: tuple[tuple[int, int], ...] | None = None
    sha256: str = ""
    ctime: int = 0
    inode: int = 0
    torn: bool = False
    extents: tuple[Extent, ...] = ()
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def pieces(self) -> tuple[tuple[str, int], ...]:
        """Digests, with the lengths of what they are of: all that is in it, whatever chunks that lies in."""
        if self.sha256:
            return ((self.sha256, sum(length for _, _, length in self.extents)),)
        left = sum(length for _, length in self.segments)
        whole = []
        for name, _, length in self.extents:
            if left <= 0:
                whole.append((name, length))
            left -= length
        return (*self.segments, *whole)

    @property
    def key(self) -> str:
        """The path, as `walk` gives it."""
        return os.fsdecode(self.raw_path) if self.raw_path else self.path


Known = tuple[Member, bytes]
"""An entry as a manifest has it, and its line there."""


class End(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """The last line. `wasteful` are packs of which this backup uses less than half."""

    entries: int
    size: int
    wasteful: tuple[str, ...] = ()


_MEMBER = msgspec.json.Decoder(Member)
_HEADER = msgspec.json.Decoder(Header)
_END = msgspec.json.Decoder(End)
NOT_CONTENT = b',"ctime":'
_END_MARK = b'{"type":"end"'


class ManifestReader:
    """The `header`, and the entries with their lines; then `end` is what the last line says, and `sha256` is known."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self._batches = self._read(file)
        self._first = next(self._batches, [b""])
        self.end: End | None = None
        self.header = self._header(self._first.pop(0))

    def _header(self, line: bytes) -> Header:
        try:
            header = _HEADER.decode(line)
        except msgspec.DecodeError as error:
            raise _damaged(self._name, str(error)) from error
        if header.format > FORMAT:
            raise FatalUserError(f"{self._name} has the newer format {header.format}", "use a newer btw-backup")
        return header

    def __iter__(self) -> Iterator[Known]:
        """Raises `Damaged` where it is not what was written; also at its end, if that is not where it should be."""
        decode = _MEMBER.decode
        for batch in self._entries():
            for line in batch:
                try:
                    yield decode(line), line
                except (msgspec.DecodeError, RecursionError) as error:
                    raise _damaged(self._name, str(error)) from error

    def members(self, share: Share) -> Iterator[Member]:
        """The entries that `share` takes. Raises as going through all of them does."""
        try:
            yield from map(_MEMBER.decode, share.lines_in(self.lines()))
        except (msgspec.DecodeError, RecursionError) as error:
            raise _damaged(self._name, str(error)) from error

    def lines(self) -> Iterator[bytes]:
        """The lines of the entries, for who decodes few of them. Raises as going through the entries does."""
        for batch in self._entries():
            yield from batch

    def _entries(self) -> Iterator[list[bytes]]:
        """The lines of the entries, many at once."""
        count = 0
        for batch in chain([self._first], self._batches):
            if batch and batch[-1].startswith(_END_MARK):
                self.end = _end_in(batch.pop(), self._name)
            count += len(batch)
            yield batch
            if self.end is not None:
                break
        if self.end is None or self.end.entries != count or next(self._batches, None) is not None:
            raise _damaged(self._name, "it does not end where it should")

    @property
    def sha256(self) -> str:
        """The digest of the text, once all of it was read."""
        return self._digest.hexdigest()

    def _read(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """The lines, as many at once as came with a piece; no list is empty."""
        rest = b""
        for piece in _text_of(file, self._digest, self._name):
            lines = (rest + piece if rest else piece).split(b"\n")
            rest = lines.pop()
            if lines:
                yield lines
            if len(rest) > LONGEST_LINE:
                raise _damaged(self._name, "it has a line without an end")
        if rest:
            raise _damaged(self._name, "it is cut")


def _text_of(file: BinaryIO, digest: "hashlib._Hash", name: str) -> Iterator[bytes]:
    """The text of a manifest, in pieces, which `digest` gets, too. Raises `Damaged`, at last for what follows it."""
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(file, read_size=_PIECE)
    try:
        while piece := reader.read(_PIECE):
            digest.update(piece)
            yield piece
    except zstandard.ZstdError as error:
        raise _damaged(name, str(error)) from error
    names.check(file.fileno(), digest.digest(), name)


def _damaged(name: str, why: str) -> Damaged:
    return Damaged(f"{name} is damaged: {why}", TRY_ANOTHER)


def content_in(entries: Iterable[Known]) -> str:
    """The digest of the content of `entries` and their lines, as `ManifestWriter.end` gives it."""
    digest = hashlib.sha256()
    for member, line in entries:
        digest.update(line[: line.rfind(NOT_CONTENT)])
        if member.extents and not member.sha256:
            digest.update(repr(member.extents).encode())
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[ManifestReader]:
    """The manifest in the file `path`. Raises `Damaged`."""
    with _file_of(path) as file:
        yield ManifestReader(file, str(path))


def _file_of(path: Path) -> BinaryIO:
    return regular.opened(path)


def key_of(path: str) -> str:
    """What to compare paths by: in that order a walk gives them, every folder before its content, names sorted."""
    return path.replace("/", "\0")


def text_or_raw(name: str) -> tuple[str, bytes]:
    """`name`, which `os.fsdecode` gave, as a text and b"", or if it is no UTF-8, as "" and its bytes."""
    try:
        if not name.isascii():
            name.encode()
    except UnicodeEncodeError:
        return "", os.fsencode(name)
    return name, b""


def end_of(path: Path) -> End:
    """The last line of a manifest, without looking for the others. Raises `Damaged`."""
    with _file_of(path) as file:
        last = b""
        for piece in _text_of(file, hashlib.sha256(), str(path)):
            start = piece.rfind(b"\n", 0, -1) + 1
            last = piece[start:] if start else last + piece
            if len(last) > LONGEST_LINE:
                raise _damaged(str(path), "it has a line without an end")
    return _end_in(last, str(path))


def _end_in(line: bytes, name: str) -> End:
    try:
        return _END.decode(line)
    except msgspec.DecodeError as error:
        raise _damaged(name, str(error)) from error
