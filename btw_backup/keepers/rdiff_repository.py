"""What is in an rdiff-backup repository, told from its names and its metadata; nothing here writes.

A session is known by its time, in W3C's notation with the offset of the zone that rdiff-backup then ran in. The
folder ``rdiff-backup-data`` has ``mirror_metadata.<time>.…`` for each; ``current_mirror.<time>.data`` for the newest,
and two of these if the last session did not come to its end; and in ``increments`` what makes the older states.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from btw_backup import regular
from btw_backup.clock import stamp_of
from btw_backup.errors import Damaged
from btw_backup.keepers import rdiff_delta
from btw_backup.keepers.rdiff_delta import Layer

_BLOCK = 1 << 18
DATA = "rdiff-backup-data"
TEMPORARY = "rdiff-backup.tmp."
_ATTRIBUTES = ("extended_attributes", "access_control_lists", "win_access_control_lists")
"""What rdiff-backup also writes a list of for each session, if it was installed with what it needs for that."""

_ILLEGIBLE = (OSError, EOFError, zlib.error, ValueError, KeyError)
_DATED = re.compile(
    r"(?P<base>.+)\.(?P<day>\d{4}-\d\d-\d\d)T(?P<time>\d\d[:-]\d\d[:-]\d\d)(?P<zone>Z|[+-]\d\d[:-]\d\d)"
    r"\.(?P<type>snapshot|diff|dir|missing|data)(?P<compressed>\.gz)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Dated:
    """A file that belongs to the session at `time`, in seconds since 1970."""

    path: Path
    base: str
    time: int
    type: str
    compressed: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """The one file of a session as the metadata knows it; None and "" for what it does not tell."""

    name: str
    size: int | None = None
    sha1: str = ""
    mtime: int | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that has at least one complete session."""

    path: Path
    data: tuple[Dated, ...] = field(repr=False)
    markers: tuple[int, ...]
    sessions: tuple[int, ...]

    @property
    def interrupted(self) -> bool:
        """Whether the last session did not come to its end; what it began is not among the sessions."""
        return len(self.markers) != 1

    @property
    def utc(self) -> bool:
        """Whether its names are, or shall be from now on, in UTC: rdiff-backup 2.2.2 writes -03:30 as -04:30."""
        names = [dated.path.name for dated in self.data if dated.base == "current_mirror"]
        return any(re.search(r"(Z|-\d\d:(?!00)\d\d)\.data$", name) for name in names)

    @property
    def has_increments(self) -> bool:
        """Whether there is anything that rdiff-backup could go back to after an interrupted session."""
        folder = self.path / DATA / "increments"
        return folder.is_dir() and any(folder.iterdir())

    @property
    def mirror(self) -> Path | None:
        """The file as it is now; None if there is not exactly one."""
        found = [entry for entry in self.path.iterdir() if entry.name != DATA and not entry.name.startswith(TEMPORARY)]
        return found[0] if len(found) == 1 and found[0].is_file() and not found[0].is_symlink() else None

    def temporaries(self) -> list[Path]:
        """What rdiff-backup left when it was killed."""
        return [path for folder in (self.path, self.path / DATA) for path in folder.glob(f"{TEMPORARY}*")]

    def problem(self) -> str:
        """Why no session may be added to it; "" if nothing is wrong. Does not read the file."""
        if self.interrupted:
            return "its last session was interrupted"
        try:
            self.prove_metadata(self.sessions[-1])
            mirror, stored = self.mirror, self.stored(self.sessions[-1])
        except Damaged as error:
            return error.message
        except OSError as error:
            return f"its metadata cannot be read: {error.strerror}"
        if mirror is None or mirror.name != stored.name:
            return "its newest file is missing"
        if stored.size not in (None, mirror.stat().st_size):
            return "its newest file is not as long as it was"
        return ""

    def prove(self, session: int) -> None:
        """Raises `Damaged` unless all is whole that rdiff-backup restores `session` from. What the increments hold, and
        the newest file, is not looked at: reading the content proves them."""
        self.prove_metadata(session)
        for layer in self.layers(session):
            if layer.compressed:
                rdiff_delta.prove_whole(layer.path)

    def prove_metadata(self, session: int) -> None:
        """Raises `Damaged` unless all is whole that tells rdiff-backup of `session`: our own restore does without."""
        needed = self._metadata(session)
        if not needed or needed[0].type != "snapshot":
            of = _told(self.sessions[-1] if needed else session)
            raise Damaged(f"{self.path / DATA}: the mirror_metadata of {of} is missing")
        needed += [dated for dated in self.data if dated.base in _ATTRIBUTES and dated.time == session]
        for dated in needed:
            if dated.compressed:
                rdiff_delta.prove_whole(dated.path)

    def stored(self, session: int) -> Stored:
        """The file that the repository held at `session`."""
        found: dict[str, Stored] = {}
        try:
            for layer in self._metadata(session):
                found.update(_entries(layer))
        except _ILLEGIBLE:
            found = {}  # the file itself may be well, and the record tells
        files = [stored for stored in found.values() if stored.mtime is not None]
        if len(files) == 1:
            return files[0]
        if files:
            raise Damaged(f"{self.path} holds more than one file", "rdiff-backup restores it")
        mirror = self.mirror
        if mirror is None:
            raise Damaged(f"{self.path} has neither metadata nor a file")
        return Stored(mirror.name)

    def layers(self, session: int) -> list[Layer]:
        """What the file's state at `session` is made of, to be opened by `rdiff_delta.opened`."""
        stored = self.stored(session)
        increments = self._increments(stored.name, session)
        if self.interrupted:
            increments = [i for i in increments if i.time < self.markers[0] or self._replaced()]
        chain = [Layer(self.path / stored.name)]
        for increment in increments:
            layer = Layer(increment.path, increment.compressed, increment.type == "diff")
            if increment.type != "missing":  # at that time there was another file, or none
                chain = [*chain, layer] if layer.delta else [layer]
        return chain

    def missing_increment(self, session: int) -> str:
        """Says which increment is missing without which the state at `session` is not right; "" if that is not certain.

        There is one for each session after which the file changed, by the digests in the metadata; of others there may
        be none.
        """
        known, name, later = self._known(session), self.stored(session).name, ""
        there = {increment.time for increment in self._increments(name, session)}
        found: dict[str, Stored] = {}
        for time in reversed([time for time in self.sessions if time >= session]):
            try:
                found = {**({} if known[time].type == "snapshot" else found), **dict(_entries(known[time]))}
            except _ILLEGIBLE:
                found = {}
            sha1 = found[name].sha1 if name in found else ""
            if sha1 and later and sha1 != later and time not in there:
                return f"{self.path / DATA / 'increments'}: the increment of {name} of {_told(time)} is missing"
            later = sha1
        return ""

    def sha1_of_mirror(self) -> str:
        """The digest of the file as it is now, by reading it; "" if there is none."""
        mirror = self.mirror
        if mirror is None:
            return ""
        digest = hashlib.sha1(usedforsecurity=False)
        with rdiff_delta.opened([Layer(mirror)]) as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(block)
        return digest.hexdigest()

    def _replaced(self) -> bool:
        """Whether an interrupted session had already put its own file in the place of the one before."""
        before = self.stored(self.markers[0])
        return bool(before.sha1) and self.sha1_of_mirror() != before.sha1

    def _increments(self, name: str, since: int) -> list[Dated]:
        """Those of the file `name`, of the sessions from `since` on, the newest first."""
        found = [i for i in _dated(self.path / DATA / "increments") if i.base == name and i.time >= since]
        return sorted(found, key=lambda increment: -increment.time)

    def _metadata(self, session: int) -> list[Dated]:
        """The files that tell of `session`, the newest first: a whole list, then what was different before."""
        known = self._known(session)
        needed: list[Dated] = []
        for _, dated in sorted(known.items()):
            needed.append(dated)
            if dated.type == "snapshot":
                break
        return needed[::-1] if session in known else []

    def _known(self, since: int) -> dict[int, Dated]:
        """The one file for each session from `since` on that tells of it."""
        known: dict[int, Dated] = {}
        for dated in self.data:
            if dated.base == "mirror_metadata" and dated.time >= since:
                other = known.get(dated.time)  # an interrupted session may have left half a diff beside the snapshot
                known[dated.time] = other if other and other.type == "snapshot" else dated
        return known


