"""The journal of the runs: ``<config-dir>/runs.jsonl``, a line a run, also of those that failed or kept nothing.

It is the truth about runs, and bounded: what is older than two times `LARGEST` bytes goes. It lies in the configuration
directory because a run that failed for want of ROOT_PATH must be told as well.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from btw_backup import files, regular
from btw_backup.log import warn

NAME, OLDER = "runs.jsonl", "runs.older.jsonl"

LARGEST = 4 << 20
"""Bytes of a file of the journal: some 15,000 runs."""

_LONGEST = 1000
"""Characters of a message: the log has more."""

_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. `outcome`: kept, unchanged (nothing to keep), done or failed; `stamp` is the backup's."""

    id: str
    kind: str
    source: str
    dst: str
    started: str
    finished: str
    status: int
    outcome: str
    stamp: str = ""
    stored: int = 0
    message: str = ""


def append(config_dir: Path, run: Run) -> None:
    """Add `run`. A journal that cannot be written is said, and ends no run."""
    run = replace(run, source=_plain(run.source), dst=_plain(run.dst), message=_plain(run.message)[:_LONGEST])
    try:
        _append(config_dir / NAME, json.dumps(asdict(run)).encode() + b"\n")
    except OSError as error:
        warn(f"cannot note the run in {config_dir / NAME}: {error.strerror}")


def _append(path: Path, line: bytes) -> None:
    descriptor = regular.descriptor_of(path, _OPEN)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # a line that was cut by a full disk must not take this one with it
        files.write_all(descriptor, line)
        if size + len(line) > LARGEST:
            _begin_anew(path, descriptor)
    finally:
        os.close(descriptor)


def _begin_anew(path: Path, descriptor: int) -> None:
    """Set the full file aside. Whoever still has it open writes to it there, where it is read as well."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            os.rename(path, path.with_name(OLDER))
    except (BlockingIOError, FileNotFoundError):
        return  # another run is doing it


def read(config_dir: Path) -> Iterator[Run]:
    """The runs in the order in which they ended; what is no line of ours is left out."""
    for name in (OLDER, NAME):
        try:
            with regular.opened(config_dir / name) as file:
                yield from _runs(file)
        except FileNotFoundError:
            continue


def _runs(lines: Iterator[bytes]) -> Iterator[Run]:
    from msgspec.json import Decoder  # noqa: PLC0415 - who only appends need not load it

    decode = Decoder(Run).decode
    for line in lines:
        try:
            yield decode(line)
        except ValueError:
            continue


def state(config_dir: Path) -> str:
    """What tells whether anything was added since: name, inode and size of the files."""
    found = []
    for name in (OLDER, NAME):
        try:
            status = os.stat(config_dir / name)
        except FileNotFoundError:
            continue
        found.append(f"{name} {status.st_ino} {status.st_size}")
    return ", ".join(found)


def _plain(text: str) -> str:
    """`text` as JSON and databases take it: names that are no UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
