"""What is owed to one target while it is being paid: what can be, what failed and why, what others still write."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from btw_backup import locks, records
from btw_backup.clock import STAMP
from btw_backup.errors import NotOffsite, ProgramFailed
from btw_backup.log import debug
from btw_backup.offsite import Target
from btw_backup.offsite.state import SYNC, Debt, SyncState

HINT = "btw-backup sync tries again"

Doubts = Mapping[str, str]
"""Paths that are not proved to be at the target, and why."""


def owed(debts: Sequence[Debt], target: str, why: str) -> str:
    """The message that says that `debts`, which are not none, are still owed."""
    first, rest = debts[0].path or "all of ROOT_PATH", len(debts) - 1
    others = f" and {rest} other path{'s' if rest > 1 else ''}" if rest else ""
    return f"not at {target} yet: {first}{others}, because {why}"


class Debts:
    """Everything that is owed to `target`, from below `root`."""

    def __init__(self, target: Target, journal: SyncState, root: Path) -> None:
        self._target = target
        self._journal = journal
        self.root = os.path.realpath(root)
        self._failed: dict[Debt, str] = {}

    def work_off(self, pay: Callable[[Sequence[Debt]], None]) -> None:
        """Have `pay` called until nothing is left that was not tried: others may note more meanwhile. Raises
        `NotOffsite`."""
        tried: set[Debt] = set()
        try:
            while debts := [d for d in self._journal.pending() if d not in tried and not self._is_being_written(d)]:
                if not tried:
                    self._target.probe()
                tried.update(debts)
                pay(debts)
        except ProgramFailed as error:
            left = self._journal.pending()
            raise NotOffsite(owed(left, self._target.name, error.message), error.hint or HINT) from error
        left = [debt for debt in self._journal.pending() if debt in self._failed]
        for debt in left:
            debug(f"still owed: {debt.op} {debt.path}: {self._failed[debt]}")
        if left:
            raise NotOffsite(owed(left, self._target.name, self._failed[left[0]]), HINT)

    def owe_all(self) -> None:
        """Note that all that is below `root` is owed. It is on the disk when this returns."""
        self._journal.owe(SYNC, "")

    def kind(self, debt: Debt) -> int:
        """The type of file that is owed; 0 if it is gone."""
        try:
            return stat.S_IFMT(os.lstat(self.here(debt.path.rstrip("/"))).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def here(self, path: str) -> str:
        """Where `path` is on this machine."""
        return f"{self.root}/{path}"

    def _is_being_written(self, debt: Debt) -> bool:
        """Whether another run holds the dst of `debt`; it noted the debt, and sends it itself when it is done."""
        parts = debt.path.rstrip("/").split("/")
        folders = (Path(self.root, *parts[:depth]) for depth in range(1, len(parts) + 1))
        return any(folder.is_dir() and locks.held_by_another(folder) for folder in folders)

    def look_after_missing(self, debt: Debt, kind: int) -> None:
        """Strike off what was never finished: it was noted before it got its name. What a record names is missed."""
        folder, name = os.path.split(debt.path.rstrip("/"))
        stamp = STAMP.match(name)
        if kind:
            self._failed[debt] = "it is neither a file nor a folder"
        elif stamp and os.path.exists(self.here(f"{folder}/{records.FOLDER}/{stamp[0]}.json")):
            self._failed[debt] = "it is not here any more, although it was kept"
        elif not self._is_being_written(debt):
            debug(f"not sent, because it was never finished: {debt.path}")
            self._journal.done(debt)

    def settle(self, debt: Debt, doubts: Doubts) -> None:
        """Strike `debt` off unless something of it is in doubt."""
        why = next((f"{path}: {why}" for path, why in doubts.items() if touches(path, debt.path)), "")
        if why:
            self._failed[debt] = why.removeprefix(f"{debt.path}: ")
        elif not self._journal.done(debt):
            debug(f"noted again while it was sent: {debt.path}")


def as_folder(path: str) -> str:
    """`path` with a slash at its end; "" for all of ROOT_PATH."""
    return f"{path.rstrip('/')}/" if path.rstrip("/") else ""


def touches(path: str, owed_path: str) -> bool:
    """Whether one of two paths lies in the other, or they are the same."""
    one, other = as_folder(path), as_folder(owed_path)
    return one.startswith(other) or other.startswith(one)


class Owed:
    """The `paths` that are owed, to be asked about many others."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._owed = {path.strip("/") for path in paths}
        self._above = {above for path in self._owed for above in _and_above(path)}

    def touches(self, path: str) -> bool:
        """Whether `path`, something in it, or something that it is in, is owed."""
        return path in self._above or any(above in self._owed for above in _and_above(path))


def _and_above(path: str) -> Iterator[str]:
    """`path`, and the folders that it is in; "" is all of ROOT_PATH."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path