def read(path: Path) -> Repository | None:
    """The repository at `path`; None if there is none, or none with a complete session."""
    data = tuple(_dated(path / DATA))
    markers = tuple(sorted(dated.time for dated in data if dated.base == "current_mirror"))
    if not markers:
        return None
    times = {dated.time for dated in data if dated.base in ("mirror_metadata", "increments")}
    return Repository(path, data, markers, tuple(sorted({time for time in times if time < markers[0]} | {markers[0]})))


def is_dated(name: str) -> bool:
    """Whether rdiff-backup gives this name to a file of one session, which it never writes to again."""
    return bool(_DATED.fullmatch(name))


def _dated(folder: Path) -> Iterator[Dated]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if match := _DATED.fullmatch(name):
            zone = match["zone"].replace("Z", "+00:00")
            moment = f"{match['day']}T{match['time'].replace('-', ':')}{zone[0]}{zone[1:].replace('-', ':')}"
            time = int(datetime.fromisoformat(moment).timestamp())
            yield Dated(folder / name, match["base"], time, match["type"], bool(match["compressed"]))


def _entries(metadata: Dated) -> Iterator[tuple[str, Stored]]:
    """The files in a list of metadata: by name, without an mtime if it says that there is none."""
    with regular.opened(metadata.path) as file, gzip.open(file) if metadata.compressed else file as text:
        content = text.read().decode("utf-8", "surrogateescape")
    for paragraph in re.split(r"^File ", content, flags=re.MULTILINE)[1:]:
        name, *lines = paragraph.split("\n")
        known = dict(line.strip().partition(" ")[::2] for line in lines)
        if known.get("Type") == "reg":
            yield (
                _unquoted(name),
                Stored(_unquoted(name), int(known["Size"]), known.get("SHA1Digest", ""), int(known["ModTime"])),
            )
        elif known.get("Type") == "None":
            yield _unquoted(name), Stored(_unquoted(name))


def _told(session: int) -> str:
    return stamp_of(datetime.fromtimestamp(session, UTC))


def _unquoted(name: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), name)
