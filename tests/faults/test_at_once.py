"""Every command that changes something, twice at once, and eight times: each is done, or says who is at it."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, Ended
from tests.faults import audit
from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld
from tests.faults.forks import PATIENCE
from tests.faults.test_killed import name_of
from tests.faults.world import NAME_OF_PROGRAM, World

LOCAL = [case for case in CASES if case.needs != "s3"]
AT_ONCE = (2, pytest.param(8, marks=pytest.mark.slow))


def _started(world: World, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", NAME_OF_PROGRAM, *world.words(*words)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(world.place), **world.env}
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
