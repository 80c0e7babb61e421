"""Runs commands in forks of a process that has loaded everything: one costs milliseconds where a new process costs a
fifth of a second. It is what audits a world between two faults; what is to fail runs as a process of its own.
"""

import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.conftest import REPOSITORY, Ended

PATIENCE = 120.0
"""Seconds after which a command is said to hang."""


class Hangs(AssertionError):
    """A command did not end."""


class Forks:
    """Commands, each in a fork of a process that is loaded once. A context manager."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=REPOSITORY,
        )
        return self

    def __exit__(self, *rest: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def __call__(self, *words: str, env: Mapping[str, str] | None = None, cwd: Path | str = "/") -> Ended:
        """Run ``btw-backup WORDS``. Raises `Hangs`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            outputs = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            asked = {"words": words, "env": dict(env or {}), "cwd": os.fspath(cwd), "outputs": outputs}
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                self._process.kill()
                self._process.wait()
                self.__enter__()
                raise Hangs(f"{' '.join(words)} has not ended after {PATIENCE:g} s")
            status = int(self._process.stdout.readline())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="surrogateescape"))
            return Ended(status, *texts)


def _serve() -> None:
    import btw_backup  # noqa: PLC0415

    for found in pkgutil.walk_packages(btw_backup.__path__, "btw_backup."):
        if not found.name.endswith(("__main__", "RESTORE")):
            importlib.import_module(found.name)
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(asked: dict[str, Any]) -> None:
    """The command; does not come back."""
    from btw_backup import cli  # noqa: PLC0415

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number, path in zip((1, 2), asked["outputs"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["__main__.py", *asked["words"]]
    status = 70
    try:
        status = cli.main(asked["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
