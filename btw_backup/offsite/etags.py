"""The ETags that S3 gives to a file: the MD5 of its content, and the one of an upload in parts."""

import hashlib
import os

from btw_backup import regular

PART = 15
"""s3cmd's own size of a part, in MiB; files up to this size are sent whole."""

_READ = 1 << 20
_KEPT = 20000

Expected = tuple[str, str]
"""The MD5 of the content, and the ETag of an upload in parts: the MD5 of the parts' MD5s and their number."""


class Etags:
    """The expected ETags of files below `root`; each file is read once for as long as it does not change."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: dict[str, tuple[tuple[int, ...], Expected]] = {}

    def size(self, path: str) -> int:
        """The size of the file. Raises `OSError`."""
        return os.lstat(f"{self._root}/{path}").st_size

    def of(self, path: str, part: int) -> Expected:
        """The ETags of the file, if its parts have `part` MiB. Raises `OSError`."""
        descriptor = regular.descriptor_of(f"{self._root}/{path}")
        try:
            status = os.fstat(descriptor)
            state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, part)
            known = self._known.get(path)
            if known is None or known[0] != state:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                known = self._known[path] = (state, computed(descriptor, part))
            return known[1]
        finally:
            os.close(descriptor)


def computed(descriptor: int, part: int) -> Expected:
    """Both ETags of what `descriptor` has left to read. The first part, which most files are, is digested once."""
    whole = current = hashlib.md5(usedforsecurity=False)
    digests: list[bytes] = []
    left = part << 20
    while block := os.read(descriptor, min(_READ, left)):
        whole.update(block)
        if digests:
            current.update(block)
        left -= len(block)
        if not left:
            digests.append(current.digest())
            current, left = hashlib.md5(usedforsecurity=False), part << 20
    if left < part << 20 or not digests:
        digests.append(current.digest())
    of_parts = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return whole.hexdigest(), f"{of_parts}-{len(digests)}"
