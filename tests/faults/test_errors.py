"""A disk that fails, is full, or cannot be written any more, from any step on: the run says so, and nothing is lost."""

import pytest

from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.conftest import MakeWorld, Note
from tests.faults.sweep import ALL, sweep
from tests.faults.test_killed import FEW, name_of

ACTS = ("eio", "enospc", "erofs", "eintr", "short", "dead", "full", "readonly")
SAMPLED = (
    "fs tar, third",
    "fs chunks, third",
    "fs rdiff, second",
    "command file, second",
    "rm",
    "cleanup",
    "import chunks",
)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SAMPLED], ids=name_of)
@pytest.mark.parametrize("act", ["eio", "full"])
def test_some(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, FEW))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("act", ACTS)
def test_all(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, ALL))
