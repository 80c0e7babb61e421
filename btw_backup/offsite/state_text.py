"""Reads a state, as `index.state_pieces` writes it, bit by bit: what it tells is never in memory as a whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from btw_backup.errors import Damaged
from btw_backup.offsite import index
from btw_backup.offsite.index import File, Ref

_BLOCK = 1 << 16
_WINDOW = 1 << 27
_DECODER = json.JSONDecoder()


def things_in(path: Path, where: str) -> Iterator[tuple[str, File | Ref]]:
    """The files and the chunks that the state in the file `path`, which was proved, tells of. Raises `Damaged`."""
    try:
        with open(path, "rb") as file:
            text = _Text(_expanded(file, where))
            text.skip('{"files": ')
            for name, value in text.members():
                yield index.path_of(name), index.file_of(value)
            text.skip(', "chunks": ')
            for name, value in text.members():
                yield index.name_of(name), index.ref_of(value)
            text.skip("}")
    except zstandard.ZstdError as error:
        raise Damaged(f"{where} is damaged: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} cannot be understood: {error}") from error


def _expanded(file: BinaryIO, where: str) -> Iterator[str]:
    """The text of the first frame in `file`."""
    expander = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    while not expander.eof and (block := file.read(_BLOCK)):
        yield expander.decompress(block).decode("ascii")
    if not expander.eof:
        raise Damaged(f"{where} is cut")


class _Text:
    """JSON that comes in `blocks`, of which only what is being read is kept."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self._kept = ""
        self._at = 0

    def members(self) -> Iterator[tuple[Any, Any]]:
        """The names and values of the object that begins here."""
        self.skip("{")
        if self._begins_with("}"):
            self.skip("}")
            return
        while True:
            name = self._value()
            self.skip(": ")
            yield name, self._value()
            if self._begins_with("}"):
                self.skip("}")
                return
            self.skip(", ")

    def skip(self, text: str) -> None:
        """Go on behind `text`, which has to be here. Raises ValueError."""
        if not self._begins_with(text):
            raise ValueError(f"{text!r} is missing")
        self._at += len(text)

    def _begins_with(self, text: str) -> bool:
        while len(self._kept) - self._at < len(text) and self._more():
            pass
        return self._kept.startswith(text, self._at)

    def _value(self) -> Any:
        """The text or list that is here: neither can be taken for whole before it is."""
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._kept, self._at)
                return value
            except json.JSONDecodeError:
                if not self._more():
                    raise

    def _more(self) -> bool:
        """Read on, at least as much as is kept, so that a long value is not looked at too often; False at the end."""
        pieces = [self._kept[self._at :]]
        wanted = max(_BLOCK, len(pieces[0]))
        for block in self._blocks:
            pieces.append(block)
            wanted -= len(block)
            if wanted <= 0:
                break
        self._kept, self._at = "".join(pieces), 0
        return len(pieces) > 1
