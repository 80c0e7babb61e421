"""The programs in C: made with gcc, run, and the trace of killat read."""

import atexit
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import REPOSITORY, Ended
from tests.faults.forks import PATIENCE, Forks, Hangs

HERE = Path(__file__).parent
_ESCAPED = re.compile(r"\\([0-7]{3})")
NOT_REACHED = 250
KILLED = 137


@cache
def compiled(source: str, *options: str) -> Path:
    """What the C file `source` makes, compiled once a process."""
    folder = TemporaryDirectory(prefix="faults-")
    atexit.register(folder.cleanup)
    program = Path(folder.name) / source.removesuffix(".c")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", program, HERE / source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def other_clock(seconds: int) -> dict[str, str]:
    """The environment of a program that is to see another time of day than it is."""
    return {"LD_PRELOAD": str(compiled("otherclock.c", "-shared", "-fPIC")), "OTHER_CLOCK": str(seconds)}


@dataclass(frozen=True)
class Step:
    """A system call that changes something: its number, its name, the path or paths, and what it does there."""

    number: int
    call: str
    path: str
    other: str
    length: int
    offset: int
    where: int

    @property
    def paths(self) -> str:
        """The paths, to be shown."""
        return f"{self.path} {self.other}".strip()


def tracer(
    folders: Sequence[Path], trace: Path, *, number: int = 0, act: str = "kill", data: Path | None = None
) -> list[str | Path]:
    """The command line that does harm at step `number` below `folders`; 0 does none. What is harmed comes behind it."""
    words: list[str | Path] = [compiled("killat.c"), "-l", trace, "-n", str(number), "-a", act]
    words += [word for folder in folders for word in ("-r", folder)]
    return words + (["-d", data] if data else [])


def of_fork(
    tracer: Sequence[str | Path],
    forks: Forks,
    words: Sequence[str],
    trace: Path,
    *,
    env: Mapping[str, str],
    cwd: Path | str,
) -> Ended:
    """Run ``btw-backup WORDS``, and do what `tracer` says. Its status is that of `killat`."""
    ended = forks.traced(tracer, compiled("killat.c", "-shared", "-fPIC"), words, env, cwd)
    return _as_ended(ended, trace)


def of_process(
    tracer: Sequence[str | Path], command: Sequence[str], trace: Path, *, env: Mapping[str, str], cwd: Path | str
) -> Ended:
    """Run `command`, a process from its first step on, and do what `tracer` says. Its status is that of `killat`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **env}
    process = subprocess.Popen(
        [*tracer, "--", *command],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Hangs(f"has not ended after {PATIENCE:g} s") from None
    texts = (text.decode(errors="surrogateescape") for text in (out, err))
    return _as_ended(Ended(process.returncode, *texts), trace)


def _as_ended(ended: Ended, trace: Path) -> Ended:
    """How the command ended, if it was not harmed."""
    if ended.status != NOT_REACHED:
        return ended
    return Ended(int(trace.read_text(errors="surrogateescape").rpartition("status ")[2]), ended.out, ended.err)


def steps_of(trace: Path) -> list[Step]:
    """The steps in the file `trace`."""
    found = []
    for line in trace.read_text(errors="surrogateescape").split("\n"):
        if line and not line.startswith("#"):
            number, call, path, other, *numbers = line.split("\t")
            found.append(Step(int(number), call, _plain(path), _plain(other), *map(int, numbers)))
    return found


def _plain(path: str) -> str:
    path = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)
    return os.path.normpath(path) if path else ""
