"""Signals that ask for the end, whenever they come."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, REPOSITORY, Installation, random_bytes, tree_differences

KEEPERS = ("tar", "rdiff", "chunks")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

SOON = 30.0
"""Seconds: five, on a machine with nothing else to do."""


def litter(btw: Installation) -> list[Path]:
    return [path for top in (btw.root, btw.config_dir) for path in top.rglob(".tmp-*")]


def said(number: int) -> str:
    return f"btw_backup: interrupted by signal {number}\n"


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_signal_that_comes_at_a_fork(btw: Installation, source: Path, keeper: str) -> None:
    """Python ignores what is raised in what it calls then."""
    btw.tree(source, keeper)
    calls = "clone,clone3,fork,vfork"
    for number in SIGNALS:
        for when in range(1, 5):
            inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal={number}:when={when}"]
            command = [sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir, "fs", source, "D"]
            strace = ["strace", "-qq", "-o", "/dev/null", *inject, *command]
            ended = subprocess.run(strace, capture_output=True, text=True, timeout=SOON, cwd=REPOSITORY, check=False)
            assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", said(number)), when
            assert not litter(btw)
    ended = btw("fs", source, "D")
    assert ended.out == ended.err == ""
    btw("restore", "D", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


@pytest.mark.parametrize("keeper", KEEPERS)
def test_signals_at_random_moments(btw: Installation, source: Path, keeper: str) -> None:
    """One or two; never is there a traceback, and status 0 stands for a whole backup."""
    chance = random.Random(keeper)
    btw.tree(source, keeper)
    (source / "large").write_bytes(random_bytes(4 << 20))
    began = time.monotonic()
    btw("fs", source, "first")
    length = time.monotonic() - began
    statuses = []
    for count in range(30):
        run = btw.start("fs", source, f"D{count}")
        until_it_listens(run)
        time.sleep(chance.uniform(0, length))
        number = chance.choice(SIGNALS)
        for again in (number, chance.choice(SIGNALS))[: 1 + count % 2]:
            run.send_signal(again)
        out, err = run.communicate(timeout=SOON)
        statuses.append(run.returncode)
        if run.returncode:
            assert run.returncode - 128 in SIGNALS and (out, err) == (b"", said(run.returncode - 128).encode())
        else:
            assert out == err == b""
            btw("restore", f"D{count}", btw.top / f"out{count}")
            assert tree_differences(source, btw.top / f"out{count}") == ""
        assert not litter(btw)
    assert any(statuses)
    btw("fs", source, "last")
    btw("restore", "last", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


def until_it_listens(run: "subprocess.Popen[bytes]") -> None:
    """Wait until `run` has told the kernel what it does with signals; before, the interpreter answers them."""
    end = time.monotonic() + PATIENCE
    mask = 1 << signal.SIGALRM - 1
    while time.monotonic() < end:
        status = Path(f"/proc/{run.pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & mask:
            return
        time.sleep(0.005)
    raise TimeoutError


def test_one_that_python_dropped_is_raised_again() -> None:
    """Whatever it dropped it in; others do not disturb it, nor the end."""
    code = """
import os, signal, sys, time
from btw_backup import interrupts
from btw_backup.errors import Interrupted

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(9):
            pass

interrupts.listen()
try:
    Dropping()
    time.sleep(60)
except Interrupted as error:
    os.kill(os.getpid(), signal.SIGINT)
    interrupts.end()
    print(error)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGHUP)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted by signal 15\n", "")
