"""Too little memory, and no thread or process to be had."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Ended, Installation, random_bytes, tree_differences

SAID = ("out of memory", "no thread could be started", "no process could be started", "Cannot allocate memory")
GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
PATIENCE = 60.0


def lacking(btw: Installation, before: list[str], *args: object) -> Ended:
    """The command, behind the words `before`, for which there may not be enough of something."""
    command = [*before, sys.executable, "-m", "btw_backup", "--config-dir", str(btw.config_dir), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(btw.top)}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=btw.top, check=False
    )
    shown = ended.stderr.splitlines()
    if ended.returncode:
        assert ended.returncode == 1 and len(shown) == 1 and any(what in shown[0] for what in SAID), ended
    else:
        assert not shown, ended
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def last_run(btw: Installation) -> dict[str, object]:
    found = json.loads((btw.config_dir / "runs.jsonl").read_text().splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("keeper", "limits"), [("tar", (70, 180, 200, 220, 250)), ("chunks", (50, 65, 70, 90, 120))])
def test_F06_too_little_memory(btw: Installation, source: Path, keeper: str, limits: tuple[int, ...]) -> None:
    btw.tree(source, keeper)
    btw("fs", source, "D")
    btw("restore", "D", btw.top / "before")
    (source / "large").write_bytes(random_bytes(6 << 20))
    statuses = set()
    for megabytes in limits:
        ended = lacking(btw, ["prlimit", f"--as={megabytes << 20}"], "fs", source, f"D{megabytes}")
        statuses.add(ended.status)
        if ended.status:
            noted = last_run(btw)
            assert noted["status"] == 1 and any(what in str(noted["message"]) for what in SAID)
    assert 1 in statuses
    btw("scrub", "D")
    btw("restore", "D", btw.top / "again")
    assert tree_differences(btw.top / "before", btw.top / "again") == ""
    btw("fs", source, "D")
    btw("restore", "D", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A control group in which the number of processes can be limited."""
    for top in GROUPS:
        folder = top / f"btw-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / "pids.max").exists():
            yield folder
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("there is no control group for pids")


@pytest.mark.parametrize("most", [2, 4, 5, 6])
def test_F07_no_thread_or_process_to_be_had(btw: Installation, source: Path, group: Path, most: int) -> None:
    (source / "large").write_bytes(random_bytes(6 << 20))
    btw("command-init", "ls", "--", "ls", "/")
    within = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    for keeper in ("tar", "rdiff", "chunks"):
        tree = btw.top / keeper
        source.rename(tree)
        btw.tree(tree, keeper, name=keeper)
        btw("fs", tree, keeper)
        (tree / "new").write_bytes(random_bytes(1000))
        (group / "pids.max").write_text(f"{most}")
        lacking(btw, within, "restore", keeper, btw.top / f"out-{keeper}")
        lacking(btw, within, "fs", tree, keeper)
        tree.rename(source)
    lacking(btw, within, "scrub")
    lacking(btw, within, "command", "ls", "C")
    (group / "pids.max").write_text("max")
    source.rename(tree)
    for words in (["fs", tree, keeper], ["command", "ls", "C"], ["scrub"]):
        btw(*words)
    btw("restore", keeper, btw.top / "out")
    assert tree_differences(tree, btw.top / "out") == ""
