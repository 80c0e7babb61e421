"""How far a long run is: a bar on a terminal, JSON lines on request, and a percentage in ``ps``."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

JSON_LINES = False
"""Set by ``--json-progress``: JSON objects on standard error, two a second."""

QUIET = False
"""Set by ``--quiet``."""

Advance = Callable[[int], None]
"""Called with the number of bytes that were dealt with since the last call."""


@contextmanager
def shown(what: str, total: int | None) -> Iterator[Advance]:
    """Show the progress of `what`, of which `total` bytes are expected, while the block lasts."""
    from setproctitle import getproctitle, setproctitle  # noqa: PLC0415 - nothing is shown while nothing is read

    try:
        before = getproctitle()
    except UnicodeDecodeError:  # an argument that is no UTF-8: then there is no percentage
        before = ""
    done = 0
    due = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, due
        done += count
        if time.monotonic() >= due:
            due = time.monotonic() + 0.5
            percent = f" {min(100, 100 * done // total)}%" if total else ""
            if before:
                setproctitle(f"{before} [{what}{percent}]")
            tell(done)

    with _teller(what, total) as tell:
        try:
            yield advance
            tell(done)
        finally:
            if before:
                setproctitle(before)


@contextmanager
def _teller(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """What is told how many bytes are done, now and then."""
    if JSON_LINES:
        yield lambda done: _json_line(what, done, total)
    elif QUIET or not sys.stderr.isatty():
        yield lambda done: None
    else:
        from tqdm import tqdm  # noqa: PLC0415 - takes longer to load than a run without a terminal can spare

        with tqdm(total=total, desc=what, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:
            yield lambda done: bar.update(done - bar.n)


def _json_line(what: str, done: int, total: int | None) -> None:
    line = {"what": what, "done": done, "total": total, "pid": os.getpid()}
    with suppress(OSError):  # nobody reads it: the work goes on
        print(json.dumps(line), file=sys.stderr, flush=True)
