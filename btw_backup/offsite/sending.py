"""Works off the journal of one target, and strikes off only what a listing of the target proves.

Nothing is ever removed off-site because it is missing here; see `superseded` for the one thing that is removed.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from btw_backup import log, progress
from btw_backup.offsite import Listing, Target
from btw_backup.offsite.debts import Debts, Doubts, as_folder
from btw_backup.offsite.parts import Part, parts_of, parts_with
from btw_backup.offsite.state import SYNC, Debt, SyncState
from btw_backup.offsite.superseded import superseded

_BATCH_FILES = 2000
_BATCH_BYTES = 1 << 30
_ATTEMPTS = 2


class Sending:
    """One go at everything that is owed to `target`, from below `root`."""

    def __init__(self, target: Target, journal: SyncState, root: Path, *, verify: bool = False) -> None:
        """`verify`: nothing is owed but a comparison, so what the target lacks is lost there, and is said."""
        self._target = target
        self._debts = Debts(target, journal, root)
        self._root = self._debts.root
        self._verify = verify

    def work_off(self) -> None:
        """Go on until nothing is left that was not tried. Raises `NotOffsite`."""
        self._debts.work_off(self._work_off)

    def _work_off(self, debts: Sequence[Debt]) -> None:
        kinds = {debt: self._debts.kind(debt) for debt in debts}
        folders = [debt for debt in debts if kinds[debt] == stat.S_IFDIR]
        covering = [debt for debt in folders if not any(_covers(other, debt) for other in folders)]
        for debt in debts:
            if kinds[debt] not in (stat.S_IFDIR, stat.S_IFREG):
                self._debts.look_after_missing(debt, kinds[debt])
        files = [d for d in debts if kinds[d] == stat.S_IFREG and not any(_covers(other, d) for other in covering)]
        self._work_off_files(files)
        if any(not debt.path for debt in covering):
            self._target.sweep(self._target.leftovers())
        for debt in covering:
            doubts = self._deliver_folder(debt)
            for each in debts:
                if each == debt or (kinds[each] and _covers(debt, each)):
                    self._debts.settle(each, doubts)

    def _work_off_files(self, debts: Sequence[Debt]) -> None:
        by_path: dict[str, list[Debt]] = {}
        for debt in debts:
            by_path.setdefault(debt.path.rstrip("/"), []).append(debt)
        for batch in self._batches(list(by_path)):
            doubts, _ = self._deliver(parts_with(batch))
            for path in batch:
                for debt in by_path[path]:
                    self._debts.settle(debt, {path: doubts[path]} if path in doubts else {})

    def _deliver_folder(self, debt: Debt) -> Doubts:
        """Make the target hold what the folder holds; what of it is in doubt afterwards."""
        doubts: dict[str, str] = {}

        def unreadable(folder: str, error: OSError) -> None:
            doubts[folder] = f"it cannot be read here: {error.strerror}"

        for part in parts_of(self._root, as_folder(debt.path), unreadable):
            left, there = self._deliver([part])
            doubts.update(left)
            if debt.op == SYNC:
                doubts.update(self._remove_superseded(part, there, left))
        return doubts

    def _deliver(self, parts: Sequence[Part]) -> tuple[Doubts, Listing]:
        """Make the target hold the files of `parts`: what is in doubt afterwards, and what is there."""
        doubts, there = self._look(parts)
        if doubts and self._verify:
            (first, why), *others = doubts.items()
            more = f", and {len(others)} more" if others else ""
            log.warn(f"{self._target.name} does not have any more what it had: {first}: {why}{more}", "it is sent anew")
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
            return os.lstat(self._debts.here(path)).st_size
        except OSError:
            return 0

    def _remove_superseded(self, part: Part, there: Listing, doubts: Doubts) -> Doubts:
        """Remove what rdiff-backup replaced, once its successor is proved to be there."""
        proved = set(part.paths).difference(doubts)
        old = [path for path in superseded(there, proved) if not os.path.lexists(self._debts.here(path))]
        if not old:
            return {}
        complaint = self._target.remove(old)
        why = "it was replaced here, and could not be removed there" + (f" ({complaint})" if complaint else "")
        left = {path for each in parts_with(old) for path in self._target.listing(each.prefix, recursive=False)}
        return {path: why for path in old if path in left}


def _covers(wider: Debt, debt: Debt) -> bool:
    """Whether `debt` is paid with `wider`, a folder: all that is pushed or synced in a folder that is synced, and all
    that is pushed in one that is pushed."""
    if wider == debt or (wider.op != SYNC and debt.op == SYNC):
        return False
    outer, inner = as_folder(wider.path), as_folder(debt.path)
    return inner.startswith(outer) and (inner != outer or wider.op != debt.op)
