"""Which manifests there are, and which chunks a backup needs: what its manifest names, each once."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from btw_backup import regular
from btw_backup.errors import Damaged
from btw_backup.records import FOLDER as RECORDS
from btw_backup.store import ENDING, manifest
from btw_backup.store.chunks import FOLDER
from btw_backup.store.names import BadNames, Names
from btw_backup.store.tally import Tally

_NAME = re.compile("[0-9a-f]{64}")


def manifests(root: Path) -> Iterator[Path]:
    """Every manifest below ROOT_PATH, removed ones too, and whatever else is called so, wherever it lies.

    Raises `Damaged` for a folder that cannot be listed.
    """
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False)) for entry in found if not entry.is_symlink()
                )
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder != os.fspath(root):
                continue  # it was removed while we looked
            raise Damaged(f"{folder} cannot be listed: {error.strerror}", "nothing was removed") from error
        for name, is_folder in entries:
            if is_folder and name not in (FOLDER, RECORDS):
                folders.append(os.path.join(folder, name))
            elif not is_folder and name.endswith(ENDING):
                yield Path(folder, name)


def needing(root: Path, names: Collection[str]) -> Iterator[tuple[Path, list[str]]]:
    """Every manifest below ROOT_PATH that names some of the chunks `names`, and which; but not what cannot be read."""
    for path in manifests(root):
        found = []
        with suppress(Damaged, OSError, ValueError):
            found = [name for name in chunks_of(path) if name in names]
        if found:
            yield path, found


def chunks_of(path: Path, sha256: str = "") -> Iterator[str]:
    """The names of the chunks that the manifest in the file `path` needs, each once. Raises `Damaged`."""
    for name in names_of(path, sha256):
        yield name.hex()


def names_of(path: Path, sha256: str = "") -> Iterator[bytes]:
    """As `chunks_of`, in binary and sorted. The text is read only if the names do not stand behind it.

    `sha256` is that of the text, if the caller knows it from the record: others' names are not believed. Memory:
    that of a `Tally`.
    """
    with regular.opened(path) as file:
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
