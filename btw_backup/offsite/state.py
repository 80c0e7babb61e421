"""The journal of what a target is still owed.

``<config-dir>/sync_state`` has a line for each thing noted and each thing done, as the old script wrote them::

    2026-11-21T01:23:45 +push www/2026-11-21T01:23:45.tbz
    2026-11-21T01:23:50 -push www/2026-11-21T01:23:45.tbz
    2026-11-21T02:00:00 +sync

``push`` copies a file or, with a slash at the end, a folder; ``sync`` makes a folder equal. The path is relative to
ROOT_PATH; the empty path is all of it. Control characters in a path are written as ``%0A``, and so that this can be
undone a ``%`` that stands before the digits of one, or before ``25``, as ``%25``. Any other ``%`` means itself.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import FatalUserError
from btw_backup.log import warn

PUSH, SYNC = "push", "sync"

_HEAD = rb"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2} [+-](?:push|sync)(?: |$)"
_LINE = re.compile(rb"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2} ([+-])(push|sync)(?: (.*))?", re.DOTALL)
_GLUED = re.compile(rb"(?<=.)(?=" + _HEAD + rb")")
_TO_ESCAPE = re.compile(rb"[\x00-\x1f\x7f]|%(?=[01][0-9A-Fa-f]|7[Ff]|25)")
_ESCAPED = re.compile(rb"%([01][0-9A-Fa-f]|7[Ff]|25)")


@dataclass(frozen=True, slots=True)
class Debt:
    """Something owed: `op` is `PUSH` or `SYNC`; `noted` is where in the journal it was noted last."""

    op: str
    path: str
    noted: int


class SyncState:
    """The journal in the file `path`, which need not exist. Any number of processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owed: dict[tuple[str, str], int] = {}
        self._read_to = 0
        self._last = b""

    def owe(self, op: str, path: str) -> None:
        """Note that `path` is owed. It is on the disk when this returns."""
        _check(path)
        with self._locked(create=True) as journal:
            assert journal is not None
            self._append(journal, "+", op, path)

    def done(self, debt: Debt) -> bool:
        """Strike `debt` off; False if it was noted anew since it was read, and so is still owed."""
        with self._locked() as journal:
            if journal is None or self._owed.get((debt.op, debt.path)) != debt.noted:
                return False
            self._append(journal, "-", debt.op, debt.path)
            return True

    def pending(self) -> list[Debt]:
        """What is owed, in the order in which it was noted."""
        with self._locked():
            return [Debt(op, path, noted) for (op, path), noted in self._owed.items()]

    def reset(self) -> None:
        """Empty the journal. Raises `FatalUserError` if anything is owed."""
        with self._locked() as journal:
            if self._owed:
                raise FatalUserError("cannot reset: some files must be synced or pushed")
            if journal is not None:
                os.ftruncate(journal, 0)
                os.fsync(journal)

    @contextmanager
    def _locked(self, create: bool = False) -> Iterator[int | None]:
        """The journal's descriptor under its lock, read to its end; None if there is none."""
        while True:
            try:
                journal = self._open(create)
            except FileNotFoundError:
                self._owed.clear()
                self._read_to, self._last = 0, b""
                yield None
                return
            try:
                fcntl.flock(journal, fcntl.LOCK_EX)
                if not self._is_current(journal):
                    continue  # it was repaired while we waited
                if self._read(journal):
                    yield journal
                    return
            finally:
                os.close(journal)

    def _open(self, create: bool) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        if create and not self._path.exists():
            files.make_folder(self._path.parent)
            os.close(os.open(self._path, flags | os.O_CREAT, 0o600))
            files.sync_folder(self._path.parent)
        try:
            return os.open(self._path, flags)
        except OSError as error:
            if create or error.errno != errno.EROFS:
                raise
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _is_current(self, journal: int) -> bool:
        try:
            return os.fstat(journal).st_ino == os.stat(self._path).st_ino
        except FileNotFoundError:
            return False

    def _read(self, journal: int) -> bool:
        """Take in what is new. False if the journal had to be repaired, and is another file now."""
        if os.pread(journal, len(self._last), self._read_to - len(self._last)) != self._last:  # reset, or repaired
            self._owed.clear()
            self._read_to, self._last = 0, b""
        with open(os.dup(journal), "rb") as stream:
            stream.seek(self._read_to)
            for raw in stream:
                line = raw.rstrip(b"\r\n")
                if not raw.endswith(b"\n") or (line and not self._take(line)):
                    self._repair(journal)
                    return False
                self._advance(raw)
        return True

    def _advance(self, raw: bytes) -> None:
        self._read_to += len(raw)
        self._last = raw

    def _take(self, line: bytes) -> bool:
        """Take in one line; False if it makes no sense as it stands."""
        found = _LINE.fullmatch(line)
        if found is None or _GLUED.search(line):
            return False
        path = _plain(found[3] or b"")
        if not _is_inside(path):
            return False
        key = (found[2].decode(), path)
        if found[1] == b"-":
            self._owed.pop(key, None)
        else:
            self._owed[key] = self._read_to
        return True

    def _append(self, journal: int, sign: str, op: str, path: str) -> None:
        line = f"{stamp_of(utc_now())} {sign}{op} ".encode() + _escaped(path) + b"\n"
        before = os.fstat(journal).st_size
        try:
            files.write_all(journal, line)
            os.fsync(journal)
        except BaseException:
            os.ftruncate(journal, before)  # no half line for others to find; a full disk, most likely
            raise
        self._take(line.rstrip(b"\n"))
        self._advance(line)

    def _repair(self, journal: int) -> None:
        """Keep the lines that make sense, set the rest aside beside the journal, and say so.

        A last line without its end was never believed by who wrote it, so nothing is lost with it. Where anything
        else could not be read, a debt may be lost: all of ROOT_PATH is compared once, which costs time only.
        """
        with open(os.dup(journal), "rb") as stream:
            stream.seek(0)
            good, bad, lost = _sorted_out(stream.read())
        if lost:
            good.append(f"{stamp_of(utc_now())} +{SYNC} ".encode())
        torn = self._path.with_name(f"{self._path.name}.torn-{stamp_of(utc_now())}")
        files.write_whole(torn, b"\n".join(bad) + b"\n")
        files.write_whole(self._path, b"".join(line + b"\n" for line in good))
        many = "s" if len(bad) != 1 else ""
        warn(
            f"{self._path} had {len(bad)} line{many} that could not be read, now in {torn.name}",
            "the next sync compares all backups with the target" if lost else "",
        )


