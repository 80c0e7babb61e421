"""Reads an export: whatever it holds, nothing gets a name that was not proved, and nothing is written elsewhere.

Everything but the chunks is put into a folder of its own, in the dst and under a temporary name, and proved there as if
it lay in its place. Then the chunks get their names, then the backups, then their records. Who dies before leaves
chunks that nobody names, and a folder that the next run sweeps.
"""

import filecmp
import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from btw_backup import files, regular, sealed
from btw_backup.clock import STAMP
from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged, FatalUserError, WouldOverwrite
from btw_backup.exported import FORMAT, HEADER, SUMS, Header, sum_line
from btw_backup.exported.proof import prove
from btw_backup.inventory import listing
from btw_backup.keepers import Content, Owe, Place, archive
from btw_backup.log import printable
from btw_backup.records import DAMAGED, FOLDER, Backup
from btw_backup.store.chunks import LARGEST, ChunkStore
from btw_backup.store.writer import ChunkWriter, Stored, writing

_HEADER = msgspec.json.Decoder(Header)
_CHUNK = re.compile(r"\.store/chunks/([0-9a-f]{2})/(\1[0-9a-f]{62})\.zst")
_LEFT_OUT = frozenset(f".store/{name}" for name in ("format.json", "README.txt", "RESTORE.py"))
_IN_DST = re.compile(rf"(\.records/{STAMP.pattern}\.(json|{DAMAGED[1:]})|{STAMP.pattern}(\.[^/\0]+)?(/[^/\0]+){{0,8}})")
_HINT = "it is no export, or it was changed, or is cut; make it anew"

Members = Iterator[tuple[Entry, Content]]


@dataclass(frozen=True, slots=True)
class Taken:
    """How many backups were imported, and how many were there already."""

    imported: int
    known: int


class Incoming:
    """An export of which the header was read. Made by `opened`."""

    def __init__(self, header: Header, members: Members) -> None:
        self.header = header
        self.members = members
        self.digests: dict[str, str] = {}


