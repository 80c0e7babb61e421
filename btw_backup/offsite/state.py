"""The journal of what a target is still owed.

``<config-dir>/sync_state`` has a line for each thing noted and each thing done, as the old script wrote them::

    2026-11-21T01:23:45 +push www/2026-11-21T01:23:45.tbz
    2026-11-21T01:23:50 -push www/2026-11-21T01:23:45.tbz
    2026-11-21T02:00:00 +sync

``push`` copies a file or, with a slash at the end, a folder; ``sync`` makes a folder equal. The path is relative to
ROOT_PATH; the empty path is all of it. Control characters in a path are written as ``%0A``, and so that this can be
undone a ``%`` that stands before the digits of one, or before ``25``, as ``%25``. Any other ``%`` means itself.

What is to be removed there has a journal of its own, with lines ``+remove PATH``: a version that does not know them
never sees them. See `removals`.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files, regular
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import FatalUserError
from btw_backup.log import warn
from btw_backup.offsite.witness import NOTHING, Seen, Witness

PUSH, SYNC, REMOVE = "push", "sync", "remove"

_COMPARED = "the next sync compares all backups with the target"
_MOMENT = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}"
_TO_ESCAPE = re.compile(rb"[\x00-\x1f\x7f]|%(?=[01][0-9A-Fa-f]|7[Ff]|25)")
_ESCAPED = re.compile(rb"%([01][0-9A-Fa-f]|7[Ff]|25)")


@dataclass(frozen=True, slots=True)
class Debt:
    """Something owed: `op` is `PUSH`, `SYNC` or `REMOVE`; `noted` is where in the journal it was noted last."""

    op: str
    path: str
    noted: int


class SyncState:
    """The journal in the file `path`, which need not exist. Any number of processes may use it at once. It has lines of
    the kinds `ops`; any other line is damage, and so is one missing that `witness` knows of."""

    def __init__(self, path: Path, ops: Sequence[str] = (PUSH, SYNC), witness: Witness | None = None) -> None:
        self._path = path
        self._lines = _Lines(ops)
        self._witness = witness or Witness()
        self._owed: dict[tuple[str, str], int] = {}
        self._paid = False
        self._begin()

    def _begin(self) -> None:
        """Know nothing of the journal any more."""
        self._owed.clear()
        self._read_to, self._last, self._digest = 0, b"", hashlib.sha256()

    def owe(self, op: str, path: str) -> None:
        """Note that `path` is owed. It is on the disk when this returns."""
        self.owe_all(op, [path])

    def owe_all(self, op: str, paths: Sequence[str]) -> None:
        """Note that all of `paths` are owed. They are on the disk when this returns."""
        for path in paths:
            _check(path)
        if paths:
            with self._locked(create=True) as journal:
                assert journal is not None
                self._append(journal, "+", [(op, path) for path in paths])

    def done(self, debt: Debt) -> bool:
        """Strike `debt` off; False if it was noted anew since it was read, and so is still owed."""
        with self._locked() as journal:
            if journal is None or self._owed.get((debt.op, debt.path)) != debt.noted:
                return False
            self._append(journal, "-", [(debt.op, debt.path)])
            return True

    def done_all(self, debts: Sequence[Debt]) -> None:
        """Strike off those of `debts` that were not noted anew."""
        with self._locked() as journal:
            paid = [(debt.op, debt.path) for debt in debts if self._owed.get((debt.op, debt.path)) == debt.noted]
            if journal is not None and paid:
                self._append(journal, "-", paid)

    def strike(self, op: str, path: str) -> None:
        """Strike off what is owed of `path`, whenever it was noted; it need not be."""
        with self._locked() as journal:
            if journal is not None and (op, path) in self._owed:
                self._append(journal, "-", [(op, path)])

    def pending(self) -> list[Debt]:
        """What is owed, in the order in which it was noted."""
        with self._locked():
            return [Debt(op, path, noted) for (op, path), noted in self._owed.items()]

    def has_paid(self) -> bool:
        """Whether anything was ever struck off, as far as the journal goes back."""
        with self._locked():
            return self._paid

    def reset(self) -> None:
        """Empty the journal. Raises `FatalUserError` if anything is owed."""
        with self._locked() as journal:
            if self._owed:
                raise FatalUserError("cannot reset: some files must be synced or pushed")
            if journal is not None:
                self._witness.forget()
                os.ftruncate(journal, 0)
                os.fsync(journal)

    @contextmanager
    def _locked(self, create: bool = False) -> Iterator[int | None]:
        """The journal's descriptor under its lock, read to its end; None if there is none."""
        while True:
            try:
                journal = self._open(create)
            except FileNotFoundError:
                self._begin()
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
        flags = os.O_RDWR | os.O_APPEND
        try:
            if not self._path.exists() and (create or self._witness.seen() != NOTHING):
                files.make_folder(self._path.parent)
                os.close(regular.descriptor_of(self._path, flags | os.O_CREAT))
                files.sync_folder(self._path.parent)
            return regular.descriptor_of(self._path, flags)
        except OSError as error:
            if create or error.errno != errno.EROFS:
                raise
            return regular.descriptor_of(self._path)

    def _is_current(self, journal: int) -> bool:
        try:
            return os.fstat(journal).st_ino == os.stat(self._path).st_ino
        except FileNotFoundError:
            return False

    def _read(self, journal: int) -> bool:
        """Take in what is new. False if the journal had to be repaired, and is another file now."""
        if os.pread(journal, len(self._last), self._read_to - len(self._last)) != self._last:  # reset, or repaired
            self._begin()
        seen = self._witness.seen()
        is_whole = seen[0] < self._read_to or self._is_at(seen)
        with open(os.dup(journal), "rb") as stream:
            stream.seek(self._read_to)
            for raw in stream:
                line = raw.rstrip(b"\r\n")
                if not raw.endswith(b"\n") or (line and not self._take(line)):
                    self._repair(journal)
                    return False
                self._advance(raw)
                is_whole = is_whole or self._is_at(seen)
        if not is_whole and fcntl.fcntl(journal, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            self._append(journal, "+", [(SYNC, "")])
            warn(f"{self._path} was lost, or is not what it was: it is rebuilt", _COMPARED)
        return True

    def _is_at(self, seen: Seen) -> bool:
        return self._read_to == seen[0] and self._digest.digest() == seen[1]

    def _advance(self, raw: bytes) -> None:
        self._read_to += len(raw)
        self._last = raw
        self._digest.update(raw)

    def _take(self, line: bytes) -> bool:
        """Take in one line; False if it makes no sense as it stands."""
        found = self._lines.line.fullmatch(line)
        if found is None or self._lines.glued.search(line):
            return False
        path = _plain(found[3] or b"")
        if not _is_inside(path):
            return False
        key = (found[2].decode(), path)
        if found[1] == b"-":
            self._paid = True
            self._owed.pop(key, None)
        else:
            self._owed[key] = self._read_to
        return True

    def _append(self, journal: int, sign: str, things: Sequence[tuple[str, str]]) -> None:
        stamp = stamp_of(utc_now())
        lines = [f"{stamp} {sign}{op} ".encode() + _escaped(path) + b"\n" for op, path in things]
        before = os.fstat(journal).st_size
        try:
            files.write_all(journal, b"".join(lines))
            os.fsync(journal)
        except BaseException:
            os.ftruncate(journal, before)  # no half line for others to find; a full disk, most likely
            raise
        for line in lines:
            self._take(line.rstrip(b"\n"))
            self._advance(line)
        self._witness.note(self._read_to, self._digest.digest())

    def _repair(self, journal: int) -> None:
        """Keep the lines that make sense, set the rest aside beside the journal, and say so.

        A last line without its end was never believed by who wrote it, so nothing is lost with it, unless it had one.
        Where anything else could not be read, a debt may be lost: all of ROOT_PATH is compared once, which costs time
        only. What was to be removed, and is forgotten, stays there, which costs room only.
        """
        with open(os.dup(journal), "rb") as stream:
            stream.seek(0)
            content = stream.read()
        good, bad, lost = self._lines.sorted_out(content)
        size, digest = self._witness.seen()
        lost = (lost or hashlib.sha256(memoryview(content)[:size]).digest() != digest) and self._lines.has_sync
        if lost:
            good.append(f"{stamp_of(utc_now())} +{SYNC} ".encode())
        else:
            self._witness.forget()  # else who dies now leaves what looks as if something were lost
        torn = self._path.with_name(f"{self._path.name}.torn-{stamp_of(utc_now())}")
        files.write_whole(torn, b"\n".join(bad) + b"\n")
        files.write_whole(self._path, b"".join(line + b"\n" for line in good))
        self._witness.forget()
        self._begin()
        many = "s" if len(bad) != 1 else ""
        warn(
            f"{self._path} had {len(bad)} line{many} that could not be read, now in {torn.name}",
            _COMPARED if lost else "",
        )


class _Lines:
    """What lines of the kinds `ops` look like."""

    def __init__(self, ops: Sequence[str]) -> None:
        some = "|".join(ops)
        self.has_sync = SYNC in ops
        self.line = re.compile(rf"{_MOMENT} ([+-])({some})(?: (.*))?".encode(), re.DOTALL)
        self.glued = re.compile(rf"(?<=.)(?={_MOMENT} [+-](?:{some})(?: |$))".encode())

    def sorted_out(self, content: bytes) -> tuple[list[bytes], list[bytes], bool]:
        """The lines of a damaged journal that make sense, those that do not, and whether a debt may be among the
        latter."""
        whole, _, tail = content.rpartition(b"\n")
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in whole.split(b"\n"):
            for piece in self.glued.split(line.rstrip(b"\r")):
                if piece:
                    (good if self._makes_sense(piece) else bad).append(piece)
        lost = any(self.line.fullmatch(piece) is None for piece in bad)
        *glued, torn = self.glued.split(tail)
        for piece in glued:
            (good if self._makes_sense(piece) else bad).append(piece)
        return good, [*bad, *([torn] if torn else [])], lost or b"\0" in tail

    def _makes_sense(self, line: bytes) -> bool:
        found = self.line.fullmatch(line)
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
