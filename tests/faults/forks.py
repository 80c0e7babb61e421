"""Runs commands in forks of `forkserver`: those that audit a world between two faults, and those that meet a fault."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.conftest import REPOSITORY, Ended
from tests.faults.forkserver import DIED, END, LARGE_PAGES

PATIENCE = 120.0
"""Seconds after which a command is said to hang."""


class Hangs(AssertionError):
    """A command did not end."""


class Forks:
    """Commands, each in a fork of a process that is loaded once. A context manager.

    `seconds` of a processor and `kib` of memory is what the last process took that has ended.
    """

    def __init__(self) -> None:
        self._is_together = False
        self.seconds = 0.0
        self.kib = 0

    def __enter__(self) -> Self:
        self._is_running = False
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **LARGE_PAGES}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # an answer that was read ahead could not be waited for
            env=environment,
            cwd=REPOSITORY,
        )
        return self

    def __exit__(self, *rest: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    @contextmanager
    def together(self) -> Iterator[None]:
        """While it lasts, commands that only read are run by one process, one after the other."""
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            self._ends()

    def __call__(
        self, *words: str, env: Mapping[str, str] | None = None, cwd: Path | str = "/", reads: bool = False
    ) -> Ended:
        """Run ``btw-backup WORDS``; `reads`: it changes nothing. Raises `Hangs`."""
        stays = self._is_together and reads
        if not stays:
            self._ends()
        with _outputs() as (outputs, texts):
            self._is_running = True
            self._ask(
                {"words": words, "env": dict(env or {}), "cwd": os.fspath(cwd), "outputs": outputs, "stay": stays}
            )
            answer = self._answer()
            if self._is_end(answer):
                self._is_running = False
            elif not stays:
                self._ended()
            return Ended(DIED if answer.startswith(END) else int(answer), *texts())

    def traced(
        self, tracer: Sequence[str | Path], library: Path, words: Sequence[str], env: Mapping[str, str], cwd: Path | str
    ) -> Ended:
        """Run ``btw-backup WORDS`` while the command `tracer`, which gets ``-p PID``, traces it; the status is that of
        the tracer. `library` has the function that the process calls once it is traced. Raises `Hangs`."""
        self._ends()
        with _outputs() as (outputs, texts):
            asked = {"words": words, "env": dict(env), "cwd": os.fspath(cwd)}
            self._ask({**asked, "outputs": outputs, "traced": os.fspath(library)})
            process = subprocess.Popen([*tracer, "-p", str(int(self._answer()))], stdin=subprocess.DEVNULL)
            try:
                status = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Hangs(f"has not ended after {PATIENCE:g} s") from None
            finally:
                self._ended()
            return Ended(status, *texts())

    def _ask(self, asked: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            self._process.wait()
            self.__enter__()
            raise Hangs(f"has not ended after {PATIENCE:g} s")
        return self._process.stdout.readline()

    def _ends(self) -> None:
        """The process ends that waits for further commands, if there is one."""
        if self._is_running:
            self._ask(None)
            self._ended()

    def _ended(self) -> None:
        assert self._is_end(self._answer())
        self._is_running = False

    def _is_end(self, answer: bytes) -> bool:
        if not answer.startswith(END):
            return False
        _, seconds, kib = answer.split()
        self.seconds, self.kib = float(seconds), int(kib)
        return True


@contextmanager
def _outputs() -> Iterator[tuple[list[str], Callable[[], list[str]]]]:
    """Names under which another process can open a file for standard output and one for standard error; and what tells
    their text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

        def texts() -> list[str]:
            return [os.pread(file.fileno(), 1 << 30, 0).decode(errors="surrogateescape") for file in (out, err)]

        yield [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)], texts
