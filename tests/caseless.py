"""``python -m tests.caseless MOUNT_POINT FOLDER``: a filesystem that keeps what it is given in FOLDER, under the names that it
is given, and takes upper and lower case for the same."""

import os
import sys
from typing import Any

import mfusepy


class Caseless(mfusepy.Operations):
    """Just what a restore needs; names of one case differ in it from those of the other by nothing."""

    use_ns = True

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, path: str) -> str:
        found = self._folder
        for part in path.split("/")[1:]:
            names = {name.lower(): name for name in os.listdir(found)} if os.path.isdir(found) else {}
            found += "/" + names.get(part.lower(), part)
        return found

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        status = os.lstat(self._path(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        times = {f"st_{name}time": getattr(status, f"st_{name}time_ns") for name in "amc"}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [".", "..", *os.listdir(self._path(path))]

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._path(path), flags & os.O_ACCMODE)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: Any = None) -> None:
        os.truncate(self._path(path), length)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._path(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._path(old), self._path(new))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._path(path), uid, gid)

    def utimens(self, path: str, times: Any = None) -> None:
        os.utime(self._path(path), ns=times, follow_symlinks=False)

    def fsync(self, path: str, datasync: int, fh: Any) -> int:
        return 0

    def flush(self, path: str, fh: Any) -> int:
        return 0

    def listxattr(self, path: str) -> list[str]:
        return []


if __name__ == "__main__":
    mfusepy.FUSE(Caseless(sys.argv[2]), sys.argv[1], foreground=True, nothreads=True, default_permissions=True)
