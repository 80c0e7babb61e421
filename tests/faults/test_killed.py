"""Whoever dies, and whenever: nothing that was reported is lost, and the next run needs no help."""

import pytest

from tests.faults.cases import CASES, Case
from tests.faults.conftest import MakeWorld, Note
from tests.faults.sweep import ALL, sweep

FEW = 6
PIPED = ("fs tar, third", "fs rdiff, second")


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("act", ["kill", pytest.param("torn", marks=pytest.mark.slow)])
def test_some(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, FEW))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in PIPED], ids=name_of)
def test_some_child(case: Case, world_of: MakeWorld, note: Note) -> None:
    """Only the process dies that makes the step: tar, or whoever it writes to."""
    note(sweep(world_of(case), case, "kill1", FEW))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("act", ["kill", "torn", "kill1", "term"])
def test_all(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, ALL))
