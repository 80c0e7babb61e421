"""Looks with a key at what a target holds, and compares it with what this machine knows that it sent."""

from dataclasses import dataclass
from pathlib import Path

from btw_backup.configuration.addresses import Address
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.offsite import Target, storekey
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.object_vault import ObjectVault
from btw_backup.offsite.sealing import Identities
from btw_backup.records import FOLDER


@dataclass(frozen=True, slots=True)
class Seen:
    """What the target tells: the number and time of its newest record, how many backups have one, and the fingerprint
    of the store key."""

    sequence: int
    made: str
    backups: int
    fingerprint: str


def examine(target: Target, known: Path, address: Address, identity: Path, scratch: Path) -> Seen:
    """Read the records of `target` with `identity`; `known` is the folder of what is known of targets. Raises `Damaged`
    if it is not what was sent, or not all of it."""
    path = known / f"{address.name}.sqlite"
    if not path.exists():
        raise FatalUserError("nothing was sent there yet", "btw-backup sync does that")
    key = storekey.store_key(known)
    target.probe()
    vault = ObjectVault(target, scratch, Identities([identity]), [storekey.fingerprint(key)])
    ledger = Ledger(path)
    try:
        head = next((head for head in vault.heads if head.chain == ledger.chain), None)
        if head is None or (head.sequence, head.digest) != (ledger.sequence, ledger.meta("digest")):
            there = head.sequence if head else "none"
            raise Damaged(f"the newest record there is {there}, and {ledger.sequence} was sent: it was rolled back")
    finally:
        ledger.close()
    if vault.problems:
        raise Damaged(vault.problems[0])
    backups = sum(f"/{FOLDER}/" in path and path.endswith(".json") for path in vault.paths())
    return Seen(head.sequence, head.made, backups, storekey.fingerprint(key))
