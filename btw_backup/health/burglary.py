"""What the credentials of this machine allow at each target: one finding for each thing that was tried."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from btw_backup.configuration.addresses import Address
from btw_backup.configuration.config import Config
from btw_backup.errors import FatalUserError
from btw_backup.health.findings import ERROR, OK, WARNING, Finding
from btw_backup.offsite import Target, attack, sync
from btw_backup.offsite.attack import Attacked, LockAttacked
from btw_backup.offsite.signed import Signed

_HINT = "btw-backup offsite policy prints what to allow; versioning keeps what is overwritten"
_LOCK_HINT = "s3:BypassGovernanceRetention and s3:DeleteObjectVersion are for nobody here: btw-backup offsite policy"


def attempts(general: Config, config_dir: Path) -> Iterator[Finding]:
    """Attack every target."""
    for address in sync.targets(general):
        make = partial(sync.target_of, address, general, config_dir)
        try:
            found = attack.attack(make)
            removal = attack.attack(make, "objects/").delete if _removes_objects(address) else found.delete
            locks = _of_locks(address, make) if address.object_lock else None
        except FatalUserError as error:
            yield Finding(ERROR, f"attack on {address.name}", error.message, error.hint)
            continue
        yield from judged(address, found, removal=removal)
        if locks:
            for what, could in (
                ("shorten the lock of", locks.shorten),
                ("destroy, in spite of a lock,", locks.destroy),
            ):
                yield _finding(address, what, could, _LOCK_HINT)


def _of_locks(address: Address, make: Callable[[Path], Target]) -> LockAttacked:
    signed = Signed(address)
    return attack.attack_lock(make, signed, address.object_lock_mode)


def _removes_objects(address: Address) -> bool:
    """Whether removing is allowed, but only of objects."""
    return address.allow_removal and address.layout == "objects"


def judged(address: Address, found: Attacked, *, removal: bool) -> Iterator[Finding]:
    """What is to be said of what could be done; `removal`: what can be removed here could be deleted there."""
    hint = _HINT if address.s3cmd_config else "let another machine copy that folder to where this one cannot write"
    if address.allow_removal:
        yield _removal(address, could=removal)
    if not address.allow_removal or (_removes_objects(address) and address.s3cmd_config):
        yield _finding(address, "delete", found.delete, hint)
    yield _finding(address, "overwrite", found.overwrite, hint)
    reading = f"attack on {address.name}: read"
    if found.read and not address.encrypt_to:
        yield Finding(WARNING, reading, "this machine can, and nothing there is encrypted", "ENCRYPT_TO")
    elif found.read:
        yield Finding(OK, reading, "this machine can, but what is there is encrypted to a key that is not here")
    else:
        yield Finding(OK, reading, "refused")


def _removal(address: Address, *, could: bool) -> Finding:
    """Whether ALLOW_REMOVAL and the credentials agree."""
    name = f"attack on {address.name}: remove"
    if could:
        kept = "; only versioning keeps it from a thief" if address.s3cmd_config else ""
        return Finding(OK, name, f"this machine can, as ALLOW_REMOVAL = True says{kept}")
    what = f"refused: what is removed here stays at {address.place}, whatever ALLOW_REMOVAL = True says"
    return Finding(WARNING, name, what, "btw-backup offsite policy prints what to allow; or ALLOW_REMOVAL = False")


def _finding(address: Address, what: str, could: bool, hint: str) -> Finding:
    name = f"attack on {address.name}: {what}"
    if could:
        return Finding(WARNING, name, f"this machine can {what} what is at {address.place}", hint)
    return Finding(OK, name, "refused")
