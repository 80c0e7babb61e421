"""The tool's voice, and its log file.

Standard output carries answers; standard error ``prog: message``; the log file
every message and every command line that was run, with times.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

PROG = "btw-backup"
_logger = logging.getLogger("btw_backup")
_logger.addHandler(logging.NullHandler())
_logger.propagate = False
_logger.setLevel(logging.DEBUG)
logging.getLogger().addHandler(logging.NullHandler())  # else what libraries log goes to standard error


class _PrivateFile(logging.FileHandler):
    """A log file of mode 0600 that never ends a run, and waits for no reader if it is a FIFO."""

    def _open(self) -> TextIO:  # type: ignore[override]
        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=_at_once)

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk under the log must not stop a backup."""


def _at_once(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def open_log_file(path: Path) -> None:
    """Append to `path` from now on, and to no other; a log that cannot be opened is said once and done without."""
    for older in [handler for handler in _logger.handlers if isinstance(handler, _PrivateFile)]:
        _logger.removeHandler(older)
        older.close()
    try:
        handler = _PrivateFile(path, delay=False, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        warn(f"cannot write the log {path}: {error.strerror}")
        return
    formatter = logging.Formatter(f"%(asctime)sZ [{os.getpid()}] %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _logger.addHandler(handler)


def printable(text: str | bytes) -> str:
    """`text` with control characters and undecodable bytes escaped, safe for a terminal and one line."""
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return "".join(
        c
        if c.isprintable()
        else c.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode()
        for c in text
    )


def size_text(count: float) -> str:
    """A number of bytes for people: ``1.5 GiB``."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and units[1:]:
        count, units = count / 1024, units[1:]
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def debug(message: str) -> None:
    """To the log file only."""
    _logger.debug("%s", printable(message))


def warn(message: str, hint: str = "") -> None:
    """One line on standard error, a second one for the hint, and both to the log file."""
    _logger.warning("%s", printable(message))
    lines = f"{PROG}: {printable(message)}\n" + (f"{PROG}: hint: {printable(hint)}\n" if hint else "")
    try:
        sys.stderr.write(lines)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # closed or full standard error: the backup matters more
