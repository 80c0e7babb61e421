"""The states that a crash may leave on a filesystem that promises no more than POSIX does.

From the steps of a run, in the order in which they were made: at each moment, whatever was not yet synced may be on the
disk or not, each step for itself. Names are as durable as their folder was synced, bytes as their file was.
"""

import copy
import os
import random
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.killing import Step

_LAST = 12  # of the steps that are pending, so many are lost alone, each once
_EXCHANGE = 2  # RENAME_EXCHANGE
_NOW, _LEFT_ALONE = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW, UTIME_OMIT
_UMASK = 0o077  # which the program sets before all else
_NOT_MODELLED = ("writev", "pwritev", "pwritev2", "copy_file_range", "fallocate")


@dataclass
class Node:
    """A file, a folder or a link on the disk."""

    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] | None = None
    target: str | None = None
    special: tuple[int, int] | None = None
    """Type and number of a FIFO, a socket or a device."""

    mode: int = 0o600
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0
    attributes: dict[str, bytes] = field(default_factory=dict)


Nodes = dict[int, Node]


@dataclass
class Change:
    """What a step did to `touched`, folders or a file; `apply` does it again, to other nodes."""

    apply: Callable[[Nodes], None]
    touched: tuple[int, ...]
    durable: bool = False


class Disk:
    """What is on the disk below `top`, and what is still on its way there."""

    def __init__(self, top: Path) -> None:
        self._top = os.path.normpath(top)
        self._now: Nodes = {}
        self._inodes: dict[int, int] = {}
        self._root = self._load(Path(top))
        self._base = copy.deepcopy(self._now)
        self._changes: list[Change] = []

    def _load(self, path: Path) -> int:
        status = path.lstat()
        if status.st_ino in self._inodes:
            return self._inodes[status.st_ino]
        number = self._inodes[status.st_ino] = len(self._now)
        node = self._now[number] = Node(mtime=status.st_mtime_ns, mode=stat.S_IMODE(status.st_mode))
        node.owner = status.st_uid, status.st_gid
        node.attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        if stat.S_ISDIR(status.st_mode):
            node.names = {}
            for name in sorted(os.listdir(path)):
                node.names[name] = self._load(path / name)
        elif stat.S_ISLNK(status.st_mode):
            node.target = os.readlink(path)
        elif not stat.S_ISREG(status.st_mode):
            node.special = stat.S_IFMT(status.st_mode), status.st_rdev
        else:
            node.content = bytearray(path.read_bytes())
        return number

    def stands_for(self, top: Path) -> None:
        """The steps that come were made below `top`, of which this is a copy."""
        self._top = os.path.normpath(top)

    # Steps

    def step(self, step: Step, data: bytes) -> None:
        """Do what `step` did; `data` is what was written by all."""
        assert step.call not in _NOT_MODELLED, f"{step.call} {step.path} is not modelled"
        act = getattr(self, f"_{step.call.removesuffix('at2').removesuffix('at')}", None)
        if act:
            act(step, data)

    def _found(self, path: str) -> int | None:
        """The node that has the name `path`."""
        if path == self._top:
            return self._root
        if not path.startswith(self._top + "/"):
            return None
        number = self._root
        for name in path.removeprefix(self._top + "/").split("/"):
            names = self._now[number].names
            if names is None or name not in names:
                return None
            number = names[name]
        return number

    def _folder(self, path: str) -> tuple[int | None, str]:
        folder = self._found(os.path.dirname(path))
        if folder is not None and self._now[folder].names is None:
            folder = None
        return folder, os.path.basename(path)

    def _change(self, apply: Callable[[Nodes], None], *touched: int) -> None:
        apply(self._now)
        self._changes.append(Change(apply, touched))

    def _enter(self, path: str, node: Node | int) -> None:
        folder, name = self._folder(path)
        if folder is None or self._found(path) is not None:
            return
        if isinstance(node, int):
            number = node
        else:
            number = len(self._now)
            self._now[number] = node
            self._base[number] = copy.deepcopy(node)

        def apply(nodes: Nodes) -> None:
            _names(nodes, folder)[name] = number

        self._change(apply, folder)

    def _open(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        if number is None and step.length & os.O_CREAT and step.length & os.O_TMPFILE != os.O_TMPFILE:
            self._enter(step.path, Node())
        elif number is not None and step.length & os.O_TRUNC and not step.length & os.O_EXCL:
            self._resize(number, 0)

    def _resize(self, number: int, length: int) -> None:
        def apply(nodes: Nodes) -> None:
            content = nodes[number].content
            del content[length:]
            content.extend(bytes(max(0, length - len(content))))
            nodes[number].mtime = 0

        self._change(apply, number)

    def _write(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        if number is None or self._now[number].names is not None:
            return
        assert step.where >= 0, step
        piece = data[step.where : step.where + step.length]
        offset = step.offset if step.offset >= 0 else len(self._now[number].content)

        def apply(nodes: Nodes) -> None:
            content = nodes[number].content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(piece)] = piece
            nodes[number].mtime = 0

        self._change(apply, number)

    _pwrite = _sendfile = _write

    def _truncate(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        if number is not None:
            self._resize(number, step.length)

    _ftruncate = _truncate

    def _rename(self, step: Step, data: bytes) -> None:
        number, other = self._found(step.path), self._found(step.other)
        (folder, name), (target, new) = self._folder(step.path), self._folder(step.other)
        if number is None or folder is None or target is None:
            return
        exchange = step.length == _EXCHANGE
        if not exchange and other is not None and (names := self._now[other].names):
            assert names, "a folder that holds something is never replaced"
            return

        def apply(nodes: Nodes) -> None:
            before = _names(nodes, folder).pop(name, None)
            old = _names(nodes, target).get(new)
            _names(nodes, target)[new] = number if before is None or not exchange else before
            if before not in (None, number) and not exchange:
                _names(nodes, folder)[name] = before  # what had the name before, as this one's making it was lost
            if exchange and old is not None:
                _names(nodes, folder)[name] = old

        self._change(apply, target, folder)

    def _link(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        if number is not None:
            self._enter(step.other, number)

    def _symlink(self, step: Step, data: bytes) -> None:
        self._enter(step.other, Node(target=step.path))

    def _mkdir(self, step: Step, data: bytes) -> None:
        self._enter(step.path, Node(names={}, mode=step.length & ~_UMASK & 0o7777))

    def _mknod(self, step: Step, data: bytes) -> None:
        mode = step.length & ~_UMASK
        special = None if stat.S_ISREG(mode) else (stat.S_IFMT(mode), 0)
        self._enter(step.path, Node(special=special, mode=stat.S_IMODE(mode)))

    # What a file has besides its content

    def _sets(self, step: Step, give: Callable[[Node], None]) -> None:
        number = self._found(step.path)
        if number is not None:
            self._change(lambda nodes: give(nodes[number]), number)

    def _chmod(self, step: Step, data: bytes) -> None:
        def give(node: Node) -> None:
            node.mode = step.length & 0o7777

        self._sets(step, give)

    _fchmod = _chmod

    def _chown(self, step: Step, data: bytes) -> None:
        def give(node: Node) -> None:
            uid, gid = node.owner
            node.owner = (uid if step.length < 0 else step.length, gid if step.offset < 0 else step.offset)
            if node.names is None:
                node.mode &= ~0o6000

        self._sets(step, give)

    _fchown = _lchown = _chown

    def _utimens(self, step: Step, data: bytes) -> None:
        piece = data[step.where : step.where + step.length]
        _, _, seconds, nanoseconds = struct.unpack("4q", piece) if piece else (0, 0, 0, _NOW)

        def give(node: Node) -> None:
            if nanoseconds != _LEFT_ALONE:
                node.mtime = 0 if nanoseconds == _NOW else seconds * 10**9 + nanoseconds

        self._sets(step, give)

    def _setxattr(self, step: Step, data: bytes) -> None:
        name, _, value = data[step.where : step.where + step.length].partition(b"\0")

        def give(node: Node) -> None:
            node.attributes[os.fsdecode(name)] = value

        self._sets(step, give)

    _lsetxattr = _fsetxattr = _setxattr

    def _unlink(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        folder, name = self._folder(step.path)
        if number is None or folder is None or self._now[number].names:
            return

        def apply(nodes: Nodes) -> None:
            _names(nodes, folder).pop(name, None)

        self._change(apply, folder)

    _rmdir = _unlink

    def _fsync(self, step: Step, data: bytes) -> None:
        number = self._found(step.path)
        for change in self._changes:
            if number in change.touched[:1]:
                change.durable = True

    _fdatasync = _fsync

    def _syncfs(self, step: Step, data: bytes) -> None:
        for change in self._changes:
            change.durable = True

    # States

    def losses(self, chance: random.Random, extra: int) -> Iterator[frozenset[int]]:
        """Sets of steps that may be lost now: all, none, each of the last alone, and some at random."""
        free = [number for number, change in enumerate(self._changes) if not change.durable]
        yield frozenset(free)
        yield frozenset()
        for number in free[-_LAST:]:
            yield frozenset((number,))
        for _ in range(extra if len(free) > 1 else 0):
            yield frozenset(number for number in free if chance.random() < 0.5)

    def build(self, lost: frozenset[int], top: Path) -> None:
        """Write what is on the disk without the steps that were `lost` to the empty folder `top`."""
        nodes = copy.deepcopy(self._base)
        for number, change in enumerate(self._changes):
            if number not in lost:
                change.apply(nodes)
        self._write_folder(nodes, self._root, top, {})

    def _write_folder(self, nodes: Nodes, number: int, path: Path, written: dict[int, Path]) -> None:
        for name, inner in _names(nodes, number).items():
            one, node = path / name, nodes[inner]
            if inner in written:
                os.link(written[inner], one, follow_symlinks=False)
                continue
            written[inner] = one
            if node.names is not None:
                one.mkdir(0o700)
                self._write_folder(nodes, inner, one, written)
            elif node.target is not None:
                one.symlink_to(node.target)
            elif node.special:
                os.mknod(one, node.special[0] | 0o600, node.special[1])
            else:
                with open(os.open(one, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                    file.write(node.content)
            _dress(one, node)


def _dress(path: Path, node: Node) -> None:
    """Give `path` what it has besides its content."""
    os.chown(path, *node.owner, follow_symlinks=False)
    if node.target is None:
        os.chmod(path, node.mode)
    for name, value in node.attributes.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if node.mtime:
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


def _names(nodes: Nodes, number: int) -> dict[str, int]:
    names = nodes[number].names
    assert names is not None
    return names


def states(
    disk: Disk, steps: Sequence[Step], data: bytes, most: int, seed: str
) -> Iterator[tuple[int, frozenset[int]]]:
    """(how many steps were made, which of them are lost): at most `most` of the states that a crash may leave.

    `disk` is at that moment when a state is given.
    """
    chance = random.Random(seed)
    all_losses = [list(dict.fromkeys(disk.losses(chance, 6)))]
    probe = copy.deepcopy(disk)
    for step in steps:
        probe.step(step, data)
        all_losses.append(list(dict.fromkeys(probe.losses(chance, 6))))
    every = [(made, lost) for made, losses in enumerate(all_losses) for lost in losses]
    made_so_far = 0
    for made, lost in sorted(chance.sample(every, min(most, len(every))), key=lambda state: state[0]):
        for step in steps[made_so_far:made]:
            disk.step(step, data)
        made_so_far = made
        yield made, lost
