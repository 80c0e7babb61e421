"""The records of what was sent to a target with the layout objects: one for each time that something was sent.

They are a chain: each has a sequence number and the SHA-256 of the one before, as it is stored. What ends it is the
HMAC-SHA-256 of the text before it, under the store key. Applied one after the other, they tell what there is: which
objects, one behind the other, are a file below ROOT_PATH, and which is a chunk. Now and then a record names a `state`:
all that the ones before it told, so that nobody has to read those.
"""

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import zstandard

from btw_backup.errors import Damaged, FatalUserError

FORMAT = 1
LARGEST = 1 << 30
"""Bytes of a text that is read: memory is bounded, whatever lies there."""

_MOST = 1 << 62  # bytes of anything
FOLDER = "index"
STATE = ".state"
"""The ending of the name of a record that has a state; only a hint which to read."""

_DOMAIN = b"btw-backup index 1\n"
_NAME = re.compile(r"[0-9a-f]{64}")


class Ref(NamedTuple):
    """An object: ``objects/<batch>/<name>``, whose name is the SHA-256 of its `stored` bytes, of which, decrypted, the
    first `length` are what was stored."""

    batch: int
    name: str
    length: int
    stored: int

    @property
    def path(self) -> str:
        """Where it is, relative to the target."""
        return f"objects/{self.batch:08x}/{self.name}"

    @property
    def neighbours(self) -> str:
        """What the paths of the objects of sixteen batches begin with, which are looked at by one listing."""
        return f"objects/{self.batch >> 4:07x}"


@dataclass(frozen=True, slots=True)
class File:
    """A file: its size and SHA-256, when it was changed (ns), and its content."""

    size: int
    sha256: str
    mtime: int
    parts: tuple[Ref, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One record: what is new since the one before, and the paths, of files and chunks, that are not there any more."""

    chain: str
    sequence: int
    previous: str
    made: str
    files: Mapping[str, File]
    chunks: Mapping[str, Ref]
    removed: tuple[str, ...] = ()
    state: File | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that is on its way: its path at the target, what it tells, and what is true when it is there."""

    path: str
    sequence: int
    digest: str
    size: int
    states: dict[str, tuple[str, File]]
    removed: tuple[str, ...]
    state_size: int | None


def text_of(record: Record, key: bytes) -> bytes:
    """`record`, authenticated and compressed."""
    found: dict[str, Any] = {
        "format": FORMAT,
        "chain": record.chain,
        "sequence": record.sequence,
        "previous": record.previous,
        "made": record.made,
        **_values(record.files, record.chunks),
        "removed": record.removed,
        "state": value_of(record.state) if record.state else None,
    }
    body = json.dumps(found, ensure_ascii=True).encode()
    mac = hmac.new(key, _DOMAIN + body, hashlib.sha256).hexdigest()
    return zstandard.ZstdCompressor(level=6, write_checksum=True).compress(body + b"\n" + mac.encode() + b"\n")


def parsed(content: bytes, key: bytes, where: str) -> Record:
    """The record in `content`, which may be padded. Raises `Damaged` if it was not made with `key`."""
    body, _, mac = decompressed(content, where).rstrip(b"\n").rpartition(b"\n")
    expected = hmac.new(key, _DOMAIN + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), mac):
        raise Damaged(f"{where} was not made by this installation: its HMAC is not that of its store key")
    try:
        found = json.loads(body)
        if found["format"] > FORMAT:
            raise FatalUserError(f"{where} has the newer format {found['format']}", "use a newer btw-backup")
        return Record(
            str(found["chain"]),
            int(found["sequence"]),
            str(found["previous"]),
            str(found["made"]),
            {path_of(path): file_of(value) for path, value in found["files"].items()},
            {name_of(name): ref_of(value) for name, value in found["chunks"].items()},
            tuple(map(path_of, found["removed"])),
            file_of(found["state"]) if found["state"] else None,
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} cannot be understood: {error}") from error


def state_pieces(files: Iterable[tuple[str, File]], chunks: Iterable[tuple[str, Ref]], size: int) -> Iterator[bytes]:
    """A state, to be stored like a file, in pieces of `size` bytes; what it tells is never in memory as a whole."""
    compressor = zstandard.ZstdCompressor(level=6, write_checksum=True).compressobj()
    piece = bytearray()
    for text in _state_text(files, chunks):
        piece += compressor.compress(text)
        while len(piece) >= size:
            yield bytes(piece[:size])
            del piece[:size]
    piece += compressor.flush()
    yield from (bytes(piece[start : start + size]) for start in range(0, len(piece), size))


def _state_text(files: Iterable[tuple[str, File]], chunks: Iterable[tuple[str, Ref]]) -> Iterator[bytes]:
    """The same JSON that `_values` gives, bit by bit."""
    beginning = '{"files": {'
    for path, file in files:
        yield f"{beginning}{json.dumps(path)}: {json.dumps(value_of(file))}".encode()
        beginning = ", "
    yield b"" if beginning == ", " else beginning.encode()
    beginning = '}, "chunks": {'
    for name, ref in chunks:
        yield f'{beginning}"{name}": {json.dumps(ref)}'.encode()
        beginning = ", "
    yield b"}}" if beginning == ", " else f"{beginning}}}}}".encode()


def decompressed(content: bytes, where: str) -> bytes:
    """The first frame in `content`; the padding is behind it. Raises `Damaged`."""
    try:
        expander = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        found = b"".join(_pieces(expander, content))
        if not expander.eof:
            raise Damaged(f"{where} is cut")
        return found
    except (zstandard.ZstdError, MemoryError) as error:
        raise Damaged(f"{where} is damaged: {error}") from error


def _pieces(expander: "zstandard.ZstdDecompressionObj", content: bytes) -> list[bytes]:
    pieces, size = [], 0
    for start in range(0, len(content), 1 << 14):
        pieces.append(expander.decompress(content[start : start + (1 << 14)]))
        size += len(pieces[-1])
        if size > LARGEST:
            raise zstandard.ZstdError("it is too large")
        if expander.eof:
            break
    return pieces


def _values(files: Mapping[str, File], chunks: Mapping[str, Ref]) -> dict[str, Any]:
    return {"files": {path: value_of(file) for path, file in files.items()}, "chunks": chunks}


def value_of(file: File) -> list[Any]:
    """`file` as JSON has it."""
    return [file.size, file.sha256, file.mtime, file.parts]


def file_of(value: Any) -> File:
    """What `value`, of JSON, says. Raises ValueError, TypeError."""
    size, sha256, mtime, parts = value
    if not 0 <= size < _MOST:
        raise ValueError("a file cannot be so long")
    return File(int(size), name_of(sha256), int(mtime), tuple(map(ref_of, parts)))


def ref_of(value: Any) -> Ref:
    """The object that `value`, of JSON, names. Raises ValueError, TypeError."""
    batch, name, length, stored = value
    if not 0 <= batch < 1 << 32 or not 0 <= length < _MOST or not 0 <= stored < _MOST:
        raise ValueError("an object cannot be")
    return Ref(int(batch), name_of(name), int(length), int(stored))


def name_of(name: Any) -> str:
    """`name`, which is that of a chunk or an object. Raises ValueError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a name cannot be")
    return name


def path_of(path: Any) -> str:
    """`path`, which leads to something below ROOT_PATH. Raises ValueError."""
    parts = str(path).split("/")
    os.fsencode(path)  # else no file can be called so
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"a path leads out of ROOT_PATH: {path!r:.100}")
    return str(path)
