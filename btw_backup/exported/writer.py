"""Writes an export, in one pass, to a file or a pipe."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from btw_backup import __version__, log, sealed
from btw_backup.errors import Damaged, FatalUserError, Incomplete
from btw_backup.exported import FORMAT, HEADER, SUMS, Header, sum_line
from btw_backup.exported.proof import prove
from btw_backup.keepers import Place
from btw_backup.records import DAMAGED, FOLDER, Backup
from btw_backup.store import chunks, uses
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.tally import Tally

_STORE_FILES = ("format.json", "README.txt", "RESTORE.py")


def write(out: BinaryIO, root: Path, place: Place, backups: Sequence[Backup]) -> None:
    """Write `backups`, of one dst, to `out`. Memory: that of a `Tally`, and 200 bytes a file but the chunks.

    Raises `Damaged` if anything is wrong with one; `Incomplete`, at the end, if that are chunks of backups that are
    marked as damaged.
    """
    for backup in backups:
        prove(backup, ChunkStore(root), reuse=False)
    with tarfile.open(mode="w|", fileobj=out, format=tarfile.PAX_FORMAT) as tar:
        writer = _Writer(tar, root)
        stamps = tuple(backup.stamp for backup in backups)
        any_chunks = any(backup.keeper == "chunks" for backup in backups)
        header = Header(FORMAT, f"btw-backup {__version__}", place.dst, stamps, any_chunks)
        writer.add_text(HEADER, sealed.text_of({name: getattr(header, name) for name in header.__struct_fields__}))
        with Tally() as needed:
            for path in _files(place, backups):
                writer.add_file(path)
            for backup in backups:
                if backup.keeper == "chunks":
                    needed.add(_names(backup, writer))
            if any_chunks:
                writer.add_chunks(name.hex() for name, _ in needed)
        writer.add_text(SUMS, "".join(writer.sums).encode("utf-8", "surrogateescape"))
    if writer.missing:
        raise Incomplete(f"{writer.missing} chunks of damaged backups are missing in the export")


def _files(place: Place, backups: Sequence[Backup]) -> Iterator[Path]:
    """What belongs to `backups` in the dst, each file once: a repository belongs to all its sessions."""
    for backup in backups:
        for ending in (".json", DAMAGED):
            path = place.folder / FOLDER / (backup.stamp + ending)
            if path.is_file() and not path.is_symlink():
                yield path
    for top in dict.fromkeys(backup.path for backup in backups):
        if not top.is_dir():
            yield top
            continue
        for folder, folders, names in os.walk(top):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names))


def _names(backup: Backup, writer: "_Writer") -> Iterator[bytes]:
    writer.trusts = writer.trusts and backup.valid
    try:
        yield from uses.names_of(backup.path, backup.record.sha256 if backup.record else "")
    except Damaged:
        if backup.valid:
            raise
        log.warn(f"{backup.address} is damaged: not all of its chunks are known")


class _Writer:
    """Adds files to `tar`, and sums them up. `missing` counts the chunks that could not be read."""

    def __init__(self, tar: tarfile.TarFile, root: Path) -> None:
        self._tar = tar
        self._root = root
        self.sums: list[str] = []
        self.missing = 0
        self.trusts = True

    def add_text(self, path: str, content: bytes) -> None:
        """Add the file `path` with `content`."""
        self._add(path, len(content), 0, io.BytesIO(content))
        self.sums.append(sum_line(hashlib.sha256(content).hexdigest(), path))

    def add_file(self, path: Path) -> None:
        """Add a file below ROOT_PATH. Raises `FatalUserError` for what is none, or changes meanwhile."""
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FatalUserError(f"{path} is no file")
            digesting = _Digesting(file)
            try:
                self._add(os.path.relpath(path, self._root), status.st_size, int(status.st_mtime), digesting)
            except OSError as error:
                if error.errno is not None:
                    raise
                raise FatalUserError(f"{path} became shorter while it was read") from error
        self.sums.append(sum_line(digesting.digest.hexdigest(), os.path.relpath(path, self._root)))

    def add_chunks(self, names: Iterator[str]) -> None:
        """Add the chunks, each proved, and what makes a store of them."""
        store = ChunkStore(self._root)
        for name in names:
            try:
                frame = store.frame(name)
            except Damaged as error:
                if self.trusts:
                    raise Damaged(error.message, "btw-backup scrub finds the backups that need it") from error
                log.warn(error.message)
                self.missing += 1
                continue
            self._add(os.path.relpath(store.path(name), self._root), len(frame), 0, io.BytesIO(frame))
        for name in _STORE_FILES:
            if (path := self._root / chunks.FOLDER / name).is_file():
                self.add_file(path)

    def _add(self, path: str, size: int, mtime: int, content: "io.BytesIO | _Digesting") -> None:
        member = tarfile.TarInfo(path)
        member.size, member.mtime, member.mode = size, mtime, 0o600
        self._tar.addfile(member, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # else it keeps them all


class _Digesting:
    """A file that is digested while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        block = self._file.read(size)
        self.digest.update(block)
        return block
