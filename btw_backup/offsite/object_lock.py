"""Locks at a target in S3 what is written once, for OBJECT_LOCK: until then no credentials can destroy it.

The lock is set when the listing has proved that an object is what was sent, and is read back: only what is locked is
proved, so a backup that is told to be off-site is locked. It is not set by headers of the upload: Amazon's S3 refuses
those, and every upload to a bucket with a default retention, without Content-MD5 (or a checksum) for each object and
each part of it, and s3cmd 2.3 sends none (s3tools/s3cmd issues 1177 and 1436).

A lock holds for a version of an object. S3 allows at any time to write another version under the same name, and to
hide an object behind a delete marker; `past` reads what was there before. So what changes in its place, a repository of
rdiff-backup in a mirror, or a log, is not locked.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from btw_backup.clock import STAMP, stamp_of, utc_now
from btw_backup.configuration.addresses import Address
from btw_backup.errors import ProgramFailed
from btw_backup.log import debug
from btw_backup.offsite import Listing, Retained, Target, Unreachable, bucket, index
from btw_backup.offsite.complaints import is_refusal
from btw_backup.offsite.parts import repository_of
from btw_backup.offsite.signed import AT_ONCE, NO_LOCK, Retention, Signed
from btw_backup.offsite.together import together
from btw_backup.records import DAMAGED
from btw_backup.store import chunk_in

_FOLDERS = ("objects/", f"{index.FOLDER}/", f"{bucket.KEYS}/")
"""What the layout objects writes once."""

_ASKED = 20  # of what could not be removed: it is locked alike


def is_written_once(path: str, layout: str) -> bool:
    """Whether what is at `path` never changes there: chunks, backups in one file, and the records of them."""
    if layout == "objects":
        return path.startswith(_FOLDERS)
    if chunk_in(path):
        return True
    name = os.path.basename(path)
    return bool(STAMP.match(name)) and not repository_of(path) and not name.endswith(DAMAGED)


def wanted(address: Address, now: datetime) -> Retention:
    """How what is sent to `address` is to be locked."""
    return Retention(address.object_lock_mode, now.replace(microsecond=0) + timedelta(seconds=address.object_lock))


def check(signed: Signed) -> None:
    """Raise `Unreachable` if nothing can be locked there: some servers take the question of how for an upload."""
    if signed.locks_by_default() is None:
        raise Unreachable(f"{signed.name}: the bucket has no object lock, and OBJECT_LOCK is set", NO_LOCK)


class Locking:
    """The `Target` `target`, the one of `address`; what is written once is proved only if it is locked, too."""

    def __init__(
        self, target: Target, signed: Callable[[], Signed], address: Address, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.name = target.name
        self._target = target
        self._connect = signed
        self._connected: Signed | None = None
        self._address = address
        self._now = now

    def probe(self) -> None:
        """See `Target`."""
        self._target.probe()
        self._signed()

    def _signed(self) -> Signed:
        if self._connected is None:
            signed = self._connect()
            check(signed)
            self._connected = signed
        return self._connected

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """See `Target`."""
        return self._target.listing(prefix, recursive=recursive)

    def folders(self) -> Sequence[str]:
        """See `Target`."""
        return self._target.folders()

    def send(self, paths: Sequence[str]) -> str:
        """See `Target`."""
        return self._target.send(paths)

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """See `Target`."""
        return self._target.fetch(paths, folder)

    def unproved(self, paths: Sequence[str], listing: Listing) -> Mapping[str, str]:
        """See `Target`. What is there as it should be is locked by this."""
        doubts = self._target.unproved(paths, listing)
        proved = [path for path in paths if path in listing and path not in doubts]
        ours = [path for path in proved if is_written_once(path, self._address.layout)]
        if ours:
            signed, retention = self._signed(), wanted(self._address, self._now())
            together([partial(signed.prolong, path, retention) for path in ours], AT_ONCE)
        return doubts

    def leftovers(self) -> Sequence[str]:
        """See `Target`."""
        return self._target.leftovers()

    def sweep(self, leftovers: Sequence[str]) -> None:
        """See `Target`."""
        self._target.sweep(leftovers)

    def remove(self, paths: Sequence[str]) -> str:
        """See `Target`. Raises `Retained` if the server refuses because of a lock; most only hide what is locked."""
        complaint = self._target.remove(paths)
        if is_refusal(complaint):
            self._explain(paths[:_ASKED])
        return complaint

    def _explain(self, paths: Sequence[str]) -> None:
        """Raise `Retained` if one of `paths`, which could not be removed, is locked."""
        try:
            found = ((path, self._signed().retention(path)) for path in paths)
            late = next(((path, known.until) for path, known in found if known and known.until > self._now()), None)
        except ProgramFailed as error:
            debug(error.message)  # what it was refused for is told
            return
        if late:
            raise Retained(f"{late[0]} is locked until {stamp_of(late[1])}", "cleanup and sync remove it then")
