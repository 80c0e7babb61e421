"""T13: nothing of what is in memory gets into a core dump.

That the limit is not asked, as where the kernel pipes cores to a program, is had here by not setting it.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, REPOSITORY, Installation

UNLIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
resource.setrlimit = lambda *limit: None
"""
DIES = """
from btw_backup import cores
if sys.argv[1] == "refuse":
    cores.refuse()
child = os.fork()
if child == 0:
    os.abort()
print(os.WCOREDUMP(os.waitpid(child, 0)[1]))
"""
RUNS = """
from btw_backup import cli
sys.exit(cli.main())
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def dumps(how: str, folder: Path) -> bool:
    """Whether the kernel dumps the child of a process that did `how`."""
    command = [sys.executable, "-c", UNLIMITED + DIES, how]
    ended = subprocess.run(command, check=True, cwd=folder, env=ENVIRONMENT, capture_output=True)
    return ended.stdout == b"True\n"


@pytest.fixture
def dumping(tmp_path: Path) -> Path:
    """A folder into which the kernel dumps the cores of who runs there."""
    try:
        if dumps("", tmp_path):
            return tmp_path
    except subprocess.CalledProcessError:
        pass
    pytest.skip("this kernel dumps no cores here")


def test_children_are_not_dumped(dumping: Path) -> None:
    assert not dumps("refuse", dumping)


def test_a_run_is_not_dumped(dumping: Path, btw: Installation) -> None:
    """Nor would any memory of the programs that it started be in a core."""
    btw("command-init", "nap", "--", "sleep", "600")
    command = [sys.executable, "-c", UNLIMITED + RUNS, "--config-dir", btw.config_dir, "command", "nap", "naps"]
    run = subprocess.Popen(command, cwd=dumping, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        program = started_by(run, "sleep")
        assert Path(f"/proc/{program}/coredump_filter").read_text() == "00000000\n"
        run.send_signal(signal.SIGSEGV)
        ended = os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_status, ended.si_code) == (signal.SIGSEGV, os.CLD_KILLED)  # and not CLD_DUMPED
    finally:
        run.kill()
        run.wait()


def test_the_limit_is_for_all_that_a_run_starts(btw: Installation) -> None:
    btw("command-init", "nap", "--", "sleep", "600")
    run = btw.start("command", "nap", "naps")
    try:
        assert resource.prlimit(started_by(run, "sleep"), resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(run.pid, resource.RLIMIT_CORE) == (0, 0)
    finally:
        run.kill()
        run.communicate()


def started_by(run: "subprocess.Popen[bytes]", name: str) -> int:
    """The number of the program `name` when `run` has started it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                return int(child)
        time.sleep(0.02)
    raise RuntimeError(f"{name} does not start")
