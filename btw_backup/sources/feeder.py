"""Feeds the names of files to tar, and has the kernel read the files just before tar asks for them.

tar reads one file after the other and waits for each; on a cold cache that is most of its time. The distance is
bounded: by the names that fit into a pipe, and by `AHEAD` bytes. What was not in the kernel's memory before leaves it
again when tar is certainly done with it.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import BinaryIO

from btw_backup import flushing
from btw_backup.errors import FatalUserError
from btw_backup.process import Child
from btw_backup.sources import cache
from btw_backup.sources.listing import Item, items

AHEAD = 64 << 20
"""How many bytes of content may be asked for before tar has delivered them."""

FIRST = 4 << 20
"""How many bytes of one file: behind them the kernel's own read-ahead has noticed."""

PASSED = 96 << 10
"""Bytes of names: who wrote so many more knows that tar has taken a name, and the next. A pipe holds 64 KiB, and what
is buffered before and after it some more."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Feeder:
    """Feeds tar from the open list `names` of `listing.Item`, below the open folder `top`, in a thread.

    `pipe` is the writing end of tar's standard input, which is closed at the end. `delivered` has to be told what tar
    delivered.
    """

    def __init__(self, names: BinaryIO, top: int, pipe: int) -> None:
        self._names = names
        self._top = top
        self._pipe = pipe
        self._asked = 0
        self._fed = 0
        self._fresh: deque[tuple[int, bytes]] = deque()
        self._delivered = 0
        self._moved = threading.Condition()
        self._stopped = False
        self._error: OSError | MemoryError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def delivered(self, count: int) -> None:
        """tar delivered `count` more bytes."""
        with self._moved:
            self._delivered += count
            self._moved.notify()

    def stop(self) -> None:
        """End the thread, whether all was fed or not."""
        with self._moved:
            self._stopped = True
            self._moved.notify()
        self._thread.join()
        self._let_go(passed=self._fed)

    def check(self) -> None:
        """Raise `FatalUserError` if the list could not be fed to its end."""
        if isinstance(self._error, MemoryError):
            raise self._error
        if self._error is not None:
            raise FatalUserError(f"cannot read the list of names: {self._error.strerror}")

    def _run(self) -> None:
        try:
            with open(self._pipe, "wb") as pipe:
                for size, path, name in _named(items(self._names)):
                    if self._stopped:
                        return
                    if size:
                        self._ask_for(path, min(size, FIRST), pipe)
                    self._fed += pipe.write(b"./" + name + b"\0")
                    self._let_go(passed=self._fed - PASSED)
        except BrokenPipeError:
            pass  # tar ended early: its own status says why
        except (OSError, MemoryError) as error:
            self._error = error

    def _ask_for(self, path: bytes, size: int, pipe: BinaryIO) -> None:
        if self._asked - self._delivered > AHEAD:
            pipe.flush()
            with self._moved:
                self._moved.wait_for(lambda: self._stopped or self._asked - self._delivered <= AHEAD, timeout=5)
                # tar may deliver less than the sizes say: files that shrank or have holes. Go on after a while.
                self._asked = min(self._asked, self._delivered + AHEAD)
        self._asked += size
        try:
            file = os.open(path, _FLAGS, dir_fd=self._top)
        except OSError:
            return  # gone or changed: tar will say so
        try:
            if not cache.is_held(file):
                self._fresh.append((self._fed, path))
            os.posix_fadvise(file, 0, size, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass  # a hint that the filesystem does not take
        finally:
            os.close(file)

    def _let_go(self, *, passed: int) -> None:
        """Have the kernel forget the files whose names were fed before `passed`, and that it did not have before."""
        while self._fresh and self._fresh[0][0] < passed:
            _, path = self._fresh.popleft()
            try:
                file = os.open(path, _FLAGS, dir_fd=self._top)
            except OSError:
                continue
            flushing.let_go(file)
            os.close(file)


@contextmanager
def feeding(child: Child, names: BinaryIO, top: int) -> Iterator[Feeder]:
    """Feed `child` while the block lasts."""
    feeder = Feeder(names, top, child.take_stdin())
    try:
        yield feeder
    finally:
        feeder.stop()


def _named(found: Iterable[Item]) -> Iterator[tuple[int, bytes, bytes]]:
    """The size and path of each item, and the name that tar gets: a folder with something below it is ``folder/.``.

    So it cannot be taken for what came to its place: there must not be, say, a link with something below it.
    """
    before = None
    for item in chain(found, (None,)):
        if before:
            holds = before.identity and before.path and item and item.path.startswith(before.path + b"/")
            yield before.size, before.path, before.path + b"/." if holds else before.path
        before = item
