"""What kind of filesystem a path is on, and whether its times and inodes mean anything."""

import os

UNRELIABLE = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "9p", "cifs", "smb3", "smbfs", "ncpfs", "fuse", "fuseblk")
"""Filesystems whose inodes or ctimes are made up by the driver, or depend on a server or program behind it."""


def kind_of(path: str) -> str:
    """The type of the filesystem that `path` is on, as in /proc/self/mountinfo; "" if it cannot be told.

    The fields of a line are those of proc_pid_mountinfo(5). The last mount that matches best is the visible one.
    """
    real = os.path.realpath(path)
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, after.split(" ")[0]
    return kind


def has_reliable_times(path: str) -> bool:
    """Whether an unchanged ctime and inode there mean an unchanged file."""
    kind = kind_of(path)
    return bool(kind) and kind not in UNRELIABLE and not kind.startswith("fuse.")
