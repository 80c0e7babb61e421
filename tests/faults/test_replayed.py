"""Every state that a crash may leave where nothing survives but what was synced, in whatever order the rest came."""

import shutil

import pytest

from tests.faults import audit
from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld, Note
from tests.faults.killing import steps_of
from tests.faults.replay import Disk, states
from tests.faults.sweep import SEED, Result
from tests.faults.test_killed import name_of
from tests.faults.world import World, empty

REPLAYED = [case for case in CASES if case.command != "restore" and not case.needs]
"""A restore sets modes and times, which are not modelled."""

SAMPLED = (
    "fs tar, third",
    "fs chunks, first",
    "fs chunks, third",
    "fs rdiff, second",
    "cleanup",
    "undelete",
    "import chunks",
)
SOME, MANY = 8, 130


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SAMPLED], ids=name_of)
def test_some(case: Case, world_of: MakeWorld, note: Note) -> None:
    note(replayed(world_of(case), case, SOME))


@pytest.mark.slow
@pytest.mark.parametrize("case", REPLAYED, ids=name_of)
def test_many(case: Case, world_of: MakeWorld, note: Note) -> None:
    note(replayed(world_of(case), case, MANY))


def replayed(world: World, case: Case, most: int) -> Result:
    """Audit `most` of the states that a crash in `case` may leave."""
    world.reset()
    saved = world.place / "saved"
    disk = Disk(saved)
    ended = world.harmed(case.words(world), 0, "kill", data=world.place / "data")
    assert ended.status in case.statuses, ended
    disk.stands_for(world.top)
    steps = [step for step in steps_of(world.trace) if not step.path.endswith(".log")]
    result = Result(case.name, "crash", len(steps))
    for made, lost in states(disk, steps, (world.place / "data").read_bytes(), most, f"{SEED} {case.name}"):
        world.reset()
        empty(world.top)
        disk.build(lost, world.top)
        result.tried += 1
        try:
            audit.after_fault(world, case, ended, died=True)
            audit.after_next(world, case)
            audit.second_backup(world)
        except AssertionError as error:
            text = " ".join(str(error).split("\nassert")[0].split())[:600]
            result.breaks(f"after step {made} without {sorted(lost)[:9]}: {text}")
    shutil.rmtree(world.place / "scratch")
    return result
