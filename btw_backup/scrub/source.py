"""Compares a backup of a tree with the tree: what differs although nobody wrote to it is rotten, here or there.

The backup is proved on the way, since whatever is read of it is. So what differs is the source's content.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from btw_backup import log, places, progress, specs
from btw_backup.clock import moment_of, utc_now
from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged, DamagedPart, FatalUserError
from btw_backup.inventory import listing
from btw_backup.keepers import Content
from btw_backup.records import Backup, Record
from btw_backup.scrub import Scope, ledger
from btw_backup.scrub.ledger import Position
from btw_backup.sources.folders import Folders
from btw_backup.store.evidence import first_difference
from btw_backup.store.manifest import key_of

ROTTEN, UNREADABLE, CHANGED, GONE = "rotten", "unreadable", "changed", "gone"
ALARMING = (ROTTEN, UNREADABLE)
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that has not the content that the backup has, from the byte `offset` on.

    `what`: ``rotten`` if its size and times say that it was not written to, ``unreadable`` if the disk does not give
    it; else ``changed``, or ``gone``.
    """

    address: str
    path: str
    offset: int | None
    what: str


@dataclass(slots=True)
class Comparison:
    """Compares one backup. `last` is the path where it stopped, if only `percent` of the bytes were asked for, which
    begin behind the path `after`; `damaged` tells what of the backup itself is not what was stored."""

    backup: Backup
    percent: float | None = None
    after: str = ""
    last: str = ""
    damaged: list[str] = field(default_factory=list)
    _left: float = 0

    def differences(self) -> Iterator[Difference]:
        """All of them, in the order of the walk. Memory does not grow with the tree."""
        record = self.backup.record
        if self.backup.kind != "fs" or record is None:
            raise FatalUserError(f"{self.backup.address} is no tree with a record: there is nothing to compare it with")
        self._left = record.length * (100.0 if self.percent is None else self.percent) / 100
        turns = [(key_of(self.after), None), (None, key_of(self.after))] if self.after else [(None, None)]
        with progress.shown(f"comparing {record.source}", int(self._left)) as advance:
            for first, end in turns:
                if self.percent is None or self._left > 0:
                    yield from self._turn(record, first, end, advance)

    def _turn(
        self, record: Record, first: str | None, end: str | None, advance: progress.Advance
    ) -> Iterator[Difference]:
        """Those of the files behind `first` up to `end`."""

        def wanted(entry: Entry) -> bool:
            path = os.fsdecode(entry.path)
            key = key_of(path)
            out = (first is not None and key <= first) or (end is not None and key > end)
            if entry.kind is not Kind.FILE or out or (self.percent is not None and self._left <= 0):
                return False
            self._left -= entry.size
            self.last = path
            return True

        folders = _opened(record.source)
        keeper = listing.keeper_of(self.backup)
        try:
            with keeper.members(self.backup, wanted, self.damaged.append, advance) as members:
                for entry, content in members:
                    yield from self._compared(folders, entry, content, record)
        except Damaged as error:
            self.damaged.append(error.message)
        finally:
            folders.close()

    def _compared(self, folders: Folders, entry: Entry, content: Content, record: Record) -> Iterator[Difference]:
        path = os.fsdecode(entry.path)
        above, _, name = path.rpartition("/")
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=folders.open(above))
        except OSError as error:
            log.debug(f"{path}: {error.strerror}")
            yield Difference(self.backup.address, path, None, GONE)
            return
        try:
            what = CHANGED if _was_changed(os.fstat(descriptor), entry, record) else ROTTEN
            offset = _first_difference(descriptor, entry, content)
            changed_meanwhile = _was_changed(os.fstat(descriptor), entry, record)
        except DamagedPart as error:
            self.damaged.append(f"{path}: {error.message}")
            return
        except OSError as error:
            log.debug(f"{path}: {error.strerror}")
            yield Difference(self.backup.address, path, None, UNREADABLE)
            return
        finally:
            os.close(descriptor)
        if offset is not None:
            yield Difference(self.backup.address, path, offset, CHANGED if changed_meanwhile else what)


def _opened(source: str) -> Folders:
    try:
        return Folders(source)
    except OSError as error:
        raise FatalUserError(f"cannot read the source {source}: {error.strerror}", "is it mounted?") from error


def _was_changed(status: os.stat_result, entry: Entry, record: Record) -> bool:
    """Whether somebody has written to the file since the backup began; a hidden change shows in the ctime."""
    began = int(moment_of(record.started).timestamp()) * 10**9
    looks = (stat.S_ISREG(status.st_mode), status.st_size, status.st_mtime_ns)
    return looks != (True, entry.size, entry.mtime) or status.st_ctime_ns >= began


def _first_difference(descriptor: int, entry: Entry, content: Content) -> int | None:
    """Where the file begins to differ from `content`; None if it does not. Holes are not looked at."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return 0
    for offset, piece in _placed(entry, content):
        found = os.pread(descriptor, len(piece), offset)
        if found != piece:
            return offset + (first_difference(found, bytes(piece)) or 0)
    return entry.size if os.fstat(descriptor).st_size > entry.size else None


def _placed(entry: Entry, content: Content) -> Iterator[tuple[int, memoryview]]:
    """The pieces of `content`, each with its offset in the file."""
    pieces = iter(content)
    piece = memoryview(b"")
    for offset, length in ((0, entry.size),) if entry.extents is None else entry.extents:
        at = offset
        while at < offset + length:
            piece = piece or next(pieces, memoryview(b""))
            if not piece:
                return
            part = piece[: offset + length - at]
            yield at, part
            at += len(part)
            piece = piece[len(part) :]


def newest_trees(root: Path, dst: str, spec: str) -> list[Backup]:
    """The backups to compare: the newest of each tree, or the one that `spec` names in `dst`."""
    if dst:
        here = places.place(root, dst)
        return [specs.one(listing.backups(here), "latest" if spec == "all" else spec, utc_now())]
    newest = [max(listing.backups(place), key=lambda b: b.stamp) for place in listing.places(root)]
    return [backup for backup in newest if backup.kind == "fs" and backup.record]


def compare(root: Path, scope: Scope) -> tuple[list[Difference], list[str], list[FatalUserError]]:
    """Compare the newest backup of each tree in `scope`: the differences, what of the backups is damaged, and what
    could not be compared."""
    found: list[Difference] = []
    damaged: list[str] = []
    problems: list[FatalUserError] = []
    for backup in newest_trees(root, scope.dst, scope.spec):
        name = f"source of {backup.dst}"
        position = ledger.read(root, name) if scope.percent is not None else Position()
        comparison = Comparison(backup, scope.percent, position.path)
        try:
            found += comparison.differences()
        except FatalUserError as error:
            problems.append(error)
        damaged += comparison.damaged
        if scope.percent is not None:
            ledger.write(root, name, Position(path=comparison.last))
    return found, damaged, problems
