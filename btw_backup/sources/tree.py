"""A tree as a source: our walker says what there is, the program tar writes the archive of it."""

import hashlib
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from btw_backup.errors import FatalUserError
from btw_backup.log import debug
from btw_backup.sources import Fingerprint, Produced
from btw_backup.sources.ahead import LookAhead, socket_of
from btw_backup.sources.filesystem import has_reliable_times
from btw_backup.sources.listing import line_of
from btw_backup.sources.memory import ENCODING, Looks, Memory, Remembered, anonymous_file, unpacked
from btw_backup.sources.rules import Rules
from btw_backup.sources.walk import Problems, walk

_AT_ONCE = 1024


class Tree:
    """The tree below `source`, without what `rules` leave out. `scratch` is a folder for the list of names, which is
    the only thing that grows with the tree: about 60 bytes an entry, on disk. `remembers` what the walk saw, too.
    `ahead` looks at it already, and is ended by `fingerprint`."""

    kind = "fs"
    file_name = "backup.tar"

    def __init__(
        self,
        source: str,
        rules: Rules,
        scratch: Path,
        *,
        allow_empty: bool = False,
        remembers: bool = False,
        ahead: LookAhead | None = None,
    ) -> None:
        self.name = source
        self._rules = rules
        self._allow_empty = allow_empty
        self._scratch = scratch
        self._names: BinaryIO | None = None
        self._memory: BinaryIO | None = None
        self._remembers = remembers
        self._seen: Fingerprint | None = None
        self._ahead = ahead
        self._problems = Problems()
        self._sockets: list[Mapping[str, Any]] = []

    def fingerprint(self) -> Fingerprint:
        """Walk the tree, once, and remember the names for `produce`."""
        if self._seen is None:
            self._names = anonymous_file(self._scratch)
            if self._remembers:
                self._memory = anonymous_file(self._scratch)
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
        began = self._ahead.began if self._ahead else time.time_ns()
        digest = hashlib.sha256(self._rules.digest_input())
        memory, looks = Memory(digest.update, self._memory), Looks()
        listed: list[bytes] = []
        entries = size = newest = 0
        met = ""
        for seen in walk(self.name, self._rules, self._problems):
            path, status, _, _ = seen
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFDIR and self._ahead and self._ahead.begins_at(path):
                self._ahead.stop()
                met = path
                break
            mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
            encoded = path.encode(*ENCODING)
            looks.add(seen, mtime, ctime, encoded)
            entries += 1
            if kind == stat.S_IFREG:
                size += status.st_size
            newest = max(newest, mtime, ctime)
            if kind == stat.S_IFSOCK:
                self._sockets.append(socket_of(path, status))
            elif not self._memory:
                listed.append(line_of(encoded, status))
            if len(looks) >= _AT_ONCE:
                memory.keep(looks.taken())
                _flush(names.write, listed)
        memory.keep(looks.taken())
        _flush(names.write, listed)
        for batch in self._ahead.rest(met) if self._ahead and met else ():
            memory.keep(batch.looks)
            entries, size, newest = entries + batch.entries, size + batch.size, max(newest, batch.newest)
            self._sockets += batch.sockets
        reliable = has_reliable_times(self.name) and not self._problems
        return Fingerprint(digest.hexdigest(), began, newest, reliable, entries, size)

    def entries(self) -> Iterator[Remembered]:
        """What `fingerprint` saw. Only for a tree that `remembers`."""
        self.fingerprint()
        assert self._memory is not None
        return unpacked(self._memory)

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


def _flush(write: Callable[[bytes], Any], parts: list[bytes]) -> None:
    write(b"".join(parts))
    parts.clear()
