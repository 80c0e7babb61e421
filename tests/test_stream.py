"""Reading ahead."""

import io
import time
import zlib
from typing import BinaryIO, cast

import pytest

from btw_backup.errors import Damaged
from btw_backup.stream import DEPTH, PIECE, read_ahead


class Source:
    """A stream that counts its reads, and fails after some."""

    def __init__(self, pieces: int, error: Exception | None = None) -> None:
        self.left, self.error, self.reads, self.closed = pieces, error, 0, False

    def read(self, size: int = -1) -> bytes:
        assert not self.closed
        self.reads += 1
        if self.left:
            self.left -= 1
            return bytes([self.left % 256]) * size
        if self.error:
            raise self.error
        return b""


def test_everything_comes_in_order() -> None:
    content = bytes(range(256)) * 20_000
    advanced: list[int] = []
    with read_ahead(io.BytesIO(content), advanced.append) as stream:
        parts = [stream.read(100), stream.read(PIECE), stream.read(7), stream.read(), stream.read(5), stream.read()]
    assert b"".join(parts) == content and parts[-2:] == [b"", b""]
    assert (len(parts[0]), len(parts[1]), sum(advanced)) == (100, PIECE - 100, len(content))


def test_reading_is_bounded() -> None:
    source = Source(100)
    with read_ahead(cast(BinaryIO, source)) as stream:
        stream.read(1)
        time.sleep(0.3)
        assert source.reads <= DEPTH + 1
    source.closed = True  # leaving the block waits for the read under way


@pytest.mark.parametrize(
    ("error", "seen"), [(OSError("invalid data"), Damaged), (zlib.error("x"), zlib.error), (EOFError(), EOFError)]
)
def test_errors_come_where_they_were_met_and_stay(error: Exception, seen: type[Exception]) -> None:
    with read_ahead(cast(BinaryIO, Source(2, error))) as stream:
        assert len(stream.read(PIECE)) == len(stream.read(PIECE)) == PIECE
        for _ in range(2):
            with pytest.raises(seen):
                stream.read(PIECE)
