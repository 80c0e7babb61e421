"""Changing a repository wholly or not at all.

rdiff-backup works in place. When it is killed or its disk fails, what is left may be beyond its own repair, and may
take the older backups with it: when a delta cannot be written (EIO) it goes on, and leaves half of that delta. So it is
given a second folder made of hard links, which takes the place of the first one in a single step.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from btw_backup import files
from btw_backup.keepers import Place
from btw_backup.keepers.rdiff_repository import DATA, TEMPORARY, is_dated
from btw_backup.log import debug

_OF_THE_DISK = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What does not tell that a filesystem lacks an ability."""


@contextmanager
def changed(repository: Path, place: Place) -> Iterator[Path]:
    """The folder in which to change `repository`; all that was done there counts when the block has ended well.

    Where there are no hard links, or folders cannot be exchanged in one step, it is `repository` itself.
    """
    second = files.temporary_name(place.folder, repository.name)
    try:
        if not _linked(repository, second):
            yield repository
            finish(repository, place)
            return
        yield second
        finish(second, place)
        files.exchange(second, repository)
    finally:
        files.remove(second)


def finish(repository: Path, place: Place) -> None:
    """Give the repository to its owner, and bring it to the disk."""
    if place.owner:
        files.change_owner_below(repository, place.owner)
    files.sync_tree(repository)


def _linked(repository: Path, second: Path) -> bool:
    """Make `second` of `repository`; False if this filesystem cannot do all that is needed."""
    probe = second.with_name(second.name + "-probe")
    try:
        probe.mkdir(0o700)
        second.mkdir(0o700)
        files.exchange(probe, second)
        _link_folder(repository, second)
    except OSError as error:
        files.remove(second)
        if error.errno in _OF_THE_DISK:
            raise
        debug(f"{repository} is changed in place: {error}")
        return False
    finally:
        files.remove(probe)
    return True


def _link_folder(original: Path, copy: Path) -> None:
    """Fill the folder `copy`: links, but copies of the few files that rdiff-backup writes to where they are."""
    with os.scandir(original) as entries:
        for entry in entries:
            target = copy / entry.name
            if entry.is_dir(follow_symlinks=False):
                target.mkdir(0o700)
                _link_folder(Path(entry.path), target)
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY):
                if original.name == DATA and not is_dated(entry.name):
                    shutil.copyfile(entry.path, target, follow_symlinks=False)
                    _as(entry.stat(follow_symlinks=False), target)
                else:
                    os.link(entry.path, target, follow_symlinks=False)
    _as(original.lstat(), copy)


def _as(status: os.stat_result, path: Path) -> None:
    """Give `path`, which is ours, the owner, mode and times of `status`."""
    os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