@contextmanager
def opened(stream: BinaryIO) -> Iterator[Incoming]:
    """The export in `stream`. Raises `Damaged` if it is none, `FatalUserError` if it is of a newer format."""
    members = archive.members(stream, _refuse)
    first = next(members, None)
    if first is None or os.fsdecode(first[0].path) != HEADER:
        raise Damaged("this is no export", "btw-backup export makes one")
    content = _small(*first)
    try:
        found = sealed.format_of(content)
        header = sealed.decoded(content, _HEADER, Header.__struct_fields__) if found <= FORMAT else None
    except (ValueError, LookupError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise Damaged(f"the header of the export cannot be read: {error}", _HINT) from error
    if header is None:
        raise FatalUserError(f"the export has the newer format {found}", "use a newer btw-backup")
    incoming = Incoming(header, members)
    incoming.digests[HEADER] = hashlib.sha256(content).hexdigest()
    yield incoming


def _refuse(problem: str) -> None:
    raise Damaged(f"the export is damaged: {problem}", _HINT)


def take(incoming: Incoming, root: Path, place: Place, owe: Owe) -> Taken:
    """Make the backups of `incoming` backups of `place`, whose lock the caller holds exclusively.

    Raises `Damaged`; `WouldOverwrite` if `place` has another backup of the same stamp. Memory: some chunks, 200 bytes a
    file, and about 150 bytes a chunk of the largest backup.
    """
    staging, store = replace(place, folder=files.temporary_name(place.folder, "import")), ChunkStore(root)
    files.make_folder(staging.folder)
    try:
        with writing(store, partial(owe, "push")) if incoming.header.chunks else nullcontext() as writer:
            _unpack(incoming, staging.folder, writer)
            there = {backup.name: backup for backup in listing.each(place)}
            backups = _complete(incoming.header, staging)
            fresh = [backup for backup in backups if not _is_known(backup, there, store)]
            for backup in fresh:
                prove(backup, store, reuse=True)
            files.sync_tree(staging.folder)
            for backup in fresh:
                _publish(backup, staging, place, owe)
    finally:
        files.remove(staging.folder)
    return Taken(len(fresh), len(backups) - len(fresh))


def _unpack(incoming: Incoming, folder: Path, writer: ChunkWriter | None) -> None:
    """Store the chunks, put the other files below `folder`; the sums of these are proved."""
    under_way: deque[tuple[str, Future[Stored]]] = deque()
    sums = None
    for entry, content in incoming.members:
        path = os.fsdecode(entry.path)
        if entry.kind is Kind.FOLDER:
            continue  # somebody packed it anew, by hand
        if entry.kind is not Kind.FILE or entry.extents is not None or sums is not None or path in incoming.digests:
            raise _foreign(path)
        if writer and (chunk := _CHUNK.fullmatch(path)):
            under_way.append((chunk[2], writer.put([writer.store.plain(chunk[2], _small(entry, content))])))
            _settle(under_way, writer, 16)
        elif path == SUMS:
            sums = _small(entry, content)
        else:
            incoming.digests[path] = _spool(entry, incoming.header.dst, content, folder)
    if writer:
        _settle(under_way, writer, 0)
        writer.publish()
    if sums is None or sums != _sums(incoming.digests):
        raise Damaged("the export is cut, or it is not what was written", _HINT)


def _sums(digests: dict[str, str]) -> bytes:
    return "".join(sum_line(digest, path) for path, digest in digests.items()).encode("utf-8", "surrogateescape")


def _settle(under_way: deque[tuple[str, Future[Stored]]], writer: ChunkWriter, most: int) -> None:
    """Wait until at most `most` chunks are under way. A chunk has to be what it is called."""
    while len(under_way) > most:
        name, future = under_way.popleft()
        if future.result().name != name:
            raise Damaged(f"the chunk {name} is damaged in the export: its SHA-256 is another", _HINT)
    if writer.is_full:
        writer.publish()


def _small(entry: Entry, content: Content) -> bytes:
    """The content of what has to fit into memory."""
    most = LARGEST + (LARGEST >> 8) + 512 if entry.path.endswith(b".zst") else regular.LARGEST
    if entry.kind is not Kind.FILE or entry.extents is not None or entry.size > most:
        raise _foreign(os.fsdecode(entry.path))
    return b"".join(bytes(piece) for piece in content)


def _foreign(path: str) -> Damaged:
    return Damaged(f"the export holds {printable(path[:300])}, which does not belong there as it is", _HINT)


def _spool(entry: Entry, dst: str, content: Content, folder: Path) -> str:
    """Write a file of the dst to its place below `folder`, or nowhere if it is one that every store has; its digest."""
    digest, path = hashlib.sha256(), os.fsdecode(entry.path)
    if path in _LEFT_OUT:
        for piece in content:
            digest.update(piece)
        return digest.hexdigest()
    inner = path.removeprefix(f"{dst}/")
    is_small = entry.size <= regular.LARGEST or not inner.startswith(".records/")
    is_inside = inner != path and {"", ".", ".."}.isdisjoint(inner.split("/"))
    if not (is_inside and is_small and _IN_DST.fullmatch(inner)):
        raise _foreign(path)
    target = folder / inner
    try:
        target.parent.mkdir(0o700, parents=True, exist_ok=True)
        with files.create(target) as out:
            for piece in content:
                digest.update(piece)
                files.write_all(out.fileno(), piece)
            os.utime(out.fileno(), ns=(entry.mtime, entry.mtime))
    except (FileExistsError, NotADirectoryError, OverflowError) as error:
        raise _foreign(path) from error
    return digest.hexdigest()


def _complete(header: Header, staging: Place) -> list[Backup]:
    """The backups below `staging`, which are those that the header names, and nothing else."""
    backups = list(listing.each(staging))
    if sorted(backup.stamp for backup in backups) != sorted(header.stamps):
        raise Damaged("the export does not hold the backups that its header names", _HINT)
    stamps, names = set(header.stamps), {backup.path.name for backup in backups}
    for folder, allowed in ((staging.folder / FOLDER, stamps), (staging.folder, names | {FOLDER})):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if (name.rpartition(".")[0] if folder.name == FOLDER else name) not in allowed:
                raise _foreign(name)
    for backup in backups:
        if (staging.folder / FOLDER / f"{backup.stamp}.json").exists() and backup.record is None:
            raise Damaged(f"the record of {backup.address} in the export is damaged", _HINT)
    return backups


def _is_known(backup: Backup, there: dict[str, Backup], store: ChunkStore) -> bool:
    """Whether it is among those that are `there`; not if its record is missing, as where an import was killed."""
    known = there.get(backup.name)
    if known is None:
        if any(other.stamp == backup.stamp for other in there.values()):
            raise _other(backup)
        return False
    if known.record and backup.record:
        if known.record.uid != backup.record.uid:
            raise _other(backup)
        return True
    if backup.path.is_dir():
        prove(replace(known, record=backup.record), store, reuse=False)
    elif not filecmp.cmp(backup.path, known.path, shallow=False):
        raise _other(backup)
    return backup.record is None


def _other(backup: Backup) -> WouldOverwrite:
    return WouldOverwrite(f"{backup.address} is there, and is another backup", "import into another DST")


def _publish(backup: Backup, staging: Place, place: Place, owe: Owe) -> None:
    """Give a proved backup its name, then its mark, then its record."""
    final = place.folder / backup.path.relative_to(staging.folder)
    owe("push", f"{place.dst}/{final.name}" + ("/" if backup.path.is_dir() else ""))
    if backup.path.exists() and not final.is_dir():  # a repository gets its name with its first session
        files.publish(backup.path, final)
    for ending in (DAMAGED, ".json"):
        path = staging.folder / FOLDER / (backup.stamp + ending)
        if path.exists():
            files.make_folder(place.folder / FOLDER)
            owe("push", f"{place.dst}/{FOLDER}/{path.name}")
            files.publish(path, place.folder / FOLDER / path.name)
