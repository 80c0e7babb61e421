"""A process that has loaded everything, and forks for each command: that costs milliseconds where a new process costs a
fifth of a second. `forks` talks to it: a line of JSON for a command, a line for each answer.

It loads nothing of the tests, and knows what rdiff-backup says of its version: what it holds, each fork has to copy.
"""

import ast
import ctypes
import gc
import importlib
import inspect
import json
import os
import pkgutil
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

END = b"end"
"""Says that the process is gone that ran the command, or the commands; behind it, what that took."""

DIED = 70
"""The status of a command that ended without one."""

LARGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has the memory of what is forked lie in pages of 2 MiB, as far as it can: a fork costs 3 ms then, and not 7."""

UNTRACED = 20.0
"""Seconds that a process waits for who is to trace it."""


def _serve() -> None:
    import btw_backup  # noqa: PLC0415
    from btw_backup.keepers import rdiff_program  # noqa: PLC0415

    for found in pkgutil.walk_packages(btw_backup.__path__, "btw_backup."):
        if not found.name.endswith(("__main__", "RESTORE")):
            _load(importlib.import_module(found.name))
    rdiff_program.version()
    for name in LARGE_PAGES:
        del os.environ[name]
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
            if "traced" in asked:
                os.write(answers, f"{os.getpid()}\n".encode())
                _be_traced(asked["traced"])
                cli.run()
            status = cli.main(asked["words"])
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(answers, f"{status}\n".encode())
            asked = json.loads(questions.readline()) if asked["stay"] else None
    finally:
        os._exit(DIED)


def _be_traced(library: str) -> None:
    """Go on as soon as somebody traces this process, and have every step told to him."""
    patience = time.monotonic() + UNTRACED
    while "\nTracerPid:\t0\n" in Path("/proc/self/status").read_text():
        if time.monotonic() > patience:
            os._exit(DIED)
        time.sleep(0.0002)
    if ctypes.CDLL(library).only_steps():
        os._exit(DIED)


if __name__ == "__main__":
    _serve()
