"""Damages small installations of all kinds, again and again, and sees what restore and scrub make of it; in one process.

``python -m tests.bit_cases TOP KIND PART OF`` flips each OF-th bit of the files of a small store, from PART on.
``python -m tests.bit_cases TOP larger COUNT SEED`` does COUNT flips, truncations, removals, swaps and replays to a
larger store that holds all kinds. It prints a JSON line a kind of file, with how many damages were done to it, how many
scrub found, and what was not as it should be.

What should be: scrub finds it, or every backup comes back as it was; and nothing ever comes back as something else and
is called well.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from btw_backup import cli
from btw_backup.scrub import survey
from tests.faults.contents import Content, change_source, content_of, make_source
from tests.servers import postgres_server, programs_of_all_versions

RACY = 2.2
STATUSES = (0, 1, 3, 5)
"""Those that a command may end with that meets damage."""

PADDING = 256
"""Of the zeros that fill an archive up to 64 KiB, behind those that end it, only each so manieth bit is flipped."""

NOT_FLIPPED = ("RESTORE.py", "README.txt", ".lock")
"""The first two are checked when they are used, by a test of their own; the last is empty."""

IDENTITY = ".btw-backup-id"
"""Says whose ROOT_PATH it is; another one's is refused."""

LOOKS = (("list",), ("--json", "list", "--removed"), ("sync-state", "--list"), ("runs",))
"""What else must say something, and no traceback, whatever is damaged."""


@dataclass(frozen=True)
class Damage:
    """What a file is replaced with: `content`, or nothing; and a second one, with what."""

    path: str
    how: str
    content: bytes | None
    other: str = ""
    others: bytes | None = None


@dataclass
class Tally:
    """What became of the damages to one kind of file."""

    kind: str
    damages: int = 0
    found: int = 0
    faults: list[str] = field(default_factory=list)


