"""The command scrub: what is damaged is named with exactly the backups that need it, set aside, marked, and heals."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from btw_backup import marks, records
from btw_backup.configuration import config
from btw_backup.configuration.jobs import Job
from btw_backup.errors import Damaged
from btw_backup.inventory.listing import backups, keeper
from btw_backup.keepers import chunks_recovery
from btw_backup.places import place
from btw_backup.records import Record
from btw_backup.scrub import ledger
from btw_backup.scrub.verification import verify
from btw_backup.sources import Produced
from btw_backup.store import evidence
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.manifest import FORMAT, Header, Member
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.writer import writing
from tests.conftest import PATIENCE, REPOSITORY, Installation, peak_memory, random_bytes, tree_differences

RACY = 2.2


@pytest.fixture
def tree(btw: Installation, tmp_path: Path) -> Path:
    """A tree of small and large files, with its working directory."""
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(40):
        (top / f"{number}.txt").write_bytes(b"%d\n" % number * 500 * (number + 1))
    (top / "large").write_bytes(random.Random(1).randbytes(12 << 20))
    btw.tree(top, "chunks")
    return top


def test_f07_too_few_descriptors_are_no_damage(btw: Installation, tree: Path) -> None:
    """Whoever cannot open a file for that knows nothing of what is in it: nothing is set aside or marked."""
    btw("fs", tree, "D")
    other = btw.top / "other"
    shutil.copytree(tree, other)
    btw("fs-init", "--type", "rdiff", other, "other")
    btw("fs", other, "R")
    words = [sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir, "scrub"]
    for most in range(6, 22):
        ended = subprocess.run(
            ["prlimit", f"--nofile={most}", *words], check=False, capture_output=True, cwd=REPOSITORY
        )
        if b"No module named" not in ended.stderr and b"Fatal Python error" not in ended.stderr:
            assert ended.returncode in (0, 1), ended.stderr
            assert (ended.returncode, b"Traceback" in ended.stderr) in ((0, False), (1, b"ImportError" in ended.stderr))
    assert not (btw.root / ".store" / "damaged").exists()
    assert (btw("scrub").out, "not valid" in btw("list").out) == ("", False)


def test_a_chunk_that_was_set_aside_and_is_well(btw: Installation, tree: Path) -> None:
    """A disk that could not be read for a moment: what it took for damaged comes back, and the marks go."""
    btw("fs", tree, "D")
    store = ChunkStore(btw.root)
    path = max(chunks(btw), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    path.unlink()
    btw("scrub", status=5)
    evidence.set_aside(store, path.stem, "cannot be read: Input/output error")
    (store.folder / "damaged" / path.name).write_bytes(content)
    btw("scrub")
    assert path.read_bytes() == content
    assert "not valid" not in btw("list").out
    btw("restore", "D", btw.top / "back")
    assert tree_differences(tree, btw.top / "back") == ""


def test_f20_damage_on_a_disk_that_is_read_only(btw: Installation, tree: Path) -> None:
    """It is named with the backups that need it, though nothing can be set aside or marked."""
    btw.root.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", btw.root], check=True)
    try:
        btw("fs", tree, "D")
        btw("scrub", "-p", "50")
        subprocess.run(["mount", "-o", "remount,ro", btw.root], check=True)
        btw("scrub")
        btw("scrub", "-p", "50")
        subprocess.run(["mount", "-o", "remount,rw", btw.root], check=True)
        path = max(chunks(btw), key=lambda path: path.stat().st_size)
        with open(path, "r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        subprocess.run(["mount", "-o", "remount,ro", btw.root], check=True)
        ended = btw("scrub", status=5)
        assert path.stem in ended.out and "D@" in ended.err
        subprocess.run(["mount", "-o", "remount,rw", btw.root], check=True)
        btw("scrub", status=5)
        assert "not valid" in btw("list").out
    finally:
        subprocess.run(["umount", btw.root], check=True)


def chunk(btw: Installation, name: str) -> Path:
    return btw.root / ".store" / "chunks" / name[:2] / f"{name}.zst"


def chunks(btw: Installation) -> list[Path]:
    return sorted((btw.root / ".store" / "chunks").rglob("*.zst"))


def extents(btw: Installation, path: str, number: int = -1, dst: str = "t") -> list[tuple[str, int, int]]:
    manifest = sorted((btw.root / dst).glob("*.manifest.zst"))[number]
    text = subprocess.run(["zstd", "-dc", manifest], check=True, capture_output=True).stdout
    (line,) = [line for line in map(json.loads, text.splitlines()) if line.get("path") == path]
    return line["extents"]  # type: ignore[no-any-return]


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at < 0 else at] ^= 1
    path.write_bytes(content)


def addresses(btw: Installation, dst: str = "t") -> list[str]:
    return [f"{dst}@{row['stamp']}" for row in json.loads(btw("--json", "list", dst).out)]


def valid(btw: Installation, dst: str = "t") -> list[bool]:
    return [row["valid"] for row in json.loads(btw("--json", "list", dst).out)]


def scrubbed(btw: Installation, *words: object, status: int = 5) -> list[dict]:  # type: ignore[type-arg]
    return json.loads(btw("--json", "scrub", *words, status=status).out)  # type: ignore[no-any-return]


@pytest.fixture
def everything(btw: Installation, tree: Path, source: Path) -> Installation:
    """Backups of every keeper."""
    btw.tree(source, "tar", "tar")
    shutil.copytree(source, source.parent / "third", symlinks=True)
    btw.tree(source.parent / "third", "rdiff", "rdiff")
    btw("fs", tree, "t")
    btw("fs", source, "hosts/tar")
    btw("fs", source.parent / "third", "hosts/rdiff")
    return btw


def test_silent_if_all_is_well(everything: Installation) -> None:
    before = sorted(everything.root.rglob("*"))
    ended = everything("scrub")
    assert (ended.out, ended.err) == ("", "")
    assert scrubbed(everything, status=0) == []
    for scope in ("t", "hosts/tar@latest", "hosts/rdiff@first"):
        assert everything("scrub", scope).out == ""
    assert sorted(everything.root.rglob("*")) == before


def test_a_disk_that_is_not_mounted_is_not_well(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    btw.root.rename(tmp_path / "elsewhere")
    btw.root.mkdir()
    assert "is not the ROOT_PATH" in btw("scrub", status=1).err


def test_h01_every_keeper(everything: Installation) -> None:
    flip(next((everything.root / "hosts" / "tar").glob("*.tar.zst")))
    flip(next((everything.root / "hosts" / "rdiff").glob("*/backup.tar")))
    found = scrubbed(everything)
    named = addresses(everything, "hosts/rdiff") + addresses(everything, "hosts/tar")
    assert sorted(one["name"] for one in found) == named
    assert "2 backups are damaged" in everything("scrub", "hosts", status=5).err
    everything("scrub", "t")
    ended = everything("scrub", "hosts/tar", status=5)
    assert "backup hosts/tar@" in ended.out
    assert f"1 backup is damaged: {named[1]}" in ended.err
    for dst, top in (("hosts/tar", "source"), ("hosts/rdiff", "third")):
        assert "(not valid)" in everything("list", dst).out
        everything("fs", everything.top / top, dst)
        assert valid(everything, dst) == [False, True]
        everything("restore", dst, everything.top / f"out {top}")
        assert tree_differences(everything.top / top, everything.top / f"out {top}") == ""
    assert len({row["full"] for row in json.loads(everything("--json", "list", "hosts/rdiff").out)}) == 2


def test_h05_a_bad_chunk_marks_every_backup_that_uses_it(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    (tree / "new").write_text("new")
    time.sleep(RACY)  # from now on it is believed that nothing changes
    btw("fs", tree, "t")
    shutil.copytree(tree, tmp_path / "other")
    (tmp_path / "other" / "large").unlink()
    btw.tree(tmp_path / "other", "chunks", "other")
    btw("fs", tmp_path / "other", "u")
    bad = extents(btw, "large")[1][0]
    flip(chunk(btw, bad))
    found = scrubbed(btw)
    assert [(one["thing"], one["name"], one["backups"]) for one in found] == [("chunk", bad, addresses(btw))]
    assert not chunk(btw, bad).exists()
    assert Path(found[0]["evidence"]).is_file()
    assert valid(btw) == [False, False]
    assert valid(btw, "u") == [True]
    assert btw("list", "t").out.count("  (not valid)\n") == 2
    assert "is missing" in btw("scrub", "t@first", status=5).out
    btw("scrub", "u")
    btw("fs", tree, "t")  # nothing has changed, and all is read, and stored where it is missing
    assert valid(btw) == [False, False, True]
    for number in range(3):
        btw("restore", f"t@{number}", f"out {number}")
        assert (tmp_path / f"out {number}" / "large").read_bytes() == (tree / "large").read_bytes()
    btw("scrub")
    assert valid(btw) == [True, True, True]
    assert "not valid" not in btw("list", "t").out


def test_h08_evidence(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    bad = extents(btw, "large")[2][0]
    whole = chunk(btw, bad).read_bytes()
    flip(chunk(btw, bad), 300_000)
    (found,) = scrubbed(btw)
    report = Path(found["evidence"]).with_suffix(".json")
    known = json.loads(report.read_text())
    assert known["expected_sha256"] == bad
    assert known["stored_sha256"] == hashlib.sha256(Path(found["evidence"]).read_bytes()).hexdigest()
    assert known["stored_length"] == len(whole)
    assert re.fullmatch("[0-9a-f]{64}", known["found_sha256"])
    assert known["found_sha256"] != bad
    assert known["backups"] == addresses(btw)
    assert known["by"]["command"][-1] == "scrub"
    btw("fs", tree, "t")
    btw("scrub")
    known = json.loads(report.read_text())
    assert known["first_difference_stored"] == 300_000
    plain = subprocess.run(["zstd", "-dc"], input=whole, check=True, capture_output=True).stdout
    assert abs(known["first_difference"] - 300_000) < 64
    assert hashlib.sha256(plain).hexdigest() == bad


def test_a_chunk_that_looks_whole_is_found_out(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Right length, sound frame, other content: a backup would believe that it has it."""
    btw("fs", tree, "t")
    name, _, length = extents(btw, "large")[0]
    content = subprocess.run(["zstd", "-dc", chunk(btw, name)], check=True, capture_output=True).stdout
    chunk(btw, name).write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(content[::-1]))
    assert "its SHA-256 is not that of what was stored" in btw("scrub", status=5).out
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert length == len(content)


