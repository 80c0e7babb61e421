"""What the walk and a reading tell of an entry, as the line of the manifest that it gets."""

import grp
import os
import pwd
import stat
from functools import cache

from btw_backup.sources.memory import Remembered, status_of
from btw_backup.sources.reading import Reading, attributes_of
from btw_backup.store.manifest import KindName, Member, text_or_raw

KINDS: dict[int, KindName] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def described(seen: Remembered, folder: int) -> Member:
    """What is no file, in the open `folder`. OSError if it cannot be read."""
    path, status, target = seen[0], status_of(seen), seen[-1]
    name = path.rpartition("/")[2] or "."
    there = f"/proc/self/fd/{folder}/{name}"
    return member_of(path, status, KINDS[stat.S_IFMT(status.st_mode)], attributes_of(there), target=target)


def member_of(
    path: str,
    status: os.stat_result,
    kind: KindName,
    xattrs: dict[str, bytes],
    *,
    target: str = "",
    reading: Reading | None = None,
) -> Member:
    """The entry of `path`; of a file with what was read, but without its extents."""
    text, raw = text_or_raw(path)
    target, raw_target = text_or_raw(target)
    is_device = kind in ("character device", "block device")
    return Member(
        path=text,
        raw_path=raw,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=reading.size if reading else 0,
        target=target,
        raw_target=raw_target,
        uname=_user(status.st_uid),
        gname=_group(status.st_gid),
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
        xattrs=xattrs,
        parts=reading.parts if reading else None,
        sha256=reading.sha256.hex() if reading else "",
        ctime=status.st_ctime_ns,
        inode=status.st_ino,
        torn=bool(reading and reading.torn),
    )


@cache
def _user(uid: int) -> str:
    try:
        return text_or_raw(pwd.getpwuid(uid).pw_name)[0]
    except KeyError:
        return ""


@cache
def _group(gid: int) -> str:
    try:
        return text_or_raw(grp.getgrgid(gid).gr_name)[0]
    except KeyError:
        return ""
