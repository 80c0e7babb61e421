"""Which chunks a backup needs: what its manifest names, each once."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from btw_backup.errors import Damaged
from btw_backup.store import manifest
from btw_backup.store.names import BadNames, Names
from btw_backup.store.tally import Tally

_NAME = re.compile("[0-9a-f]{64}")


def chunks_of(path: Path, sha256: str = "") -> Iterator[str]:
    """The names of the chunks that the manifest in the file `path` needs, each once. Raises `Damaged`."""
    for name in names_of(path, sha256):
        yield name.hex()


def names_of(path: Path, sha256: str = "") -> Iterator[bytes]:
    """As `chunks_of`, in binary and sorted. The text is read only if the names do not stand behind it.

    `sha256` is that of the text, if the caller knows it from the record: others' names are not believed. Memory:
    that of a `Tally`.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        names = Names(file.fileno())
        if names.found and sha256 in ("", names.text.hex()):
            yield from names
            return
    with Tally() as tally:
        with manifest.opened(path) as opened, suppress(BadNames):
            for member, _ in opened:
                tally.add(_binary(name, path) for name, _, _ in member.extents)
        yield from (name for name, _ in tally)


def _binary(name: str, path: Path) -> bytes:
    if not _NAME.fullmatch(name):
        raise Damaged(f"{path} is damaged: {name[:80]!r} is not the name of a chunk")
    return bytes.fromhex(name)
