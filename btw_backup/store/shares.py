"""What of the entries of a manifest one of several processes takes that restore the same tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

RUN = 8 << 20
"""Bytes of neighbouring files that one process takes: they lie in the same packs mostly, and in the same folders."""

_COST = 32 << 10
"""Bytes that can be written while a file is made."""


class Share(Protocol):
    """What a process takes."""

    @property
    def among(self) -> int:
        """How many processes work at the same time."""

    def lines_in(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Some of the `lines`. Raises msgspec.DecodeError, RecursionError."""


class _Glance(msgspec.Struct):
    """What has to be known of an entry to tell whose it is: that is a tenth of the work of decoding all of it."""

    kind: str
    size: int = 0


_GLANCE = msgspec.json.Decoder(_Glance)


@dataclass(frozen=True)
class Files:
    """Every `among`-th run of files, from the run `number` on."""

    number: int
    among: int

    def lines_in(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Contract: `Share.lines_in`."""
        weight = 0
        for line in lines:
            seen = _GLANCE.decode(line)
            if seen.kind == "file":
                if weight // RUN % self.among == self.number:
                    yield line
                weight += seen.size + _COST


@dataclass(frozen=True)
class AllButFiles:
    """What comes when the files are there: folders with their attributes, further names, and all else."""

    among: int = 1

    def lines_in(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Contract: `Share.lines_in`."""
        return (line for line in lines if _GLANCE.decode(line).kind != "file")
