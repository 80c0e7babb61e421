"""Gives trees back, or paths of one.

A tree is built in a private folder beside its target, and renamed in when all of it is there, proved and on the disk.
What an interrupted restore built is used by the next one.
What is not what was stored never gets the name that was asked for, but that name with ``.damaged``.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files, flushing, log, progress
from btw_backup.entries import Entry, Kind
from btw_backup.errors import TRY_ANOTHER, Damaged, DamagedPart, Incomplete, NotFound, WouldOverwrite
from btw_backup.keepers import Content, Keeper, Report, Wanted
from btw_backup.keepers.chunks import Chunks
from btw_backup.log import printable
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.restoring import helpers, staging
from btw_backup.restoring.attributes import Complaints
from btw_backup.restoring.extract import Extraction
from btw_backup.restoring.helpers import Helpers
from btw_backup.restoring.selection import Selection, sockets_of

SHOWN = 10
"""How many names are shown of those that something is wrong with."""

_READINGS = 3
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a tree goes where: `paths` in it (none: all of it), below `target`.

    `into` an existing folder, where `force` lets files be replaced.
    """

    target: Path
    paths: tuple[str, ...] = ()
    into: bool = False
    force: bool = False


def tree(keeper: Keeper, backup: Backup, wish: Wish) -> None:
    """Restore a tree, or paths of it.

    Raises `WouldOverwrite`, `NotFound` for a path that is not in it, `Damaged` (what could be read is then in
    ``TARGET.damaged``), `Incomplete` if something could not be made as it was.
    """
    if not wish.target.parent.is_dir():
        raise NotFound(f"there is no folder {wish.target.parent}", f"mkdir -p {wish.target.parent}")
    exists = os.path.lexists(wish.target)
    if wish.into and exists:
        _into_existing(keeper, backup, wish)
    elif exists and (_is_link_of_ours(wish.target) or os.path.ismount(wish.target)) and _is_empty(wish.target):
        _into_existing(keeper, backup, Wish(wish.target, wish.paths, into=True, force=True), empty=True)
    elif exists and (wish.target.is_symlink() or not _is_empty(wish.target)):
        raise _would_overwrite(wish)
    else:
        _into_new(keeper, backup, wish)


def _would_overwrite(wish: Wish) -> WouldOverwrite:
    return WouldOverwrite(f"{wish.target} exists", "give a new name, or --into to restore into that folder")


def _is_link_of_ours(path: Path) -> bool:
    """Whether `path` is a link that nobody else can have put there; what it leads to is opened once."""
    status = os.lstat(path)
    return stat.S_ISLNK(status.st_mode) and status.st_uid in (0, os.geteuid())


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(os.scandir(path), None) is None


def _into_new(keeper: Keeper, backup: Backup, wish: Wish) -> None:
    from btw_backup.restoring import resume  # noqa: PLC0415 - what it needs takes 0.1 s to load

    identity = resume.identity_of(backup, wish.paths)
    with (
        staging.left_by(wish.target, identity) as left,
        staging.private_folder(wish.target, identity) as (path, descriptor),
    ):
        complaints = Complaints.before(backup.doubt)
        selection = Selection(backup, wish.paths)
        among = 1 if wish.paths else helpers.number_for(backup)
        with (
            closing(helpers.Helpers(_Filling(backup, descriptor, left, among), among)) as others,
            flushing.filesystem_written_behind(descriptor),
        ):
            if among > 1:
                keeper = _filled(backup, others, complaints)
            with (
                closing(Extraction(descriptor, complaints, fresh=True)) as extraction,
                closing(resume.Resumption(backup, left, descriptor, selection.takes, complaints)) as resumption,
            ):
                _extract(keeper, backup, selection, extraction, complaints, takes=resumption.takes)
        if not complaints.damaged:
            selection.check()
        elif not extraction.count:
            raise Damaged(f"{backup.address} is damaged: {complaints.damaged[0]}", TRY_ANOTHER)
        final = staging.damaged_name(wish.target) if complaints.damaged else wish.target
        staging.publish(path, final)
    _end(backup, selection, complaints, final)


@dataclass(frozen=True, slots=True)
class _Filling:
    """The work of each of the processes, `among` so many, that write the files of a tree into the new `folder`."""

    backup: Backup
    folder: int
    left: Sequence[int]
    among: int

    def __call__(self, number: int, complaints: Complaints, advance: Advance) -> None:
        """Write the files of one share, and whatever folders they need."""
        from btw_backup.restoring import resume  # noqa: PLC0415 - as above
        from btw_backup.store.shares import Files  # noqa: PLC0415 - as above

        keeper = Chunks(Files(number, self.among))
        with (
            closing(Extraction(self.folder, complaints, fresh=True, bare=True)) as extraction,
            closing(resume.Resumption(self.backup, self.left, self.folder, lambda entry: True, complaints)) as resumed,
        ):
            try:
                with keeper.members(self.backup, resumed.takes, complaints.is_damaged, advance) as found:
                    for entry, content in found:
                        _write(extraction, entry, content, complaints)
            except Damaged as error:
                complaints.is_damaged(error.message)
            extraction.finish()


def _filled(backup: Backup, others: Helpers, complaints: Complaints) -> Keeper:
    """Have all processes write their files; what gives the rest of the tree."""
    from btw_backup.store.shares import AllButFiles  # noqa: PLC0415 - as above

    with progress.shown("restore", backup.record.length if backup.record else None) as advance:
        others.work(complaints, advance)
    return Chunks(AllButFiles())


