#!/usr/bin/env python3
"""Restores backups of the type chunks without btw-backup: with Python 3.6 or newer and the program zstd alone.

  python3 RESTORE.py                       lists the backups below the ROOT_PATH in whose .store this file lies
  python3 RESTORE.py DST[@STAMP] TARGET    restores the newest backup of DST, or that of STAMP or its beginning:
                                           a tree into the new folder TARGET, a stream into the new file TARGET,
                                           or with TARGET - to standard output

Every chunk is compared with its SHA-256. What is damaged is called NAME.damaged, with zeros where something is missing;
the rest comes back. Nothing is written outside TARGET. What the format is like: README.txt.
"""

import argparse
import base64
import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple
from typing import Counter as CounterOf

VERSION = 2
"""Grows with each change of this file: a store gets the newer one."""

FORMAT = 1
LARGEST = 9 << 20
"""Bytes of plain content of a chunk at most. Memory is bounded by some fifteen of these."""

LONGEST_LINE = 64 << 20
AHEAD, WINDOW = 6, 4096
"""Chunks that are read ahead, steps that are looked at ahead."""

KEPT, MOST = 48 << 20, 250
"""Bytes of chunks, and chunks, that stay for what comes next."""

ENDING = b".manifest.zst"
DAMAGED = b".damaged"
_NAME = re.compile(r"[0-9a-f]{64}")
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
}
_KINDS = ("file", "folder", "link", "hard link", *_NODES)
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Stopped(Exception):
    """It makes no sense to go on; `status` is that of the program."""

    def __init__(self, message: str, status: int = 1) -> None:
        Exception.__init__(self, message)
        self.status = status


class Damaged(Exception):
    """Something is not what was stored."""


class Complaints:
    """What was damaged, and what could not be made as it was; counted, and the first of them said."""

    def __init__(self) -> None:
        self.damaged = self.unset = 0
        self._lock = threading.Lock()

    def is_damaged(self, message: str) -> None:
        """Something is not what was stored."""
        with self._lock:
            self.damaged += 1
            self._say(message, self.damaged)

    def could_not(self, path: bytes, message: str) -> None:
        """Something could not be made here as it was."""
        with self._lock:
            self.unset += 1
            self._say("%s: %s" % (shown(path), message), self.unset)

    def _say(self, message: str, count: int) -> None:
        if count <= 10:
            say(message + (" (more of these are only counted)" if count == 10 else ""))

    def end(self) -> int:
        """The status of the program."""
        if self.unset:
            say("%d things could not be made as they were" % self.unset)
        if self.damaged:
            say("%d things are damaged" % self.damaged)
        return 5 if self.damaged else 3 if self.unset else 0


class Member(NamedTuple):
    """A line of a manifest, checked."""

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    device: Tuple[int, int]
    xattrs: Dict[str, bytes]
    parts: List[Tuple[int, int]]
    extents: List[Tuple[str, int, int]]


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write("RESTORE.py: %s\n" % message)


def shown(text: bytes) -> str:
    """`text` for a terminal, in ASCII."""
    return repr(text)[2:-1]


def decompressing(file: BinaryIO) -> "subprocess.Popen[bytes]":
    """The program zstd, fed with `file`. It takes no more memory than our windows need."""
    command = ["zstd", "-dcq", "--memory=16MB"]
    return subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def opened(path: bytes) -> BinaryIO:
    """A regular file to read, through no link."""
    file = open(os.open(path, _READ), "rb", 0)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


