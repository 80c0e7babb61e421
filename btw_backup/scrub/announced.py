"""What a run announced that it would bring into the store."""

import os
from collections.abc import Iterator

from btw_backup.keepers import Owe

_CHUNKS = ".store/chunks/"


class Announced:
    """Passes on what a run announces, and remembers the chunks among it, in 32 bytes each."""

    def __init__(self, owe: Owe) -> None:
        self._owe = owe
        self._names = bytearray()

    def __call__(self, kind: str, path: str) -> None:
        """Contract: `keepers.Owe`."""
        if path.startswith(_CHUNKS):
            self._names += bytes.fromhex(os.path.basename(path).removesuffix(".zst"))
        self._owe(kind, path)

    def chunks(self) -> Iterator[tuple[str, int]]:
        """The names, as `unsound` wants them."""
        for at in range(0, len(self._names), 32):
            yield self._names[at : at + 32].hex(), 0
