"""Which chunks are named, and by whom: any number of names, in bounded memory."""

import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

SEVERAL = 0xFFFFFFFF
"""In the place of a user: more than one."""

_ROW = struct.Struct(">32sI")
_AT_ONCE = 150_000
"""Names that are kept in memory before they are sorted and go to a file: 25 MB."""

_MOST = 16
"""Files of sorted names before they are made one."""

_PIECE = 1 << 16
Row = tuple[bytes, int]
"""The name of a chunk in binary, and its user, or `SEVERAL`."""


class Tally:
    """Adds up who names which chunk; then gives every name once, in their order.

    Memory: `_AT_ONCE` names. What is more lies in unnamed files in `folder`, or where temporary files go: 36 bytes a
    name.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[bytes, int] = {}
        self._runs: list[BinaryIO] = []
        self._files = ExitStack()

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._known = {}
        self._files.close()

    def add(self, names: Iterable[bytes], user: int = 0) -> None:
        """Note that `user` names all of `names`."""
        known = self._known
        for name in names:
            if known.setdefault(name, user) != user:
                known[name] = SEVERAL
            if len(known) >= _AT_ONCE:
                self._spill()

    def __iter__(self) -> Iterator[Row]:
        """Every name once, in their order, with its user."""
        return _joined([iter(sorted(self._known.items())), *map(_rows, self._runs)])

    def _spill(self) -> None:
        """Move what is in memory to a file."""
        self._runs.append(self._written(iter(sorted(self._known.items()))))
        self._known.clear()
        if len(self._runs) > _MOST:
            runs, self._runs = self._runs, []
            self._runs.append(self._written(_joined([_rows(run) for run in runs])))
            for run in runs:
                run.close()

    def _written(self, rows: Iterator[Row]) -> BinaryIO:
        from tempfile import TemporaryFile  # noqa: PLC0415 - rarely needed, and slow to load

        try:
            out = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        except OSError:  # the store may be there to be read only
            out = TemporaryFile()  # noqa: SIM115
        self._files.enter_context(out)
        for row in rows:
            out.write(_ROW.pack(*row))
        out.flush()
        return out


def _joined(sources: list[Iterator[Row]]) -> Iterator[Row]:
    """The rows of sorted sources as one, each name once."""
    if len(sources) == 1:
        yield from sources[0]
        return
    for name, rows in groupby(merge(*sources), itemgetter(0)):
        users = {user for _, user in rows}
        yield name, users.pop() if len(users) == 1 else SEVERAL


def _rows(run: BinaryIO) -> Iterator[Row]:
    """The rows in a file; several can read it at once only one after the other."""
    run.seek(0)
    while piece := run.read(_PIECE // _ROW.size * _ROW.size):
        yield from _ROW.iter_unpack(piece)
