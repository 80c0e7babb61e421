"""What there is to prove, and what can be told without reading any backup: records, and backups that are gone."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btw_backup import places, records, specs
from btw_backup.clock import STAMP, utc_now
from btw_backup.errors import Damaged, NotFound
from btw_backup.files import TEMPORARY
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.keepers.compression import ENDINGS
from btw_backup.records import FOLDER, REMOVED, Backup
from btw_backup.scrub import Found, Scope, known
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.salvage import MARKS

_LOOKS = 3
_PAUSE = 1.0
"""Seconds between two looks at what is half there: a run may be about to give its record its name."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The backups to prove, and what is wrong at first sight. Memory: about 3 KB a backup."""

    backups: list[Backup]
    found: list[Found]


def survey(root: Path, scope: Scope) -> Survey:
    """Look at all that is in `scope`. Raises `NotFound` if there is no such dst or backup."""
    found: list[Found] = []
    top = places.place(root, scope.dst).folder if scope.dst else root
    if not top.is_dir():
        if scope.spec == "all" and (found := _gone(root, scope.dst, set())):
            return Survey([], found)
        raise NotFound(f"there is no {scope.dst} in {root}", "btw-backup list shows every destination")
    backups: list[Backup] = []
    seen: set[str] = set()
    for place in [places.place(root, scope.dst)] if scope.spec != "all" else _all_places(root, top, found):
        seen.add(place.dst)
        here, troubles = _settled(place, ChunkStore(root))
        if scope.spec != "all":
            here = specs.resolve(here, scope.spec, utc_now())
            addresses = {backup.address for backup in here}
            troubles = [trouble for trouble in troubles if addresses & set(trouble.backups)]
        backups += here
        found += troubles
    if scope.spec == "all":
        found += _gone(root, scope.dst, seen)
    if scope.dst and not (backups or found):
        raise NotFound(f"there are no backups in {scope.dst}", "btw-backup list shows every destination")
    return Survey(backups, found)


def all_backups(root: Path) -> Iterator[Backup]:
    """All backups below ROOT_PATH, those of one dst after those of the other; with those that were removed."""
    for place in _all_places(root, root, []):
        yield from listing.each(place)
        yield from listing.removed(place)


def _all_places(root: Path, top: Path, found: list[Found]) -> Iterator[Place]:
    """Every dst from `top` on, also one that has nothing left but records. What cannot be listed goes to `found`."""

    def unlisted(error: OSError) -> None:
        found.append(Found("folder", os.fsdecode(error.filename), f"it cannot be listed: {error.strerror}"))

    for folder, folders, names in os.walk(top, onerror=unlisted):
        has_records = FOLDER in folders
        has_any = has_records or any(STAMP.match(name) for name in (*folders, *names))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not STAMP.match(name))
        if has_any and folder != str(root):
            yield Place(os.path.relpath(folder, root), Path(folder))


def _gone(root: Path, top: str, seen: set[str]) -> list[Found]:
    """The dsts from `top` on that had backups, and that nobody has `seen` any more."""
    try:
        missing = sorted(known.read(root) - seen)
    except Damaged:
        return []  # is said at the end
    why = "its folder is gone with all its backups; is its disk mounted?"
    return [Found("dst", dst, why) for dst in missing if not top or f"{dst}/".startswith(f"{top}/")]


def _settled(place: Place, store: ChunkStore) -> tuple[list[Backup], list[Found]]:
    """The backups in `place`, and what is wrong there and stays so while nobody is at work on it."""
    for look in range(_LOOKS):
        backups = listing.backups(place)
        troubles = list(_troubles(place, backups, store))
        if not troubles:
            break
        if look < _LOOKS - 1:
            time.sleep(_PAUSE)
    return backups, troubles


def _troubles(place: Place, backups: list[Backup], store: ChunkStore) -> Iterator[Found]:
    unknown = {backup.stamp: backup for backup in backups if backup.record is None}
    known = {backup.stamp for backup in backups}
    for path in sorted((place.folder / FOLDER).glob("*.json")):
        if not STAMP.fullmatch(path.stem):
            continue
        address = f"{place.dst}@{path.stem}"
        if path.stem not in known:
            yield Found("backup", address, "it is gone: there is nothing but its record", (address,))
        elif path.stem in unknown:
            del unknown[path.stem]
            if why := _illegible(path):
                yield Found("record", str(path), why, (address,))
    lost = list(_that_had_one(list(unknown.values()), backups))
    on_the_way = _on_the_way(place) if lost else set()
    for backup in lost:
        if backup.stamp not in on_the_way and not (backup.keeper == "chunks" and _is_being_made(backup, store)):
            path = place.folder / FOLDER / f"{backup.stamp}.json"
            yield Found("record", str(path), "it is missing", (backup.address,))


def _illegible(path: Path) -> str:
    """Why the record cannot be read; "" if it can, now."""
    try:
        records.read(path)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except Damaged as error:
        return error.message
    return ""


def _that_had_one(unknown: list[Backup], backups: list[Backup]) -> Iterator[Backup]:
    """Those of `unknown`, which have no record, that had one: all that the old script cannot have made.

    It may have begun a repository. Of that the sessions behind the first that has a record had one, and before that as
    many as its number tells.
    """
    first: dict[str, Backup] = {}
    for backup in backups:
        if backup.keeper == "rdiff" and backup.record:
            first.setdefault(backup.full, backup)
    before: Counter[str] = Counter()
    for backup in reversed(unknown):
        if backup.keeper != "rdiff":
            is_ours = not backup.name.endswith(ENDINGS["bzip2"])
        elif (known := first.get(backup.full)) is None or known.record is None:
            is_ours = False
        else:
            before[backup.full] += backup.stamp < known.stamp
            is_ours = before[backup.full] < known.record.sequence
        if is_ours:
            yield backup


def _on_the_way(place: Place) -> set[str]:
    """The stamps of the records that somebody is bringing to their place, or died before: who makes, removes, brings
    back or imports a backup. The next one in that dst sets it right."""
    prepared = records.prepared(place.folder)
    found = {*records.stamps(place.folder, REMOVED), *([prepared.stamp] if prepared else [])}
    return found.union(*map(records.stamps, place.folder.glob(TEMPORARY + "*")))


def _is_being_made(backup: Backup, store: ChunkStore) -> bool:
    """Whether its run, which leaves a mark while it writes, has not come to the record yet, or died before it."""
    folder = store.folder / MARKS
    began = [path.lstat().st_mtime for path in folder.iterdir()] if folder.is_dir() else []
    return any(moment <= backup.path.lstat().st_mtime + 2 for moment in began)
