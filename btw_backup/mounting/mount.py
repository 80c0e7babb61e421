"""Mounting backups at a folder."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from btw_backup.errors import FatalUserError, NotFound, WouldOverwrite
from btw_backup.mounting import daemon, fuse
from btw_backup.mounting.content import ChunkCache
from btw_backup.mounting.index import TreeIndex
from btw_backup.mounting.view import Backups, Tree, View
from btw_backup.records import Backup
from btw_backup.store.chunks import ChunkStore

READ_AHEAD = 1024
"""KiB that the kernel is to ask for ahead of who reads a file from its beginning to its end; by itself it takes 128."""


def view_of(root: Path, backups: Sequence[Backup], backup: Backup | None) -> View:
    """What a mount of `backup`, or else of all `backups`, shows; their chunks are in the store of ROOT_PATH `root`."""
    chunks = ChunkCache(ChunkStore(root))
    return Tree(TreeIndex(backup.path), chunks) if backup else Backups(backups, chunks)


def mount(view: View, folder: Path, name: str, *, foreground: bool) -> None:
    """Mount `view`, in the background unless `foreground`. Returns when it is there, or not any more."""
    _check(folder)
    fuse.library()
    if foreground:
        fuse.serve(view, folder, name, lambda: None)
        return
    ready = daemon.begin()
    if ready:
        fuse.serve(view, folder, name, ready)
        return
    with os.scandir(folder) as entries:  # it answers
        next(entries, None)
    _read_ahead(folder)


def _check(folder: Path) -> None:
    """Refuse a folder that is none, is not empty, or has a mount whose program died."""
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                return
    except FileNotFoundError:
        raise NotFound(f"there is no folder {folder}", f"mkdir -p {folder}") from None
    except OSError as error:
        hint = f"umount -l {folder}" if os.path.ismount(folder) or error.errno == 107 else ""
        raise FatalUserError(f"{folder} cannot be used: {error.strerror}", hint) from error
    hint = f"umount {folder}" if os.path.ismount(folder) else "give an empty folder"
    raise WouldOverwrite(f"{folder} is not empty", hint)


def _read_ahead(folder: Path) -> None:
    """Have the kernel read more ahead; it answers with one question of 1 MiB for eight of 128 KiB."""
    device = os.stat(folder).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with suppress(OSError):  # only root may, and it is only faster
        path.write_text(f"{READ_AHEAD}\n")
