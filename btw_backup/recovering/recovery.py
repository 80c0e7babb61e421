"""Rebuilds a ROOT_PATH from a target: everything that was sent there, or what is below a dst."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from btw_backup import log, progress, regular
from btw_backup.configuration.addresses import Address
from btw_backup.errors import FatalUserError
from btw_backup.offsite import storekey
from btw_backup.offsite.contents import Contents
from btw_backup.offsite.index import File
from btw_backup.offsite.parts import repository_of
from btw_backup.offsite.vault import Vault
from btw_backup.records import FOLDER
from btw_backup.store.chunks import ChunkStore

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many files came, how many were here, what could not be had, with the reason, and how many were here and are
    others."""

    fetched: int
    known: int
    lost: dict[str, str]
    others: int


def rebuild(vault: Vault, root: Path, below: str) -> Rebuilt:
    """Fetch what is not here yet: chunks, then backups, then their records.

    Of a repository in which something is here, and is another, nothing is fetched: its files belong together.
    """
    paths = sorted((path for path in vault.paths() if not below or path.startswith(f"{below}/")), key=_is_record)
    others = list(_others(vault, root, paths))
    spared = {repository_of(path) for path in others} - {""}
    if any(True for _ in vault.chunks()):
        ChunkStore(root).open()
    count = size = 0
    for path in _wanted(vault, root, paths, spared):
        count, size = count + 1, size + vault.size(path)
    with progress.shown(f"from {vault.name}", size) as advance:
        lost = vault.fetch(_wanted(vault, root, paths, spared), root, advance)
    for path, why in list(lost.items())[:_SHOWN]:
        log.warn(f"{path}: {why}")
    for path in others[:_SHOWN]:
        log.warn(f"{path} is here, and is not what is there")
    everything = len(paths) + sum(1 for _ in vault.chunks())
    return Rebuilt(count - len(lost), everything - count, lost, len(others))


def _wanted(vault: Vault, root: Path, paths: Iterable[str], spared: Collection[str]) -> Iterator[str]:
    """What is not here yet: the chunks, which may be a million, and then those of `paths` outside the repositories that
    are `spared`."""
    for path in chain(vault.chunks(), paths):
        if not os.path.lexists(root / path) and repository_of(path) not in spared:
            yield path


def _is_record(path: str) -> bool:
    return os.path.basename(os.path.dirname(path)) == FOLDER


def _others(vault: Vault, root: Path, paths: Iterable[str]) -> Iterator[str]:
    """What is here, and is another file than what is there."""
    for path in paths:
        try:
            size = os.lstat(root / path).st_size
        except FileNotFoundError:
            continue
        sha256 = vault.sha256(path)
        is_other = size != vault.size(path) or (sha256 and _digest(root / path) != sha256)
        if is_other and not path.endswith("/log.txt"):  # which grows
            yield path


def _digest(path: Path) -> str:
    with regular.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adopt(vault: Vault, known: Path, address: Address) -> None:
    """Remember that what `vault` holds is at the target `address` of this configuration: it is not sent there again."""
    from btw_backup.offsite.ledger import Ledger  # noqa: PLC0415 - a mirror needs neither
    from btw_backup.offsite.object_vault import ObjectVault  # noqa: PLC0415 - as above

    path = storekey.private(known) / f"{address.name}.sqlite"
    if not isinstance(vault, ObjectVault) or address.layout != "objects" or path.exists():
        return
    if not storekey.adopt(known, vault.keys[-1]):
        raise FatalUserError(f"this installation has another store key than {vault.name}", "what is here is sent anew")
    with Contents.room_for(known), closing(Ledger(path)) as ledger:
        ledger.inheritance.build_on(vault.contents)


def succeed(vault: Vault, known: Path, address: Address, root: Path) -> None:
    """Go on at the target `address` in the place of the machine that sent what `vault` holds, all of which is in
    `root`.

    Raises `FatalUserError` if there is more than one chain of records, or anything is known of the target already.
    """
    from btw_backup.offsite.ledger import Ledger  # noqa: PLC0415 - as above
    from btw_backup.offsite.object_vault import ObjectVault  # noqa: PLC0415 - as above

    path = storekey.private(known) / f"{address.name}.sqlite"
    if not isinstance(vault, ObjectVault) or address.layout != "objects":
        raise FatalUserError(f"{vault.name} is a mirror, in which there is nothing to be taken over", "all is well")
    if len(vault.heads) > 1 or vault.closed:
        raise FatalUserError(f"{vault.name} has the records of several machines: none of them can be taken over")
    if path.exists() or not storekey.adopt(known, vault.keys[-1]):
        hint = f"to take it over after all, remove {path} and store-key beside it, if nothing else needs them"
        raise FatalUserError(f"this machine has sent to {vault.name}, or elsewhere, already", hint)
    with Contents.room_for(known), closing(Ledger(path)) as ledger:
        ledger.inheritance.succeed(vault.heads[0], lambda path, file: _looks(root / path, file))


def _looks(path: Path, file: File) -> str:
    """What `path` looks like, which was proved to be `file`, but if it is a log, which grows."""
    from btw_backup.offsite.objects import state_of  # noqa: PLC0415 - as above

    if path.name == "log.txt":
        return ""
    with regular.opened(path) as stream:
        return state_of(stream)
