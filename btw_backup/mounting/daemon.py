"""Going on in the background, once what was asked for is there."""

import os
import signal
import sys
from collections.abc import Callable

from btw_backup import interrupts
from btw_backup.errors import Interrupted


def begin() -> Callable[[], None] | None:
    """Go on in a child, which gets what it is to call when it is ready: from then on it has no terminal.

    The caller waits for that, and gets None. If the child ends before, having said why, so does the caller.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = 0
    try:
        with interrupts.held():  # Python would drop it at a fork
            child = os.fork()
            if child == 0:
                for number in interrupts.SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
        if child == 0:
            os.close(reading)
            return lambda: _detach(writing)
        os.close(writing)
        with open(reading, "rb") as pipe:
            if pipe.read(1):
                return None
        _, status = os.waitpid(child, 0)
    except Interrupted:
        if child:
            os.kill(child, signal.SIGTERM)
        raise
    raise SystemExit(os.waitstatus_to_exitcode(status) or 1)


def _detach(writing: int) -> None:
    """Let go of the terminal and the folder that we were called in, and tell the parent."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    os.write(writing, b"1")
    os.close(writing)
