"""What lies at every target with the layout objects besides backups: the store key, and what restores without us."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from btw_backup.errors import ProgramFailed
from btw_backup.offsite import Unreachable, storekey
from btw_backup.offsite.delivery import Delivery
from btw_backup.offsite.ledger import Ledger

RESCUE = Path(__file__).parent / "rescue"
NAMES = ("README.txt", "RESTORE.py")
"""In clear: they tell nothing but that this program was here."""

KEYS = "keys"


def furnish(delivery: Delivery, ledger: Ledger, recipients: Sequence[str], key: bytes) -> None:
    """Send those of them that are not known to be there; the store key once for each set of recipients."""
    there = ledger.singles()
    for name in NAMES:
        content = (RESCUE / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        known, path = ledger.meta(f"sent {name}", ["", ""])
        if known != digest or path not in there:
            ledger.note(f"sent {name}", [digest, _send_plain(delivery, name, content, digest)])
    wanted = [storekey.fingerprint(key), *recipients]
    known, path = ledger.meta("sent key", [[], ""])
    if known != wanted or path not in there:
        content = delivery.seal(storekey.text_of(key))
        path = f"{KEYS}/{hashlib.sha256(content).hexdigest()}"
        delivery.write(path, content)
        delivery.deliver_one(path)
        ledger.note("sent key", [wanted, path])


def _send_plain(delivery: Delivery, name: str, content: bytes, digest: str) -> str:
    """Send a file; its path. If another one of that name is there, and must not be overwritten, it gets a name of its
    own."""
    stem, _, ending = name.partition(".")
    for path in (name, f"{stem}-{digest[:8]}.{ending}"):
        delivery.write(path, content)
        try:
            delivery.deliver_one(path)
            return path
        except Unreachable:
            raise
        except ProgramFailed as error:
            last = error
    raise last
