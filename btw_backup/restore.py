"""Gives backups back: a tree, paths of one, a dump, or the plain stream.

A tree is built in a private folder beside its target, and renamed in when all of it is there, proved and on the disk.
What is not what was stored never gets the name that was asked for, but that name with ``.damaged``.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from btw_backup import descent, files, log, progress
from btw_backup.attributes import Complaints
from btw_backup.errors import Damaged, FatalUserError, Incomplete, NotFound, WouldOverwrite
from btw_backup.extract import DAMAGED, Extraction
from btw_backup.keepers import Keeper
from btw_backup.keepers.archive import Content, members
from btw_backup.log import printable
from btw_backup.records import Backup
from btw_backup.selection import Selection, sockets_of
from btw_backup.stream import PIECE, read_ahead

SHOWN = 10
"""How many names are shown of those that something is wrong with."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KEPT_NAME = 60  # characters of the target's name in that of the folder where it is built


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
    elif exists and (wish.target.is_symlink() or os.path.ismount(wish.target)) and _is_empty(wish.target):
        _into_existing(keeper, backup, Wish(wish.target, wish.paths, into=True, force=True))
    elif exists and not _is_empty(wish.target):
        raise WouldOverwrite(f"{wish.target} exists", "give a new name, or --into to restore into that folder")
    else:
        _into_new(keeper, backup, wish)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(os.scandir(path), None) is None


def _into_new(keeper: Keeper, backup: Backup, wish: Wish) -> None:
    _sweep(wish.target)
    with _private_folder(wish.target) as (path, descriptor):
        complaints = Complaints()
        selection = Selection(backup, wish.paths)
        with closing(Extraction(descriptor, complaints, fresh=True)) as extraction:
            _extract(keeper, backup, selection, extraction, complaints)
        if not complaints.damaged:
            selection.check()
        elif not extraction.count:
            raise Damaged(f"{backup.address} is damaged: {complaints.damaged[0]}", _OTHERS)
        files.sync_filesystem(descriptor)
        final = _free_damaged_name(wish.target) if complaints.damaged else wish.target
        try:
            files.publish(path, final)
        except FileExistsError:
            raise WouldOverwrite(f"{final} was made by somebody else meanwhile") from None
    _end(backup, complaints, final)


def _into_existing(keeper: Keeper, backup: Backup, wish: Wish) -> None:
    """Restore into a folder that is there. All is read and proved once before anything is changed."""
    descriptor = os.open(wish.target, _FOLDER)
    try:
        _survey(keeper, backup, wish, descriptor)
        complaints = Complaints()
        with closing(Extraction(descriptor, complaints, fresh=False, force=wish.force)) as extraction:
            _extract(keeper, backup, Selection(backup, wish.paths), extraction, complaints)
        files.sync_filesystem(descriptor)
    finally:
        os.close(descriptor)
    _end(backup, complaints, wish.target)


def _survey(keeper: Keeper, backup: Backup, wish: Wish, top: int) -> None:
    """Refuse, before anything is written, a damaged backup and one that collides with what is there."""
    complaints = Complaints()
    selection = Selection(backup, wish.paths)
    conflicts: list[bytes] = []

    def look(path: bytes, is_folder: bool) -> None:
        try:
            status = os.stat(path, dir_fd=top, follow_symlinks=False)
        except OSError:
            return  # nothing there; or beyond what can be seen by a path, and then the writing will tell
        there_is_folder = stat.S_ISDIR(status.st_mode)
        if not (is_folder and there_is_folder) and (there_is_folder or not wish.force):
            conflicts.append(path)

    with _opened(keeper, backup, "check") as stream:
        for entry, _ in members(stream, complaints.is_damaged):
            if entry.path and selection.takes(entry):
                look(entry.path, entry.is_folder)
    for socket in sockets_of(backup, selection):
        look(socket.path, False)
    if complaints.damaged:
        _warn(complaints.damaged, complaints.damaged_count)
        raise Damaged(f"{backup.address} is damaged, and nothing was written to {wish.target}", _NEW_FOLDER)
    selection.check()
    if conflicts:
        _warn([f"{printable(path)} is there already" for path in conflicts[:SHOWN]], len(conflicts))
        hint = "--force replaces files, but never folders" if wish.force else "--force replaces files"
        raise WouldOverwrite(f"{len(conflicts)} of the names to restore are in {wish.target} already", hint)


_OTHERS = "another backup may be well; list shows them"
_NEW_FOLDER = "restore into a new folder to get what can be read"


def _extract(
    keeper: Keeper, backup: Backup, selection: Selection, extraction: Extraction, complaints: Complaints
) -> None:
    """Write what is selected. Damage ends the reading, and is noted; what was written is finished then."""

    def write_all(stream: BinaryIO, chosen: Callable[[object], bool]) -> None: ...

    try:
        with _opened(keeper, backup, "restore") as stream:
            for entry, content in members(stream, complaints.is_damaged):
                if selection.takes(entry):
                    extraction.write(entry, content)
        while selection.postponed:
            before = len(selection.postponed)
