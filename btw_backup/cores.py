"""No core dumps: what is in memory are keys, passwords and what is backed up.

A limit of 0 is not asked where the kernel pipes cores to a program, core(5). So this process is marked as one of which
there is none, prctl(2), which its forks inherit; the programs that it starts inherit that no memory gets into one. The
mark gives ``/proc/PID`` to root if we are somebody else, and keeps others of the same user from tracing us.
"""

import ctypes
import resource
from contextlib import suppress
from pathlib import Path

_PR_SET_DUMPABLE = 4
_NOTHING = "0"
_FILTER = Path("/proc/self/coredump_filter")


def refuse() -> None:
    """Have no core made of this process, and of its children."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a kernel without cores has no such file
        _FILTER.write_text(_NOTHING)
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4)
