"""A tree as a source: our walker says what there is, the program tar writes the archive of it."""

import hashlib
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from btw_backup import process, progress
from btw_backup.config import Config
from btw_backup.errors import FatalUserError
from btw_backup.log import debug
from btw_backup.sources import Fingerprint, Produced, relay
from btw_backup.sources.complaints import Complaints
from btw_backup.sources.content import archive_digest
from btw_backup.sources.feeder import feeding, line_of
from btw_backup.sources.filesystem import has_reliable_times
from btw_backup.sources.memory import Memory, Remembered
from btw_backup.sources.rules import Rules, rules_of
from btw_backup.sources.walk import Problems, Seen, walk

OPTIONS = (
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
    "--sparse",
    "--acls",
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
    "--no-recursion",
    "--quoting-style=escape",
    "--blocking-factor=128",
    "--null",
    "--verbatim-files-from",
)
"""The options of tar: no atime, ctime or process number, so that archives of equal trees are equal."""

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
        self._problems = Problems()
        self._sockets: list[Mapping[str, Any]] = []

    def fingerprint(self) -> Fingerprint:
        """Walk the tree, once, and remember the names for `produce`."""
        if self._seen is None:
            self._names = _anonymous_file(self._scratch)
            if self._remembers:
                self._memory = Memory(_anonymous_file(self._scratch))
            self._seen = self._walk(self._names)
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
        for seen in walk(self.name, self._rules, self._problems):
            path, status, _, _ = seen
            encoded = os.fsencode(path)
            if self._memory is not None:
                self._memory.add(seen)
            packed.append(_looks(seen))
            packed.append(encoded + b"\0")
            entries += 1
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
            if stat.S_ISSOCK(status.st_mode):
                self._sockets.append(_socket(path, status))
            else:
                listed.append(
                    line_of(encoded, status.st_size if stat.S_ISREG(status.st_mode) and status.st_blocks else 0)
                )
            if len(packed) > 4096:
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
        seen = self.fingerprint()
        assert self._names is not None
        self._names.seek(0)
        complaints = Complaints()
        command = ["tar", "--create", "--file=-", f"--directory={self.name}", *OPTIONS, "--files-from=-"]
        digest = hashlib.sha256()
        length = 0
        own = out if relay.is_file(out) else None
        with (
            progress.shown(f"reading {self.name}", seen.size) as advance,
            process.started(command, stdin=process.PIPE, stdout=own, on_line=complaints.add) as tar,
            feeding(tar, self._names, self.name) as feeder,
        ):
            for block in relay.behind(tar, out) if own else relay.through_pipe(tar, out):
                feeder.delivered(len(block))
                digest.update(block)
                length += len(block)
                advance(len(block))
            complaints.judge(tar)
            feeder.check()
        unread = (*self._problems.found, *complaints.unread.found)
        left_out = self._problems.left_out + complaints.unread.left_out + complaints.changed.left_out
        sha256 = digest.hexdigest()
        return Produced(length, sha256, sha256, tuple(complaints.changed.found), unread, left_out, tuple(self._sockets))

    def content_of(self, stream: BinaryIO) -> str:
        """The digest of an archive whoever wrote it; contract: `sources.Source.content_of`."""
        return archive_digest(stream)

    def programs(self) -> Mapping[str, str]:
        """The version of tar."""
        return {"tar": process.run(["tar", "--version"]).split(b"\n")[0].decode()}


def tree_rules(source: str, settings: Config) -> Rules:
    """The rules that a job's settings make."""
    return rules_of(
        source, settings["EXCLUDE"], one_file_system=settings["ONE_FILE_SYSTEM"], skip_caches=settings["SKIP_CACHES"]
    )


def _looks(seen: Seen) -> bytes:
    """What the fingerprint covers of one entry, besides its path."""
    _, s, folder, name = seen
    times = (s.st_mtime_ns & _MOMENTS, s.st_ctime_ns & _MOMENTS)
    looks = _ENTRY.pack(s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_size, *times, s.st_rdev)
    if stat.S_ISLNK(s.st_mode):
        try:
            return looks + os.fsencode(os.readlink(name, dir_fd=folder))
        except OSError:
            return looks
    return looks


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
