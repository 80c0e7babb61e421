"""What follows from bad chunks: they are set aside, and every backup that needs them is marked."""

from collections.abc import Collection, Sequence
from pathlib import Path

from btw_backup import files, marks
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import Damaged
from btw_backup.marks import Mark
from btw_backup.records import Backup
from btw_backup.scrub import Found
from btw_backup.scrub.proof import lacking, why_unsound
from btw_backup.scrub.survey import all_backups
from btw_backup.store import evidence, packed, uses
from btw_backup.store.chunks import ChunkStore

Users = list[tuple[Backup, list[str]]]
"""Backups, each with the bad chunks that it needs."""


def judged(root: Path, suspects: Collection[str], by: str, wait: float) -> list[Found]:
    """Look at suspicious chunks once more, set aside those that are bad, and mark the backups that need them, also
    those that were removed and can be brought back.

    A chunk that is gone and that no backup needs was swept meanwhile. First the chunk goes, then we look who needs it:
    a run that relies on it meanwhile looks for what was set aside after it has published its manifest.
    """
    store = ChunkStore(root)
    found: list[Found] = []
    if not suspects:
        return found
    with store.locked(exclusive=False, wait=wait):
        bad = {name: why for name in suspects if (why := why_unsound(store, name))}
        there = {name: _set_aside(store, name, bad[name]) for name in bad if store.path(name).exists()}
        users = _users(root, bad) if bad else []
        contents = packed.contents((backup.path, names) for backup, names in users)
        for name, why in sorted(bad.items()):
            needed_by = sorted(backup.address for backup, names in users if name in names)
            if needed_by or name in there:
                where = there[name] if name in there else _set_aside(store, name, why)
                inside = sorted(contents[name])
                more = {
                    "backups": needed_by,
                    "contents": inside,
                    "differs_within": evidence.bad_in(store, name, inside),
                }
                evidence.add(store, name, more)
                found.append(Found("chunk", name, why, tuple(needed_by), where))
        for backup, names in users:
            mark(backup, by, [bad[name] for name in names], names)
    return found


def judged_late(root: Path, by: str, wait: float) -> list[Found]:
    """As `judged`, of what was set aside by a writer, which cannot mark backups, and is not there again."""
    store = ChunkStore(root)
    names = evidence.unjudged(store)
    found = judged(root, names, by, wait)
    for name in set(names).difference(one.name for one in found):
        evidence.add(store, name, {"backups": []})
    return found


def mark(backup: Backup, by: str, why: Sequence[str], chunks: Sequence[str] = ()) -> None:
    """Mark `backup`; since when, an older mark tells."""
    known = marks.read(backup)
    since = known.since if known else stamp_of(utc_now())
    wanted = Mark(backup.stamp, since, by, tuple(why[: marks.MOST]), tuple(chunks[: marks.MOST]))
    if known != wanted:
        with files.unless_read_only(backup.path.parent):
            marks.write(backup, wanted)


def _set_aside(store: ChunkStore, name: str, why: str) -> str:
    with files.unless_read_only(store.folder):
        return evidence.set_aside(store, name, why)
    return ""


def _users(root: Path, bad: Collection[str]) -> Users:
    store = ChunkStore(root)
    chunked = (backup for backup in all_backups(root) if backup.keeper == "chunks")
    return [(backup, names) for backup in chunked if (names := _needed(store, backup, bad))]


def _needed(store: ChunkStore, backup: Backup, bad: Collection[str]) -> list[str]:
    found = []
    try:
        for name in uses.chunks_of(backup.path, backup.record.sha256 if backup.record else ""):
            if name in bad:
                found.append(name)
        return sorted(lacking(store, backup, found)) if found else []
    except (Damaged, OSError, ValueError):
        pass  # what is wrong with the manifest itself is said elsewhere
    return sorted(found)
