"""Runs commands in forks of a process that has loaded everything: one costs milliseconds where a new process costs a
fifth of a second. It is what audits a world between two faults; what is to fail runs as a process of its own.
"""

import ast
import gc
import importlib
import inspect
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from tests.conftest import REPOSITORY, Ended

PATIENCE = 120.0
"""Seconds after which a command is said to hang."""


END = b"end"
"""Says that the process is gone that ran the command, or the commands; behind it, what that took."""

DIED = 70
"""The status of a command that ended without one."""


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
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks"],
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
        """While it lasts, commands are run by one process, one after the other: for those that only read."""
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            if self._is_running:
                self._ask(None)
                self._ended()

    def __call__(self, *words: str, env: Mapping[str, str] | None = None, cwd: Path | str = "/") -> Ended:
        """Run ``btw-backup WORDS``. Raises `Hangs`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            outputs = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            asked = {"words": words, "env": dict(env or {}), "cwd": os.fspath(cwd), "outputs": outputs}
            self._is_running = True
            self._ask({**asked, "stay": self._is_together})
            answer = self._answer()
            if self._is_end(answer):
                self._is_running = False
            elif not self._is_together:
                self._ended()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="surrogateescape"))
            return Ended(DIED if answer.startswith(END) else int(answer), *texts)

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

    def _ended(self) -> None:
        assert self._is_end(self._answer())
        self._is_running = False

    def _is_end(self, answer: bytes) -> bool:
        if not answer.startswith(END):
            return False
        _, seconds, kib = answer.split()
        self.seconds, self.kib = float(seconds), int(kib)
        return True


def _serve() -> None:
    import btw_backup  # noqa: PLC0415

    for found in pkgutil.walk_packages(btw_backup.__path__, "btw_backup."):
        if not found.name.endswith(("__main__", "RESTORE")):
            _load(importlib.import_module(found.name))
    gc.collect()
    gc.freeze()
    for asked in map(json.loads, sys.stdin.buffer):
        child = os.fork()
        if not child:
            _run(asked)
        _, _, used = os.wait4(child, 0)
        os.write(1, b"%s %.3f %d\n" % (END, used.ru_utime + used.ru_stime, used.ru_maxrss))


def _load(module: ModuleType) -> None:
    """What its functions load when they are called."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        for name in filter(None, names):
            importlib.import_module(name)


def _run(asked: dict[str, Any] | None) -> None:
    """The command, and those that the same process is to run; does not come back."""
    from btw_backup import cli  # noqa: PLC0415

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    answers, questions = os.dup(1), os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        while asked:
            for number, path in zip((1, 2), asked["outputs"], strict=True):
                output = os.open(path, os.O_WRONLY)
                os.dup2(output, number)
                os.close(output)
            os.environ.update(asked["env"])
            os.chdir(asked["cwd"])
            sys.argv = ["__main__.py", *asked["words"]]
            status = cli.main(asked["words"])
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(answers, f"{status}\n".encode())
            asked = json.loads(questions.readline()) if asked["stay"] else None
    finally:
        os._exit(0)


if __name__ == "__main__":
    _serve()
