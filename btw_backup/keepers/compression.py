"""The compressions that archives come in: their endings, and how they are written and read.

zstd works on all cores (level 3, with a checksum); the others are for who needs them and use one.
"""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

from btw_backup import files, flushing, regular
from btw_backup.errors import Damaged
from btw_backup.sources import Produced

ENDINGS: Mapping[str, str] = {"zstd": ".tar.zst", "bzip2": ".tbz", "gzip": ".tgz", "xz": ".txz", "none": ".tar"}
"""The ending of an archive of each compression; ``.tbz`` is what the old script wrote."""

LEVEL = 3

JOB = 4 << 20
"""Bytes that one core compresses at a time: with zstd's own choice two cores hold 50 MB more, and gain nothing."""

MAX_WINDOW = 1 << 27
"""Bytes of history that a zstd frame may ask us to keep: what ``zstd --long`` uses at most by default."""


class Compressor(Protocol):
    """Something that bytes are put into and come out of smaller."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """What is ready so far."""

    def flush(self) -> bytes:
        """The rest."""


def _zstd() -> Compressor:
    threads = len(os.sched_getaffinity(0))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, threads=threads, write_checksum=True, job_size=JOB
    )
    return cast(Compressor, zstandard.ZstdCompressor(compression_params=parameters).compressobj())


class _Plain:
    def compress(self, data: bytes | memoryview, /) -> bytes:
        return cast(bytes, data)

    def flush(self) -> bytes:
        return b""


def _gzip() -> Compressor:
    return zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)


_COMPRESSORS: Mapping[str, Callable[[], Compressor]] = {
    "zstd": _zstd,
    "bzip2": bz2.BZ2Compressor,
    "gzip": _gzip,
    "xz": lzma.LZMACompressor,
    "none": _Plain,
}


class CompressedFile:
    """A writable that compresses into the descriptor of `out`. `close` ends the stream, and leaves `out` open."""

    def __init__(self, out: BinaryIO, compression: str) -> None:
        self._out = out
        self._compressor = _COMPRESSORS[compression]()
        self.length = 0

    def write(self, data: bytes | memoryview) -> int:
        """Compress `data`; write what is ready."""
        self._put(self._compressor.compress(data))
        return len(data)

    def close(self) -> None:
        """Write the rest."""
        self._put(self._compressor.flush())

    def _put(self, ready: bytes) -> None:
        left = memoryview(ready)
        while left:
            left = left[self._out.write(left) :]
        self.length += len(ready)


def written(temporary: Path, compression: str, produce: Callable[[BinaryIO], Produced]) -> tuple[Produced, int]:
    """Have `produce` write to the new file `temporary`, compressed, onto the disk; what it said, the file's length."""
    with files.create(temporary) as file, flushing.written_behind(file) as out:
        compressed = CompressedFile(out, compression)
        produced = produce(cast(BinaryIO, compressed))
        compressed.close()
    return produced, compressed.length


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The plain content of a compressed file, whose ending says how. Raises `Damaged` while it is read."""
    with regular.opened(path, 1 << 18) as file:
        compression = next((name for name, ending in ENDINGS.items() if path.name.endswith(ending)), "zstd")
        try:
            yield _reader(file, compression)
        except (zstandard.ZstdError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise Damaged(f"{path} is damaged: {error}") from error


def _reader(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        return cast(BinaryIO, decompressor.stream_reader(file, read_size=1 << 18, read_across_frames=True))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return cast(BinaryIO, lzma.LZMAFile(file)) if compression == "xz" else file
