"""Whatever happens to whichever file of a store: scrub finds it, or it has no influence; no restore makes anything up."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bit_cases import KINDS
from tests.conftest import REPOSITORY

SEED = 20261121
FEW, PARTS = 800, 4
"""Each so manieth bit is flipped by the quick variant; the slow one flips all, in so many parts."""

Record = Callable[[str, object], None]


def damaged(top: Path, act: str, record: Record, *words: object) -> int:
    """How many damages were done; none of them may break a promise."""
    command = [sys.executable, "-m", "tests.bit_cases", top / "i", *map(str, words)]
    ended = subprocess.run(command, check=False, capture_output=True, cwd=REPOSITORY, text=True)
    assert ended.returncode == 0, ended.stderr
    tallies = [json.loads(line) for line in ended.stdout.splitlines()]
    count, found = (sum(each[name] for each in tallies) for name in ("damages", "found"))
    faults = [fault for each in tallies for fault in each["faults"]]
    noted = {"act": act, "steps": count, "tried": count, "found": found, "broken": len(faults)}
    record("faults", {**noted, "seed": SEED})
    assert not faults, f"{len(faults)} of {count}: {faults[:5]}"
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_some_bits(tmpfs: Path, record_property: Record, kind: str) -> None:
    assert damaged(tmpfs, "bits of a small store", record_property, kind, SEED % FEW, FEW) > 10


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit(tmpfs: Path, record_property: Record, kind: str, part: int) -> None:
    assert damaged(tmpfs, "every bit of a small store", record_property, kind, part, PARTS) > 2000


def test_some_damages(tmpfs: Path, record_property: Record) -> None:
    assert damaged(tmpfs, "damages of a larger store", record_property, "larger", 35, SEED) == 35


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_damages(tmpfs: Path, record_property: Record, part: int) -> None:
    """Flips, truncations, removals, swaps and replays; a third of them flips."""
    assert (
        damaged(tmpfs, "many damages of a larger store", record_property, "larger", 2000 // PARTS, SEED + part) == 500
    )
