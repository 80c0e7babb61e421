"""Proves a backup before it is exported, and before what was imported gets its name."""

from btw_backup.errors import Damaged
from btw_backup.inventory import listing
from btw_backup.records import Backup
from btw_backup.store import manifest
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.entry import entry_of

_PIECE = 1 << 20


def prove(backup: Backup, store: ChunkStore, *, reuse: bool) -> None:
    """Read all of `backup`; of the chunks that it needs, only whether they are there. Raises `Damaged`.

    What is marked as damaged stays so. `reuse`: the chunks are marked as used just now, so that no cleanup takes them.
    Memory: about 150 bytes a chunk.
    """
    if not backup.valid:
        return
    if backup.keeper == "chunks":
        _prove_manifest(backup, store, reuse=reuse)
        return
    length = 0
    with listing.keeper_of(backup).open(backup) as stream:
        while block := stream.read(_PIECE):
            length += len(block)
            if backup.record and backup.record.sha256 and length > backup.record.length:  # do not unpack a bomb
                raise Damaged(f"{backup.address} has more than the {backup.record.length} bytes of its record")


def _prove_manifest(backup: Backup, store: ChunkStore, *, reuse: bool) -> None:
    """Every entry is one that can be restored, and the chunks that it names are there, and long enough."""
    lengths: dict[bytes, int] = {}
    with manifest.opened(backup.path) as opened:
        for member, _ in opened:
            try:
                entry_of(member)
            except ValueError as error:
                raise Damaged(f"{backup.address} holds what cannot be: {error}") from error
            for name, offset, length in member.extents:
                key = bytes.fromhex(store.path(name).stem)
                if key not in lengths:
                    lengths[key] = store.length(name) if not reuse or store.reuse(name) else 0
                if not 0 <= offset <= offset + length <= lengths[key]:
                    raise Damaged(f"{backup.address} needs the chunk {name}, which is missing or is not whole")
        if backup.record and backup.record.sha256 not in ("", opened.sha256):
            raise Damaged(f"the manifest of {backup.address} is not the one of its record")
