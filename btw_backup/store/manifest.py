"""The manifest of a backup: a header, an entry a line in the order of the walk, an end; JSON lines in one zstd frame.

Written and read as a stream. Names that are no UTF-8 are in `raw_path` and `raw_target`, which JSON has as base64.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import zstandard

from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged, FatalUserError

FORMAT = 1
LONGEST_LINE = 64 << 20
"""Bytes: a file of 1.5 TB has as many extents as fit. Memory is bounded, whatever a manifest says."""

_MAX_WINDOW = 8 << 20
_PIECE = 1 << 18
_BATCH = 1 << 18

Extent = tuple[str, int, int]
"""The name of a chunk, an offset in its plain content, a length."""

KindName = Literal["file", "folder", "link", "hard link", "fifo", "socket", "character device", "block device"]


class Header(msgspec.Struct, frozen=True, tag="header", tag_field="type"):
    """The first line. `began` is when the walk began, in nanoseconds since 1970."""

    format: int
    kind: str
    source: str
    began: int


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry: `Entry`, what it looked like (`ctime`, `inode`), and where its content is.

    `sha256` is that of the content of a file that is packed with others; of larger ones the names of the chunks tell.
    `parts` are what is not holes. `torn`: it changed while it was read, so that its content may never have been so.
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

    @property
    def key(self) -> str:
        """The path, as `walk` gives it."""
        return os.fsdecode(self.raw_path) if self.raw_path else self.path


class End(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """The last line. `wasteful` are packs of which this backup uses less than half."""

    entries: int
    size: int
    wasteful: tuple[str, ...] = ()


_MEMBER = msgspec.json.Decoder(Member)
_HEADER = msgspec.json.Decoder(Header)
_END = msgspec.json.Decoder(End)
_END_MARK = b'{"type":"end"'


def entry_of(member: Member) -> Entry:
    """What is restored of `member`. ValueError for what cannot be."""
    stored = sum(length for _, _, length in member.extents)
    if member.kind == "file" and stored != (member.size if member.parts is None else _sparse(member)):
        raise ValueError(f"{member.key[:80]!r} has {stored} bytes, which is not what it should have")
    if not (_fits(member.uid, 32) and _fits(member.gid, 32) and -(1 << 63) <= member.mtime < 1 << 64):
        raise ValueError(f"{member.key[:80]!r} has an owner or a time that cannot be")
    target = member.raw_target or member.target.encode()
    return Entry(
        path=_clean(member.raw_path or member.path.encode()),
        kind=Kind(member.kind),
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=member.mtime,
        size=member.size,
        target=_clean(target) if member.kind == "hard link" else target,
        uname=member.uname,
        gname=member.gname,
        device=member.device or (0, 0),
        xattrs=member.xattrs,
        extents=member.parts,
    )


def _fits(number: int, bits: int) -> bool:
    return 0 <= number < 1 << bits


def _sparse(member: Member) -> int:
    """The bytes that are not holes. ValueError unless the parts follow each other, inside the file."""
    at = stored = 0
    for offset, length in member.parts or ():
        if offset < at or length < 0 or not _fits(member.size, 63) or offset + length > member.size:
            raise ValueError(f"{member.key[:80]!r} has holes that cannot be")
        at, stored = offset + length, stored + length
    return stored


def _clean(path: bytes) -> bytes:
    if (path and any(part in (b"", b".", b"..") for part in path.split(b"/"))) or b"\0" in path:
        raise ValueError(f"{path[:80]!r} is no path below the top")
    return path


class ManifestWriter:
    """Writes lines. `content` digests what the tree holds, wherever and whenever that was seen; `sha256` the text."""

    def __init__(self, out: BinaryIO, header: Header) -> None:
        self._file = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(out, closefd=False)
        self._encode = msgspec.json.Encoder().encode_into
        self._buffer = bytearray()
        self._content = hashlib.sha256()
        self._text = hashlib.sha256()
        self.entries = 0
        self.size = 0
        self._line(header)

    def add(self, member: Member) -> None:
        """Write one entry."""
        start = len(self._buffer)
        self._line(member)
        self._count(member, start)

    def add_again(self, member: Member, line: bytes) -> None:
        """Write an entry as it stands in another manifest, where its `line` is."""
        start = len(self._buffer)
        self._buffer += line
        self._buffer += b"\n"
        self._count(member, start)

    def end(self, wasteful: tuple[str, ...]) -> tuple[str, str]:
        """Write the end. The digests of the text and of the content."""
        self._line(End(self.entries, self.size, wasteful))
        self._flush()
        self._file.close()  # type: ignore[no-untyped-call]
        return self._text.hexdigest(), self._content.hexdigest()

    def _line(self, value: object) -> None:
        self._encode(value, self._buffer, -1)
        self._buffer += b"\n"

    def _count(self, member: Member, start: int) -> None:
        self.entries += 1
        self.size += member.size if member.kind == "file" else 0
        self._content.update(self._buffer[start : self._buffer.rfind(b',"ctime":')])
        if member.extents and not member.sha256:
            self._content.update(repr(member.extents).encode())
        if len(self._buffer) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._text.update(self._buffer)
        self._file.write(self._buffer)
        self._buffer.clear()


class ManifestReader:
    """The `header`, and the entries with their lines; then `end` is what the last line says, and `sha256` is known."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self._lines = self._read(file)
        self.end: End | None = None
        self.header = self._header(next(self._lines, b""))

    def _header(self, line: bytes) -> Header:
        try:
            header = _HEADER.decode(line)
        except msgspec.DecodeError as error:
            raise self._damaged(str(error)) from error
        if header.format > FORMAT:
            raise FatalUserError(f"{self._name} has the newer format {header.format}", "use a newer btw-backup")
        return header

    def __iter__(self) -> Iterator[tuple[Member, bytes]]:
        """Raises `Damaged` where it is not what was written; also at its end, if that is not where it should be."""
        decode = _MEMBER.decode
        count = 0
        for line in self._lines:
            try:
                if line.startswith(_END_MARK):
                    self.end = _END.decode(line)
                    break
                member = decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                raise self._damaged(str(error)) from error
            count += 1
            yield member, line
        if self.end is None or self.end.entries != count or next(self._lines, None) is not None:
            raise self._damaged("it does not end where it should")

    def skip_to_end(self) -> End:
        """The last line."""
        line = b""
        for line in self._lines:  # noqa: B007 - it is the last that counts
            pass
        try:
            return _END.decode(line)
        except msgspec.DecodeError as error:
            raise self._damaged(str(error)) from error

    @property
    def sha256(self) -> str:
        """The digest of the text, once all of it was read."""
        return self._digest.hexdigest()

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines."""
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(file, read_size=_PIECE)
        rest = b""
        try:
            while piece := reader.read(_PIECE):
                self._digest.update(piece)
                lines = (rest + piece if rest else piece).split(b"\n")
                rest = lines.pop()
                yield from lines
                if len(rest) > LONGEST_LINE:
                    raise self._damaged("it has a line without an end")
        except zstandard.ZstdError as error:
            raise self._damaged(str(error)) from error
        if rest:
            raise self._damaged("it is cut")

    def _damaged(self, why: str) -> Damaged:
        return Damaged(f"{self._name} is damaged: {why}", "another backup may be well; list shows them")


@contextmanager
def opened(path: Path) -> Iterator[ManifestReader]:
    """The manifest in the file `path`. Raises `Damaged`."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        yield ManifestReader(file, str(path))


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
    """The last line of a manifest, without understanding the others. Raises `Damaged`."""
    with opened(path) as manifest:
        return manifest.skip_to_end()