class Chunks:
    """The chunks of a store, each proved; a few are read at once, and the last ones stay."""

    def __init__(self, root: bytes) -> None:
        self._folder = os.path.join(root, b".store", b"chunks")
        self._pool = ThreadPoolExecutor(4)
        self._known: "OrderedDict[str, Future[bytes]]" = OrderedDict()

    def ask(self, name: str) -> "Future[bytes]":
        """Have the chunk `name` read."""
        if name not in self._known:
            self._known[name] = self._pool.submit(self._read, name)
            self._let_go()
        self._known.move_to_end(name)
        return self._known[name]

    def _let_go(self) -> None:
        """Let go of the chunks that were not asked for longest, if there are too many."""
        sizes = {n: len(c.result()) for n, c in self._known.items() if c.done() and c.exception() is None}
        kept = sum(sizes.values())
        while kept > KEPT or len(self._known) > MOST:
            kept -= sizes.get(self._known.popitem(last=False)[0], 0)

    def piece(self, extent: Tuple[str, int, int]) -> memoryview:
        """A part of a chunk."""
        name, offset, length = extent
        content = self.ask(name).result()
        if offset + length > len(content):
            raise Damaged("the manifest asks for more than the chunk %s has" % name)
        return memoryview(content)[offset : offset + length]

    def _read(self, name: str) -> bytes:
        try:
            with opened(os.path.join(self._folder, name[:2].encode(), name.encode() + b".zst")) as file:
                child = decompressing(file)
        except OSError as error:
            raise Damaged("the chunk %s cannot be read: %s" % (name, error.strerror)) from error
        with child:  # also closes the pipe, so that zstd ends whatever it still had to say
            content = child.stdout.read(LARGEST + 1) if child.stdout else b""
        if hashlib.sha256(content).hexdigest() != name:
            raise Damaged("the chunk %s is damaged" % name)
        return content


def small(text: str) -> int:
    """A number of JSON. Python needs minutes for one of a million digits."""
    if len(text) > 20:
        raise ValueError("a number is too large")
    return int(text)


def number(found: Dict[str, Any], name: str, low: int, high: int) -> int:
    """The number `name`, within bounds."""
    value = found.get(name, 0)
    if type(value) is not int or not low <= value < high:
        raise ValueError("its %s cannot be" % name)
    return value


def text(found: Dict[str, Any], name: str) -> bytes:
    """The text `name`: as it stands, or, if it is no UTF-8, in base64."""
    raw = found.get("raw_" + name)
    value = base64.b64decode(raw, validate=True) if raw else str(found.get(name, "")).encode()
    if b"\0" in value:
        raise ValueError("its %s cannot be" % name)
    return value


def clean(path: bytes) -> bytes:
    """`path`, which is below the top, or the top."""
    if path and any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ValueError("it does not lie below the top")
    return path


def extents_of(found: Dict[str, Any]) -> List[Tuple[str, int, int]]:
    """Where the content is."""
    extents = [(str(name), offset, length) for name, offset, length in found.get("extents") or ()]
    for name, offset, length in extents:
        if not _NAME.fullmatch(name) or min(offset, length) < 0 or offset + length > LARGEST:
            raise ValueError("its content cannot be")
    return extents


def parts_of(found: Dict[str, Any], size: int) -> List[Tuple[int, int]]:
    """What of a file is not holes."""
    if found.get("parts") is None:
        return [(0, size)]
    parts, at = [(offset, length) for offset, length in found["parts"]], 0
    for offset, length in parts:
        if offset < at or length < 0 or offset + length > size:
            raise ValueError("its holes cannot be")
        at = offset + length
    return parts


def member_of(found: Any) -> Member:
    """What a line of the manifest says. Raises ValueError or TypeError for what cannot be."""
    kind, size = str(found["kind"]), number(found, "size", 0, 1 << 63)
    target, (major, minor) = text(found, "target"), found.get("device") or (0, 0)
    if kind not in _KINDS:
        raise ValueError("its kind is not known")
    extents, parts = extents_of(found), parts_of(found, size)
    if kind == "file" and sum(length for _, _, length in extents) != sum(length for _, length in parts):
        raise ValueError("it has not as many bytes as it should have")
    return Member(
        path=clean(text(found, "path")),
        kind=kind,
        mode=number(found, "mode", 0, 1 << 32) & 0o7777,
        uid=number(found, "uid", 0, 1 << 32),
        gid=number(found, "gid", 0, 1 << 32),
        mtime=number(found, "mtime", -(1 << 63), 1 << 64),
        size=size,
        target=clean(target) if kind == "hard link" else target,
        device=(int(major), int(minor)),
        xattrs={str(name): base64.b64decode(value) for name, value in (found.get("xattrs") or {}).items()},
        parts=parts,
        extents=extents,
    )


