"""Makes the records of what was sent to a target with the layout objects, and sends them, one after the other.

A record is noted before it is sent, and is made once: who finds one that is on its way sends just that.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence

from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import ProgramFailed
from btw_backup.offsite import index
from btw_backup.offsite.delivery import Delivery
from btw_backup.offsite.doomed import STATE
from btw_backup.offsite.index import File, Pending, Record, Ref
from btw_backup.offsite.ledger import Ledger
from btw_backup.store import chunk_in

_TAKEN = (
    "one of them has to stop; to go on here, move ~/.btw-backup/.offsite/NAME.sqlite away: then all is sent anew, in a "
    "chain of its own"
)

PART_SIZE = 14 << 20
"""Bytes of a file in one object: less than what s3cmd sends in one piece, however it is padded."""

MOST_CHUNKS = 20_000
"""That one record tells."""

RECORDS, RECORD_BYTES = 200, 4 << 20
"""When the records since the last state are more, or larger than this and than that state, there is a new state."""


class Chain:
    """The chain of records of `ledger`, which `key` authenticates and `delivery` sends."""

    def __init__(self, ledger: Ledger, delivery: Delivery, key: bytes) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._key = key

    def finish(self) -> None:
        """Send the record that is on its way, if there is one."""
        if pending := self._ledger.pending():
            self._send(pending)

    def tell(self, found: Mapping[str, tuple[str, File]], removed: Sequence[str]) -> None:
        """Tell what arrived: files with what they looked like, and all new chunks; and what was replaced."""
        new = self._new_chunks()
        if found or removed or new or self._ledger.meta("state_wanted"):
            self._send(self._made(found, tuple(dict.fromkeys(removed)), new, frees=False))

    def tell_removal(self, paths: Sequence[str]) -> None:
        """Tell that these files and chunks are not there any more; what nothing needs then is doomed."""
        gone = set(map(chunk_in, paths))
        new = {name: ref for name, ref in self._new_chunks().items() if name not in gone}
        self._send(self._made({}, tuple(paths), new, frees=True))

    def _new_chunks(self) -> dict[str, Ref]:
        """The chunks that the next record has to tell. If they are too many, as after an import, others tell most of
        them before: a record is read as a whole."""
        while len(new := self._ledger.new_chunks(MOST_CHUNKS + 1)) > MOST_CHUNKS:
            new.popitem()
            self._send(self._made({}, (), new, frees=False))
        return new

    def _made(
        self, found: Mapping[str, tuple[str, File]], removed: tuple[str, ...], new: dict[str, Ref], *, frees: bool
    ) -> Pending:
        """Stage a record, and note that it is on its way."""
        sequence = self._ledger.sequence + 1
        state = self._state() if self._state_is_due() else None
        record = Record(
            chain=self._ledger.chain,
            sequence=sequence,
            previous=str(self._ledger.meta("digest", "")),
            made=stamp_of(utc_now()),
            files={path: file for path, (_, file) in found.items()},
            chunks=new,
            removed=removed,
            state=state,
        )
        content = self._delivery.seal(index.text_of(record, self._key))
        digest = hashlib.sha256(content).hexdigest()
        path = f"{index.FOLDER}/{record.chain}/{sequence:08x}-{digest}{index.STATE if state else ''}"
        self._delivery.write(path, content)
        size = state.size if state else None
        pending = Pending(path, sequence, digest, len(content), dict(found), removed, size)
        return self._ledger.set_pending(pending, new, frees=frees)

    def _state_is_due(self) -> bool:
        count, size = self._ledger.since
        return (
            self._ledger.meta("state_wanted")
            or count >= RECORDS
            or size > max(RECORD_BYTES, int(self._ledger.meta("state_size", 0)))
        )

    def _state(self) -> File | None:
        """All that was told so far, as objects; None if they do not arrive."""
        pieces = list(index.state_pieces(self._ledger.told_files(), self._ledger.told_chunks(), PART_SIZE))
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        parts = tuple(map(self._part, pieces))
        return None if self._delivery.deliver()[0] else File(sum(map(len, pieces)), digest.hexdigest(), 0, parts)

    def _part(self, piece: bytes) -> Ref:
        identity = STATE + hashlib.sha256(piece).digest()
        return self._ledger.object(identity) or self._delivery.stage(identity, piece)

    def _send(self, pending: Pending) -> None:
        """Send a record. If there is another one of its number, somebody else goes on with our chain, and may have
        removed what we take to be there: nothing is believed to be off-site then."""
        beside = f"{os.path.dirname(pending.path)}/{pending.sequence:08x}-"
        if others := self._delivery.deliver_one(pending.path, beside):
            raise ProgramFailed(f"{others[0]} is there: another machine has taken over the chain of this one", _TAKEN)
        self._ledger.settle(pending)