def _sorted_out(content: bytes) -> tuple[list[bytes], list[bytes], bool]:
    """The lines of a damaged journal that make sense, those that do not, and whether a debt may be among the latter."""
    whole, _, tail = content.rpartition(b"\n")
    good: list[bytes] = []
    bad: list[bytes] = []
    for line in whole.split(b"\n"):
        for piece in _GLUED.split(line.rstrip(b"\r")):
            if piece:
                (good if _makes_sense(piece) else bad).append(piece)
    lost = any(_LINE.fullmatch(piece) is None for piece in bad)
    *glued, torn = _GLUED.split(tail)
    for piece in glued:
        (good if _makes_sense(piece) else bad).append(piece)
    return good, [*bad, *([torn] if torn else [])], lost or b"\0" in tail


def _makes_sense(line: bytes) -> bool:
    found = _LINE.fullmatch(line)
    return found is not None and _is_inside(_plain(found[3] or b""))


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def _check(path: str) -> None:
    if not _is_inside(path):
        raise ValueError(f"not a path below ROOT_PATH: {path!r}")


def _escaped(path: str) -> bytes:
    raw = path.encode("utf-8", "surrogateescape")
    return _TO_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], raw)


def _plain(raw: bytes) -> str:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), raw).decode("utf-8", "surrogateescape")
