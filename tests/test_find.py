"""The command find: in which backups a path is, of each content the first."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from btw_backup.inventory import occurrences
from btw_backup.records import Backup
from tests import made_store
from tests.conftest import Installation

RACY = 2.2


def stamps(btw: Installation, dst: str = "t") -> list[str]:
    return sorted(path.stem for path in (btw.root / dst / ".records").glob("*.json"))


def found(btw: Installation, *args: object, status: int = 0) -> list[tuple[str, str]]:
    """The stamps and paths."""
    return [(row["stamp"], row["path"]) for row in json.loads(btw("--json", "find", *args, status=status).out)]


@pytest.fixture(params=["chunks", "tar", "rdiff"])
def changing(request: pytest.FixtureRequest, btw: Installation, source: Path) -> Path:
    """A tree with five backups, and a file in it with three contents, the first of them again at the end."""
    os.link(source / "etc" / "hosts", source / "second")
    btw.tree(source, request.param)
    for number, content in enumerate(("one", "two", "two", "three", "one")):
        time.sleep(0.05)
        (source / "etc" / "config").write_text(content)
        (source / "other").write_text(f"{number}")
        btw("fs", source, "t")
    assert len(stamps(btw)) == 5
    return source


def test_distinct_contents_only(btw: Installation, changing: Path) -> None:
    first, second, _, fourth, fifth = stamps(btw)
    assert found(btw, "config") == [(first, "etc/config"), (second, "etc/config"), (fourth, "etc/config")]
    assert found(btw, "config", "t") == found(btw, "config")
    assert found(btw, "config", f"t@{fourth}..") == [(fourth, "etc/config"), (fifth, "etc/config")]
    assert found(btw, "--all", "config") == [(stamp, "etc/config") for stamp in stamps(btw)]
    assert found(btw, "hosts", "t") == [(first, "etc/hosts")]
    assert found(btw, "second") == [(first, "second")], "a hard link is as its file"
    assert found(btw, f"{changing}/etc/h*") == [(first, "etc/hosts")]
    rows = json.loads(btw("--json", "find", "second").out)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((changing / "second").stat().st_mtime))
    assert rows == [
        {"dst": "t", "stamp": first, "path": "second", "kind": "file", "size": 20, "mtime": moment},
    ]


def test_a_hard_link_whose_file_changes(btw: Installation, source: Path) -> None:
    os.link(source / "etc" / "hosts", source / "second")
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    time.sleep(0.05)
    (source / "etc" / "hosts").write_text("changed")
    btw("fs", source, "t")
    assert found(btw, "second") == [(stamp, "second") for stamp in stamps(btw)]


def test_what_a_pattern_matches(btw: Installation, source: Path) -> None:
    (source / "etc" / "Hosts").touch()
    (source / 'qu"ote').touch()
    (source / "naïve").touch()
    Path(os.fsdecode(os.fsencode(source) + b"/\xff odd")).touch()
    btw.tree(source, "chunks")
    btw("fs", source, "t")

    def paths(*args: str) -> list[str]:
        return [path for _, path in found(btw, *args)]

    assert paths("hosts") == ["etc/hosts"]
    assert paths("-i", "hosts") == ["etc/Hosts", "etc/hosts"]
    assert paths("[hH]osts") == ["etc/Hosts", "etc/hosts"]
    assert paths("etc/hosts") == ["etc/hosts"]
    assert paths("/etc/*") == ["etc/Hosts", "etc/deep", "etc/hosts"]
    assert paths("etc/**") == ["etc/Hosts", "etc/deep", "etc/deep/file", "etc/hosts"]
    assert paths("**/file") == ["etc/deep/file"]
    assert paths("*/") == ["etc", "etc/deep"]
    assert paths("deep/") == ["etc/deep"]
    assert paths('qu"*') == ['qu"ote']
    assert paths("naïve") == ["naïve"]
    assert paths("*odd") == ["\udcff odd"]
    assert paths("link") == ["link"]


def test_as_text(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    (stamp,) = stamps(btw)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((source / "etc" / "hosts").stat().st_mtime))
    assert btw("find", "hosts").out == f"t@{stamp}            20  {moment}  etc/hosts\n"
    assert btw("-m", "find", "hosts").out == f"t\t{stamp}\tetc/hosts\tfile\t20\t{moment}\n"


def test_not_found(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    ended = btw("find", "nothing", status=1)
    assert (ended.out, ended.err) == ("", "btw_backup: nothing is called nothing there\n")
    assert json.loads(btw("--json", "find", "nothing", status=1).out) == []
    assert "there is no nowhere" in btw("find", "hosts", "nowhere", status=1).err
    btw("find", "file/", status=1)


def test_a_damaged_backup_hides_no_other(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    (source / "new").touch()
    btw("fs", source, "t")
    first, _ = sorted((btw.root / "t").glob("*.manifest.zst"))
    first.write_bytes(first.read_bytes()[:50])
    ended = btw("find", "new", status=5)
    assert ended.out.startswith(f"t@{stamps(btw)[1]}")
    assert f"{first} is damaged" in ended.err
    assert "1 backups could not be searched to their end" in ended.err


def test_a_stream_in_chunks(btw: Installation) -> None:
    content = b"dump"
    line = made_store.entry("shop.dump", size=4, extents=[[made_store.chunk(btw.root, content), 0, 4]])
    made_store.manifest(btw.root, "db/shop", [line], kind="db")
    assert found(btw, "*.dump") == [(made_store.STAMP, "shop.dump")]


def test_a_backup_of_30_000_files_is_searched_quickly(tmp_path: Path) -> None:
    """Most lines are not understood, only looked at. The bound is far: this is no benchmark."""
    names = [f"folder {number % 100:02}/file {number:05}" for number in range(30_000)]
    lines = [made_store.entry(name, size=1, sha256="ab" * 32, uname="root", gname="root") for name in sorted(names)]
    path = made_store.manifest(tmp_path, "t", lines)
    backup = Backup("t", made_store.STAMP, "chunks", "fs", path, path.name, made_store.STAMP)
    begun = time.process_time()
    hits = list(occurrences.occurrences(backup, "file 12345", ignore_case=False))
    took = time.process_time() - begun
    assert [hit.path for hit in hits] == ["folder 45/file 12345"]
    assert took < 1


def test_output_may_be_cut_short(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    process = btw.start("find", "**")
    head = subprocess.run(["head", "-n", "1"], stdin=process.stdout, check=True, capture_output=True)
    assert head.stdout.startswith(b"t@")
    assert process.wait() in (0, 1)
