"""The command as a real process, and an installation for it to work on."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

PATIENCE = 300.0
"""Seconds after which something hangs: nothing that goes on takes so long, however busy the machine is."""

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

_RANDOM = random.Random()


@pytest.fixture(autouse=True)
def _from_the_beginning() -> None:
    """Every test gets the same bytes in every run: into how many pieces a file is cut must not be up to chance."""
    _RANDOM.seed(5)


def random_bytes(size: int) -> bytes:
    """Bytes that cannot be compressed, and others than before in this test."""
    pieces, rest = divmod(size, 1 << 24)  # it draws less than 256 MB at once
    return b"".join(_RANDOM.randbytes(length) for length in (*[1 << 24] * pieces, rest))


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Installation:
    """A configuration directory and a ROOT_PATH below one temporary folder; call it to run the command."""

    top: Path

    @property
    def config_dir(self) -> Path:
        return self.top / "cfg"

    @property
    def root(self) -> Path:
        return self.top / "root"

    def configure(self, text: str = "OFFSITE = {}\n", **settings: object) -> None:
        """Write the general configuration."""
        lines = [f"ROOT_PATH = {str(self.root)!r}\n", *(f"{name} = {value!r}\n" for name, value in settings.items())]
        (self.config_dir / "config.py").write_text("".join(lines) + text)

    def start(self, *args: object, env: dict[str, str] | None = None, **rest: object) -> subprocess.Popen[bytes]:
        """The command as a running process."""
        command = [
            sys.executable,
            "-m",
            "btw_backup",
            "--config-dir",
            str(self.config_dir),
            *map(os.fspath, map(_plain, args)),
        ]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.top), **(env or {})}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.top}
        return subprocess.Popen(command, env=environment, **{**options, **rest})

    def __call__(
        self,
        *args: object,
        status: int | None = 0,
        env: dict[str, str] | None = None,
        timeout: float = PATIENCE,
        **rest: object,
    ) -> Ended:
        """Run the command to its end and compare its exit status, unless `status` is None."""
        process = self.start(*args, env=env, **rest)
        out, err = process.communicate(timeout=timeout)
        ended = Ended(
            process.returncode,
            (out or b"").decode(errors="surrogateescape"),
            (err or b"").decode(errors="surrogateescape"),
        )
        assert "Traceback" not in ended.err, ended.err
        assert status is None or ended.status == status, ended
        return ended

    def tree(self, source: Path, type_: str = "tar", name: str = "test", extra: str = "") -> Path:
        """fs-init `source`; its working directory."""
        made = self("fs-init", "--type", type_, source, name).out.strip().rpartition("created ")[2]
        with open(Path(made) / "config.py", "a") as file:
            file.write(extra)
        return Path(made)


def _plain(arg: object) -> str | bytes | os.PathLike[str]:
    return arg if isinstance(arg, str | bytes | os.PathLike) else str(arg)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `quick_with` says."""
    for item in items:
        chosen = item.get_closest_marker("quick_with")
        if chosen and isinstance(item, pytest.Function) and item.callspec.params["s3_server"] not in chosen.args:
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the sweeps of tests/faults tried: a line for each act, and the seed that repeats it; and how many lies of
    servers were believed."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    called = [report for report in reports if getattr(report, "when", "") == "call"]
    lies = [value for report in called for name, value in report.user_properties if name == "lies"]
    for what in sorted({each["what"] for each in lies}):
        told = [each for each in lies if each["what"] == what]
        false, hangs = (sum(each[name] for each in told) for name in ("false", "hangs"))
        terminalreporter.line(f"lies to {what}: {len(told)} tried, {false} believed, {hangs} hangs")
    found = [value for report in called for name, value in report.user_properties if name == "faults"]
    if not found:
        return
    terminalreporter.section("faults")
    for act in dict.fromkeys(each["act"] for each in found):
        of_act = [each for each in found if each["act"] == act]
        steps, tried, broken = (sum(each[name] for each in of_act) for name in ("steps", "tried", "broken"))
        found_out = f", {sum(each['found'] for each in of_act)} found" if "found" in of_act[0] else ""
        worst = "".join(f", {each['worst']}" for each in of_act if "worst" in each)
        line = f"{act}: {len(of_act)} cases, {tried} of {steps} tried{found_out}, {broken} violations{worst}"
        terminalreporter.line(line)
    terminalreporter.line(f"seeds: {', '.join(sorted({str(each['seed']) for each in found}))} (BTW_FAULTS_SEED)")


@pytest.fixture
def btw(tmp_path: Path) -> Installation:
    """An installation that keeps its backups here only."""
    installation = Installation(tmp_path)
    installation.config_dir.mkdir()
    installation.root.mkdir()
    installation.configure()
    return installation


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree."""
    top = tmp_path / "source"
    (top / "etc" / "deep").mkdir(parents=True)
    (top / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (top / "etc" / "deep" / "file").write_bytes(bytes(range(256)) * 1000)
    (top / "link").symlink_to("etc/hosts")
    return top


def tree_differences(left: Path, right: Path) -> str:
    """What rsync would have to change in `right` to make it equal to `left`: "" for equal trees."""
    command = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "-i", f"{left}/", f"{right}/"]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode(errors="backslashreplace")


@pytest.fixture
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted filesystem of its own."""
    folder = tmp_path_factory.mktemp("tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """The most memory that `process` had resident, in KiB, sampled to its end; it must end well.

    Not ru_maxrss, which begins with the memory of the process that forked: ours.
    """
    peak = 0
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        lines = [line for line in text.splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(int(line.split()[1]) for line in lines)])
        time.sleep(0.005)
    assert process.wait() == 0
    return peak
