"""Opens a source for a program that reads it by path, such that no link in the middle of a path leads out of it.

Whoever owns a part of the source may put a link in the place of a folder while it is read. So the program gets a mount
of its own of the source, which nobody else sees and which ends with its descriptor: through it, the kernel follows no
link (mount_setattr(2), MOUNT_ATTR_NOSYMFOLLOW) and opens no device. That is for root, from Linux 5.14 on. Where it
cannot be had, a look afterwards tells which folders are not the same any more.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

from btw_backup.sources.filesystem import has_reliable_times
from btw_backup.sources.listing import identity, items

_OPEN_TREE, _MOUNT_SETATTR = 428, 442  # the same for all architectures but alpha
_HERE, _CLONE, _EMPTY_PATH, _RECURSIVE = -100, 1, 0x1000, 0x8000
_NO_DEVICE, _NO_LINK = 0x4, 0x200000


class Guarded(NamedTuple):
    """An open source. `safe` if the kernel follows no link below it."""

    source: str
    top: int
    safe: bool

    @property
    def path(self) -> str:
        """What a child of ours calls it."""
        return f"/proc/self/fd/{self.top}"

    def replaced(self, names: BinaryIO) -> Iterator[bytes]:
        """The folders of the list `names` that are not any more what they were; none that the kernel has guarded."""
        if self.safe:
            return
        reliable = has_reliable_times(self.source)
        names.seek(0)
        for item in items(names):
            if item.identity:
                now = b""
                with suppress(OSError):
                    now = identity(os.stat(item.path or b".", dir_fd=self.top, follow_symlinks=False))
                if not now or (reliable and now != item.identity):
                    yield item.path


@contextmanager
def opened(source: str) -> Iterator[Guarded]:
    """The folder `source`, open while the block lasts. OSError if it cannot be."""
    mount = _own_mount(source)
    top = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if mount is None else mount
    try:
        yield Guarded(source, top, mount is not None)
    finally:
        os.close(top)


def _own_mount(source: str) -> int | None:
    """A descriptor of a mount of `source` with all that is mounted below it; None if that cannot be had."""
    import ctypes  # noqa: PLC0415 - most runs do without

    if os.geteuid() or _has_unbindable():
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    mount: int = call(_OPEN_TREE, _HERE, os.fsencode(source), _CLONE | _RECURSIVE | os.O_CLOEXEC)
    if mount < 0:
        return None
    wanted = struct.pack("QQQQ", _NO_DEVICE | _NO_LINK, 0, 0, 0)
    if call(_MOUNT_SETATTR, mount, b"", _EMPTY_PATH | _RECURSIVE, wanted, len(wanted)):
        os.close(mount)
        return None
    return mount


def _has_unbindable() -> bool:
    """Whether there is a mount that would be missing in another one; the fields are those of proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        return any(b"unbindable" in line.partition(b" - ")[0].split(b" ")[6:] for line in mounts)
