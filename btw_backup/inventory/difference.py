"""What differs between two backups of a tree.

Two manifests are merged, line by line: memory does not grow with the tree, and no content is read. Any other pair is
read whole: what the entries look like and the digests of their contents are put in order by SQLite, in a file.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

from btw_backup import log, progress
from btw_backup.entries import Entry, Kind
from btw_backup.errors import DamagedPart, FatalUserError
from btw_backup.inventory import listing
from btw_backup.keepers import Content
from btw_backup.records import Backup
from btw_backup.store import ENDING

ADDED, REMOVED, CONTENT, METADATA = "+", "-", "M", "m"


@dataclass(frozen=True, slots=True)
class _Seen:
    """An entry: where it stands in the order, its path, and what tells its content and the rest of it from others."""

    key: str
    path: str
    content: object
    metadata: object


def differences(one: Backup, other: Backup) -> Iterator[tuple[str, str]]:
    """What is different in `other`: paths, as os.fsdecode gives them, each with what happened to it, in their order.

    Raises `FatalUserError` for what is no tree, `Damaged`.
    """
    for backup in (one, other):
        if backup.kind != "fs":
            raise FatalUserError(f"{backup.address} is no backup of a tree", "restore both, and compare these")
    both_listed = one.path.name.endswith(ENDING) and other.path.name.endswith(ENDING)
    with ExitStack() as stack:
        before, after = (_listed(each, stack) if both_listed else _read(each, stack) for each in (one, other))
        yield from _merged(before, after)


def _merged(before: Iterator[_Seen], after: Iterator[_Seen]) -> Iterator[tuple[str, str]]:
    old, new = next(before, None), next(after, None)
    while old or new:
        if new is None or (old and old.key < new.key):
            assert old
            yield REMOVED, old.path
            old = next(before, None)
        elif old is None or new.key < old.key:
            yield ADDED, new.path
            new = next(after, None)
        else:
            if old.content != new.content:
                yield CONTENT, new.path
            elif old.metadata != new.metadata:
                yield METADATA, new.path
            old, new = next(before, None), next(after, None)


def _listed(backup: Backup, stack: ExitStack) -> Iterator[_Seen]:
    """The entries as the manifest has them: names of chunks tell contents."""
    from btw_backup.store import manifest  # noqa: PLC0415 - takes long to load

    opened = stack.enter_context(manifest.opened(backup.path))
    for member, _ in opened:
        where = member.pieces
        content = (member.kind, member.size, member.target, member.raw_target, member.device, member.parts, where)
        metadata = (member.mode, member.uid, member.gid, member.mtime, member.xattrs)
        yield _Seen(manifest.key_of(member.key), member.key, content, metadata)


def _read(backup: Backup, stack: ExitStack) -> Iterator[_Seen]:
    """The entries by reading the backup, in order."""
    import sqlite3  # noqa: PLC0415 - rarely needed

    rows = stack.enter_context(closing(sqlite3.connect("")))  # a file that nobody else sees, in the folder for such
    rows.execute("CREATE TABLE seen (key BLOB, path BLOB, content BLOB, metadata BLOB)")
    keeper = listing.keeper_of(backup)
    total = backup.record.length if backup.record else None
    with (
        progress.shown(f"reading {backup.address}", total) as advance,
        keeper.members(backup, lambda entry: True, log.warn, advance) as members,
    ):
        rows.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", (_row(*member) for member in members))
    for key, path, content, metadata in rows.execute("SELECT * FROM seen ORDER BY key"):
        yield _Seen(os.fsdecode(key), os.fsdecode(path), content, metadata)


def _row(entry: Entry, content: Content) -> tuple[bytes, bytes, bytes, bytes]:
    digest = hashlib.sha256(repr((entry.kind, entry.size, entry.target, entry.device)).encode())
    if entry.kind is Kind.FILE:
        try:
            for piece in content:
                digest.update(piece)
        except DamagedPart as error:
            log.warn(f"{os.fsdecode(entry.path)}: {error.message}")
            digest.update(b"damaged")
    metadata = repr((entry.mode, entry.uid, entry.gid, entry.mtime, sorted(entry.xattrs.items())))
    return entry.path.replace(b"/", b"\0"), entry.path, digest.digest(), hashlib.sha256(metadata.encode()).digest()
