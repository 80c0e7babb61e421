"""Removes objects from a target: first a record tells, for good, what is not there any more, and then they go.

So everybody who reads the records knows who removed it: what they name has to be there, and what is missing of it was
taken away by somebody else. An object goes if neither a file nor a chunk that the records still tell of needs it.
Records, and the states in them, stay. The objects of files that were merely replaced (by rdiff-backup, or by whoever
spoilt them here) stay as well: no record says that they were removed.

A chunk goes only if every manifest that the records tell of is here, too: what `cleanup` freed, it freed by those.

What the records tell is known of our own chain only: the others are encrypted to a key that is not here, and may name
the same objects (who imports builds on what another machine sent). While there is another chain, or a record in ours
that is not from here, nothing is told nor removed. Who takes the place of a machine that is gone goes on with its chain
(``import --take-over``): then there is one chain, and all that it tells is known.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from btw_backup.errors import ProgramFailed
from btw_backup.offsite import Target, index, removals
from btw_backup.offsite.chain import Chain
from btw_backup.offsite.doomed import CHUNK
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.state import Debt, SyncState
from btw_backup.store import ENDING, chunk_in

_PATHS = 10000  # in one record
_OBJECTS = 1000


class ObjectRemoval:
    """One go at what is to be removed at `target`, of which `ledger` is known."""

    def __init__(self, target: Target, ledger: Ledger, chain: Chain, root: str) -> None:
        self._target = target
        self._ledger = ledger
        self._chain = chain
        self._root = root

    def work_off(self, noted: SyncState) -> None:
        """Remove what `noted` says is due. Raises `NotOffsite`, `ProgramFailed`."""
        due = removals.due(noted, self._root)
        if not due:
            return
        self._refuse_others(due)
        chunks = [debt for debt in due if chunk_in(debt.path)]
        self._remove([debt for debt in due if not chunk_in(debt.path)], noted)
        if chunks:
            removals.refuse_foreign(self._manifests(), chunks, self._root, self._target.name)
            self._remove(chunks, noted)

    def _remove(self, debts: Sequence[Debt], noted: SyncState) -> None:
        paths = list(dict.fromkeys(path for debt in debts for path in self._known(debt.path)))
        for start in range(0, len(paths), _PATHS):
            self._chain.tell_removal(paths[start : start + _PATHS])
        self._remove_objects()
        noted.done_all(debts)

    def _known(self, path: str) -> Sequence[str]:
        """What was told of `path`."""
        if path.endswith("/"):
            return self._ledger.paths_below(path)
        name = chunk_in(path)
        known = self._ledger.object(CHUNK + bytes.fromhex(name)) if name else self._ledger.file(path)
        return [path] if known else []

    def _manifests(self) -> Iterator[tuple[str, int]]:
        """Those that are told of, and their sizes."""
        return ((path, file.size) for path, file in self._ledger.told_files() if path.endswith(ENDING))

    def _refuse_others(self, due: Sequence[Debt]) -> None:
        there = self._target.listing(f"{index.FOLDER}/", recursive=True)
        others = {path.split("/")[1] for path in there} - {self._ledger.chain}
        mine = [path for path in there if path.split("/")[1] == self._ledger.chain]
        known = self._ledger.sequence, str(self._ledger.meta("digest", ""))
        if rivals := [path for path in mine if _is_newer(path, *known)]:
            why = f"{rivals[0]} is there, which is not from here: another machine has taken over"
            raise removals.not_removed([debt.path for debt in due], self._target.name, why)
        if others:
            why = f"{index.FOLDER}/{min(others)} is there, the records of somebody else, who may need them"
            hint = "or of this machine, before it lost what it knew: a new place gets all; then remove the old one"
            raise removals.not_removed([debt.path for debt in due], self._target.name, why, hint)

    def _remove_objects(self) -> None:
        for prefix, group in groupby(self._ledger.doomed.due(), lambda ref: ref.neighbours):
            refs = list(group)
            for start in range(0, len(refs), _OBJECTS):
                batch = refs[start : start + _OBJECTS]
                left, why = removals.removed(self._target, prefix, [ref.path for ref in batch], recursive=True)
                self._ledger.doomed.gone([ref for ref in batch if ref.path not in set(left)])
                if left:
                    raise ProgramFailed(f"{left[0]}: {why}")


def _is_newer(path: str, sequence: int, digest: str) -> bool:
    """Whether the record at `path` is not older than the one of that number, and is not that."""
    number, _, rest = path.rpartition("/")[2].partition("-")
    return number >= f"{sequence:08x}" and not rest.startswith(digest or "-")