def _into_existing(keeper: Keeper, backup: Backup, wish: Wish, *, empty: bool = False) -> None:
    """Restore into a folder that is there, `empty` if so it has to be. All is read and proved once before anything is
    changed."""
    descriptor = os.open(wish.target, _FOLDER)
    try:
        if empty and os.listdir(descriptor):  # somebody else's folder has come there since we looked
            raise _would_overwrite(wish)
        _survey(keeper, backup, wish, descriptor)
        complaints = Complaints()
        with closing(Extraction(descriptor, complaints, fresh=False, force=wish.force)) as extraction:
            selection = Selection(backup, wish.paths)
            _extract(keeper, backup, selection, extraction, complaints, takes=selection.takes)
        files.sync_filesystem(descriptor)
    finally:
        os.close(descriptor)
    _end(backup, selection, complaints, wish.target)


def _survey(keeper: Keeper, backup: Backup, wish: Wish, top: int) -> None:
    """Refuse, before anything is written, a damaged backup and one that collides with what is there."""
    complaints = Complaints.before(backup.doubt)
    selection = Selection(backup, wish.paths)
    collisions = 0
    for entry in _selected(keeper, backup, selection, complaints):
        if _collides(entry, top, wish.force):
            collisions += 1
            if collisions <= SHOWN:
                log.warn(f"{os.fsdecode(entry.path)} is there already")
    if complaints.damaged:
        _show(complaints.damaged, complaints.damaged_count)
        hint = "restore into a new folder to get what can be read"
        raise Damaged(f"{backup.address} is damaged, and nothing was written to {wish.target}", hint)
    selection.check()
    if collisions:
        hint = "--force replaces files" + (", but neither folders nor files by folders" if wish.force else "")
        raise WouldOverwrite(f"{collisions} of the names to restore are in {wish.target} already", hint)


def _selected(keeper: Keeper, backup: Backup, selection: Selection, complaints: Complaints) -> Iterator[Entry]:
    """The entries that are selected, without their content."""
    try:
        with members(keeper, backup, "check", selection.takes, complaints.is_damaged) as found:
            for entry, content in found:
                _read_through(content, complaints)
                yield entry
    except Damaged as error:
        complaints.is_damaged(error.message)
    yield from (entry for links in selection.postponed.values() for entry in links)
    yield from sockets_of(backup, selection)


def _collides(entry: Entry, top: int, force: bool) -> bool:
    """Whether something is where `entry` should go; a folder in the place of a folder is fine."""
    try:
        status = os.stat(entry.path or b".", dir_fd=top, follow_symlinks=False)
    except OSError:
        return False  # nothing is there; or it is beyond what a path can name, and then the writing will tell
    is_folder = stat.S_ISDIR(status.st_mode)
    if entry.kind is Kind.FOLDER:
        return not is_folder and not force
    return is_folder or not force


def _extract(
    keeper: Keeper,
    backup: Backup,
    selection: Selection,
    extraction: Extraction,
    complaints: Complaints,
    *,
    takes: Wanted,
) -> None:
    """Write what `selection` takes. Damage ends the reading, and is noted; what is there by then is finished."""
    try:
        with members(keeper, backup, "restore", takes, complaints.is_damaged) as found:
            for entry, content in found:
                _write(extraction, entry, content, complaints)
        _extract_postponed(keeper, backup, selection, extraction, complaints)
        for socket in sockets_of(backup, selection):
            extraction.write(socket)
    except Damaged as error:
        complaints.is_damaged(error.message)
    extraction.finish()


def _write(extraction: Extraction, entry: Entry, content: Content, complaints: Complaints) -> None:
    """Write one entry; damage of its content alone does not keep the others from being restored."""
    try:
        extraction.write(entry, content)
    except DamagedPart as error:
        complaints.is_damaged(error.message)


def _read_through(content: Content, complaints: Complaints) -> None:
    try:
        for _ in content:
            pass
    except DamagedPart as error:
        complaints.is_damaged(error.message)


def _extract_postponed(
    keeper: Keeper, backup: Backup, selection: Selection, extraction: Extraction, complaints: Complaints
) -> None:
    """Read again for hard links whose first name, where the content is, was not selected."""
    for _ in range(_READINGS):
        if not selection.postponed:
            return
        with members(keeper, backup, "restore hard links", selection.awaits, lambda message: None) as found:
            for entry, content in found:
                for one in selection.waiting_for(entry):
                    _write(extraction, one, content, complaints)
    for target, links in selection.postponed.items():
        for link in links:
            complaints.is_damaged(f"{printable(link.path)} is a hard link to {printable(target)}, which is not there")


@contextmanager
def members(
    keeper: Keeper, backup: Backup, what: str, wanted: Wanted, report: Report
) -> Iterator[Iterator[tuple[Entry, Content]]]:
    """The entries of the tree `backup` that are `wanted`, with progress."""
    total = backup.record.length if backup.record else None
    with (
        progress.shown(what, total) as advance,
        keeper.members(backup, wanted, report, advance) as found,
    ):
        yield found


def _end(backup: Backup, selection: Selection, complaints: Complaints, final: Path) -> None:
    """Say what did not come back as it was, and raise the error for it."""
    _show(*selection.torn(backup, SHOWN))
    _show([f"{os.fsdecode(path)}: {what}" for path, what in complaints.unset[:SHOWN]], complaints.unset_count)
    _show(complaints.damaged, complaints.damaged_count)
    if complaints.damaged:
        raise Damaged(f"{backup.address} is damaged; what could be read of it is in {final}", TRY_ANOTHER)
    if complaints.unset_count:
        number = complaints.unset_count
        message = f"restored to {final}, but not quite as it was: {number} thing{'s' if number > 1 else ''} failed"
        raise Incomplete(message, "" if os.geteuid() == 0 else "only root can set owners and make devices")


def _show(messages: Sequence[str], count: int) -> None:
    for message in messages[:SHOWN]:
        log.warn(message)
    if count > SHOWN:
        log.warn(f"… and {count - SHOWN} more")
