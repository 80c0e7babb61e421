"""A FIFO where a file of ours should be: nobody waits for who would write to it, and what is lost is told (F32)."""

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.bit_cases import kind_of
from tests.faults import forks as of_forks
from tests.faults.case import Case
from tests.faults.conftest import MakeWorld, Note
from tests.faults.contents import content_of
from tests.faults.forks import Hangs
from tests.faults.sweep import Result
from tests.faults.world import World

PATIENCE = 20.0
"""Seconds that a command may take."""

TREES = ("chunks", "tar", "rdiff")
STREAMS = {"file": "file", "pieces": "chunks"}
"""Outputs that are kept, and what keeps them."""

STATUSES = (0, 1, 3, 4, 5, 6)
"""Of commands that meet what is no file: none of them takes that for a bug."""

LOOKS = (("list",), ("list", "--sizes"), ("find", "text"), ("doctor",), ("catalogue",))
Words = Sequence[object]


def _change(world: World, text: str) -> None:
    for name in TREES:
        (world.outside / name).mkdir(exist_ok=True)
        (world.outside / name / "text").write_text(f"{text} {name}\n" * 20)
    (world.outside / "stream").write_text(f"{text}\n" * 30)


def _run(world: World, dst: str) -> Words:
    return ("fs", world.outside / dst, dst) if dst in TREES else ("command", dst, dst)


def _back_up(world: World, *dsts: str) -> None:
    for dst in dsts:
        world.well(*_run(world, dst))
        world.learn(dst, content_of(world.outside / (dst if dst in TREES else "stream")))


def _local(world: World) -> None:
    """What every keeper keeps, what was removed, what is distrusted; and all files that any command leaves."""
    _change(world, "first")
    for name in TREES:
        world.well("fs-init", "--type", name, world.outside / name, name)
    for name, keeper in STREAMS.items():
        world.well("command-init", "--type", keeper, name, "--", "/bin/cat", world.outside / "stream")
    for text in ("first", "second", "third"):
        _change(world, text)
        _back_up(world, *TREES, *STREAMS)
    removed = min(address for address in world.sure if address.startswith("chunks@"))
    world.well("rm", "--force", removed)
    del world.sure[removed]
    world.well("distrust", "tar@1")
    for words in (*LOOKS, ("scrub", "-p", "50")):
        world.run(*words)
    time.sleep(2.1)  # so that what follows is seen to be unchanged, and says so in log.txt
    world.well(*_run(world, "chunks"))
    world.well("cleanup")
    _change(world, "fourth")


def _sent(world: World) -> None:
    """What sending leaves here, to a mirror and to objects."""
    world.well("keys", "generate", world.outside / "key")
    public = world.well("keys", "public", world.outside / "key").out.strip()
    targets = {name: {"PATH": str(world.top / "out" / name)} for name in ("nas", "vault")}
    for name in targets:
        (world.top / "out" / name).mkdir()
    world.configure(f"OFFSITE = {ascii({**targets, 'vault': {**targets['vault'], 'ENCRYPT_TO': [public]}})}\n")
    _change(world, "first")
    world.well("fs-init", "--type", "chunks", world.outside / "chunks", "chunks")
    _back_up(world, "chunks")
    for name in targets:
        world.well("scrub", "--target", name, "-p", "5")
    _change(world, "second")


def _local_commands(world: World, path: str) -> Iterator[Words]:
    """What could need the file; what lies in a dst, who deals with another one does not."""
    parts = path.split("/")
    dst = parts[1] if parts[0] == "root" and parts[1] in (*TREES, *STREAMS) else ""
    yield from LOOKS
    for address in sorted(one for one in world.sure if one.startswith(f"{dst or 'chunks'}@"))[::2]:
        yield "restore", address, world.place / "scratch" / address
    if "tar" in path:
        yield _run(world, "tar")
    yield _run(world, dst or "chunks")
    yield from (("sync",), ("cleanup",), ("scrub", "-p", "50") if parts[1] == ".scrub.json" else ("scrub",))


def _sent_commands(world: World, path: str) -> Iterator[Words]:
    yield from (("sync-state", "--list"), ("doctor",), _run(world, "chunks"), ("sync",), ("sync", "--verify"))
    yield from (("scrub", "--target", name) for name in ("nas", "vault"))


def _files(*tops: Path) -> Iterator[Path]:
    """One of each kind of file; what every dst has alike, once."""
    found: set[str] = set()
    for top in tops:
        for path in sorted(top.rglob("*")):
            kind = re.sub(r"^\w+/(\.(?!removed)|log)", r"DST/\1", kind_of(os.path.relpath(path, top)))
            if stat.S_ISREG(path.lstat().st_mode) and kind not in found:
                found.add(kind)
                yield path


def _met(world: World, fifo: Path, words: Words) -> Iterator[str]:
    """Run a command; what was not as it should be."""
    try:
        ended = world.run(*words)
    except Hangs as error:
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))  # lets go who still waits for it
        time.sleep(1)
        yield f"{words[0]}: {error}"
        return
    if ended.status not in STATUSES or "Traceback" in ended.err:
        yield f"{words}: {ended}"
    if words[0] == "restore":
        target = world.place / "scratch" / str(words[1])
        if ended.status == 0 and content_of(target) != world.sure[target.name]:
            yield f"{target.name} came back as something else"
        shutil.rmtree(target.parent)
        target.parent.mkdir()
    if words == ("scrub",) and ended.status == 0 and any(map(fifo.match, NEEDED)) and not fifo.is_file():
        yield "scrub found nothing"


NEEDED = ("*/root/*/20*", "*/root/*/20*/*", "*/.store/chunks/*/*", "*/.btw-backup-id")
"""Files that scrub cannot do without."""


@pytest.mark.parametrize(("build", "commands"), [(_local, _local_commands), (_sent, _sent_commands)])
def test_f32_a_fifo_for_each_file(
    world_of: MakeWorld,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[World], None],
    commands: Callable[[World, str], Iterator[Words]],
) -> None:
    world = world_of(Case("a FIFO in the place of a file", "fs", build, lambda world: ("list",)))
    monkeypatch.setattr(of_forks, "PATIENCE", PATIENCE)
    tops = (world.root, world.config_dir) if build is _local else (world.config_dir,)
    result = Result("a FIFO in the place of a file", "read")
    for words in commands(world, "root/tar/x"):
        assert words[0] in ("doctor", "restore") or world.run(*words).status == 0, f"{words} without a FIFO"
    for path in list(_files(*tops)):
        world.reset()
        path.unlink()
        os.mkfifo(path)
        result.tried += 1
        for words in commands(world, os.path.relpath(path, world.top)):
            for fault in _met(world, path, words):
                result.breaks(f"{os.path.relpath(path, world.top)}: {fault}")
    result.steps = result.tried
    assert result.tried >= (35 if build is _local else 8)
    note(result)