def test_a_lost_pack_comes_back_as_far_as_its_content_does(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """What one backup alone had is gone; all others are whole again, in whatever pack the content now is."""
    btw("fs", tree, "t")
    (tree / "7.txt").write_text("another")
    btw("fs", tree, "t")
    first, second = addresses(btw)
    (pack, _, _) = extents(btw, "8.txt")[0]
    assert extents(btw, "7.txt", 0)[0][0] == pack
    chunk(btw, pack).unlink()
    (found,) = scrubbed(btw)
    assert found["backups"] == [first, second]
    btw("fs", tree, "t")
    btw("restore", second, "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    ended = btw("restore", first, "old", status=5)
    assert "7.txt is not whole" in ended.err
    assert [path.name for path in (tmp_path / "old.damaged").glob("*.damaged")] == ["7.txt.damaged"]
    (found,) = scrubbed(btw)
    assert found["backups"] == [first]
    assert valid(btw) == [False, True, True]
    (tree / "7.txt").write_bytes(b"7\n" * 500 * 8)  # here it is again
    btw("fs", tree, "t")
    assert chunk(btw, pack).exists()
    btw("restore", first, "out again")
    btw("scrub")
    assert valid(btw) == [True] * 4
    assert list((btw.root / ".store" / "damaged").glob("*.part")) == []


def test_one_bad_byte_in_a_pack_costs_one_file(btw: Installation, tmp_path: Path) -> None:
    top = tmp_path / "small"
    top.mkdir()
    for number in range(30):
        (top / f"{number}").write_bytes(random.Random(number).randbytes(20_000))
    btw.tree(top, "chunks")
    btw("fs", top, "t")
    name, offset, length = extents(btw, "17")[0]
    flip(chunk(btw, name), chunk(btw, name).read_bytes().find((top / "17").read_bytes()[9000:9100]))
    for target in ("out", "again"):  # in its place, and set aside
        ended = btw("restore", "t", target, status=5)
        assert f"17: bytes 0-{length - 1} are missing" in ended.err
        restored = {path.name: path for path in (tmp_path / f"{target}.damaged").iterdir()}
        assert [one for one in restored if one.endswith(".damaged")] == ["17.damaged"]
        assert all(restored[f"{n}"].read_bytes() == (top / f"{n}").read_bytes() for n in range(30) if n != 17)
        (found,) = scrubbed(btw)
        report = json.loads((btw.root / ".store" / "damaged" / f"{name}.json").read_text())
        assert report["differs_within"] == [[offset, length]]
    assert offset > 0


def test_records(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    first, second = addresses(btw)
    path = btw.root / "t" / ".records" / f"{first[2:]}.json"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"status": 0', b'"status": 3'))
    (found,) = scrubbed(btw)
    assert (found["thing"], found["backups"]) == ("record", [first])
    assert "checksum" in found["why"]
    path.unlink()
    (found,) = scrubbed(btw)
    assert (found["why"], found["backups"]) == ("it is missing", [first])
    path.write_bytes(kept)
    btw("scrub")
    manifest = btw.root / "t" / f"{second[2:]}.manifest.zst"
    manifest.rename(tmp_path / "kept")
    (found,) = scrubbed(btw)
    assert (found["thing"], found["backups"]) == ("backup", [second])
    assert "there is nothing but its record" in btw("restore", second, "out", status=5).err
    assert scrubbed(btw, "t@first", status=0) == []
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_a_run_that_died_before_its_record_is_no_damage(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (path,) = (btw.root / "t" / ".records").glob("*.json")
    path.unlink()
    mark = btw.root / ".store" / "writing" / "0123456789abcdef0123456789abcdef"
    mark.touch()
    os.utime(mark, (time.time() - 60, time.time() - 60))
    btw("scrub")
    ended = btw("fs", tree, "t")
    assert "has one now" in ended.err
    record = json.loads(path.read_text())
    assert (record["recovered"], record["kind"], record["source"]) == (True, "fs", str(tree))
    btw("scrub")


def test_the_format(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    path = btw.root / ".store" / "format.json"
    whole = path.read_bytes()
    for content in (whole.replace(b"1", b"2", 1), b"", None):
        path.unlink() if content is None else path.write_bytes(content)
        (tree / "new").write_text(repr(content))
        assert "Traceback" not in btw("fs", tree, "t", status=5).err
        (found,) = scrubbed(btw)
        assert (found["thing"], found["backups"]) == ("store", [])
        assert path.read_bytes() == whole
        btw("fs", tree, "t")


def spoil_by_power_cut(btw: Installation, name: str) -> None:
    """A writer died which used the chunk, and the disk has lost it."""
    chunk(btw, name).write_bytes(bytes(chunk(btw, name).stat().st_size))
    mark = btw.root / ".store" / "writing" / "0123456789abcdef0123456789abcdef"
    mark.touch()
    os.utime(mark, (time.time() - 60, time.time() - 60))


def test_f02_a_pack_that_a_power_cut_spoilt_is_put_together_again(btw: Installation, tree: Path) -> None:
    """By the very next run, whatever else is in it now; nobody has to scrub."""
    btw("fs", tree, "t")
    (pack, _, _) = extents(btw, "8.txt")[0]
    spoil_by_power_cut(btw, pack)
    (tree / "new").write_text("new")
    ended = btw("fs", tree, "t")
    assert f"the chunk {pack} is damaged" in ended.err
    assert "it was set aside" in ended.err
    assert chunk(btw, pack).exists()
    assert scrubbed(btw, status=0) == []
    assert valid(btw) == [True, True]


def test_f02_what_a_power_cut_took_for_good_is_said_by_the_next_run(btw: Installation, tree: Path) -> None:
    """What the source has no more cannot be put together again; the backup that needs it is marked at once."""
    btw("fs", tree, "t")
    (pack, _, _) = extents(btw, "8.txt")[0]
    spoil_by_power_cut(btw, pack)
    (tree / "7.txt").write_text("another")
    first, *_ = addresses(btw)
    ended = btw("fs", tree, "t", status=5)
    assert f"1 backup is damaged: {first}\n" in ended.err
    assert valid(btw) == [False, True]
    btw("restore", first, "old", status=5)
    assert [path.name for path in (btw.top / "old.damaged").glob("*.damaged")] == ["7.txt.damaged"]
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    (found,) = scrubbed(btw)
    assert found["backups"] == [first]
    (tree / "7.txt").write_bytes(b"7\n" * 500 * 8)  # here it is again
    btw("fs", tree, "t")
    assert scrubbed(btw, status=0) == []
    assert valid(btw) == [True] * 4


def test_what_a_power_cut_took_and_no_backup_needs_costs_nothing_later(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    with writing(ChunkStore(btw.root), lambda path: None, wait=1) as writer:
        nobodys = writer.put([b"nobody's"]).result().name
        writer.publish()
    spoil_by_power_cut(btw, nobodys)
    for number in range(2):
        (tree / "new").write_text(f"{number}")
        assert ("it was set aside" in btw("fs", tree, "t").err) == (number == 0)
    assert evidence.unjudged(ChunkStore(btw.root)) == []
    assert scrubbed(btw, status=0) == []


def test_distrust(btw: Installation, tree: Path) -> None:
    time.sleep(RACY)
    btw("fs", tree, "t")
    ended = btw("distrust", "t", "--reason", "the disk had errors")
    assert ended.out == f"btw-backup: {addresses(btw)[0]} is not trusted any more\n".replace("btw-backup", "btw_backup")
    backup = backups(place(btw.root, "t"))[0]
    mark = marks.read(backup)
    assert mark is not None
    assert (mark.by, mark.why) == ("distrust", ("the disk had errors",))
    assert valid(btw) == [False]
    assert "is marked as damaged" in btw("restore", "t", "out").err
    assert opened_by(btw, "fs", tree, "t") >= {"0.txt", "39.txt", "large"}
    assert valid(btw) == [False, True]
    btw("scrub", "t@first")
    assert valid(btw) == [True, True]


def opened_by(btw: Installation, *words: object) -> set[str]:
    """The names of the files that a command opens, whatever becomes of it."""
    process = btw.start("--version")
    process.communicate()
    trace = btw.top / "trace"
    command = [*process.args[:-1], *map(str, words)]  # type: ignore[index]
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace, "--", *command],
        check=False,
        cwd=btw.top,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return {os.path.basename(name) for name in re.findall(r'openat\([^"]*"([^"]*)"', trace.read_text())}


@pytest.fixture
def many(btw: Installation, tmp_path: Path) -> dict[str, int]:
    """A store with many chunks that no backup needs: their names, and the lengths of their files."""
    chance = random.Random(2)
    (btw.root / "t").mkdir()
    with writing(ChunkStore(btw.root), lambda path: None, wait=1) as writer:
        stored = [writer.put([chance.randbytes(chance.randrange(1000, 20_000))]) for _ in range(600)]
        for future in stored:
            future.result()
        writer.publish()
    return {path.stem: path.stat().st_size for path in chunks(btw)}


def proved(btw: Installation, percent: object) -> set[str]:
    """The chunks that a scrub of a part reads."""
    names = opened_by(btw, "scrub", "-p", percent)
    return {name[:-4] for name in names if len(name) == 68 and name.endswith(".zst")}


def test_h02_a_part_is_so_many_percent_of_the_bytes(btw: Installation, many: dict[str, int]) -> None:
    total = sum(many.values())
    for percent in (1, 10, 33.3):
        read = sum(many[name] for name in proved(btw, percent))
        assert abs(read / total * 100 - percent) < 1


def test_x14_seven_times_fifteen_percent_is_everything(btw: Installation, many: dict[str, int]) -> None:
    """H03. Drawn at random it would be 68 %."""
    rounds = [proved(btw, 15) for _ in range(7)]
    assert set.union(*rounds) == many.keys()
    assert all(not a & b for a, b in pairwise(rounds[:6]))
    bad = max(many)
    flip(chunk(btw, bad))
    assert [status for status in (btw("scrub", "-p", 25, status=None).status for _ in range(4)) if status] == [5]
    (btw.root / ".scrub.json").write_bytes(b"{")
    assert min(many) in proved(btw, 1)
    (btw.root / ".scrub.json").unlink()
    assert min(many) in proved(btw, 1)


def test_parts_cover_what_is_there_all_the_time_whatever_comes_and_goes(tmp_path: Path) -> None:
    """The rotation alone, over a store where half of the chunks change between two parts."""
    chance = random.Random(4)
    store = ChunkStore(tmp_path)

    def made(count: int) -> set[str]:
        names = {chance.randbytes(32).hex() for _ in range(count)}
        for name in names:
            store.path(name).parent.mkdir(parents=True, exist_ok=True)
            store.path(name).write_bytes(bytes(chance.randrange(1, 300)))
        return names

    staying, passing = made(300), made(300)
    seen: set[str] = set()
    for _ in range(10):
        total = sum(length for _, length in store.listed())
        position = ledger.read(tmp_path, "x")
        part = [name for name, _ in ledger.part(store.listed(position.chunk), 12.5, total)]
        seen.update(part)
        ledger.write(tmp_path, "x", ledger.Position(part[-1]))
        for name in passing:
            store.path(name).unlink()
        passing = made(300)
    assert seen >= staying


def test_all_that_is_listed_is_listed_once(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    names = sorted(hashlib.sha256(b"%d" % n).hexdigest() for n in range(100))
    for name in names:
        store.path(name).parent.mkdir(parents=True, exist_ok=True)
        store.path(name).write_bytes(b"x")
    (store.path(names[0]).parent / "litter.zst").touch()
    for after in ("", names[0], names[40], names[-1], "f" * 64, "0" * 64, "nonsense"):
        listed = [name for name, _ in store.listed(after)]
        assert sorted(listed) == names
        if after in names:
            assert listed[-1] == after


def test_f05_backup_scrub_and_restore_at_the_same_time(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    shutil.copytree(tree, tmp_path / "other")
    (tmp_path / "other" / "own").write_bytes(random_bytes(9 << 20))
    btw.tree(tmp_path / "other", "chunks", "other")
    (tree / "new").write_text("new")
    running = [
        btw.start(*words)
        for words in (
            ("scrub",),
            ("fs", tmp_path / "other", "u"),
            ("fs", tree, "t"),
            ("restore", "t@first", "out"),
            ("scrub", "-p", 50),
        )
    ]
    ended = [(process.communicate(timeout=PATIENCE), process.returncode) for process in running]
    assert ended == [((b"", b""), 0)] * 5
    assert (tmp_path / "out" / "large").read_bytes() == (tree / "large").read_bytes()
    btw("scrub")
    btw("restore", "u", "other out")
    assert tree_differences(tmp_path / "other", tmp_path / "other out") == ""


def test_a_chunk_that_is_set_aside_while_a_run_relies_on_it(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (backup,) = backups(place(btw.root, "t"))
    store = ChunkStore(btw.root)
    began = time.time()
    chunks_recovery.check(store, backup, began)
    evidence.set_aside(store, extents(btw, "large")[0][0], "a test")
    with pytest.raises(Damaged, match="while it was used"):
        chunks_recovery.check(store, backup, began)
    assert valid(btw) == [False]


def test_g08_all_other_bytes_are_at_their_places(btw: Installation, tree: Path, tmp_path: Path) -> None:
    with open(tree / "sparse", "wb") as file:
        file.seek(1 << 30)
        file.write(random.Random(8).randbytes(9 << 20))
        file.truncate(2 << 30)
    btw("fs", tree, "t")
    ranges = {}
    for name, start in (("large", 0), ("sparse", 1 << 30)):
        parts = extents(btw, name)
        number = len(parts) // 2
        chunk(btw, parts[number][0]).write_bytes(b"")
        first = start + sum(length for _, _, length in parts[:number])
        ranges[name] = first, first + parts[number][2]
    ended = btw("restore", "t", "out", status=5)
    for name, (first, end) in ranges.items():
        assert f"{name}: bytes {first}-{end - 1} are missing" in ended.err
        with open(tmp_path / "out.damaged" / f"{name}.damaged", "rb") as found, open(tree / name, "rb") as whole:
            assert os.fstat(found.fileno()).st_size == os.fstat(whole.fileno()).st_size
            assert os.fstat(found.fileno()).st_blocks < 60_000
            for at in range(first - (4 << 20) if first > 4 << 20 else 0, first, 1 << 20):
                assert os.pread(found.fileno(), min(1 << 20, first - at), at) == os.pread(
                    whole.fileno(), min(1 << 20, first - at), at
                )
            assert os.pread(found.fileno(), end - first, first) == bytes(end - first)
            assert os.pread(found.fileno(), 16 << 20, end) == os.pread(whole.fileno(), 16 << 20, end)
    whole_files = [path for path in (tmp_path / "out.damaged").iterdir() if path.suffix != ".damaged"]
    assert len(whole_files) == 40
    assert all(path.read_bytes() == (tree / path.name).read_bytes() for path in whole_files)


BAD_DISK = """
import os
write = os.pwritev
def corrupting(descriptor, pieces, at, flags=0):
    (content,) = pieces
    if len(content) > 500_000:
        content = bytearray(content)
        content[5000] ^= 1
    return write(descriptor, [content], at, flags)
os.pwritev = corrupting
"""


def test_h06_what_the_disk_corrupts_is_found_at_once(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """The memory or the disk changes a bit on the way."""
    (tree.parent / "second").mkdir()
    shutil.copyfile(tree / "large", tree.parent / "second" / "large")
    btw.tree(tree.parent / "second", "chunks", "second", "VERIFY = True\n")
    (tmp_path / "sitecustomize.py").write_text(BAD_DISK)
    path = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    ended = btw("fs", tree.parent / "second", "s", status=5, env=path)
    assert "was written, and is not what was to be written" in ended.err
    assert valid(btw, "s") == [False]
    btw("fs", tree.parent / "second", "s")
    btw("restore", "s", "out")
    assert tree_differences(tree.parent / "second", tmp_path / "out") == ""
    btw("scrub")
    assert valid(btw, "s") == [True, True]


def test_h06_an_archive(btw: Installation, source: Path) -> None:
    btw.tree(source, "tar")
    btw("fs", "--verify", source, "t")
    (backup,) = backups(place(btw.root, "t"))
    verify(backup, [], wait=0)
    flip(backup.path)
    with pytest.raises(Damaged, match="is not what was to be written"):
        verify(backup, [], wait=0)
    mark = marks.read(backup)
    assert mark is not None
    assert mark.by == "verify"


@pytest.mark.parametrize("missing", [1, 4])
def test_an_archive_whose_checksum_is_cut_off(btw: Installation, source: Path, missing: int) -> None:
    """All of its content is there, and so a restore gives it back; but the program zstd would complain."""
    btw.tree(source, "tar")
    btw("fs", source, "t")
    (path,) = (btw.root / "t").glob("*.tar.zst")
    os.truncate(path, path.stat().st_size - missing)
    assert subprocess.run(["zstd", "-qt", path], check=False, capture_output=True).returncode != 0
    assert "though its content is all there" in btw("scrub", status=5).out
    btw("restore", "t", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""
    assert valid(btw, "t") == [False]
    btw("fs", source, "t")
    assert valid(btw, "t") == [False, True]


@pytest.fixture
def rotting(tmp_path: Path) -> Iterator[Path]:
    """A tree on a filesystem of its own, in an image."""
    image, top = tmp_path / "image", tmp_path / "rotting"
    top.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, top], check=True)
    yield top
    subprocess.run(["umount", "-l", top], check=False)


@pytest.mark.parametrize("type_", ["chunks", "tar"])
def test_h04_the_source(btw: Installation, rotting: Path, tmp_path: Path, type_: str) -> None:
    """Bits that rot on the disk below a file leave no trace in its times."""
    for name in ("a", "b", "rotten", "z"):
        (rotting / name).write_bytes(random.Random(name).randbytes(1 << 20))
    with open(rotting / "sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    btw.tree(rotting, type_, "rotting")
    time.sleep(RACY)
    btw("fs", rotting, "t")
    assert btw("scrub", "--source").out == ""
    place_in_file = (rotting / "rotten").read_bytes()[500_000:500_100]
    subprocess.run(["umount", rotting], check=True)
    image = bytearray((tmp_path / "image").read_bytes())
    at = image.find(place_in_file)
    image[at + 7] ^= 4
    (tmp_path / "image").write_bytes(image)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", rotting], check=True)
    (rotting / "b").write_bytes((rotting / "b").read_bytes()[:1000] + b"changed")
    (rotting / "z").unlink()
    (address,) = addresses(btw)
    ended = btw("scrub", "--source", "t", status=3)
    assert ended.out.splitlines() == [
        f"changed    {address} b from byte 1000 on",
        f"rotten     {address} rotten from byte 500007 on",
        f"gone       {address} z",
    ]
    assert "1 file differs from the backup, although nobody wrote to it" in ended.err
    rounds = [json.loads(btw("--json", "scrub", "--source", "-p", 34, status=None).out) for _ in range(3)]
    assert sorted(row["path"] for rows in rounds for row in rows) == ["b", "rotten", "z"]
    btw("restore", "t", "out")
    shutil.copyfile(tmp_path / "out" / "rotten", rotting / "rotten")
    (rotting / "b").unlink()
    assert "rotten " not in btw("scrub", "--source").out
    subprocess.run(["umount", rotting], check=True)
    rotting.rmdir()
    assert "cannot read the source" in btw("scrub", "--source", status=1).err
    rotting.mkdir()


def run_cases(top: Path, *numbers: int) -> list[dict]:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "tests.damage_cases", str(top), *map(str, numbers)]
    ended = subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, text=True)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_damage_of_any_file_in_any_way(tmpfs: Path) -> None:
    ran = run_cases(tmpfs, 11, 12)
    assert len(ran) == 12
    assert [case for case in ran if case["faults"]] == []


PARTS = 4
"""So that several processes share them. They are in memory, where nobody has to wait for a disk."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_damage_of_every_file_in_every_way(tmpfs: Path, part: int) -> None:
    ran = run_cases(tmpfs, 0, 0, part, PARTS)
    assert len(ran) > 300 / PARTS
    assert [case for case in ran if case["faults"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_damage_of_every_bit(tmpfs: Path, part: int) -> None:
    ran = run_cases(tmpfs, 0, -1, part, PARTS)
    assert len(ran) > 11_000 / PARTS
    assert [case for case in ran if case["faults"]] == []


def make_backups(btw: Installation, count: int) -> list[str]:
    """A dst with so many backups, that share chunks; the names of these."""
    chance = random.Random(6)
    (btw.root / "t").mkdir()
    with writing(ChunkStore(btw.root), lambda path: None, wait=1) as writer:
        stored = [writer.put([chance.randbytes(2000)]) for _ in range(300)]
        names = [future.result().name for future in stored]
        writer.publish()
    for number in range(count):
        minutes, seconds = divmod(number, 60)
        stamp = f"2026-01-{1 + minutes // 1440:02}T{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}"
        with open(btw.root / "t" / f"{stamp}.manifest.zst", "w+b") as out:
            lines = ManifestWriter(out, Header(FORMAT, "fs", "/x", number))
            for file in range(20):
                name = names[(number + file) % len(names)]
                lines.add(Member(f"{file:02}", "file", 0o600, 0, 0, number, 2000, extents=((name, 0, 2000),)))
            sha256, content = lines.end(())
        known = {"uid": f"{number:032x}", "sequence": number, "started": stamp, "finished": stamp, "length": 40_000}
        digests = {"sha256": sha256, "content": content, "full": stamp, "keeper": "chunks"}
        (btw.root / "t" / ".records").mkdir(exist_ok=True)
        records.write(btw.root / "t", Record(stamp=stamp, kind="fs", source="/x", **known, **digests))  # type: ignore[arg-type]
    return names


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_backups_in_bounded_memory(btw: Installation, count: int) -> None:
    names = make_backups(btw, count)
    process = btw.start("scrub", "-p", 1, stdout=subprocess.DEVNULL)
    assert peak_memory(process) < 120_000 + 5 * count
    chunk(btw, names[7]).unlink()
    process = btw.start("--json", "scrub", stderr=subprocess.DEVNULL)
    out, _ = process.communicate()
    (found,) = json.loads(out)
    concerned = [n for n in range(count) if any((n + file) % len(names) == 7 for file in range(20))]
    known = addresses(btw)
    assert found["backups"] == [known[n] for n in concerned]


class Noise:
    """A stream: the source of a keeper of streams."""

    kind = "command"
    name = "noise"
    file_name = "noise"
    content = random.Random(12).randbytes(14 << 20)

    def fingerprint(self) -> None:
        """Only reading tells."""

    def produce(self, out: BinaryIO) -> Produced:
        """Contract: `sources.Source.produce`."""
        view = memoryview(self.content)
        for at in range(0, len(view), 1 << 20):
            out.write(view[at : at + (1 << 20)])
        digest = hashlib.sha256(self.content).hexdigest()
        return Produced(len(self.content), digest, digest)

    def content_of(self, stream: BinaryIO) -> str:
        """Contract: `sources.Source.content_of`."""
        return hashlib.sha256(stream.read()).hexdigest()

    def programs(self) -> Mapping[str, str]:
        """None."""
        return {}


def test_g08_a_stream(btw: Installation, tree: Path, tmp_path: Path) -> None:
    job = Job("noise", "noise", "chunks", config.defaults(btw.config_dir / "noise.py", config.DATABASE), tmp_path)
    here = place(btw.root, "s")
    here.folder.mkdir()

    def back_up() -> None:
        keeper("chunks").keep(job, Noise(), here, lambda kind, path: None, reread=False)

    back_up()
    parts = extents(btw, "noise", dst="s")
    bad, _, length = parts[2]
    first = sum(length for _, _, length in parts[:2])
    flip(chunk(btw, bad))
    for _ in range(2):
        ended = btw("restore", "s", "noise", status=5)
        assert f"noise: bytes {first}-{first + length - 1} are missing" in ended.err
        left = (tmp_path / "noise.damaged").read_bytes()
        assert left == Noise.content[:first] + bytes(length) + Noise.content[first + length :]
        (tmp_path / "noise.damaged").unlink()
        with open(tmp_path / "piped", "wb") as out:
            btw("restore", "s", "-", status=5, stdout=out)
        assert Noise.content.startswith((tmp_path / "piped").read_bytes())
        (found,) = scrubbed(btw)
        assert found["backups"] == addresses(btw, "s")
    back_up()
    for spec in ("s@first", "s@latest"):
        btw("restore", spec, spec)
        assert (tmp_path / spec).read_bytes() == Noise.content
    btw("scrub")
    assert valid(btw, "s") == [True, True]


def test_swapped_manifests_restore_nothing(btw: Installation, source: Path, tmp_path: Path) -> None:
    """Each is whole, and not what its name says."""
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    (source / "new").write_text("new")
    btw("fs", source, "t")
    one, other = sorted((btw.root / "t").glob("*.manifest.zst"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for spec in ("t@first", "t@latest"):
        assert "not that of what was stored" in btw("restore", spec, "out", status=5).err
        assert list(tmp_path.glob("out*")) == []
    found = scrubbed(btw)
    assert sorted(one["name"] for one in found) == addresses(btw)
    btw("fs", source, "t")
    btw("restore", "t", "out")
    assert tree_differences(source, tmp_path / "out") == ""


def test_F29_a_destination_that_is_gone(everything: Installation) -> None:
    btw = everything
    shutil.rmtree(btw.root / "hosts" / "tar")
    ended = btw("scrub", status=5)
    assert "dst hosts/tar: its folder is gone" in ended.out and "--forget hosts/tar" in ended.err
    for scope in ("hosts", "hosts/tar"):
        (found,) = scrubbed(btw, scope)
        assert (found["thing"], found["name"], found["backups"]) == ("dst", "hosts/tar", [])
    assert scrubbed(btw, "hosts/rdiff", status=0) == []
    shutil.rmtree(btw.root / "hosts")
    shutil.rmtree(btw.root / "t")
    assert [one["name"] for one in scrubbed(btw)] == ["hosts/rdiff", "hosts/tar", "t"]
    assert "gone with all backups: hosts/rdiff, hosts/tar, t" in btw("scrub", status=5).err
    btw("cleanup", "--forget", "hosts/rdiff", "--forget", "t")
    assert [one["name"] for one in scrubbed(btw)] == ["hosts/tar"]
    btw("fs", btw.top / "source", "hosts/tar")
    btw("scrub")


def test_F29_a_destination_that_was_emptied_is_not_missed(everything: Installation) -> None:
    btw = everything
    btw("rm", "--force", "hosts/tar@all", "hosts/rdiff@all")
    btw("scrub")
    btw("cleanup", "--grace", "0")
    btw("scrub")
    shutil.rmtree(btw.root / "hosts")
    btw("scrub")


def test_F29_who_does_not_know_of_a_destination_does_not_miss_it(everything: Installation) -> None:
    """As after an update; then a scrub gets to know what there is. A list that was changed is damage."""
    btw = everything
    path = btw.root / ".btw-backup-dsts"
    before = path.read_bytes()
    path.unlink()
    (btw.root / "hosts" / "rdiff").rename(btw.top / "gone")
    assert btw("scrub").err == ""
    (btw.top / "gone").rename(btw.root / "hosts" / "rdiff")
    btw("fs", btw.top / "tree", "t")
    btw("scrub", "t")
    assert path.read_bytes() != before
    btw("scrub")
    assert path.read_bytes() == before
    flip(path)
    btw("fs", btw.top / "tree", "t")
    assert "it was written anew" in btw("scrub", status=5).out
    btw("scrub")
    assert path.read_bytes() == before


def lose_a_record(btw: Installation, dst: str, number: int) -> tuple[Path, str]:
    """Where the record of a backup was, and its address."""
    address = addresses(btw, dst)[number]
    path = btw.root / dst / ".records" / f"{address.rpartition('@')[2]}.json"
    path.rename(btw.top / "record")
    return path, address


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("type_", ["tar", "rdiff", "file"])
def test_F29_a_lost_record(btw: Installation, source: Path, type_: str, number: int) -> None:
    if type_ == "file":
        btw("command-init", "--type", "file", "c", "--", "tar", "-cC", source, ".")
    else:
        btw.tree(source, type_)
    run = ("command", "c", "d") if type_ == "file" else ("fs", source, "d")
    btw(*run)
    (source / "new").write_text("new")
    btw(*run)
    btw("scrub")
    path, address = lose_a_record(btw, "d", number)
    (found,) = scrubbed(btw)
    assert (found["thing"], found["name"], found["backups"]) == ("record", str(path), [address])
    assert found["why"] == "it is missing"
    (btw.top / "record").rename(path)
    btw("scrub")
    assert valid(btw, "d") == [True, True]
    for folder in (".removed", ".tmp-1-import/.records"):  # somebody died who was bringing it here
        (btw.root / "d" / folder).mkdir(parents=True)
        lose_a_record(btw, "d", number)
        (btw.top / "record").rename(btw.root / "d" / folder / path.name)
        btw("scrub")
        (btw.root / "d" / folder / path.name).rename(path)


def test_F29_what_the_old_script_made_never_had_a_record(btw: Installation, source: Path) -> None:
    btw.tree(source, "rdiff")
    btw("fs", source, "r")
    for number in range(4):
        (source / "new").write_text(f"{number}")
        btw("fs", source, "r")
    folder = btw.root / "r" / ".records"
    paths = sorted(folder.glob("*.json"))
    for path in paths[:2]:  # as if the old script had begun the repository
        path.unlink()
    for number, path in enumerate(paths[2:], 1):
        found = records.read(path)
        path.unlink()
        records.write(folder.parent, replace(found, sequence=number))
    (btw.root / "old").mkdir()
    subprocess.run(["tar", "-cjf", btw.root / "old" / "2020-01-01T00:00:00.tbz", "-C", source, "."], check=True)
    btw("scrub")
    for number, path in enumerate(paths[2:], 2):
        path.rename(btw.top / "record")
        assert [one["backups"] for one in scrubbed(btw)] == [[addresses(btw, "r")[number]]]
        (btw.top / "record").rename(path)
        btw("scrub")


@pytest.mark.parametrize("type_", ["tar", "rdiff", "file"])
def test_a_run_that_died_before_the_record_got_its_name(btw: Installation, source: Path, type_: str) -> None:
    """The next one in the dst gives it its name. What dies before the backup got its own leaves nothing."""
    if type_ == "file":
        btw("command-init", "--type", "file", "c", "--", "tar", "-cC", source, ".")
    else:
        btw.tree(source, type_)
    run = ("command", "c", "d") if type_ == "file" else ("fs", source, "d")
    btw(*run)
    folder = btw.root / "d" / ".records"
    (path,) = folder.glob("2*.json")
    path.rename(folder / ".next.json")
    btw("scrub")
    btw("restore", "d", "out")
    btw(*run)
    assert [one.name for one in folder.iterdir()] == [path.name] and len(addresses(btw, "d")) == 1
    known = records.read(path)
    records.prepare(folder.parent, replace(known, stamp="2020-01-01T00:00:00"))
    btw("scrub")
    btw(*run)
    assert [one.name for one in folder.iterdir()] == [path.name]


def test_f41_a_store_that_others_get_into_is_said(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    store = btw.root / ".store"
    assert btw("scrub").err == ""
    store.chmod(0o755)
    assert f"others can look into {store}, or change it (mode 0755)\n" in btw("scrub").err
    store.chmod(0o700)
    for path in (store, *store.rglob("*")):
        os.chown(path, 65534, 65534)
    said = btw("scrub", "-p", "10").err
    assert f"others can look into {store}, or change it (owner 65534)\n" in said and len(said.splitlines()) == 2
    assert "owner of" in btw("doctor", status=None).out
