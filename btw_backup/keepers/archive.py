"""Reads tar archives as streams: v7, ustar, GNU, pax, sparse files of all four makes.

Any bytes give either entries that are fit to be restored, or a complaint. What is
kept in memory is bounded, whatever the archive says.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, NoReturn

from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged
from btw_backup.keepers import headers
from btw_backup.keepers.headers import BLOCK, Extension
from btw_backup.log import printable

PIECE = 1 << 20
_ZEROS = bytes(BLOCK)
_LONGEST_SEARCH = 16 << 20  # bytes without any header at the beginning, after which it is no archive

Report = Callable[[str], None]
"""Is told of damage after which the archive can be read on."""


class _Input:
    """The stream, by blocks and by pieces, whatever the sizes of its reads."""

    __slots__ = ("_at", "_chunk", "_stream", "offset")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._chunk = memoryview(b"")
        self._at = 0
        self.offset = 0

    def piece(self, most: int) -> memoryview:
        """Between 1 and `most` bytes that follow, without copying them; none at the end of the stream."""
        if self._at == len(self._chunk):
            self._chunk = memoryview(self._stream.read(PIECE))
            self._at = 0
        found = self._chunk[self._at : self._at + most]
        self._at += len(found)
        self.offset += len(found)
        return found

    def block(self) -> bytes:
        """The next block; b"" at the end of the stream."""
        block = bytes(self.piece(BLOCK))
        return block if len(block) == BLOCK or not block else block + self.whole(BLOCK - len(block))

    def whole(self, count: int) -> bytes:
        """Exactly `count` bytes, which the caller has found to be few."""
        parts = []
        while count:
            parts.append(self.piece(count) or self.cut())
            count -= len(parts[-1])
        return b"".join(parts)

    def skip(self, count: int) -> None:
        """Leave out `count` bytes."""
        while count:
            count -= len(self.piece(min(count, PIECE)) or self.cut())

    def cut(self) -> NoReturn:
        """The stream ended too early."""
        raise Damaged(f"the archive is cut: it ends after {self.offset} bytes")


class Content:
    """The stored bytes of a file, without those of holes: in pieces, to read once, before the next entry."""

    __slots__ = ("_input", "left")

    def __init__(self, source: _Input, size: int) -> None:
        self._input = source
        self.left = size

    def __iter__(self) -> Iterator[memoryview]:
        """The pieces. Raises `Damaged` where the archive is cut."""
        while self.left:
            piece = self._input.piece(min(self.left, PIECE)) or self._input.cut()
            self.left -= len(piece)
            yield piece

    def block(self) -> bytes:
        """The next block, for what is stored in front of the content proper. ValueError if there is none."""
        if self.left < BLOCK:
            raise ValueError("its map of holes is cut")
        self.left -= BLOCK
        return self._input.whole(BLOCK)


def members(stream: BinaryIO, report: Report) -> Iterator[tuple[Entry, Content]]:
    """The entries of the archive with their content, to the end of the stream.

    Damage goes to `report`, and the archive is read on at the next header. Raises `Damaged` where that cannot be: it
    is no archive, or is cut, or `stream` itself raises.
    """
    source = _Input(stream)
    everywhere, following = Extension(), Extension()
    while (block := _header(source, report)) is not None:
        start = source.offset - BLOCK
        flag = block[156:157]
        extension = everywhere if flag == headers.GLOBAL else following
        try:
            if flag in headers.EXTENDED:
                _extend(source, block, extension)
                continue
            member = _member(source, block, _both(everywhere, following))
        except ValueError as error:
            report(_complaint(block, following, start, error))
            if flag in headers.EXTENDED:
                extension.broken = flag != headers.GLOBAL
                continue
            _pass_over(source, block, following, start)
        else:
            if member is not None:
                yield member
                source.skip(member[1].left)
            source.skip(-source.offset % BLOCK)
        following = Extension()
    _rest(source, report)


def _header(source: _Input, report: Report) -> bytes | None:
    """The next header; None at the end of the archive, which is two blocks of zeros, or one and nothing more."""
    start = source.offset
    zeros = 0
    while True:
        block = source.block()
        lost = source.offset - len(block) - start
        if start == 0 and lost and (lost > _LONGEST_SEARCH or not (block or zeros)):
            raise Damaged("this is no tar archive")
        if not (block or zeros):
            source.cut()
        if not block or (zeros and lost == BLOCK and block == _ZEROS):
            if lost > BLOCK:
                report(f"behind byte {start} of the archive there is no header: left out {lost} bytes")
            return None
        if block == _ZEROS:
            zeros += 1
        elif headers.checksum_fits(block):
            if lost:
                report(f"at byte {start} of the archive there is no header: left out {lost} bytes")
            return block
        else:
            zeros = 0


def _extend(source: _Input, block: bytes, extension: Extension) -> None:
    """Read an extended header into `extension`."""
    size = headers.size_of(block)
    flag = block[156:157]
    is_name = flag in (headers.LONG_NAME, headers.LONG_LINK)
    extension.length += size
    if size > headers.LARGEST_NAME if is_name else extension.length > headers.LARGEST_EXTENDED:
        source.skip(size + -size % BLOCK)
        raise ValueError(f"an extended header of {size} bytes is too long")
    data = source.whole(size)
    source.skip(-size % BLOCK)
    if flag == headers.LONG_NAME:
        extension.name = data.partition(b"\0")[0]
    elif flag == headers.LONG_LINK:
        extension.link = data.partition(b"\0")[0]
    else:
        headers.read_records(data, extension)


def _both(everywhere: Extension, following: Extension) -> Extension:
    if following.broken:
        raise ValueError("its extended header is damaged")
    if not everywhere.records:
        return following
    return replace(following, records={**everywhere.records, **following.records})


def _member(source: _Input, block: bytes, extension: Extension) -> tuple[Entry, Content] | None:
    """The entry of a header that is not an extended one; None for a label."""
    flag = block[156:157]
    if flag == headers.LABEL:
        return None
    if flag not in headers.KINDS:
        raise ValueError(f"it is of the unknown type {flag!r}")
    entry = headers.entry(block, extension)
    if flag == b"S" or (extension.records and _is_sparse(extension)):
        return _sparse(source, block, entry, extension)
    if flag not in headers.WITH_CONTENT:
        return entry, Content(source, 0)
    if entry.kind is Kind.FOLDER:
        source.skip(headers.size_of(block) if flag == b"D" else 0)
        return entry, Content(source, 0)
    return entry, Content(source, entry.size)


def _is_sparse(extension: Extension) -> bool:
    return b"GNU.sparse.major" in extension.records or b"GNU.sparse.map" in extension.records or bool(extension.extents)


def _sparse(source: _Input, block: bytes, entry: Entry, extension: Extension) -> tuple[Entry, Content]:
    """A file with holes: the map says where its stored bytes belong."""
    if entry.kind is not Kind.FILE:
        raise ValueError("only a file has holes")
    records = extension.records
    content = Content(source, entry.size)
    if block[156:157] == headers.OLD_SPARSE:
        size, extents = headers.number(block[483:495]), _old_map(source, block)
    elif records.get(b"GNU.sparse.major", b"0") == b"1":
        size = headers.decimal(records.get(b"GNU.sparse.realsize", b"?"))
        extents = _leading_map(content)
    else:
        size = headers.decimal(records.get(b"GNU.sparse.size", b"?"))
        numbers = records[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in records else extension.extents
        extents = headers.pairs_of([text for text in numbers if text])
    if not 0 <= size < 1 << 63:
        raise ValueError(f"its size is {size}")
    return replace(entry, size=size, extents=headers.checked(extents, size, content.left)), content


def _old_map(source: _Input, block: bytes) -> headers.Extents:
    extents = headers.extents_in(block, 386, 4)
    more = block[482]
    while more:
        block = source.block() or source.cut()
        extents += headers.extents_in(block, 0, 21)
        more = block[504]
        if len(extents) > headers.LARGEST_MAP:
            raise ValueError("its map of holes is too long")
    return extents


def _leading_map(content: Content) -> headers.Extents:
    """The map in front of the stored bytes: a line with the count, two for each part, filled up to a block."""
    parts = [content.block()]
    count = headers.decimal(parts[0].partition(b"\n")[0])
    if count > headers.LARGEST_MAP:
        raise ValueError("its map of holes is too long")
    lines = parts[0].count(b"\n")
    while lines < 1 + 2 * count:
        parts.append(content.block())
        lines += parts[-1].count(b"\n")
    return headers.pairs_of(b"".join(parts).split(b"\n", 1 + 2 * count)[1 : 1 + 2 * count])


def _complaint(block: bytes, following: Extension, start: int, error: ValueError) -> str:
    name = following.records.get(b"path") or following.name or headers.name_in(block)
    return f"{printable(name[:300])} (byte {start} of the archive) is left out, because {error}"


def _pass_over(source: _Input, block: bytes, following: Extension, start: int) -> None:
    """Go to the end of a member that could not be understood, as far as its size is told."""
    try:
        size = headers.stored_size(block, following.records)
    except ValueError:
        size = 0
    flag = block[156:157]
    has_content = flag in headers.WITH_CONTENT or flag not in headers.KINDS  # POSIX wants unknown types to have some
    end = start + BLOCK + (size + -size % BLOCK if has_content else 0)
    source.skip(max(0, end - source.offset))


def _rest(source: _Input, report: Report) -> None:
    """Read what follows the end, which is nothing but zeros."""
    while piece := source.piece(PIECE):
        if piece.tobytes().strip(b"\0"):
            report(f"there is something behind the end of the archive, before byte {source.offset}")
            break
    while source.piece(PIECE):
        pass
