"""Removes backups in two steps: first out of sight, where they can be brought back from, and after a while for good.

What is removed lies in ``<dst>/.removed/``: the backup, its record and its mark of damage, under their names. Records
and marks belong where the backup is: a record without its backup would say that something was lost. So the backup
itself decides, in one rename, whether it is removed; who dies before or after is set right by the next one. A folder of
rdiff-backup is one thing, with all backups in it.

The owner of a dst may be anybody: everything is done by descriptor, through no link.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from btw_backup import files, log
from btw_backup.clock import STAMP
from btw_backup.errors import FatalUserError, NotFound, WouldOverwrite
from btw_backup.inventory import listing
from btw_backup.keepers import Owe, OweRemoval, Place, unchanged
from btw_backup.records import DAMAGED, FOLDER, REMOVED, Backup

_RECORD = ".json"
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed for good, or would: backups, with the bytes of their files, and where these lie."""

    backups: int = 0
    size: int = 0
    paths: tuple[Path, ...] = ()


def remove(place: Place, chosen: Sequence[Backup]) -> None:
    """Move `chosen`, whole, out of sight. The caller holds the locks of the dst, and that of the store shared."""
    with _opened(place, create=True) as folders:
        assert folders is not None
        _settle(folders)
        names = _names(chosen)
        folders.refuse_existing(folders.removed, names)
        folders.move(_belongings(chosen, _RECORD), folders.records, folders.removed)
        folders.move(names, folders.dst, folders.removed)
        folders.move(_belongings(chosen, DAMAGED), folders.records, folders.removed)


def bring_back(place: Place, chosen: Sequence[Backup], owe: Owe) -> None:
    """Undo `remove`. What other places were to be sent is owed to them again."""
    with _opened(place, create=False) as folders:
        if folders is None:
            raise NotFound(f"nothing was removed from {place.dst}")
        _settle(folders)
        names = _names(chosen)
        folders.refuse_existing(folders.dst, names)
        for backup in chosen:
            owe("push", f"{place.dst}/{backup.path.name}{'/' if backup.path.is_dir() else ''}")
            if backup.record:
                owe("push", f"{place.dst}/{FOLDER}/{backup.stamp}{_RECORD}")
        folders.move(_belongings(chosen, DAMAGED), folders.removed, folders.records)
        folders.move(names, folders.removed, folders.dst)
        folders.move(_belongings(chosen, _RECORD), folders.removed, folders.records)


def removed_at(backup: Backup) -> datetime:
    """When it was removed."""
    return _moved_at(backup.path)


def _moved_at(path: Path) -> datetime:
    """When a file got its name: the kernel notes that."""
    return datetime.fromtimestamp(os.lstat(path).st_ctime, UTC)


def is_over(path: Path, now: datetime, grace: timedelta) -> bool:
    """Whether what lies at `path` was removed longer ago than `grace`; of 0 that is so whatever the clock says."""
    return not grace or not os.path.lexists(path) or now - _moved_at(path) >= grace


def expired(place: Place, now: datetime, grace: timedelta) -> list[Backup]:
    """What was removed from `place` longer ago than `grace`."""
    return [backup for backup in listing.removed(place) if is_over(backup.path, now, grace)]


def is_due(place: Place, now: datetime, grace: timedelta) -> bool:
    """Whether `purge` has something to do, or to set right: it need not wait for others if not."""
    with _opened(place, create=False) as folders:
        if folders is None:
            return False
        left = {stamp for stamp, _ in folders.belongings(folders.removed, _RECORD)}
        return bool(left - folders.stamps(folders.removed)) or not left or bool(expired(place, now, grace))


def foreseen(place: Place, now: datetime, grace: timedelta) -> Purged:
    """What `purge` would remove."""
    with _opened(place, create=False) as folders:
        return _purged(folders, expired(place, now, grace)) if folders else Purged()


