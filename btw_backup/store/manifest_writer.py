"""Writes the manifest of a backup: `store.manifest` says what is in it."""

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import msgspec
import zstandard

from btw_backup.store import names
from btw_backup.store.manifest import NOT_CONTENT, End, Header, Known, Member
from btw_backup.store.tally import Tally
from btw_backup.stream import Digesting

_BATCH = 1 << 18
_PENDING = 8
"""Bytes of lines that are compressed at a time, and how often so many may wait for it."""


class ManifestWriter:
    """Writes lines. `content` digests what the tree holds, wherever and whenever that was seen; `sha256` the text."""

    def __init__(self, out: BinaryIO, header: Header) -> None:
        self._file_out = out
        self._out = Digesting(out)
        self._names = Tally()
        self._last = ""
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._file = compressor.stream_writer(self._out, closefd=False)  # type: ignore[arg-type]
        self._encode = msgspec.json.Encoder().encode_into
        self._buffer = bytearray()
        self._content = hashlib.sha256()
        self._text = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "manifest")
        self._compressing: deque[Future[None]] = deque()
        self.entries = 0
        self.size = 0
        self._line(header)

    def add(self, member: Member) -> None:
        """Write one entry."""
        start = len(self._buffer)
        self._line(member)
        self._count([(member, bytes(self._buffer[start:-1]))])

    def add_known(self, entries: Sequence[Known]) -> None:
        """Write entries as they stand in another manifest."""
        self._buffer += b"\n".join([*(line for _, line in entries), b""])
        self._count(entries)

    def end(self, wasteful: tuple[str, ...]) -> tuple[str, str]:
        """Write the end. The digests of the text and of the content."""
        self._line(End(self.entries, self.size, wasteful))
        self._flush()
        self._thread.shutdown()
        self._wait(0)
        self._file.close()  # type: ignore[no-untyped-call]
        with self._names:
            names.write(
                self._file_out, (name for name, _ in self._names), self._text.digest(), self._out.sha256.digest()
            )
        return self._text.hexdigest(), self._content.hexdigest()

    def _line(self, value: object) -> None:
        self._encode(value, self._buffer, -1)
        self._buffer += b"\n"

    def _count(self, entries: Sequence[Known]) -> None:
        """Add up what is in the buffer now."""
        self.entries += len(entries)
        content = []
        for member, line in entries:
            content.append(line[: line.rfind(NOT_CONTENT)])
            if member.kind == "file":
                self.size += member.size
            if extents := member.extents:
                if len(extents) > 1 or extents[0][0] != self._last:
                    self._last = extents[-1][0]  # most files are in the chunk of the one before
                    self._names.add(bytes.fromhex(name) for name, _, _ in extents)
                if not member.sha256:
                    content.append(repr(extents).encode())
        self._content.update(b"".join(content))
        if len(self._buffer) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Have what is in the buffer compressed by a thread, while the next is gathered."""
        self._wait(_PENDING - 1)
        self._compressing.append(self._thread.submit(self._compress, self._buffer))
        self._buffer = bytearray()

    def _wait(self, most: int) -> None:
        """Wait until no more than so many batches are being compressed."""
        while len(self._compressing) > most:
            self._compressing.popleft().result()

    def _compress(self, text: bytearray) -> None:
        self._text.update(text)
        self._file.write(text)
