"""What is known of one file, folder or node of a tree, whatever it is kept in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """The types of file that a tree may hold; a hard link is a further name of an earlier entry."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    HARD_LINK = "hard link"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `path` is relative, without ``.`` or ``..`` components, ``b""`` for the top of the tree.

    `mode` holds permission bits only, with setuid, setgid and sticky; times are nanoseconds since 1970 and may be
    negative. `target` is a link's text, or for a hard link the path of the earlier entry. `xattrs` are as the kernel
    names them (``user.x``, ``security.capability``, ``system.posix_acl_access``). `size` is that of the content with
    its holes; `extents` are the (offset, length) parts that are not holes, None for a file without any hole.
    `digests` are the SHA-256 and the lengths of what the content without its holes is made of, if that is known.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: bytes = b""
    uname: str = ""
    gname: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    extents: tuple[tuple[int, int], ...] | None = None
    digests: tuple[tuple[str, int], ...] = ()
