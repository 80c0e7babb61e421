"""Damage in a repository of rdiff-backup that our own restore does not need, and rdiff-backup does: F27 to F29, I4."""

import gzip
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Installation, random_bytes, tree_differences
from tests.test_scrub import addresses, flip, scrubbed, valid

DATA = "rdiff-backup-data"
SESSIONS = 3


def cut(count: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - count)


def extended(more: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes() + more)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut by 1": cut(1),
    "cut by 8": cut(8),
    "cut by 20": cut(20),
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": flip,
    "one byte more": extended(b"x"),
    "a frame more": extended(bytes.fromhex("28b52ffd0400010000")),
    "zeros more": extended(bytes(1 << 20)),
    "a member more": extended(gzip.compress(b"more")),
}


@pytest.fixture
def sessions(btw: Installation, source: Path) -> list[Path]:
    """Several sessions in d/rdiff, and the tree as each of them has it."""
    btw.tree(source, "rdiff", "rdiff")
    made = []
    for number in range(SESSIONS):
        (source / "changing").write_text(f"session {number}\n" * 5000 * (number % 2))
        (source / "another").write_bytes(random_bytes(100_000 * number))
        btw("fs", source, "d/rdiff")
        shutil.copytree(source, state := source.parent / f"state {number}", symlinks=True)
        made.append(state)
    return made


def repository(btw: Installation) -> Path:
    (found,) = (btw.root / "d" / "rdiff").glob("2*")
    return found


def in_order(btw: Installation, pattern: str) -> list[Path]:
    return sorted((repository(btw) / DATA).glob(pattern))


def named(btw: Installation) -> list[str]:
    """The backups that scrub names."""
    return sorted(one["name"] for one in scrubbed(btw))


def restores(btw: Installation, states: list[Path]) -> None:
    """Our own restore gives back each session, whatever else is damaged."""
    for number, (address, state) in enumerate(zip(addresses(btw, "d/rdiff"), states, strict=False)):
        out = btw.top / f"out {number}"
        btw("restore", address, out)
        assert tree_differences(state, out) == ""
        shutil.rmtree(out)


@pytest.mark.parametrize("how", ["cut by 20", "cut by 1", "flipped", "one byte more", "removed"])
def test_the_newest_metadata(btw: Installation, source: Path, sessions: list[Path], how: str) -> None:
    (newest,) = in_order(btw, "mirror_metadata*snapshot.gz")
    before = addresses(btw, "d/rdiff")
    DAMAGES.get(how, Path.unlink)(newest)
    (source / "changing").write_text("changed")
    ended = btw("fs", source, "d/rdiff")
    assert ended.err.count("\n") == 1 and "a new full backup is made" in ended.err
    assert "mirror_metadata" in ended.err and (" is damaged: " in ended.err) == (how != "removed")
    assert btw("fs", source, "d/rdiff").err == ""
    assert addresses(btw, "d/rdiff")[:-1] == before
    assert named(btw) == before
    restores(btw, [*sessions, source])
    (source / "changing").write_text("changed again")
    assert btw("fs", source, "d/rdiff").err == ""
    assert valid(btw, "d/rdiff") == [False] * SESSIONS + [True] * 2
    assert len(list((btw.root / "d" / "rdiff").glob("2*"))) == 2


def test_a_repository_that_is_set_aside_does_not_hold_what_is_unchanged(
    btw: Installation, source: Path, sessions: list[Path]
) -> None:
    """Else each run would say that it makes a new full backup, and make none."""
    (newest,) = in_order(btw, "mirror_metadata*snapshot.gz")
    newest.unlink()
    assert "a new full backup is made" in btw("fs", source, "d/rdiff").err
    assert btw("fs", source, "d/rdiff").err == ""
    assert len(addresses(btw, "d/rdiff")) == SESSIONS + 1


@pytest.mark.parametrize("files", ["increments/*.diff.gz", "mirror_metadata*diff.gz"])
def test_older_files_to_their_last_byte(btw: Installation, source: Path, sessions: list[Path], files: str) -> None:
    known = addresses(btw, "d/rdiff")
    for number, victim in enumerate(in_order(btw, files)):
        whole = victim.read_bytes()
        for how in DAMAGES.values():
            how(victim)
            found = scrubbed(btw, "d/rdiff")
            assert sorted(one["name"] for one in found) == known[: number + 1]
            assert all(str(victim) in one["why"] for one in found)
            victim.write_bytes(whole)
    assert scrubbed(btw, status=0) == []
    cut(1)(victim)  # which keeps nobody from adding a session, before scrub has found it
    (source / "changing").write_text("changed")
    assert btw("fs", source, "d/rdiff").err == ""
    assert named(btw) == known[:-1]
    restores(btw, [*sessions, source])


def test_older_metadata_that_are_missing(btw: Installation, sessions: list[Path]) -> None:
    in_order(btw, "mirror_metadata*diff.gz")[1].unlink()
    (found,) = scrubbed(btw)
    assert found["name"] == addresses(btw, "d/rdiff")[1]
    assert found["why"].endswith(f"the mirror_metadata of {found['name'].partition('@')[2]} is missing")
    restores(btw, sessions)


@pytest.mark.parametrize("number", [0, SESSIONS - 2])
def test_an_increment_that_is_missing(btw: Installation, sessions: list[Path], number: int) -> None:
    """F29: it is told from a damaged one."""
    victim = in_order(btw, "increments/*.diff.gz")[number]
    victim.unlink()
    found = scrubbed(btw)
    known = addresses(btw, "d/rdiff")
    assert sorted(one["name"] for one in found) == known[: number + 1]
    stamp = known[number].partition("@")[2]
    for one in found:
        why = f"{victim.parent}: the increment of backup.tar of {stamp} is missing"
        assert one["why"] == f"{one['name']} is damaged: {why}"
    restored = btw("restore", known[number], btw.top / "out", status=5)
    assert "is missing" in restored.err


def test_all_increments_are_missing(btw: Installation, sessions: list[Path]) -> None:
    shutil.rmtree(repository(btw) / DATA / "increments")
    found = scrubbed(btw)
    assert sorted(one["name"] for one in found) == addresses(btw, "d/rdiff")[:-1]
    assert all(one["why"].endswith("is missing") for one in found)


def test_a_file_that_did_not_change_has_no_increment(btw: Installation, sessions: list[Path]) -> None:
    """As the old script left it, which ran rdiff-backup in any case; and more sessions than one list of metadata is
    followed for."""
    stage = btw.top / "stage"
    stage.mkdir()
    shutil.copy2(repository(btw) / "backup.tar", stage)
    last = int((stage / "backup.tar").stat().st_mtime)
    for number in range(14):
        if number % 5 == 4:
            with open(stage / "backup.tar", "ab") as file:
                file.write(bytes(1000))
        words = ["rdiff-backup", "--api-version", "201", "--current-time", str(last + 10 + number), "backup"]
        subprocess.run([*words, stage, repository(btw)], check=True, capture_output=True)
    for path in (btw.root / "d" / "rdiff" / ".records").glob("*.json"):
        path.unlink()  # it made none
    assert len(in_order(btw, "increments/*.diff.gz")) == SESSIONS - 1 + 2
    assert len(in_order(btw, "mirror_metadata*")) == len(addresses(btw, "d/rdiff")) == SESSIONS + 14
    assert scrubbed(btw, status=0) == []
    in_order(btw, "increments/*.diff.gz")[-1].unlink()
    found = scrubbed(btw)  # the first sessions are the beginning of what is there, and come back without it
    assert len(found) == 5 and all("the increment" in one["why"] and "is missing" in one["why"] for one in found)
