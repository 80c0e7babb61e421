"""What was seen at the last run, so that an unchanged source costs a look and not a read.

``ROOT_PATH/<dst>/.fingerprint.json`` belongs to the newest backup of a dst. It can be deleted: the next run
then reads everything once.
"""

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from btw_backup import files, records, regular, sealed
from btw_backup.clock import moment_of
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.keepers import Owe, Place
from btw_backup.log import debug
from btw_backup.records import Backup
from btw_backup.sources import Fingerprint, OpenStream, Produced, Source, Varying

_SMALL = 1 << 20
"""Bytes below which a tree may shrink as it likes."""

NAME = ".fingerprint.json"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT

RACY = 2_000_000_000
"""Nanoseconds: the coarsest time stamps in use (FAT's). What changed this shortly before a look may change again
without a trace."""


def known_unchanged(
    place: Place, source: Source, latest: Backup | None, fingerprint: Fingerprint | None, *, reread: bool
) -> bool:
    """Whether `source` is certainly as `latest`, its newest backup in `place`, has it; False means: read it."""
    if reread or latest is None or fingerprint is None or not fingerprint.reliable:
        return False
    seen = _read(place)
    wanted = {"stamp": latest.stamp, "source": source.name, "kind": source.kind, "digest": fingerprint.digest}
    if any(seen.get(name) != value for name, value in wanted.items()):
        return False
    if seen["began"] > fingerprint.began or moment_of(latest.stamp).timestamp() > time.time() + 1:
        debug("the clock went back since the last run: reading everything")
        return False
    if seen["newest"] >= seen["began"] - RACY:
        debug("something changed just before the last run: reading everything")
        return False
    return True


def latest_of(place: Place, found: Iterable[Backup]) -> Backup | None:
    """The newest of `found`, all backups of one keeper; None if another keeper made a newer one in `place`, or if it is
    damaged. It has no record yet: `records.recorded` reads that.

    A source that equals an older backup than the newest has changed.
    """
    newest = max(found, key=lambda backup: backup.stamp, default=None)
    if newest is None or max(records.stamps(place.folder), default="") > newest.stamp:
        return None
    if records.is_valid(newest, place.folder):
        return newest
    debug(f"{newest.address} is damaged: reading everything")
    return None


def same_as(source: Source, latest: Backup | None, produced: Produced, old: OpenStream, new: OpenStream) -> bool:
    """Whether what was `produced` equals `latest`. Streams are opened and read only if `latest` has no record, or the
    bytes of the source do not tell."""
    if latest is None:
        return False
    if latest.record and not latest.record.recovered:
        known = latest.record.source == source.name
        return known and (latest.record.content == produced.content or holds_the_same(source, old, new))
    try:
        with old() as before, new() as after:
            return source.content_of(before) == source.content_of(after)
    except Damaged as error:
        debug(f"cannot compare with {latest.address}: {error.message}")
        return False


def holds_the_same(source: Source, old: OpenStream, new: OpenStream) -> bool:
    """Whether two streams of `source` with different bytes hold the same; not, if that cannot be told."""
    try:
        return isinstance(source, Varying) and source.holds_the_same(old, new)
    except FatalUserError as error:
        debug(f"cannot compare with the last backup: {error.message}")
        return False


def shrinking(place: Place, source: Source, seen: Fingerprint | None) -> str:
    """What is alarming about `seen`, compared with the last run: that it lost nine tenths; or ""."""
    before = _read(place)
    if seen is None or before.get("source") != source.name:
        return ""
    if seen.entries * 10 < before["entries"]:
        return f"{source.name} has shrunk from {before['entries']} entries to {seen.entries}"
    if seen.size * 10 < before["size"] and before["size"] > _SMALL:
        return f"{source.name} has shrunk from {before['size']} bytes to {seen.size}"
    return ""


def remember(place: Place, source: Source, latest: str, fingerprint: Fingerprint | None) -> None:
    """Note that at `fingerprint`, taken before the source was read, it was as the backup `latest` has it."""
    if fingerprint is None:
        return
    seen = {"stamp": latest, "source": source.name, "kind": source.kind, **asdict(fingerprint)}
    files.write_whole(place.folder / NAME, sealed.text_of(seen))


def forget(place: Place) -> None:
    """Believe nothing at the next run: this one could not read everything, or read what was changing."""
    (place.folder / NAME).unlink(missing_ok=True)


def give_way(dst: int, error: OSError) -> None:
    """Make room for a folder in the open `dst`, if `error` is that the disk is full; else raise that. The next run
    reads everything once."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    try:
        os.unlink(NAME, dir_fd=dst)
        os.fsync(dst)
    except OSError:
        raise error from None


def note_unchanged(place: Place, stamp: str, words: str, owe: Owe) -> None:
    """Write into the dst's log.txt that nothing was kept: ``<stamp>: no change in the data …: <words>``."""
    path = place.folder / "log.txt"
    owe("push", f"{place.dst}/log.txt")
    with _appended(path, place.owner) as log:
        files.write_all(log, f"{stamp}: no change in the data to be backed up: {words}\n".encode())


@contextmanager
def _appended(path: Path, owner: tuple[int, int] | None) -> Iterator[int]:
    """The descriptor of the file `path`, made for `owner` if it is not there, to be appended to. `FatalUserError` for
    what is no file of its own: with ``-u``, the folder belongs to somebody who may have planted a link."""
    try:
        descriptor = regular.descriptor_of(path, _APPEND)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EINVAL):
            raise
        raise FatalUserError(f"{path} is no file", "look who put that there, and remove it") from error
    try:
        if os.fstat(descriptor).st_nlink != 1:
            raise FatalUserError(f"{path} is no file of its own", "look who put that there, and remove it")
        files.change_owner(descriptor, owner)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(place: Place) -> dict[str, Any]:
    """What was remembered: sealed, as a flipped bit must not make anybody believe that nothing has changed."""
    try:
        return sealed.value_in(regular.read(place.folder / NAME))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