class Small:
    """An installation below `top`, and what its backups have to come back as."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "root"
        self.config_dir = top / "cfg"
        self.expected: dict[str, Content] = {}
        self.earlier: dict[str, bytes] = {}
        self.config_dir.mkdir(parents=True)
        self.root.mkdir()
        (self.config_dir / "config.py").write_text(f"ROOT_PATH = {str(self.root)!r}\nOFFSITE = {{}}\n")
        (self.config_dir / "db").mkdir()

    def run(self, *words: object) -> tuple[int, str]:
        """Run a command; its status, and what it said."""
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = cli.main(["--config-dir", str(self.config_dir), *map(str, words)])
        assert status in STATUSES and "Traceback" not in said.getvalue(), f"{words}: {status} {said.getvalue()}"
        return status, said.getvalue()

    def well(self, *words: object) -> None:
        """As `run`; it has to end with 0."""
        status, said = self.run(*words)
        assert status == 0, f"{words}: {status} {said}"

    def learn(self, dst: str, content: Content) -> None:
        """The newest backup of `dst` has to come back as `content`."""
        stamps = [path.name.removesuffix(".json") for path in (self.root / dst / ".records").glob("*.json")]
        self.expected[f"{dst}@{max(stamps)}"] = content

    # What is kept

    def tree(self, keeper: str, dst: str, make: Callable[[Path], None], *changes: Callable[[Path], None]) -> None:
        """Back up a tree that `make` makes, and again after each of the `changes`."""
        top = self.top / "sources" / dst
        top.mkdir(parents=True)
        make(top)
        self.well("fs-init", "--type", keeper, top, dst)
        self.well("fs", top, dst)
        self.learn(dst, content_of(top))
        for change in changes:
            change(top)
            self.well("fs", top, dst)
            self.learn(dst, content_of(top))

    def unchanged(self, dst: str) -> None:
        """A backup of what has not changed, which only leaves a line."""
        time.sleep(RACY)
        self.well("fs", self.top / "sources" / dst, dst)

    def stream(self, keeper: str, dst: str, *contents: bytes) -> None:
        """Keep the output of a program, with each of the `contents`."""
        source = self.top / f"{dst}.source"
        self.well("command-init", "--type", keeper, dst, "--", "/bin/cat", source)
        self.stream_again(dst, *contents)

    def stream_again(self, dst: str, *contents: bytes) -> None:
        """Keep the output of a program that is known."""
        source = self.top / f"{dst}.source"
        for content in contents:
            source.write_bytes(content)
            self.well("command", dst, dst)
            self.learn(dst, self.content(source))

    def dumps(self, keeper: str, dst: str, rows: int) -> None:
        """Dumps of a database, and of what belongs to the whole server."""
        with postgres_server(next(iter(programs_of_all_versions().values()))) as server:
            server.sql("CREATE DATABASE small")
            server.sql(f"CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, {rows}) n", "small")
            connection = f"CONNECTION = 'host={server.folder} user=postgres'\nTYPE = {keeper!r}\n"
            for name, words in (("small", ("small",)), ("global", ("-g",))):
                (self.config_dir / "db" / f"{name}.py").write_text(connection)
                self.well("db", *words, f"{dst}/{name}")
                self.learn(f"{dst}/{name}", self.restored(self._newest(f"{dst}/{name}")) or "")
                assert all(self.expected.values())

    def _newest(self, dst: str) -> str:
        self.learn(dst, "")
        return max(address for address in self.expected if address.startswith(f"{dst}@"))

    def remove_one(self, dst: str) -> None:
        """Remove the first backup of `dst`, which can be brought back."""
        address = min(address for address in self.expected if address.startswith(f"{dst}@"))
        self.well("rm", "--force", address)
        del self.expected[address]

    # What is seen

    def restored(self, address: str) -> Content | None:
        """What comes back, and is called well."""
        target = self.top / "out"
        for left in self.top.glob("out*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        status, _ = self.run("restore", address, target)
        assert status == 0 or not os.path.lexists(target), f"{address}: not well, and called {target.name}"
        return self.content(target) if status == 0 else None

    @staticmethod
    def content(path: Path) -> Content:
        """What `path` is: a tree, or bytes."""
        return content_of(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()

    def concerned(self, damage: Damage) -> list[str]:
        """The backups that `damage` could touch: those beside it, or all."""
        dsts = {address.partition("@")[0] for address in self.expected}
        beside = {dst for dst in dsts for path in (damage.path, damage.other) if path.startswith(f"{dst}/")}
        elsewhere = any(path.startswith(".") for path in (damage.path, damage.other))
        return [one for one in self.expected if elsewhere or one.partition("@")[0] in beside]

    def examine(self, damage: Damage, *, looks: bool) -> tuple[bool, list[str]]:
        """(whether scrub finds the damage, what is not as it should be)."""
        faults, spoilt = [], []
        for address in self.concerned(damage):
            content, found = self.expected[address], self.restored(address)
            if found is None:
                spoilt.append(address)
            elif found != content:
                faults.append(f"{address} came back as something else")
        for words in LOOKS if looks else ():
            self.run(*words)
        status, said = self.run("scrub")
        if status == 0 and spoilt:
            faults.append(f"scrub found nothing, and {spoilt} cannot be restored")
        if status not in (0, 5) and IDENTITY not in (damage.path, damage.other):
            faults.append(f"scrub ended with {status}: {said}")
        return status != 0, faults


class Shelf:
    """All files below folders, as they were, to be put back."""

    def __init__(self, *tops: Path) -> None:
        self._tops = tops
        self._kept = {path: (path.read_bytes(), path.stat()) for path in self._paths()}
        self._looks = {path: self._look(path) for path in self._kept}

    def _paths(self) -> Iterator[Path]:
        for top in self._tops:
            yield from (path for path in top.rglob("*") if stat.S_ISREG(path.lstat().st_mode))

    @staticmethod
    def _look(path: Path) -> tuple[int, ...]:
        status = path.lstat()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def put_back(self) -> None:
        """Undo whatever was done."""
        there = set(self._paths())
        for path in there - self._kept.keys():
            path.unlink()
        for path, (content, status) in self._kept.items():
            if path not in there or self._look(path) != self._looks[path]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                os.chmod(path, stat.S_IMODE(status.st_mode))
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                self._looks[path] = self._look(path)


# Installations


def _tiny(top: Path) -> None:
    """Two files: one that can be compressed, one that cannot."""
    (top / "text").write_bytes(b"text\n" * 20)
    (top / "other").write_bytes(random.Random(3).randbytes(100))


def _more(top: Path) -> None:
    (top / "more").write_bytes(b"more\n" * 9)


def _chunks(small: Small) -> None:
    small.tree("chunks", "t", _tiny, _more)
    small.stream("chunks", "c", b"a stream\n" * 9)
    small.unchanged("t")


def _removed(small: Small) -> None:
    small.tree("chunks", "t", _tiny, _more)
    small.remove_one("t")


def _tar(small: Small) -> None:
    small.tree("tar", "a", _tiny, _more)
    small.unchanged("a")


def _rdiff(small: Small) -> None:
    small.tree("rdiff", "r", _tiny, _more)


def _streams(small: Small) -> None:
    small.stream("file", "f", b"a stream\n" * 9, b"another\n" * 9)


def _dumps(small: Small) -> None:
    small.dumps("file", "d", 3)
    small.dumps("rdiff", "e", 3)


def _larger(small: Small) -> None:
    """All kinds, several backups of each; and how it all was a while before."""
    for keeper in ("chunks", "tar", "rdiff"):
        small.tree(keeper, keeper, _filled, lambda top: change_source(top, 3))
    small.stream("file", "file", b"line\n" * 9000, b"line\n" * 9000 + b"end\n")
    small.stream("chunks", "stream", random.Random(4).randbytes(3_000_000))
    small.earlier = {path: (small.root / path).read_bytes() for path in files_below(small.root)}
    for keeper in ("chunks", "tar", "rdiff"):
        top = small.top / "sources" / keeper
        change_source(top, 4)
        small.well("fs", top, keeper)
        small.learn(keeper, content_of(top))
    small.stream_again("stream", random.Random(4).randbytes(2_000_000) + b"changed" * 100_000)
    small.dumps("file", "dumps", 500)
    small.dumps("rdiff", "increments", 500)


def _filled(top: Path) -> None:
    shutil.rmtree(top)
    make_source(top, 1)


KINDS: dict[str, Callable[[Small], None]] = {
    "chunks": _chunks,
    "removed": _removed,
    "tar": _tar,
    "rdiff": _rdiff,
    "streams": _streams,
    "dumps": _dumps,
}
"""Small installations, which together hold every kind of file that there is."""

# Damages


def files_below(top: Path) -> list[str]:
    """All files below `top` that are to be damaged, in the order of their names."""
    found = sorted(os.path.relpath(path, top) for path in top.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if not path.endswith(NOT_FLIPPED)]


def bits(top: Path, part: int, of: int) -> Iterator[Damage]:
    """Each `of`-th bit of the files below `top`, flipped, from the bit `part` on."""
    number = 0
    for path in files_below(top):
        whole = (top / path).read_bytes()
        filled = 8 * min(len(whole), len(whole.rstrip(b"\0")) + 1024)
        for place in range((part - number) % of, len(whole) * 8, of):
            if place < filled or place // of % PADDING == 0:
                at, bit = divmod(place, 8)
                yield Damage(path, f"bit {bit} of byte {at}", _flipped(whole, at, bit))
        number += len(whole) * 8


def _flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def some(top: Path, earlier: dict[str, bytes], count: int, seed: int) -> Iterator[Damage]:
    """`count` damages of every kind to files below `top`, which were `earlier` otherwise."""
    chance = random.Random(seed)
    paths = files_below(top)
    old = [path for path in paths if path in earlier and earlier[path] != (top / path).read_bytes()]
    done = 0
    for how in cycle(("flip", "flip", "cut", "remove", "swap", "replay", "copy")):
        if done == count:
            return
        path, other = chance.choice(paths), chance.choice(paths)
        kin = [one for one in paths if kind_of(one) == kind_of(path) and one != path]
        if kin and chance.random() < 0.7:
            other = chance.choice(kin)
        content, others = (top / path).read_bytes(), (top / other).read_bytes()
        if how == "flip" and content:
            at, bit = chance.randrange(len(content)), chance.randrange(8)
            made = Damage(path, f"bit {bit} of byte {at}", _flipped(content, at, bit))
        elif how == "cut" and content:
            made = Damage(path, "cut", content[: chance.choice((0, len(content) - 1, chance.randrange(len(content))))])
        elif how == "remove":
            made = Damage(path, "removed", None)
        elif how == "swap" and content != others:
            made = Damage(path, f"swapped with {other}", others, other, content)
        elif how == "replay" and old:
            path = chance.choice(old)
            made = Damage(path, "as it was before", earlier[path])
        elif how == "copy" and content != others:
            made = Damage(path, f"a copy of {other}", others)
        else:
            continue
        done += 1
        yield made


def kind_of(path: str) -> str:
    """A path without what differs from file to file of the same kind."""
    path = re.sub(r"\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d(\.\d+)?([+-]\d\d[:-]\d\d|Z)?", "STAMP", path)
    return re.sub(r"[0-9a-f]{12,}", "DIGEST", re.sub(r"/[0-9a-f]{2}/", "/XX/", path))


def inflict(damage: Damage, top: Path) -> None:
    """Do it to what is below `top`."""
    for path, content in ((damage.path, damage.content), (damage.other, damage.others)):
        if path and content is None:
            (top / path).unlink()
        elif path and content is not None:
            (top / path).write_bytes(content)


def tallies(small: Small, damages: Iterator[Damage]) -> Iterator[Tally]:
    """What becomes of each of the `damages`, kind by kind."""
    survey._PAUSE = 0.0  # no run is about to set right what scrub finds half there
    shelf = Shelf(small.root, small.config_dir)
    found: dict[str, Tally] = {}
    for number, damage in enumerate(damages):
        tally = found.setdefault(kind_of(damage.path), Tally(kind_of(damage.path)))
        tally.damages += 1
        inflict(damage, small.root)
        try:
            is_found, faults = small.examine(damage, looks=number % 16 == 0)
        except AssertionError as error:
            is_found, faults = False, [str(error)]
        tally.found += is_found
        tally.faults += [f"{damage.path}: {damage.how}: {fault}" for fault in faults]
        shelf.put_back()
    yield from found.values()


def main(top: Path, kind: str, *numbers: int) -> None:
    """Do what the command line says."""
    small = Small(top)
    if kind == "larger":
        _larger(small)
        damages = some(small.root, small.earlier, *numbers)
    else:
        KINDS[kind](small)
        part, of = numbers
        damages = bits(small.root, part, of)
    for tally in tallies(small, damages):
        print(json.dumps({**vars(tally), "kind": tally.kind}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
