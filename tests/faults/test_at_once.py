"""Every command that changes something, twice at once, and eight times, and at a time that is years from now: each is
done, or says who is at it.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.conftest import REPOSITORY, Ended
from tests.faults import audit
from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld
from tests.faults.forks import PATIENCE
from tests.faults.killing import other_clock
from tests.faults.test_killed import name_of
from tests.faults.world import NAME_OF_PROGRAM, World

SAMPLED = (
    "fs tar, third",
    "fs chunks, third",
    "fs rdiff, second",
    "command file, second",
    "command-init",
    "rm",
    "undelete",
    "cleanup",
    "import chunks",
    "restore chunks",
)
LOCAL = [
    pytest.param(case, marks=[] if case.name in SAMPLED else [pytest.mark.slow]) for case in CASES if case.needs != "s3"
]
AT_ONCE = (2, pytest.param(8, marks=pytest.mark.slow))
YEARS = 365 * 86400


def _started(world: World, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", NAME_OF_PROGRAM, *world.words(*words)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(world.place), **world.env, **(env or {})}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, cwd=world.place, text=True, errors="surrogateescape", **pipes)  # type: ignore[call-overload,no-any-return]


def _ended(run: subprocess.Popen[str]) -> Ended:
    out, err = run.communicate(timeout=PATIENCE * 2)
    return Ended(run.returncode, out, err)


@pytest.mark.parametrize("case", LOCAL, ids=name_of)
@pytest.mark.parametrize("count", AT_ONCE)
def test_f45_at_once(case: Case, world_of: MakeWorld, count: int) -> None:
    """One of them is done; the others are done, too, or had nothing to do, or were in each other's way and say so."""
    world = world_of(case)
    world.reset()
    runs = [_started(world, *case.words(world)) for _ in range(count)]
    ended = [_ended(run) for run in runs]
    assert any(one.status in case.statuses for one in ended), ended
    for one in ended:
        audit.after_fault(world, case, one, died=False)
    audit.after_next(world, case)


@pytest.mark.parametrize("case", LOCAL, ids=name_of)
@pytest.mark.parametrize("jump", [10 * YEARS, pytest.param(-10 * YEARS, marks=pytest.mark.slow)])
def test_f48_years_from_now(case: Case, world_of: MakeWorld, jump: int) -> None:
    """It does not hang, and is done; and so is the next run, when the clock is right again."""
    world = world_of(case)
    world.reset()
    ended = _ended(_started(world, *case.words(world), env=other_clock(jump)))
    assert ended.status in case.statuses, ended
    audit.after_fault(world, case, ended, died=False)
    audit.after_next(world, case)