class Manifest:
    """A manifest that is being read: what its header says, then `members` once."""

    def __init__(self, path: bytes, complaints: Complaints) -> None:
        self._complaints = complaints
        self.path = path
        self._digest = hashlib.sha256()
        with opened(path) as file:
            self._child = decompressing(file)
        header = self._line(self._raw())
        if header.get("type") != "header":
            raise Damaged("%s is damaged: it has no header" % shown(path))
        if header.get("format") != FORMAT:
            raise Stopped("%s has another format: %s; use a newer RESTORE.py" % (shown(path), header.get("format")))
        self.kind, self.source = str(header.get("kind")), str(header.get("source"))

    def _raw(self) -> bytes:
        line = self._child.stdout.readline(LONGEST_LINE + 1) if self._child.stdout else b""
        self._digest.update(line)
        return line

    def _line(self, line: bytes) -> Dict[str, Any]:
        try:
            found = json.loads(line.decode(), parse_int=small)
            if line.endswith(b"\n") and isinstance(found, dict):
                return found
        except (ValueError, RecursionError):
            pass
        raise Damaged("%s is damaged" % shown(self.path))

    def members(self) -> Iterator[Member]:
        """What can be understood. Damage is said, and ends it."""
        count = 0
        try:
            while True:
                found = self._line(self._raw())
                if found.get("type") == "end":
                    break
                count += 1
                try:
                    yield member_of(found)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    self._complaints.is_damaged("line %d of the manifest is left out: %s" % (count + 1, error))
            if found.get("entries") != count or self._raw() or self._child.wait() or not self._as_recorded():
                raise Damaged("%s is damaged at its end" % shown(self.path))
        except Damaged as damage:
            self._complaints.is_damaged(str(damage))
        finally:
            self.close()

    def _as_recorded(self) -> bool:
        """Whether the text is what the record says, if there is one."""
        known = record_of(self.path).get("sha256")
        return not known or known == self._digest.hexdigest()

    def close(self) -> None:
        """End the program."""
        self._child.kill()
        self._child.__exit__(None, None, None)


def record_of(manifest: bytes) -> Dict[str, Any]:
    """What the record beside a manifest says; nothing if there is none that can be read."""
    folder, name = os.path.split(manifest)
    try:
        with opened(os.path.join(folder, b".records", name[: -len(ENDING)] + b".json")) as file:
            found = json.loads(file.read(1 << 24).decode(), parse_int=small)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def with_content(members: Iterable[Member], chunks: Chunks) -> Iterator[Tuple[Member, Iterator[Any]]]:
    """The members, each with its pieces: memory, or an exception of so many bytes that are missing."""
    steps = ((n, member, extent) for n, member in enumerate(members) for extent in [None, *member.extents])
    for _, group in itertools.groupby(_ahead(steps, chunks), lambda step: step[0]):
        yield next(group)[1], _pieces(group, chunks)  # noqa: B031 - it is one iterator, and taken once


Step = Tuple[int, Member, Optional[Tuple[str, int, int]]]


def _ahead(steps: Iterable[Step], chunks: Chunks) -> Iterator[Step]:
    """The steps, late enough that the chunks of the next ones are on their way."""
    window: Deque[Step] = deque()
    coming: CounterOf[str] = Counter()
    for step in steps:
        window.append(step)
        if step[2]:
            coming[step[2][0]] += 1
            chunks.ask(step[2][0])
        while len(coming) >= AHEAD or len(window) >= WINDOW:
            yield _next_of(window, coming)
    while window:
        yield _next_of(window, coming)


def _next_of(window: "Deque[Step]", coming: "CounterOf[str]") -> Step:
    step = window.popleft()
    if step[2]:
        coming[step[2][0]] -= 1
        if not coming[step[2][0]]:
            del coming[step[2][0]]
    return step


def _pieces(steps: Iterator[Step], chunks: Chunks) -> Iterator[Any]:
    for _, _, extent in steps:
        if extent:
            try:
                yield chunks.piece(extent)
            except Damaged as damage:
                yield Damaged(str(damage), extent[2])


