"""Removes from a mirror what was removed here: records first, then backups, and then the chunks that no backup needs.

A chunk may be needed by a backup that is not ours: several machines can share a place, and their equal chunks have
equal names. What `cleanup` freed here, no manifest needs that is here. So chunks go only if every manifest that is at
the target is here, too; else they stay, and that is said. Who sends its first backup ever to a place that another
machine removes from at the same moment is not noticed by this: give each machine a path of its own.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from btw_backup.offsite import Target, removals
from btw_backup.offsite.parts import parts_with
from btw_backup.offsite.state import Debt, SyncState
from btw_backup.offsite.superseded import FOLDER as OF_RDIFF
from btw_backup.records import FOLDER
from btw_backup.store import ENDING, chunk_in

_BATCH = 1000
_DIGIT = len(".store/chunks/a")


def remove(target: Target, noted: SyncState, root: Path) -> None:
    """Remove what is due. Raises `NotOffsite`, `ProgramFailed`."""
    _Removal(target, noted, os.path.realpath(root)).work_off()


class _Removal:
    """One go at what is to be removed at `target`."""

    def __init__(self, target: Target, noted: SyncState, root: str) -> None:
        self._target = target
        self._noted = noted
        self._root = root

    def work_off(self) -> None:
        due = removals.due(self._noted, self._root)
        if not due:
            return
        chunks = [debt for debt in due if chunk_in(debt.path)]
        folders = [debt for debt in due if debt.path.endswith("/")]
        single = [debt for debt in due if debt not in {*chunks, *folders}]
        records = [debt for debt in single if f"/{FOLDER}/" in debt.path]
        self._remove_files(records)
        for debt in folders:
            self._remove_folder(debt)
        self._remove_files([debt for debt in single if debt not in set(records)])
        if chunks:
            removals.refuse_foreign(self._manifests(), chunks, self._root, self._target.name)
            self._remove_chunks(chunks)

    def _remove_files(self, debts: Sequence[Debt]) -> None:
        for batch in _batches(debts):
            for part in parts_with([debt.path for debt in batch]):
                self._remove(part.prefix, part.paths, recursive=False)
            self._noted.done_all(batch)

    def _remove_folder(self, debt: Debt) -> None:
        """Remove a repository; first what makes it one, so that nobody takes the rest for a backup."""
        there = self._target.listing(debt.path, recursive=True)
        self._remove(debt.path, [path for path in there if f"/{OF_RDIFF}/current_mirror." in path], recursive=True)
        self._remove(debt.path, list(there), recursive=True)
        self._noted.done_all([debt])

    def _remove_chunks(self, debts: Sequence[Debt]) -> None:
        """A listing for each sixteenth of the chunks is enough."""
        ordered = sorted(debts, key=lambda debt: debt.path)
        for prefix, group in groupby(ordered, lambda debt: debt.path[:_DIGIT]):
            for batch in _batches(list(group)):
                self._remove(prefix, [debt.path for debt in batch], recursive=True)
                self._noted.done_all(batch)

    def _remove(self, prefix: str, paths: Iterable[str], *, recursive: bool) -> None:
        """Remove what of `paths`, which all begin with `prefix`, is there. Raises `NotOffsite`."""
        left, why = removals.removed(self._target, prefix, paths, recursive=recursive)
        if left:
            raise removals.not_removed(left, self._target.name, why)

    def _manifests(self) -> Iterator[tuple[str, int]]:
        """Those that are there, and their sizes."""
        for folder in self._target.folders():
            if not folder.startswith("."):
                there = self._target.listing(folder, recursive=True)
                yield from ((path, stored.size) for path, stored in there.items() if path.endswith(ENDING))


def _batches(debts: Sequence[Debt]) -> Iterator[Sequence[Debt]]:
    yield from (debts[start : start + _BATCH] for start in range(0, len(debts), _BATCH))