def purge(place: Place, now: datetime, grace: timedelta, owe_removal: OweRemoval) -> Purged:
    """Remove for good what was removed longer ago than `grace`; before, its removal is owed to other places, too.

    The caller holds the locks of the dst, and that of the store shared. A folder that is half gone is not found again.
    A manifest goes after its record, which alone would say that it was lost, and that its chunks are to be kept.
    """
    with _opened(place, create=False) as folders:
        if folders is None:
            return Purged()
        files.sweep(folders.inside)
        _settle(folders)
        doomed = expired(place, now, grace)
        purged = _purged(folders, doomed)
        owe_removal(list(_elsewhere(place, doomed)))
        manifests = {backup.stamp for backup in doomed if backup.keeper == "chunks"}
        folders.delete([name for stamp, name in folders.belongings(folders.removed, _RECORD) if stamp in manifests])
        folders.delete(_names(doomed))
        gone = {backup.stamp for backup in doomed}
        folders.delete(
            name
            for stamp, name in folders.orphans()
            if stamp in gone or name.endswith(DAMAGED) or is_over(folders.inside / name, now, grace)
        )
        folders.remove_if_empty()
        return purged


def forget(place: Place, stamps: Collection[str]) -> None:
    """Remove the records and marks of backups that are gone. The caller holds the same locks."""
    with _opened(place, create=True) as folders:
        assert folders is not None
        for folder in (folders.records, folders.removed):
            for ending in (DAMAGED, _RECORD):
                for stamp, name in list(folders.belongings(folder, ending)):
                    if stamp in stamps:
                        os.unlink(name, dir_fd=folder)
            os.fsync(folder)
        folders.remove_if_empty()


def _elsewhere(place: Place, doomed: Sequence[Backup]) -> Iterator[str]:
    """The paths below ROOT_PATH that backups, their records and marks have, or had, off-site."""
    for backup in doomed:
        yield f"{place.dst}/{FOLDER}/{backup.stamp}{_RECORD}"
        yield f"{place.dst}/{FOLDER}/{backup.stamp}{DAMAGED}"
    for path in dict.fromkeys(backup.path for backup in doomed):
        yield f"{place.dst}/{path.name}{'/' if path.is_dir() else ''}"


def _purged(folders: "_Folders", doomed: Sequence[Backup]) -> Purged:
    return Purged(len(doomed), _sizes(folders, doomed), tuple(dict.fromkeys(backup.path for backup in doomed)))


def _names(backups: Iterable[Backup]) -> list[str]:
    return list(dict.fromkeys(backup.path.name for backup in backups))


def _belongings(backups: Iterable[Backup], ending: str) -> list[str]:
    return [backup.stamp + ending for backup in backups]


def _sizes(folders: "_Folders", doomed: Sequence[Backup]) -> int:
    """The bytes of what goes."""
    names = [*_names(doomed), *_belongings(doomed, _RECORD), *_belongings(doomed, DAMAGED)]
    return sum(size_below(folders.inside / name) for name in names)


def size_below(top: Path) -> int:
    """The bytes of a file, or of all files in a folder; of nothing 0."""
    try:
        status = os.lstat(top)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(top) for name in names)


def _settle(folders: "_Folders") -> None:
    """Put every record and mark where its backup is: somebody may have died between two renames."""
    here, there = folders.stamps(folders.dst), folders.stamps(folders.removed)
    for ending in (_RECORD, DAMAGED):
        kept = dict(folders.belongings(folders.records, ending))
        left = dict(folders.belongings(folders.removed, ending))
        back = [name for stamp, name in left.items() if stamp in here and stamp not in kept]
        away = [name for stamp, name in kept.items() if stamp in there - here and stamp not in left]
        if back or away:
            log.debug(
                f"a run died in {folders.place.dst}: {len(back) + len(away)} records or marks go to their backups"
            )
        folders.move(back, folders.removed, folders.records)
        folders.move(away, folders.records, folders.removed)


