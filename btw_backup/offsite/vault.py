"""What a target holds, to be read: by whoever has nothing else any more."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from btw_backup import files
from btw_backup.errors import Damaged, NotFound
from btw_backup.offsite import Readable, index
from btw_backup.offsite.sealing import Identities
from btw_backup.progress import Advance
from btw_backup.store.chunks import FOLDER

CHUNKS = f"{FOLDER}/chunks/"
AT_ONCE, MOST_AT_ONCE = 128 << 20, 5000
"""Bytes, and things, that are fetched together."""

Thing = TypeVar("Thing")


class Vault(Protocol):
    """The contract of what was read of a target: which files it has, by their paths below ROOT_PATH.

    `problems` is what makes it doubtful whether that is all that was sent.
    """

    name: str
    problems: list[str]

    def paths(self) -> Iterable[str]:
        """The files that are there, but for chunks."""

    def size(self, path: str) -> int:
        """The bytes of a file, or of a chunk; 0 if it is not there."""

    def chunks(self) -> Iterable[str]:
        """The chunks that are there, by their paths below ROOT_PATH."""

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file that is there, if that is known; else ""."""

    def fetch(self, paths: Iterable[str], root: Path, advance: Advance) -> dict[str, str]:
        """Copy these files and chunks, each proved, to their places below `root`. Those that could not be, and why."""


def opened(target: Readable, scratch: Path, identities: Identities, pins: Sequence[str] = ()) -> Vault:
    """What `target` holds, whatever its layout; `scratch` is a folder of ours. Raises `NotFound` if it is nothing.

    `pins` are fingerprints of store keys: only what was authenticated by one of those is believed.
    """
    target.probe()
    if target.listing(f"{index.FOLDER}/", recursive=True):
        from btw_backup.offsite.object_vault import ObjectVault  # noqa: PLC0415 - a mirror can do without

        return ObjectVault(target, scratch, identities, pins)
    from btw_backup.offsite.mirror_vault import MirrorVault  # noqa: PLC0415 - as above

    found = MirrorVault(target, scratch)
    if not any(True for _ in found.paths()):
        raise NotFound(f"{target.name} holds no backups", "is the path right, down to the last folder?")
    return found


def fetched(target: Readable, paths: Sequence[str], folder: Path, check: Callable[[str], str]) -> dict[str, str]:
    """Fetch objects to below `folder`, twice what does not pass `check`, which tells what is wrong with one of them.
    Those that are wrong in the end, and why."""
    bad: Mapping[str, str] = dict.fromkeys(paths, "")
    for _ in range(2):
        for path in bad:
            (folder / path).unlink(missing_ok=True)
        complaint = target.fetch(list(bad), folder)
        found = {
            path: check(path) if os.path.lexists(folder / path) else complaint or "it is not there" for path in bad
        }
        bad = {path: why for path, why in found.items() if why}
        if not bad:
            break
    return dict(bad)


def put(source: Path, target: Path, mtime: int) -> None:
    """Move a proved file to where it belongs; it is on the disk before it has its name, and replaces nothing but an
    empty file in a scratch folder."""
    files.make_folder(target.parent)
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        os.utime(file.fileno(), ns=(mtime, mtime))
        os.fsync(file.fileno())
    files.publish(source, target)


def check_chunk_path(path: str) -> str:
    """The name of the chunk whose path below ROOT_PATH is `path`. Raises `Damaged`."""
    name = os.path.basename(path).removesuffix(".zst")
    if path != f"{CHUNKS}{name[:2]}/{name}.zst":
        raise Damaged(f"{path} is no chunk")
    return name


def batches(found: Iterable[tuple[Thing, int]]) -> Iterator[list[tuple[Thing, int]]]:
    """`found`, things with their sizes, in groups that take little room."""
    batch: list[tuple[Thing, int]] = []
    room = AT_ONCE
    for one in found:
        if batch and (one[1] > room or len(batch) >= MOST_AT_ONCE):
            yield batch
            batch, room = [], AT_ONCE
        batch.append(one)
        room -= one[1]
    if batch:
        yield batch