def fill(file: int, member: Member, pieces: Iterable[Any], complaints: Complaints) -> bool:
    """Write the content of a file. Whether nothing is missing."""
    parts, at, left, whole = iter(member.parts), 0, 0, True
    for piece in pieces:
        missing = isinstance(piece, Damaged)
        if missing:
            complaints.is_damaged("%s: %s" % (shown(member.path), piece.args[0]))
            whole = False
        length = piece.args[1] if missing else len(piece)
        done = 0
        while done < length:
            while not left:
                at, left = next(parts)
            count = min(left, length - done)
            if not missing:
                write_all(file, piece[done : done + count], at)
            done, at, left = done + count, at + count, left - count
    os.ftruncate(file, member.size)
    return whole


def write_all(file: int, content: memoryview, at: int) -> None:
    """Write all of `content` at `at`."""
    while content:
        count = os.pwrite(file, content, at)
        content, at = content[count:], at + count


class Tree:
    """Writes members below an open folder, and nowhere else: every folder on the way is entered through no link."""

    def __init__(self, top: int, complaints: Complaints) -> None:
        self._top = top
        self._complaints = complaints
        self._pending: List[Member] = []  # folders that get their attributes when we leave them
        self._here = (b"", os.dup(top))
        self._now = time.time()

    def write(self, member: Member, pieces: Iterable[Any] = ()) -> None:
        """Make `member`."""
        self._leave(member.path)
        try:
            if not member.path:
                self._pending = self._pending or [member]
                return
            parent, _, name = member.path.rpartition(b"/")
            folder = self._enter(parent)
            before = None if any(one.path == parent for one in self._pending) else os.fstat(folder)
            self._make(folder, name, member, pieces)
            if before and parent:  # it had its attributes already
                os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
        except (OSError, ValueError, OverflowError) as error:
            self._refuse(member, error)

    def _refuse(self, member: Member, error: Exception) -> None:
        number = getattr(error, "errno", None)
        if number in _FATAL:
            raise Stopped("cannot write %s: %s" % (shown(member.path), os.strerror(number))) from error
        message = "it could not be made: %s" % error
        if number in (errno.EPERM, errno.EACCES):
            self._complaints.could_not(member.path, message)
        else:
            self._complaints.is_damaged("%s: %s" % (shown(member.path), message))

    def finish(self) -> None:
        """Give the folders that are left their attributes, the top at last."""
        self._leave(None)
        os.close(self._here[1])

    def _leave(self, path: Optional[bytes]) -> None:
        """Give those folders their attributes that `path` is not in."""
        while self._pending:
            last = self._pending[-1]
            if path is not None and (not last.path or path.startswith(last.path + b"/")):
                return
            self._pending.pop()
            try:
                self._dress(self._enter(last.path), last)
            except OSError as error:
                self._refuse(last, error)

    def _enter(self, path: bytes) -> int:
        """The folder `path`, open until the next one is."""
        if path != self._here[0]:
            here = self.folder(path)
            os.close(self._here[1])
            self._here = (path, here)
        return self._here[1]

    def folder(self, path: bytes) -> int:
        """A new descriptor of the folder `path`."""
        folder = os.dup(self._top)
        for part in path.split(b"/") if path else ():
            try:
                inner = os.open(part, _ENTER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _make(self, folder: int, name: bytes, member: Member, pieces: Iterable[Any]) -> None:
        if member.kind == "folder":
            os.mkdir(name, 0o700, dir_fd=folder)
            self._pending.append(member)
        elif member.kind == "file":
            self._make_file(folder, name, member, pieces)
        elif member.kind == "hard link":
            self._link(folder, name, member)
        else:
            self._make_node(folder, name, member)

    def _make_file(self, folder: int, name: bytes, member: Member, pieces: Iterable[Any]) -> None:
        file = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            if not fill(file, member, pieces, self._complaints):
                os.rename(name, name[: 255 - len(DAMAGED)] + DAMAGED, src_dir_fd=folder, dst_dir_fd=folder)
                member = member._replace(mode=member.mode & 0o777, xattrs={})
            self._dress(file, member)
        finally:
            os.close(file)

    def _link(self, folder: int, name: bytes, member: Member) -> None:
        parent, _, first = member.target.rpartition(b"/")
        there = self.folder(parent)
        try:
            os.link(first, name, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(there)

    def _make_node(self, folder: int, name: bytes, member: Member) -> None:
        if member.kind == "link":
            os.symlink(member.target, name, dir_fd=folder)
        else:
            os.mknod(name, _NODES[member.kind] | 0o600, os.makedev(*member.device), dir_fd=folder)
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._dress(b"/proc/self/fd/%d" % node, member)
        finally:
            os.close(node)

    def _dress(self, file: Any, member: Member) -> None:
        """Owner, attributes, mode, time. The owner comes first: chown takes set-id bits and capabilities away."""
        mode = member.mode
        if not self._try(member, "its owner", lambda: os.chown(file, member.uid, member.gid)):
            mode &= 0o1777  # never a program that runs as somebody else than before
        for name, value in member.xattrs.items():
            self._try(member, "its attribute " + ascii(name), functools.partial(os.setxattr, file, name, value))
        if member.kind != "link":
            self._try(member, "its mode", lambda: os.chmod(file, mode))
        self._try(member, "its time", lambda: os.utime(file, ns=(int(self._now * 1e9), member.mtime)))

    def _try(self, member: Member, what: str, change: Callable[[], None]) -> bool:
        try:
            change()
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            self._complaints.could_not(member.path, "%s could not be set: %s" % (what, reason))
            return False
        return True


class Selection:
    """The paths that are wanted, with the folders above them; none means all.

    Hard links whose first name is not wanted wait for its content in `postponed`.
    """

    def __init__(self, paths: Iterable[str], source: str) -> None:
        self._wanted = set(inside(path, source) for path in paths)
        self._above = set(above for path in self._wanted for above in folders_above(path))
        self._found: Set[bytes] = set()
        self.postponed: Dict[bytes, List[Member]] = {}

    def takes(self, member: Member) -> bool:
        """Whether `member` is to be restored now."""
        if not self._wanted or b"" in self._wanted:
            return True
        if not self._holds(member.path):
            return member.kind == "folder" and member.path in self._above
        if member.kind == "hard link" and not self._holds(member.target):
            self.postponed.setdefault(member.target, []).append(member)
            return False
        return True

    def _holds(self, path: bytes) -> bool:
        hits = self._wanted.intersection([path, *folders_above(path)])
        self._found.update(hits)
        return bool(hits)

    def missing(self) -> List[str]:
        """What was wanted, and not there."""
        return sorted(shown(path) for path in self._wanted - self._found - {b""})


def folders_above(path: bytes) -> Iterator[bytes]:
    """The folders that `path` is in, the top at last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def inside(path: str, source: str) -> bytes:
    """`path` as in a manifest; an absolute one may begin with the source."""
    if source and (path + "/").startswith(source.rstrip("/") + "/"):
        path = path[len(source.rstrip("/")) :]
    return clean(os.fsencode(path.strip("/")))


def restore_tree(chunks: Chunks, manifest: Manifest, target: bytes, paths: List[str], out: Complaints) -> None:
    """Restore a tree, or `paths` of it, into the new folder `target`, which nobody else can enter until it is whole."""
    selection = Selection(paths, manifest.source)
    os.mkdir(target, 0o700)
    top = os.open(target, _ENTER)
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):  # mostly there is none
            os.removexattr(top, name)
    os.chmod(top, 0o700)
    tree = Tree(top, out)
    for member, pieces in with_content((one for one in manifest.members() if selection.takes(one)), chunks):
        tree.write(member, pieces)
    if selection.postponed:
        write_postponed(tree, selection, Manifest(manifest.path, out), chunks)
    tree.finish()
    os.sync()
    if selection.missing():
        raise Stopped("not in this backup: " + ", ".join(selection.missing()))


def write_postponed(tree: Tree, selection: Selection, manifest: Manifest, chunks: Chunks) -> None:
    """Read again, for the content of hard links whose first name is not wanted: the first of them becomes the file."""
    waiting = selection.postponed
    for member, pieces in with_content((one for one in manifest.members() if one.path in waiting), chunks):
        links = waiting[member.path]
        tree.write(member._replace(path=links[0].path), pieces)
        for link in links[1:]:
            tree.write(link._replace(target=links[0].path))


def restore_stream(chunks: Chunks, manifest: Manifest, target: bytes, out: Complaints) -> None:
    """Write the one member of a stream into the new file `target`, or to standard output, there up to the damage."""
    for member, pieces in with_content(manifest.members(), chunks):
        if target == b"-":
            for piece in pieces:
                if isinstance(piece, Damaged):
                    raise Stopped("what follows is damaged: %s" % piece.args[0], 5)
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            file = os.open(target, _CREATE, 0o600)
            if not fill(file, member, pieces, out):
                os.rename(target, target + DAMAGED)
            os.fsync(file)
            os.close(file)


def manifests_in(root: bytes) -> Iterator[Tuple[bytes, bytes, bytes]]:
    """The backups below `root`: dst, stamp, path of the manifest; oldest first in each dst."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        for name in sorted(names):
            if name.endswith(ENDING) and _STAMP.match(name):
                yield os.path.relpath(folder, root), name[: -len(ENDING)], os.path.join(folder, name)


def list_backups(root: bytes) -> None:
    """Print what there is."""
    for dst, stamp, path in manifests_in(root):
        record = record_of(path)
        mark = os.path.join(os.path.dirname(path), b".records", stamp + DAMAGED)
        columns = [shown(dst + b"@" + stamp), str(record.get("kind", "")), str(record.get("length", ""))]
        columns += [shown(str(record.get("source", "")).encode("utf-8", "replace"))]
        print("\t".join(columns + (["damaged"] if os.path.exists(mark) else [])))


def found(root: bytes, address: str) -> bytes:
    """The path of the manifest that DST[@STAMP] names."""
    dst, at, stamp = os.fsencode(address).rpartition(b"@")
    if not at:
        dst, stamp = stamp, b""
    all_of_it = [one for one in manifests_in(root) if one[0] == os.path.normpath(dst)]
    fitting = all_of_it[-1:] if stamp in (b"", b"latest") else [one for one in all_of_it if one[1].startswith(stamp)]
    if len(fitting) != 1:
        raise Stopped(
            "%s names %d backups, and one is needed; without arguments all are listed" % (address, len(fitting))
        )
    return fitting[0][2]


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit status."""
    root = os.fsencode(options.root)
    if not os.path.isdir(os.path.join(root, b".store")):
        raise Stopped("there is no store in %s: say where it is with --root" % shown(root))
    if not options.address:
        list_backups(root)
        return 0
    if not shutil.which("zstd"):
        raise Stopped("the program zstd is not installed")
    path, target, complaints = found(root, options.address), os.fsencode(options.target or ""), Complaints()
    chunks = Chunks(root)
    if not target or (target != b"-" and os.path.lexists(target)):
        raise Stopped("TARGET is missing" if not target else "%s exists: give a new name" % shown(target))
    manifest = Manifest(path, complaints)
    if manifest.kind != "fs":
        restore_stream(chunks, manifest, target, complaints)
    elif target == b"-":
        raise Stopped("this backup is a tree: TARGET is to be a new folder")
    else:
        restore_tree(chunks, manifest, target, options.path, complaints)
    return complaints.end()


def main() -> int:
    """Run the command line; the exit status."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    parser.add_argument("--root", default=here, help="the ROOT_PATH of the backups")
    parser.add_argument("--path", action="append", default=[], help="restore this path of the tree; can be repeated")
    parser.add_argument("address", nargs="?", metavar="DST[@STAMP]", help="what to restore")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="where to put it; - is standard output")
    try:
        return run(parser.parse_args())
    except Stopped as stop:
        say(str(stop))
        return stop.status
    except Damaged as damage:
        say(str(damage))
        return 5
    except (OSError, ValueError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
# SHA-256 of all above: ce2d569e9f0be90160ee73708dfc107e6f4bfd3590d669d37fbd2442e8f141b9
