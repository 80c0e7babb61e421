"""A target whose records tell of many chunks, made quickly by our own chain and ledger; the chunks are not there."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from btw_backup import files
from btw_backup.offsite import bucket, storekey
from btw_backup.offsite.chain import MOST_CHUNKS, Chain
from btw_backup.offsite.delivery import Delivery
from btw_backup.offsite.doomed import CHUNK
from btw_backup.offsite.folder import Folder
from btw_backup.offsite.index import Ref
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.sealing import sealing
from tests.many import name_of


def tell(target: Path, known: Path, recipients: Sequence[str], count: int, *, at_once: int = MOST_CHUNKS) -> None:
    """Tell `target`, an empty folder, of `count` chunks, `at_once` in each record; `known` is a new folder for what is
    known of it. The last record has a state, with all but its own chunks."""
    stage = known / "nas"
    files.make_folder(stage)
    key, ledger = storekey.store_key(known), Ledger(known / "nas.sqlite")
    delivery = Delivery(Folder(str(target), stage), ledger, stage, sealing(recipients))
    chain = Chain(ledger, delivery, key)
    bucket.furnish(delivery, ledger, recipients, key)
    for start in range(0, count, at_once):
        refs = []
        for number in range(start, min(count, start + at_once)):
            name = name_of(number)
            ref = Ref(number // 500, hashlib.sha256(name.encode()).hexdigest(), 1 << 20, 1 << 20)
            ledger.stage(CHUNK + bytes.fromhex(name), ref)
            refs.append((ref, ""))
        ledger.proved(refs)
        if start + at_once >= count:
            ledger.note("state_wanted", True)
        chain.tell({}, ())
    ledger.close()
