"""A tree as a source: our walker says what there is, the program tar writes the archive of it."""

import hashlib
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from btw_backup.config import Config
from btw_backup.errors import FatalUserError
from btw_backup.log import debug
from btw_backup.sources import Fingerprint, Produced
from btw_backup.sources.ahead import LookAhead
from btw_backup.sources.filesystem import has_reliable_times
from btw_backup.sources.memory import Memory, Remembered
from btw_backup.sources.rules import Rules, rules_of
from btw_backup.sources.walk import Problems, Seen, walk

_ENTRY = struct.Struct("<QIIIqQQQ")
_MOMENTS = (1 << 64) - 1  # nanoseconds outgrow 64 bits in 2262, and filesystems do not


class Tree:
    """The tree below `source`, chosen by the job's settings. `scratch` is a folder for the list of names, which is
    the only thing that grows with the tree: about 60 bytes an entry, on disk. `remembers` what the walk saw, too."""

    kind = "fs"
    file_name = "backup.tar"

    def __init__(
        self, source: str, settings: Config, scratch: Path, *, allow_empty: bool = False, remembers: bool = False
    ) -> None:
        self.name = source
        self._rules = tree_rules(source, settings)
        self._allow_empty = allow_empty or bool(settings["ALLOW_EMPTY"])
        self._scratch = scratch
        self._names: BinaryIO | None = None
        self._memory: Memory | None = None
        self._remembers = remembers
        self._seen: Fingerprint | None = None
        self._ahead: LookAhead | None = None
        self._problems = Problems()
        self._sockets: list[Mapping[str, Any]] = []

    def look_ahead(self) -> None:
        """Begin to look at the tree, while other things are done before `fingerprint`."""
        self._ahead = LookAhead(self.name, self._rules)

    def fingerprint(self) -> Fingerprint:
        """Walk the tree, once, and remember the names for `produce`."""
        if self._seen is None:
            self._names = _anonymous_file(self._scratch)
            if self._remembers:
                self._memory = Memory(_anonymous_file(self._scratch))
            try:
                self._seen = self._walk(self._names)
            finally:
                if self._ahead:
                    self._ahead.stop()
            debug(f"{self.name}: {self._seen.entries} entries, {self._seen.size} bytes")
            if self._seen.entries <= 1 and not self._allow_empty:
                raise FatalUserError(
                    f"the source {self.name} is empty",
                    "is it mounted? if it may be empty, say --allow-empty or ALLOW_EMPTY = True",
                )
        return self._seen

    def _walk(self, names: BinaryIO) -> Fingerprint:
        began = time.time_ns()
        digest = hashlib.sha256(self._rules.digest_input())
        listed: list[bytes] = []
        packed: list[bytes] = []
        entries = size = newest = 0
        memory = self._memory
        for seen in walk(self.name, self._rules, self._problems):
            path, status, _, _ = seen
            mode, mtime, ctime = status.st_mode, status.st_mtime_ns, status.st_ctime_ns
            encoded = os.fsencode(path)
            if memory is not None:
                memory.add(seen, mtime, ctime)
            packed.append(_looks(seen, mtime, ctime) + encoded + b"\0")
            entries += 1
            if stat.S_ISREG(mode):
                size += status.st_size
            newest = max(newest, mtime)
            newest = max(newest, ctime)
            if stat.S_ISSOCK(mode):
                self._sockets.append(_socket(path, status))
            elif memory is None:
                listed.append(line_of(encoded, status))
            if len(packed) > 2048:
                _flush(digest.update, packed)
                _flush(names.write, listed)
        _flush(digest.update, packed)
        _flush(names.write, listed)
        reliable = has_reliable_times(self.name) and not self._problems
        return Fingerprint(digest.hexdigest(), began, newest, reliable, entries, size)

    def entries(self) -> Iterator[Remembered]:
        """What `fingerprint` saw. Only for a tree that `remembers`."""
        self.fingerprint()
        assert self._memory is not None
        return iter(self._memory)

    @property
    def problems(self) -> Problems:
        """What `fingerprint` could not look at."""
        return self._problems

    def produce(self, out: BinaryIO) -> Produced:
        """Have tar write the archive of what `fingerprint` saw. Contract: `sources.Source.produce`."""
        from btw_backup.sources import archiving  # noqa: PLC0415 - only a tree that changed needs it, and not in chunks

        seen = self.fingerprint()
        assert self._names is not None
        self._names.seek(0)
        produced = archiving.write(self.name, self._names, seen.size, out, self._problems)
        return replace(produced, sockets=tuple(self._sockets))

    def content_of(self, stream: BinaryIO) -> str:
        """The digest of an archive whoever wrote it; contract: `sources.Source.content_of`."""
        from btw_backup.sources.content import archive_digest  # noqa: PLC0415 - as above

        return archive_digest(stream)

    def programs(self) -> Mapping[str, str]:
        """The version of tar."""
        from btw_backup import process  # noqa: PLC0415 - as above

        return {"tar": process.run(["tar", "--version"]).split(b"\n")[0].decode()}


def tree_rules(source: str, settings: Config) -> Rules:
    """The rules that a job's settings make."""
    return rules_of(
        source, settings["EXCLUDE"], one_file_system=settings["ONE_FILE_SYSTEM"], skip_caches=settings["SKIP_CACHES"]
    )


def _looks(seen: Seen, mtime: int, ctime: int) -> bytes:
    """What the fingerprint covers of one entry, besides its path. A status makes its times anew for who asks."""
    _, s, folder, name = seen
    mode, inode, _, _, uid, gid, size = s[:7]
    looks = _ENTRY.pack(inode, mode, uid, gid, size, mtime & _MOMENTS, ctime & _MOMENTS, s.st_rdev)
    if stat.S_ISLNK(mode):
        try:
            return looks + os.fsencode(os.readlink(name, dir_fd=folder))
        except OSError:
            return looks
    return looks


def line_of(path: bytes, status: os.stat_result) -> bytes:
    """An item of the list of names: the size of a regular file that has content, else 0, and the path."""
    size = status.st_size if stat.S_ISREG(status.st_mode) and status.st_blocks else 0
    return b"%d/%s\0" % (size, path)


def _socket(path: str, status: os.stat_result) -> Mapping[str, Any]:
    mode, owner = stat.S_IMODE(status.st_mode), {"uid": status.st_uid, "gid": status.st_gid}
    return {"path": path, "mode": mode, **owner, "mtime": status.st_mtime_ns}


def _flush(write: Callable[[bytes], Any], parts: list[bytes]) -> None:
    write(b"".join(parts))
    parts.clear()


def _anonymous_file(folder: Path) -> BinaryIO:
    """A file without a name in `folder`: gone with us, whatever happens."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
