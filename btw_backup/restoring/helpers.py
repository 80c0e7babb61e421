"""Processes that do a share of a restore: threads of Python wait for each other at each system call, and a tree takes
many.

They die with us, and are gone before what they write to gets its name, or is removed.
"""

import ctypes
import mmap
import os
import pickle
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn

from btw_backup.errors import FatalUserError
from btw_backup.log import debug
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.restoring.attributes import Complaints

LEAST = 16 << 20
"""Bytes of a tree: with less, one process is done sooner."""

MOST = 4
"""Processes: each takes 40 MB before it has done anything, most of them shared."""

Work = Callable[[int, Complaints, Advance], None]
"""Does the share of a number, from 0 on, and tells what could not be done."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_COUNTER = 8


def number_for(backup: Backup) -> int:
    """How many processes are to restore the tree `backup`, with this one."""
    if backup.keeper != "chunks" or backup.record is None or backup.record.length < LEAST:
        return 1
    return min(MOST, len(os.sched_getaffinity(0)))


class Helpers:
    """Children that do the shares of `work` from 1 on, so that there are `among` of us. `close` ends them.

    To be made before there are threads. They tell how far they are in memory that they share with us, and at their end
    through a pipe what they could not do. Shares for which no process can be had are left to us.
    """

    def __init__(self, work: Work, among: int) -> None:
        self._work = work
        self._done = memoryview(mmap.mmap(-1, _COUNTER * among)).cast("Q")
        self._told = 0
        self._pipes: dict[int, int] = {}
        self._own = [0]
        try:
            for number in range(1, among):
                try:
                    self._start(number)
                except OSError as error:
                    debug(f"one process less restores: {error.strerror}")
                    self._own.append(number)
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> None:
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it is known whom to end
        try:
            with ExitStack() as stack:
                reading, writing = os.pipe()
                stack.callback(os.close, writing)
                failed = stack.enter_context(ExitStack())
                failed.callback(os.close, reading)
                child = os.fork()
                if not child:
                    self._do(number, writing, parent, before)
                self._pipes[child] = reading
                failed.pop_all()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _do(self, number: int, writing: int, parent: int, mask: set[int]) -> NoReturn:
        """In the child: its share; and tell how that ended."""
        try:
            for one in _SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    signal.signal(one, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
            if os.getppid() == parent:
                self._do_share(number, writing)
        finally:
            os._exit(0)

    def _do_share(self, number: int, writing: int) -> None:
        complaints = Complaints()
        error: Exception | None = None
        try:
            self._work(number, complaints, lambda count: self._advance(number, count))
        except Exception as met:  # noqa: BLE001 - the parent raises it
            error = met
        said = pickle.dumps((complaints.told(), error))
        with open(writing, "wb") as pipe:
            pipe.write(said)

    def _advance(self, number: int, count: int) -> None:
        self._done[number] += count

    def work(self, complaints: Complaints, advance: Advance) -> None:
        """Do the first share, and wait for the others. Raises what one of us raised."""

        def ours(count: int) -> None:
            self._advance(0, count)
            self._tell(advance)

        for number in self._own:
            self._work(number, complaints, ours)
        while self._pipes:
            child, pipe = next(iter(self._pipes.items()))
            while not select.select([pipe], [], [], 0.5)[0]:
                self._tell(advance)
            with open(os.dup(pipe), "rb") as file:
                said = file.read()
            self._ended(child, said, complaints)
        self._tell(advance)

    def _tell(self, advance: Advance) -> None:
        done = sum(self._done)
        advance(done - self._told)
        self._told = done

    def _ended(self, child: int, said: bytes, complaints: Complaints) -> None:
        """Take note of what a child said at its end."""
        os.close(self._pipes.pop(child))
        _, status = os.waitpid(child, 0)
        if status or not said:
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise FatalUserError(f"a process that restored a part {how}", "restore it again")
        told, error = pickle.loads(said)  # noqa: S301 - a fork of ours wrote it
        complaints.add(*told)
        if error:
            raise error

    def close(self) -> None:
        """End those that are at work."""
        while self._pipes:
            child, pipe = self._pipes.popitem()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(pipe)
