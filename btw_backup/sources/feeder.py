"""Feeds the names of files to tar, and has the kernel read the files just before tar asks for them.

tar reads one file after the other and waits for each; on a cold cache that is most of its time. The distance is
bounded: by the names that fit into a pipe, and by `AHEAD` bytes.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from btw_backup.errors import FatalUserError
from btw_backup.process import Child

AHEAD = 64 << 20
"""How many bytes of content may be asked for before tar has delivered them."""

FIRST = 4 << 20
"""How many bytes of one file: behind them the kernel's own read-ahead has noticed."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def line_of(path: bytes, size: int) -> bytes:
    """An item of the list of names: the size of a regular file that has content, else 0, and the path."""
    return b"%d/%s\0" % (size, path)


class Feeder:
    """Feeds tar from the open list `names` of `line_of` items, below the folder `source`, in a thread.

    `pipe` is the writing end of tar's standard input, which is closed at the end. `delivered` has to be told what tar
    delivered.
    """

    def __init__(self, names: BinaryIO, source: str, pipe: int) -> None:
        self._names = names
        self._source = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._pipe = pipe
        self._asked = 0
        self._delivered = 0
        self._moved = threading.Condition()
        self._stopped = False
        self._error: OSError | None = None
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
        os.close(self._source)

    def check(self) -> None:
        """Raise `FatalUserError` if the list could not be fed to its end."""
        if self._error is not None:
            raise FatalUserError(f"cannot read the list of names: {self._error.strerror}")

    def _run(self) -> None:
        try:
            with open(self._pipe, "wb") as pipe:
                for size, path in _items(self._names):
                    if self._stopped:
                        return
                    if size:
                        self._ask_for(path, min(size, FIRST), pipe)
                    pipe.write(b"./" + path + b"\0")
        except BrokenPipeError:
            pass  # tar ended early: its own status says why
        except OSError as error:
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
            file = os.open(path, _FLAGS, dir_fd=self._source)
        except OSError:
            return  # gone or changed: tar will say so
        try:
            os.posix_fadvise(file, 0, size, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass  # a hint that the filesystem does not take
        finally:
            os.close(file)


@contextmanager
def feeding(child: Child, names: BinaryIO, source: str) -> Iterator[Feeder]:
    """Feed `child` while the block lasts."""
    feeder = Feeder(names, source, child.take_stdin())
    try:
        yield feeder
    finally:
        feeder.stop()


def _items(names: BinaryIO) -> Iterator[tuple[int, bytes]]:
    rest = b""
    while block := names.read(1 << 16):
        *items, rest = (rest + block).split(b"\0")
        for item in items:
            size, _, path = item.partition(b"/")
            yield int(size), path