@dataclass(frozen=True, slots=True)
class _Folders:
    """A dst, its records and what was removed from it, open."""

    place: Place
    dst: int
    records: int
    removed: int

    @property
    def inside(self) -> Path:
        """The folder of what was removed, whatever stands under its name by now."""
        return Path(f"/proc/self/fd/{self.removed}")

    def belongings(self, folder: int, ending: str) -> Iterator[tuple[str, str]]:
        """The stamps and names of the records, or of the marks, in `folder`."""
        for name in os.listdir(folder):
            stamp = name.removesuffix(ending)
            if name != stamp and STAMP.fullmatch(stamp):
                yield stamp, name

    def stamps(self, folder: int) -> set[str]:
        """The stamps of the backups in `folder`."""
        place = replace(self.place, folder=Path(f"/proc/self/fd/{folder}"))
        return {backup.stamp for keeper in listing.keepers() for backup in keeper.find(place)}

    def orphans(self) -> list[tuple[str, str]]:
        """The stamps and names of records and marks in `removed` whose backup is gone."""
        known = self.stamps(self.dst) | self.stamps(self.removed)
        found = [*self.belongings(self.removed, _RECORD), *self.belongings(self.removed, DAMAGED)]
        return [(stamp, name) for stamp, name in found if stamp not in known]

    def remove_if_empty(self) -> None:
        """Remove the folder of what was removed; but there may be others in it."""
        with suppress(OSError):
            os.rmdir(REMOVED, dir_fd=self.dst)

    def refuse_existing(self, folder: int, names: Iterable[str]) -> None:
        """Raise `WouldOverwrite` if one of `names` is in `folder` already."""
        there = set(os.listdir(folder))
        for name in names:
            if name in there:
                where = self.place.folder / (REMOVED if folder == self.removed else "")
                raise WouldOverwrite(f"{where / name} exists", "look what it is, and move it away")

    def move(self, names: Iterable[str], source: int, target: int) -> None:
        """Rename those of `names` that are there, and make it survive a power cut."""
        moved = 0
        for name in names:
            with suppress(FileNotFoundError):
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                moved += 1
        if moved:
            os.fsync(target)
            os.fsync(source)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files and folders from `removed`; a folder is out of sight before the first of it goes."""
        for name in names:
            if stat.S_ISDIR(os.stat(name, dir_fd=self.removed, follow_symlinks=False).st_mode):
                doomed = files.temporary_name(self.inside, name)
                os.rename(name, doomed.name, src_dir_fd=self.removed, dst_dir_fd=self.removed)
                os.fsync(self.removed)
                files.remove(doomed)
            else:
                os.unlink(name, dir_fd=self.removed)
        os.fsync(self.removed)


@contextmanager
def _opened(place: Place, *, create: bool) -> Iterator[_Folders | None]:
    """The folders of `place`; None if nothing was removed there. Raises `FatalUserError` for links."""
    with ExitStack() as stack:
        dst = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, dst)
        removed = _entered(place, dst, REMOVED, create=create)
        if removed is None:
            yield None
            return
        stack.callback(os.close, removed)
        of_records = _entered(place, dst, FOLDER, create=True)
        assert of_records is not None
        stack.callback(os.close, of_records)
        yield _Folders(place, dst, of_records, removed)


def _entered(place: Place, dst: int, name: str, *, create: bool) -> int | None:
    """The folder `name` of the open `dst`, opened; None if it is not there, and is not to be made."""
    try:
        if create:
            with suppress(FileExistsError):
                try:
                    os.mkdir(name, 0o700, dir_fd=dst)
                except OSError as error:
                    unchanged.give_way(dst, error)
                    os.mkdir(name, 0o700, dir_fd=dst)
                os.fsync(dst)
        return os.open(name, _ENTER, dir_fd=dst)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FatalUserError(f"{place.folder / name} is no folder that can be used: {error.strerror}") from error
