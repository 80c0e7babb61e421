"""Memory does not grow with what a target holds: who reads its records has them in a file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from btw_backup.offsite import rescue
from tests import many_told
from tests.conftest import Installation, peak_memory
from tests.many import make_chunks, unsynced

FEW, MANY = 100, 50_000
LEAST = 300
"""Bytes of memory that each chunk more may take: in a dictionary it takes 700. What is read at once, 14 MB of a state
at most, and what SQLite keeps in memory, 2 MB a file, is less than that for so many."""

SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module", params=["in a state", pytest.param("in records", marks=pytest.mark.slow)])
def targets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Targets that tell of few and of many chunks: all at once, or one record after the other."""
    top = tmp_path_factory.mktemp("targets")
    found = {count: top / str(count) for count in (FEW, MANY)}
    for count, target in found.items():
        target.mkdir()
        with unsynced():
            many_told.tell(target, top / f"known-{count}", [], count, at_once=count // 40)
        if request.param == "in records":
            [last] = target.glob("index/*/*.state")
            last.rename(last.with_name(last.name.removesuffix(".state")))
    return found


def growth(peaks: dict[int, int]) -> float:
    """How many bytes of memory a chunk more takes."""
    return (peaks[MANY] - peaks[FEW]) * 1024 / (MANY - FEW)


def test_a_restore(btw: Installation, targets: dict[int, Path]) -> None:
    peaks = {n: peak_memory(btw.start("restore", "--from", path, "--list", **SILENT)) for n, path in targets.items()}
    assert growth(peaks) < LEAST


def test_a_rescue(targets: dict[int, Path]) -> None:
    command = [sys.executable, str(Path(rescue.__file__).parent / "RESTORE.py"), "--bucket"]
    peaks = {n: peak_memory(subprocess.Popen([*command, str(path)], **SILENT)) for n, path in targets.items()}
    assert growth(peaks) < LEAST


def test_an_import(btw: Installation, targets: dict[int, Path]) -> None:
    """All is here already; what is there is adopted, so that it is not sent again."""
    peaks = {}
    for count, target in targets.items():
        btw.configure(LAYOUT="objects", OFFSITE={f"nas{count}": {"PATH": str(target)}}, text="")
        with unsynced():
            make_chunks(btw.root, range(max(peaks, default=0), count))
        (btw.config_dir / ".offsite/store-key").unlink(missing_ok=True)
        peaks[count] = peak_memory(btw.start("import", "--from", f"nas{count}", **SILENT))
        assert (btw.config_dir / f".offsite/nas{count}.sqlite").exists()
    assert growth(peaks) < LEAST
