"""Children that open the folders of a tree ahead of who walks it, so that a cold disk has several things to do at once.

A walk waits for the block of one folder, then for the next: 0.06 ms each, which is a third of its time. Opening folders
needs a fifth of the work of a walk, and brings most of the inodes of the files in them with it. Scouts remember nothing
and read nothing but folders; they end when they no longer find anything that is not in the kernel's memory.
"""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress

from btw_backup import interrupts
from btw_backup.sources.rules import Rules
from btw_backup.sources.walk import FOLDER_FLAGS, tagged

DEEPEST = 100
"""Levels that are entered; one descriptor each is open."""

_PATIENCE = 256
"""Folders in a row that were in memory already."""


class Scouts:
    """Children that look at the folders of the tree `source` from its begin, its middle and its end, until `stop`."""

    def __init__(self, source: str, rules: Rules) -> None:
        places = ((False, 0.0), (False, 0.5), (True, 0.0))
        self._children = [start_child(source, _Scout(rules, *place).look_below) for place in places]

    def stop(self) -> None:
        """End them."""
        while self._children:
            end_child(self._children.pop())


class _Scout:
    """Opens folders in the order of the walk, or in the reverse one, from a place in the tree on."""

    def __init__(self, rules: Rules, backwards: bool, skipped: float) -> None:
        self._rules = rules
        self._backwards = backwards
        self._skipped = skipped
        self._parent = os.getpid()
        self._device = -1
        self._opened = 0
        self._read = 0

    def look_below(self, top: int) -> None:
        """Look at all folders below the open folder `top`."""
        self._device = os.fstat(top).st_dev
        self._look_into(top, "", self._skipped)

    def _look_into(self, folder: int, prefix: str, skipped: float) -> None:
        """`skipped` is the part of the names that others begin with; in the first of the rest, so much is, too."""
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if tagged(folder, [name for name, _ in found], self._rules) or prefix.count("/") > DEEPEST:
            return
        names = sorted((name for name, is_folder in found if is_folder), reverse=self._backwards)
        for name in names[int(len(names) * skipped) :]:
            with suppress(OSError):
                self._look_at(folder, name, prefix + name, skipped)
            skipped = 0.0

    def _look_at(self, folder: int, name: str, path: str, skipped: float) -> None:
        if self._rules.patterns and self._rules.excluding(path, name, True):
            return
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)  # opening what is mounted on demand mounts it
        if status.st_dev != self._device and self._rules.one_file_system:
            return
        self._end_if_needless()
        inner = os.open(name, FOLDER_FLAGS | os.O_NOATIME, dir_fd=folder)
        try:
            self._look_into(inner, path + "/", skipped)
        finally:
            os.close(inner)

    def _end_if_needless(self) -> None:
        if os.getppid() != self._parent:
            os._exit(0)
        self._opened += 1
        if self._opened % _PATIENCE == 0:
            before, self._read = self._read, resource.getrusage(resource.RUSAGE_SELF).ru_inblock
            if self._read == before:
                os._exit(0)


def start_child(source: str, work: Callable[[int], None]) -> int:
    """The number of a child that does `work` with the descriptor of the folder `source`, and ends."""
    with interrupts.held():  # Python would drop it at a fork; the child ends when we are gone
        child = os.fork()
        if child == 0:
            try:
                for number in interrupts.SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                with suppress(OSError, MemoryError):
                    work(os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            finally:
                os._exit(0)
    return child


def end_child(child: int) -> None:
    """Kill a child, and wait until it is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
