"""What of a tree is to be restored: all of it, or paths and what is below them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged, NotFound, UsageError
from btw_backup.keepers.headers import clean_path
from btw_backup.log import printable
from btw_backup.records import Backup

_TORN = re.compile("file changed as we read it|File shrank|Read error")
"""What tar and we say of files that are in the backup all the same."""


class Selection:
    """The `paths` of a tree that are wanted; none means all. Folders above them come too, for their attributes.

    A hard link that is wanted while its first name is not waits in `postponed`, by the first name, for its content.
    """

    def __init__(self, backup: Backup, paths: Sequence[str]) -> None:
        source = backup.record.source if backup.record else ""
        wanted = {_inside(path, source) for path in paths}
        self._wanted = set() if b"" in wanted else wanted  # the top is all
        self._above = {above for path in self._wanted for above in _folders_above(path)}
        self._missing = set(self._wanted)
        self.postponed: dict[bytes, list[Entry]] = {}

    def takes(self, entry: Entry) -> bool:
        """Whether `entry` is to be restored now."""
        if not self._wanted:
            return True
        if not self._holds(entry.path):
            return entry.kind is Kind.FOLDER and entry.path in self._above
        if entry.kind is Kind.HARD_LINK and not self._holds(entry.target):
            self.postponed.setdefault(entry.target, []).append(entry)
            return False
        return True

    def _holds(self, path: bytes) -> bool:
        if path in self._wanted:
            self._missing.discard(path)
            return True
        found = next((above for above in _folders_above(path) if above in self._wanted), None)
        if found is not None:
            self._missing.discard(found)
        return found is not None

    def awaits(self, entry: Entry) -> bool:
        """Whether postponed entries wait for `entry`."""
        return entry.path in self.postponed

    def waiting_for(self, entry: Entry) -> list[Entry]:
        """The postponed entries that `entry`, met again, gives its content to: the first as what it is, the others as
        links to that one."""
        links = self.postponed.pop(entry.path, [])
        if links and entry.kind is Kind.HARD_LINK:
            self.postponed.setdefault(entry.target, []).extend(links)
            return []
        first = [replace(entry, path=link.path) for link in links[:1]]
        return first + [replace(link, target=links[0].path) for link in links[1:]]

    def torn(self, backup: Backup, most: int) -> tuple[list[str], int]:
        """What the run said of files that are wanted and that it did not read in one piece, up to `most`; how many."""
        record = backup.record
        told = [one for one in (*record.changed, *record.unread) if _TORN.search(one[1])] if record else []
        torn = [(path, why) for path, why in told if not self._wanted or self._holds(os.fsencode(path))]
        shown = [f"{printable(path)} may not be whole: when it was backed up, {why}" for path, why in torn[:most]]
        return shown, len(torn)

    def check(self) -> None:
        """Raise `NotFound` if a path was not there."""
        if self._missing:
            names = ", ".join(sorted(printable(path) for path in self._missing))
            raise NotFound(f"not in this backup: {names}", "paths are relative to the top of the tree")


def sockets_of(backup: Backup, selection: Selection) -> Iterator[Entry]:
    """The sockets that are wanted; an archive cannot hold them, so they are in the record."""
    for known in backup.record.sockets if backup.record else ():
        try:
            attributes = {name: bytes.fromhex(value) for name, value in known.get("xattrs", {}).items()}
            path = clean_path(os.fsencode(known["path"]))
            mode, uid, gid, mtime = (int(known[name]) for name in ("mode", "uid", "gid", "mtime"))
            entry = Entry(path, Kind.SOCKET, mode & 0o7777, uid, gid, mtime, xattrs=attributes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"the record of {backup.address} holds a socket that cannot be one: {error}") from error
        if selection.takes(entry):
            yield entry


def _inside(path: str, source: str) -> bytes:
    """`path` as `Entry.path`; an absolute one may be below the source, or is meant from the top of the tree."""
    if source and (path + "/").startswith(source.rstrip("/") + "/"):
        path = path[len(source.rstrip("/")) :]
    try:
        return clean_path(os.fsencode(path.lstrip("/")))
    except ValueError as error:
        raise UsageError(f"not a path in a tree: {printable(path)}, because {error}") from error


def _folders_above(path: bytes) -> Iterator[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path
