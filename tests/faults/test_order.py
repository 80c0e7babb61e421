"""The order of the steps of every command: no name before its bytes are on the disk, and none that is not itself there;
nothing is noted as removed that may come back.

What a sweep finds only if it meets the step, this reads from a trace.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_backup.files import TEMPORARY
from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld
from tests.faults.killing import Step, steps_of
from tests.faults.test_killed import name_of

_WRITES = ("write", "pwrite", "ftruncate", "truncate", "sendfile")
_NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat", "symlink", "symlinkat")
MAY_BE_LOST = (
    ".lock",
    ".log",
    "log.txt",
    "runs.jsonl",
    "catalogue.sqlite",
    ".sqlite-journal",
    ".sqlite-wal",
    "/backup",
)
"""What tells only who is at it, or what has happened, or is filled anew by each run: nobody relies on it."""

ENDING = ".manifest.zst"
TARGET = "/nas"
JOURNAL = "-journal"
NOTES = ("removals.", "sync_state", "nas.sqlite")
"""Where it is noted what is at a target, or is to be removed there."""


class Trace:
    """What is on the disk, as far as the steps until now made sure of it."""

    def __init__(self) -> None:
        self.unsynced: set[str] = set()
        self.unsynced_names: dict[str, set[str]] = {}
        self.may_come_back: dict[str, set[str]] = {}
        """What was removed, and the folders of which one has to be synced for it to stay so."""

    def wrong(self, steps: list[Step]) -> Iterator[str]:
        """What is not in order."""
        for step in steps:
            if step.call in ("fsync", "fdatasync"):
                self.unsynced.discard(step.path)
                self.unsynced_names.pop(step.path, None)
                self._stay_removed(step.path)
            elif step.call == "syncfs":
                self.unsynced.clear()
                self.unsynced_names.clear()
                self.may_come_back.clear()
            elif step.call == "rmdir":
                self._go_with(step.path)
            elif step.call in ("unlink", "unlinkat"):
                self.may_come_back[step.path] = {os.path.dirname(step.path)}
            elif step.call in _WRITES:
                self.unsynced.add(step.path)
                yield from self._note(step)
            elif step.call in _NAMES:
                yield from self._name(step)

    def nameless(self) -> set[str]:
        """The names that may be lost now. Those that calls which failed were to make are among them."""
        return {os.path.join(folder, name) for folder, names in self.unsynced_names.items() for name in names}

    def _stay_removed(self, folder: str) -> None:
        self.may_come_back = {path: folders for path, folders in self.may_come_back.items() if folder not in folders}

    def _go_with(self, folder: str) -> None:
        """What was in a removed folder does not come back when that does not, either."""
        for folders in self.may_come_back.values():
            if folder in folders:
                folders.add(os.path.dirname(folder))

    def _note(self, step: Step) -> Iterator[str]:
        """What is noted of a target while what was removed there may come back; and what is sent to one while the note
        of it may be undone, as the journal of SQLite would do that comes back."""
        undone: list[str] = []
        if os.path.basename(step.path).startswith(NOTES) and not step.path.endswith(JOURNAL):
            undone = [path for path in self.may_come_back if _is_at_target(path)]
        elif _is_at_target(step.path):
            undone = [path for path in self.may_come_back if path.endswith(f"{TARGET}.sqlite{JOURNAL}")]
        yield from (f"step {step.number}: {step.path} is written, and {path} may come back" for path in undone)

    def _name(self, step: Step) -> Iterator[str]:
        final = step.other or step.path
        folder, name = os.path.split(final)
        below = [path for path in self.unsynced if path == step.path or path.startswith(step.path + "/")]
        for path in below:
            named = final + path.removeprefix(step.path)
            if step.call.startswith("rename"):
                self.unsynced.discard(path)
                self.unsynced.add(named)
            if _counts(named):
                yield f"step {step.number}: {final} gets its name before {path} is on the disk"
        if name.endswith(ENDING):
            chunks = [path for path in self.unsynced_names if "/.store/chunks" in path and self.unsynced_names[path]]
            yield from (f"step {step.number}: {final} gets its name before what is in {path}" for path in chunks)
        if _counts(final):
            self.unsynced_names.setdefault(folder, set()).add(name)
        if step.call.startswith("rename"):
            self.unsynced_names.get(os.path.dirname(step.path), set()).discard(os.path.basename(step.path))


def _is_at_target(path: str) -> bool:
    return f"{TARGET}/" in path and "/cfg/" not in path


def _counts(path: str) -> bool:
    """Whether anybody relies on what is there: it is no temporary, nothing in a folder that is one, and not staged to be
    sent, of which only that is sent by a later run which has the digest that it should have."""
    parts = Path(path).parts
    if ".offsite" in parts and "objects" in parts:
        return False
    return not any(part.startswith(TEMPORARY) or "rdiff-backup.tmp" in part for part in parts) and not path.endswith(
        MAY_BE_LOST
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.needs != "s3"], ids=name_of)
def test_bytes_then_names(case: Case, world_of: MakeWorld) -> None:
    world = world_of(case)
    ended = world.harmed(case.words(world), 0, "kill")
    assert ended.status in case.statuses, ended
    trace = Trace()
    assert list(trace.wrong(steps_of(world.trace))) == []
    before = {
        str(path).replace(str(world.place / "saved"), str(world.top)) for path in (world.place / "saved").rglob("*")
    }
    assert {path for path in trace.nameless() - before if os.path.lexists(path)} == set()
