"""Works off the journal of one target, and strikes off only what a listing of the target proves.

Nothing is ever removed off-site because it is missing here; see `superseded` for the one thing that is removed.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from btw_backup import locks, progress, records
from btw_backup.clock import STAMP
from btw_backup.errors import NotOffsite, ProgramFailed
from btw_backup.log import debug
from btw_backup.offsite import Listing, Target
from btw_backup.offsite.parts import Part, parts_of, parts_with
from btw_backup.offsite.state import SYNC, Debt, SyncState
from btw_backup.offsite.superseded import superseded

HINT = "btw-backup sync tries again"

_BATCH_FILES = 2000
_BATCH_BYTES = 1 << 30
_ATTEMPTS = 2

Doubts = Mapping[str, str]
"""Paths that are not proved to be at the target, and why."""


def owed(debts: Sequence[Debt], target: Target, why: str) -> str:
    """The message that says that `debts`, which are not none, are still owed."""
    first, rest = debts[0].path or "all of ROOT_PATH", len(debts) - 1
    others = f" and {rest} other path{'s' if rest > 1 else ''}" if rest else ""
    return f"not at {target.name} yet: {first}{others}, because {why}"


class Sending:
    """One go at everything that is owed to `target`, from below `root`."""

    def __init__(self, target: Target, journal: SyncState, root: Path) -> None:
        self._target = target
        self._journal = journal
        self._root = os.path.realpath(root)
        self._failed: dict[Debt, str] = {}

    def work_off(self) -> None:
        """Go on until nothing is left that was not tried: others may note more meanwhile. Raises `NotOffsite`."""
        tried: set[Debt] = set()
        try:
            while debts := [d for d in self._journal.pending() if d not in tried and not self._is_being_written(d)]:
                if not tried:
                    self._target.probe()
                tried.update(debts)
                self._work_off(debts)
        except ProgramFailed as error:
            left = self._journal.pending()
            raise NotOffsite(owed(left, self._target, error.message), error.hint or HINT) from error
        left = [debt for debt in self._journal.pending() if debt in self._failed]
        for debt in left:
            debug(f"still owed: {debt.op} {debt.path}: {self._failed[debt]}")
        if left:
            raise NotOffsite(owed(left, self._target, self._failed[left[0]]), HINT)

    def _work_off(self, debts: Sequence[Debt]) -> None:
        kinds = {debt: self._kind(debt) for debt in debts}
        folders = [debt for debt in debts if kinds[debt] == stat.S_IFDIR]
        covering = [debt for debt in folders if not any(_covers(other, debt) for other in folders)]
        for debt in debts:
            if kinds[debt] not in (stat.S_IFDIR, stat.S_IFREG):
                self._look_after_missing(debt, kinds[debt])
        files = [d for d in debts if kinds[d] == stat.S_IFREG and not any(_covers(other, d) for other in covering)]
        self._work_off_files(files)
        for debt in covering:
            doubts = self._deliver_folder(debt)
            for each in debts:
                if each == debt or (kinds[each] and _covers(debt, each)):
                    self._settle(each, doubts)

    def _work_off_files(self, debts: Sequence[Debt]) -> None:
        by_path: dict[str, list[Debt]] = {}
        for debt in debts:
            by_path.setdefault(debt.path.rstrip("/"), []).append(debt)
        for batch in self._batches(list(by_path)):
            doubts, _ = self._deliver(parts_with(batch))
            for path in batch:
                for debt in by_path[path]:
                    self._settle(debt, {path: doubts[path]} if path in doubts else {})

    def _kind(self, debt: Debt) -> int:
        """The type of file that is owed; 0 if it is gone."""
        try:
            return stat.S_IFMT(os.lstat(self._here(debt.path.rstrip("/"))).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _here(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _is_being_written(self, debt: Debt) -> bool:
        """Whether another run holds the dst of `debt`; it noted the debt, and sends it itself when it is done."""
        parts = debt.path.rstrip("/").split("/")
        folders = (Path(self._root, *parts[:depth]) for depth in range(1, len(parts) + 1))
        return any(folder.is_dir() and locks.held_by_another(folder) for folder in folders)

    def _look_after_missing(self, debt: Debt, kind: int) -> None:
        """Strike off what was never finished: it was noted before it got its name. What a record names is missed."""
        folder, name = os.path.split(debt.path.rstrip("/"))
        stamp = STAMP.match(name)
        if kind:
            self._failed[debt] = "it is neither a file nor a folder"
        elif stamp and os.path.exists(self._here(f"{folder}/{records.FOLDER}/{stamp[0]}.json")):
            self._failed[debt] = "it is not here any more, although it was kept"
        elif not self._is_being_written(debt):
            debug(f"not sent, because it was never finished: {debt.path}")
            self._journal.done(debt)

    def _settle(self, debt: Debt, doubts: Doubts) -> None:
        """Strike `debt` off unless something of it is in doubt."""
        why = next((f"{path}: {why}" for path, why in doubts.items() if _touches(path, debt.path)), "")
        if why:
            self._failed[debt] = why.removeprefix(f"{debt.path}: ")
        elif not self._journal.done(debt):
            debug(f"noted again while it was sent: {debt.path}")

    def _deliver_folder(self, debt: Debt) -> Doubts:
        """Make the target hold what the folder holds; what of it is in doubt afterwards."""
        doubts: dict[str, str] = {}

        def unreadable(folder: str, error: OSError) -> None:
            doubts[folder] = f"it cannot be read here: {error.strerror}"

        for part in parts_of(self._root, _as_folder(debt.path), unreadable):
            left, there = self._deliver([part])
            doubts.update(left)
            if debt.op == SYNC:
                doubts.update(self._remove_superseded(part, there, left))
        return doubts

    def _deliver(self, parts: Sequence[Part]) -> tuple[Doubts, Listing]:
        """Make the target hold the files of `parts`: what is in doubt afterwards, and what is there."""
        doubts, there = self._look(parts)
        for _ in range(_ATTEMPTS):
            if not doubts:
                break
            complaint = self._send(list(doubts))
            left = [Part(part.prefix, part.recursive, [p for p in part.paths if p in doubts]) for part in parts]
            doubts, seen = self._look([part for part in left if part.paths])
            there = {**there, **seen}
            if complaint:
                doubts = {path: f"{why} ({complaint})" for path, why in doubts.items()}
        return doubts, there

    def _look(self, parts: Sequence[Part]) -> tuple[Doubts, Listing]:
        """List what there is of `parts`, and compare."""
        doubts: dict[str, str] = {}
        there: Listing = {}
        for part in parts:
            listing = self._target.listing(part.prefix, recursive=part.recursive)
            doubts.update(self._target.unproved(part.paths, listing))
            there = {**there, **listing} if there else listing
        return doubts, there

    def _send(self, paths: Sequence[str]) -> str:
        """Send `paths` in batches; the first complaint."""
        first = ""
        total = sum(map(self._size, paths))
        with progress.shown(f"to {self._target.name}", total) as advance:
            for batch in self._batches(paths):
                first = first or self._target.send(batch)
                advance(sum(map(self._size, batch)))
        return first

    def _batches(self, paths: Sequence[str]) -> Iterator[list[str]]:
        """`paths` in groups small enough for one call, and one look, to be worth repeating."""
        batch: list[str] = []
        size = 0
        for path in paths:
            if batch and (len(batch) >= _BATCH_FILES or size + self._size(path) > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(path)
            size += self._size(path)
        if batch:
            yield batch

    def _size(self, path: str) -> int:
        try:
            return os.lstat(self._here(path)).st_size
        except OSError:
            return 0

    def _remove_superseded(self, part: Part, there: Listing, doubts: Doubts) -> Doubts:
        """Remove what rdiff-backup replaced, once its successor is proved to be there."""
        proved = set(part.paths).difference(doubts)
        old = [path for path in superseded(there, proved) if not os.path.lexists(self._here(path))]
        if not old:
            return {}
        complaint = self._target.remove(old)
        why = "it was replaced here, and could not be removed there" + (f" ({complaint})" if complaint else "")
        left = {path for each in parts_with(old) for path in self._target.listing(each.prefix, recursive=False)}
        return {path: why for path in old if path in left}


def _as_folder(path: str) -> str:
    return f"{path.rstrip('/')}/" if path.rstrip("/") else ""


def _covers(wider: Debt, debt: Debt) -> bool:
    """Whether `debt` is paid with `wider`, a folder: all that is pushed or synced in a folder that is synced, and all
    that is pushed in one that is pushed."""
    if wider == debt or (wider.op != SYNC and debt.op == SYNC):
        return False
    outer, inner = _as_folder(wider.path), _as_folder(debt.path)
    return inner.startswith(outer) and (inner != outer or wider.op != debt.op)


def _touches(path: str, owed_path: str) -> bool:
    """Whether one of two paths lies in the other, or they are the same."""
    one, other = _as_folder(path), _as_folder(owed_path)
    return one.startswith(other) or other.startswith(one)
