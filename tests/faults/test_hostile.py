"""Manifests that want to do harm: nothing is written outside, nothing is a traceback, and none costs much.

tests/test_extract.py has the archives of tests/hostile.py.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from btw_backup.store import manifest
from btw_backup.store.manifest import Extent, Header, Member
from btw_backup.store.manifest_writer import ManifestWriter
from tests.conftest import Installation, peak_memory
from tests.faults.forks import Forks
from tests.faults.sweep import SEED

STAMP = "2020-01-01T00:00:00"
MOST_SECONDS, MOST_KIB = 5.0, 256 << 10


def _file(path: str, extents: tuple[Extent, ...] = (), **rest: Any) -> Member:
    size = rest.pop("size", sum(length for _, _, length in extents))
    common = {"mode": 0o644, "uid": 0, "gid": 0, "mtime": 10**18, "size": size, "ctime": 1, "inode": 1}
    return Member(path=path, kind=rest.pop("kind", "file"), extents=extents, **{**common, **rest})


def _folder(path: str) -> Member:
    return _file(path, kind="folder")


def manifests(good: Extent) -> Iterator[tuple[str, list[Member]]]:
    """What is to be survived, by name; `good` is a piece of content that there is."""
    name, offset, length = good
    for path in (
        "../escaped",
        "a/../../escaped",
        "/escaped",
        "..",
        "",
        ".",
        "a//b",
        "a\0b",
        "a/",
        "x" * 5000,
        "x/" * 9000,
    ):
        yield f"the path {path[:12]!r}", [_file(path, (good,))]
        yield f"the raw path {path[:12]!r}", [_file("fine", (good,), raw_path=path.encode())]
        yield f"a folder called {path[:12]!r}", [_folder(path)]
        yield f"a hard link to {path[:12]!r}", [_file("link", kind="hard link", target=path)]
    yield "through a link", [_file("out", kind="link", target=".."), _file("out/escaped", (good,))]
    yield (
        "through a link that is absolute",
        [_file("out", kind="link", target="/tmp"), _file("out/escaped", (good,))],
    )
    yield (
        "through a chain of links",
        [
            *(_file(f"l{number}", kind="link", target=f"l{number + 1}") for number in range(50)),
            _file("l50", kind="link", target=".."),
            _file("l0/escaped", (good,)),
        ],
    )
    yield (
        "a link in the place of a folder",
        [
            _folder("d"),
            _file("d", kind="link", target=".."),
            _file("d/escaped", (good,)),
        ],
    )
    yield "the same file twice", [_file("twice", (good,)), _file("twice", (good,))]
    yield "a hard link to itself", [_file("self", kind="hard link", target="self")]
    yield (
        "a hard link to a link outside",
        [
            _file("out", kind="link", target="../outside/precious"),
            _file("hard", kind="hard link", target="out"),
            _file("hard", (good,)),
        ],
    )
    for size in (-1, 1 << 62, 1 << 63, 1 << 70):
        yield f"a size of {size}", [_file("sized", (good,), size=size)]
        yield f"a hole of {size}", [_file("hole", (), size=size, parts=())]
    for extent in ((name, -1, length), (name, 0, -1), (name, 0, 1 << 62), (name, 1 << 62, 5), ("0" * 64, 0, 5)):
        yield f"the extent {extent[1:]}", [_file("piece", (extent,))]
    for odd in ("..", "../../x", "A" * 64, "", "/etc/passwd", "\0" * 64):
        yield f"a chunk called {odd[:9]!r}", [_file("piece", ((odd, 0, 5),))]
    yield "parts that overlap", [_file("parts", (good,), parts=((0, length), (0, length)), size=2 * length)]
    yield "parts beyond the end", [_file("parts", (good,), parts=((1 << 62, length),))]
    yield "parts that are negative", [_file("parts", (good,), parts=((-5, length),))]
    yield "a hundred thousand extents", [_file("many", ((name, offset, 1),) * 100_000)]
    yield "a mode out of range", [_file("mode", (good,), mode=1 << 40)]
    yield "a negative owner", [_file("owner", (good,), uid=-7, gid=1 << 40)]
    yield "a time of nobody's", [_file("time", (good,), mtime=1 << 80)]
    yield (
        "an attribute without a namespace",
        [_file("attribute", (good,), xattrs={"x": b"y", "": b"", "user." + "n" * 999: b""})],
    )
    yield "an attribute that is large", [_file("attribute", (good,), xattrs={"user.x": b"y" * (1 << 20)})]
    yield (
        "a device",
        [
            _file("device", kind="character device", device=(1, 1)),
            _file("device2", kind="block device", device=(1 << 40, -1)),
        ],
    )
    yield "an unknown kind", [_file("kind", kind="door")]
    yield "a target that is empty", [_file("link", kind="link", target="")]
    yield "a target that is long", [_file("link", kind="link", target="x" * 70_000)]
    yield "names that are no text", [_file("\ud800", (good,)), _file("fine", raw_path=b"\xff" * 300)]


def _good(btw: Installation) -> Extent:
    (path,) = (btw.root / "d").glob("*.manifest.zst")
    with manifest.opened(path) as opened:
        return next(member.extents[0] for member, _ in opened if member.extents)


@pytest.mark.parametrize("into", [False, True])
def test_t10_nothing_gets_outside(
    btw: Installation, source: Path, forks: Forks, record_property: Callable[[str, object], None], into: bool
) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "d")
    good, count, most_seconds, most_kib = _good(btw), 0, 0.0, 0
    (btw.root / "d").rename(btw.top / "aside")
    place = btw.root / "h"
    place.mkdir()
    outside = btw.top / "targets" / "outside"
    outside.mkdir(parents=True)
    (outside / "precious").write_text("precious")
    for name, members in manifests(good):
        with open(place / f"{STAMP}.manifest.zst", "w+b") as out:
            try:
                lines = ManifestWriter(out, Header(manifest.FORMAT, "fs", "/source", 1))
                for member in members:
                    lines.add(member)
                lines.end(())
            except (ValueError, OverflowError, UnicodeError):
                continue  # what cannot even be written
        count += 1
        target = btw.top / "targets" / "new"
        if into:
            target.mkdir()
        before = set(os.listdir(btw.top)), set(os.listdir(target.parent))
        began = time.monotonic()
        words = ["--config-dir", str(btw.config_dir), "restore", "h", str(target), *(["--into"] if into else [])]
        ended = forks(*words)
        assert ended.status in (0, 1, 3, 5), (name, ended)
        assert "Traceback" not in ended.err, (name, ended)
        assert time.monotonic() - began < MOST_SECONDS * 4, name  # four times: others work on this machine, too
        assert forks.seconds <= MOST_SECONDS and forks.kib <= MOST_KIB, (name, forks.seconds, forks.kib)
        most_seconds, most_kib = max(most_seconds, forks.seconds), max(most_kib, forks.kib)
        assert (outside / "precious").read_text() == "precious" and len(os.listdir(outside)) == 1, name
        after = set(os.listdir(btw.top)), set(os.listdir(target.parent))
        made = after[1] - before[1]
        assert after[0] == before[0] and all(one.startswith("new") for one in made), (name, after)
        assert not Path("/tmp/escaped").exists() and not Path("/escaped").exists(), name
        assert all(not os.path.islink(target.parent / one) for one in made), name
        _remove(target.parent, "new")
    assert count >= 60
    worst = f"at most {most_seconds:.1f} s and {most_kib >> 10} MiB each"
    noted = {"act": f"hostile manifests{', --into' if into else ''}", "steps": count, "tried": count, "broken": 0}
    record_property("faults", {**noted, "worst": worst, "seed": SEED})


def _remove(folder: Path, prefix: str) -> None:
    from btw_backup import files  # noqa: PLC0415 - shutil gives up in a deep tree

    for name in os.listdir(folder):
        if name.startswith(prefix):
            files.remove(folder / name)


@pytest.mark.parametrize(
    "which", ["a hundred thousand extents", "a hole of 4611686018427387904", "an attribute that is large"]
)
def test_t10_nothing_costs_much(btw: Installation, source: Path, which: str) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "d")
    good = _good(btw)
    (btw.root / "h").mkdir()
    with open(btw.root / "h" / f"{STAMP}.manifest.zst", "w+b") as out:
        lines = ManifestWriter(out, Header(manifest.FORMAT, "fs", "/source", 1))
        for member in dict(manifests(good))[which]:
            lines.add(member)
        lines.end(())
    run = btw.start("restore", "h", btw.top / "new", stderr=None)
    assert _peak(run) < MOST_KIB


def _peak(run: Any) -> int:
    try:
        return peak_memory(run)
    except AssertionError:  # it did not end well, which is as it should be
        assert run.wait() in (1, 3, 5)
        return 0
