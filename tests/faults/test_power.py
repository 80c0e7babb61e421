"""The power fails at any step, on real filesystems: names survive without their bytes, or nothing does."""

import pytest

from tests.faults import audit
from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld, Note
from tests.faults.sweep import Result, sweep
from tests.faults.test_killed import name_of

MANY = 60
ON_DISK = [case for case in CASES if not case.needs or case.name in ("db rdiff, second", "db chunks, second")]
SAMPLED = ("fs tar, third", "fs chunks, third", "fs rdiff, second", "command chunks, second", "undelete")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SAMPLED], ids=name_of)
@pytest.mark.parametrize("act", ["power", "powerflush"])
def test_some(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case, "ext4"), case, act, 4))


@pytest.mark.parametrize("act", ["power", "powerflush"])
def test_some_on_xfs(act: str, world_of: MakeWorld, note: Note) -> None:
    case = next(case for case in CASES if case.name == "fs chunks, third")
    note(sweep(world_of(case, "xfs"), case, act, 2))


@pytest.mark.slow
@pytest.mark.parametrize("case", ON_DISK, ids=name_of)
@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
@pytest.mark.parametrize("act", ["power", "powerflush"])
def test_all(case: Case, act: str, filesystem: str, world_of: MakeWorld, note: Note) -> None:
    result = sweep(world_of(case, filesystem), case, act, MANY)
    result.act = f"{act}, {filesystem}"
    note(result)


REPORTING = [case for case in ON_DISK if case.command not in ("catalogue", "runs")]


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c.name not in SAMPLED)) for c in REPORTING], ids=name_of
)
def test_after_the_end(case: Case, world_of: MakeWorld, note: Note) -> None:
    """F12: what was reported is on the disk."""
    result = Result(case.name, "power after the end", 2)
    world = world_of(case, "ext4")
    for flag in (1, 2):
        world.reset()
        ended = world.harmed(case.words(world), 0, "kill")
        world.power_off(flag)
        result.tried += 1
        try:
            audit.after_fault(world, case, ended, died=False)
            audit.after_next(world, case)
        except AssertionError as error:
            result.breaks(f"{flag}: {' '.join(str(error).split())[:300]}")
    note(result)
