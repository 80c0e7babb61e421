"""The list of names that a walk leaves for a program that reads the tree: about 60 bytes an entry, on disk."""

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class Item(NamedTuple):
    """An item of a list of names: the size of a regular file that has content, else 0; of a folder, `identity` tells
    one from another."""

    path: bytes
    size: int
    identity: bytes


def line_of(path: bytes, status: os.stat_result) -> bytes:
    """An `Item` as it stands in the list of names."""
    if stat.S_ISREG(status.st_mode):
        return b"%d/%s\0" % (status.st_size if status.st_blocks else 0, path)
    return b"%s/%s\0" % (identity(status), path)


def items(names: BinaryIO) -> Iterator[Item]:
    """The items of the open list `names`, from where it stands."""
    rest = b""
    while block := names.read(1 << 16):
        *found, rest = (rest + block).split(b"\0")
        for item in found:
            head, _, path = item.partition(b"/")
            yield Item(path, 0, head) if b":" in head else Item(path, int(head or 0), b"")


def identity(status: os.stat_result) -> bytes:
    """What only that folder is; of no folder, nothing."""
    return b"%d:%d" % (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else b""
