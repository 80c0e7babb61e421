"""Proves single backups: what a run has just written, read back from the disk and not from the memory that it was
written from; and what was brought back."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from btw_backup import flushing
from btw_backup.errors import Damaged
from btw_backup.records import Backup
from btw_backup.scrub import Found
from btw_backup.scrub.judgement import judged, mark
from btw_backup.scrub.proof import Prover, unsound, why_damaged
from btw_backup.store.chunks import store_of


def verify(backup: Backup, fresh: Iterable[tuple[str, int]], *, wait: float) -> None:
    """Prove the new `backup`: its own file, and its `fresh` chunks. Raises `Damaged`; the backup is marked then."""
    store = store_of(backup.path.parent, backup.dst)
    try:
        _forget(backup.path)
        suspects = dict.fromkeys(Prover(store, wait, locked=True).missing(backup, lambda count: None), "missing")
    except Damaged as error:
        mark(backup, "verify", [error.message])
        raise Damaged(f"{backup.address} was written, and is not what was to be written: {error.message}") from error
    suspects.update(unsound(store, fresh, lambda count: None))
    found = judged(store.folder.parent, suspects, "verify", wait)
    if found:
        why = f"{len(found)} of its chunks are damaged" if len(found) > 1 else found[0].why
        raise Damaged(f"{backup.address} was written, and is not what was to be written: {why}", "is the disk well?")


def prove_brought_back(backups: Sequence[Backup], *, wait: float) -> list[Found]:
    """What is damaged of `backups`, which is marked then. The caller holds the lock of the dst.

    Of those of the store the manifests are proved, and that the chunks are there: while they were removed, nobody has
    missed them.
    """
    found: list[Found] = []
    for backup in backups:
        if backup.keeper == "chunks":
            store = store_of(backup.path.parent, backup.dst)
            why, missing = why_damaged(Prover(store, wait, locked=True), backup, lambda count: None)
            if why:
                mark(backup, "undelete", [why])
                found.append(Found("backup", backup.address, why, (backup.address,)))
            found += judged(store.folder.parent, missing, "undelete", wait)
    return found


def _forget(path: Path) -> None:
    """Have the kernel let go of what it has in memory of a file, or of all files of a repository."""
    paths = [Path(folder, name) for folder, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    for one in paths:
        descriptor = os.open(one, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flushing.let_go(descriptor)
        finally:
            os.close(descriptor)
