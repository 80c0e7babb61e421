"""Whoever dies, and whenever: nothing that was reported is lost, and the next run needs no help."""

import pytest

from tests.faults.case import Case
from tests.faults.cases import CASES
from tests.faults.cases_sent import CASES_SENT
from tests.faults.conftest import MakeWorld, Note
from tests.faults.sweep import ALL, sweep

FEW, FEWER = 6, 2  # the latter where a server of S3 takes part, which takes its time
CONTAINED = ("init", "fs-init", "fs chunks, first", "fs rdiff, second", "restore tar", "restore of a stream", "export")
PIPED = ("fs tar, third", "fs rdiff, second", "restore chunks by several")


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("act", ["kill", pytest.param("torn", marks=pytest.mark.slow)])
def test_some(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, FEWER if case.needs == "s3" else FEW))


@pytest.mark.parametrize("case", CASES_SENT, ids=name_of)
def test_some_of_the_journal(case: Case, world_of: MakeWorld, note: Note) -> None:
    """What is owed to a target is noted before anything that would tell of it is forgotten."""
    note(sweep(world_of(case), case, "kill", FEW, "sync_state"))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in PIPED], ids=name_of)
def test_some_child(case: Case, world_of: MakeWorld, note: Note) -> None:
    """Only the process dies that makes the step: tar, or whoever it writes to."""
    note(sweep(world_of(case), case, "kill1", FEW))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CONTAINED], ids=name_of)
def test_some_in_a_container(case: Case, world_of: MakeWorld, note: Note) -> None:
    """Every run has the number 1, also in the names of what the one before left."""
    note(sweep(world_of(case, alike=True), case, "kill", FEW))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("act", ["kill", "torn", "kill1", "term"])
def test_all(case: Case, act: str, world_of: MakeWorld, note: Note) -> None:
    note(sweep(world_of(case), case, act, ALL))
