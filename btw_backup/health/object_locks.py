"""Whether what is off-site is locked as OBJECT_LOCK says, and for long enough."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from btw_backup.clock import stamp_of
from btw_backup.configuration.addresses import Address
from btw_backup.errors import FatalUserError
from btw_backup.health.findings import ERROR, OK, WARNING, Finding

_EXTEND = "btw-backup lock extend, from the crontab, at least once in half of OBJECT_LOCK"


def looked_at(address: Address, config_dir: Path, now: datetime) -> Iterator[Finding]:
    """What is to be said of the locks at a target that has OBJECT_LOCK."""
    from btw_backup.offsite import lock_extension  # noqa: PLC0415 - what it needs takes long to load
    from btw_backup.offsite.signed import NO_LOCK, Signed  # noqa: PLC0415 - as above

    what = f"locks of {address.name}"
    try:
        by_default = Signed(address).locks_by_default()
    except FatalUserError as error:
        yield Finding(ERROR, what, error.message, error.hint)
        return
    if by_default is None:
        yield Finding(ERROR, what, f"the bucket of {address.place} has no object lock", NO_LOCK)
        return
    if by_default:
        detail = "the bucket has a default retention, with which Amazon's S3 takes nothing from s3cmd"
        yield Finding(WARNING, what, detail, "take the default away; each object gets OBJECT_LOCK all the same")
    yield judged(what, lock_extension.locked_until(config_dir, address), timedelta(seconds=address.object_lock), now)


def judged(what: str, until: datetime | None, span: timedelta, now: datetime) -> Finding:
    """What is to be said if all that was there at the last renewal is locked `until`, of locks of `span`."""
    if until is None:
        return Finding(WARNING, what, "they were never renewed: what was sent long ago may not be locked", _EXTEND)
    if until <= now:
        return Finding(WARNING, what, f"some ended, at the latest at {stamp_of(until)}", _EXTEND)
    if until - now < span / 2:
        return Finding(WARNING, what, f"the first end at {stamp_of(until)}, which is soon", _EXTEND)
    return Finding(OK, what, f"the first end at {stamp_of(until)}")
