"""rm and undelete: two steps, every keeper, whoever dies in between, and whatever the owner of a dst plants there."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Installation, random_bytes, tree_differences
from tests.s3 import Bucket, bucket, configure, free_port, offsite, proxy, s3_server

__all__ = ["bucket", "offsite", "proxy", "s3_server"]

TYPES = ("chunks", "tar", "rdiff")


def names(btw: Installation, *words: str) -> list[str]:
    """The stamps that list shows."""
    return [row["stamp"] for row in json.loads(btw("list", *words, "--json").out)]


def versions(btw: Installation, source: Path, type_: str, count: int = 3, dst: str = "t") -> list[str]:
    """Backups of a tree that changes, and a copy of what each should be; their stamps."""
    btw.tree(source, type_, extra="MAX_INCREMENTAL_COUNT = 0\n")
    for number in range(count):
        (source / "etc" / "version").write_text(f"{number}\n" * 1000)
        (source / f"new{number}").write_bytes(random_bytes(10_000))
        btw("fs", source, dst)
        (made,) = set(names(btw, dst)) - {path.name for path in btw.top.glob("2*")}
        shutil.copytree(source, btw.top / made, symlinks=True)
    return names(btw, dst)


def check(btw: Installation, stamp: str, dst: str = "t") -> None:
    """The backup is what was backed up."""
    target = btw.top / f"out-{stamp}"
    btw("restore", f"{dst}@{stamp}", target)
    compared = subprocess.run(["diff", "-r", btw.top / stamp, target], check=False, capture_output=True, text=True)
    assert compared.stdout == ""
    shutil.rmtree(target)


def all_files(top: Path) -> set[str]:
    return {
        str(path.relative_to(top))
        for path in top.rglob("*")
        if path.name not in (".lock", ".btw-backup-id", ".btw-backup-dsts")
    }


@pytest.mark.parametrize("type_", TYPES)
def test_two_steps(btw: Installation, source: Path, type_: str) -> None:
    """I06: rm, undelete, restore =; then rm and cleanup."""
    first, middle, last = versions(btw, source, type_)
    before = all_files(btw.root / "t")
    ended = btw("rm", "--force", f"t@{middle}")
    assert ended.out.splitlines()[0] == f"removed t@{middle}"
    assert "undelete" in ended.out
    assert ended.err == ""
    assert names(btw, "t") == [first, last]
    assert names(btw, "t", "--removed") == names(btw, "--removed") == [middle]
    assert "there is no backup" in btw("rm", "--force", f"t@{middle}", status=1).err, "it is no time here"
    check(btw, first)
    assert btw("undelete", f"t@{middle}").out == f"brought back t@{middle}\n"
    assert all_files(btw.root / "t") == before | {".removed"}
    assert names(btw, "t") == [first, middle, last]
    check(btw, middle)
    btw("rm", "--force", f"t@{middle}")
    btw("cleanup")
    assert names(btw, "t", "--removed") == [middle], "the grace is a day"
    row = json.loads(btw("cleanup", "--grace", "0", "--json").out)
    assert (row["backups"], row["dry_run"]) == (1, False)
    assert not [path for path in all_files(btw.root / "t") if middle in path]
    assert not (btw.root / "t" / ".removed").exists()
    assert "nothing was removed" in btw("undelete", f"t@{middle}", status=1).err
    check(btw, first)
    check(btw, last)
    (source / "one more").touch()
    btw("fs", source, "t")


def test_what_must_be_forced(btw: Installation, source: Path) -> None:
    """I05: the young, and the last good one."""
    first, middle, last = versions(btw, source, "chunks")
    ended = btw("rm", "t@first", status=1)
    assert "is younger than 24 h" in ended.err
    assert "hint: --force" in ended.err
    btw.configure(PROTECT_YOUNG="0s")
    (btw.root / "t" / ".records" / f"{last}.damaged").write_text("{}")
    assert f"t@{middle} is the last good backup there" in btw("rm", f"t@{first}", f"t@{middle}", status=1).err
    assert names(btw, "t") == [first, middle, last]
    btw("rm", f"t@{first}", f"t@{last}")
    assert names(btw, "t") == [middle]
    assert "is the last good backup" in btw("rm", "t@latest", status=1).err
    btw("rm", "t@latest", "--force")
    assert names(btw, "t") == []
    btw("undelete", "t@all")
    assert names(btw, "t") == [first, middle, last]
    assert [row["valid"] for row in json.loads(btw("list", "t", "--json").out)] == [True, True, False]


def test_a_spec_must_be_said_and_must_exist(btw: Installation, source: Path) -> None:
    (stamp,) = versions(btw, source, "tar", 1)
    assert "t does not say which backup" in btw("rm", "--force", "t", status=2).err
    assert "t@ does not say which backup" in btw("rm", "--force", "t@", status=2).err
    assert "there is no backup nothing" in btw("rm", "--force", "t@nothing", status=1).err
    assert "there is no other" in btw("rm", "--force", "other@0", status=1).err
    assert not (btw.root / "other").exists()
    assert names(btw, "t") == [stamp]


def test_one_that_fails_does_not_stop_another_dst(btw: Installation, source: Path) -> None:
    versions(btw, source, "tar", 1)
    ended = btw("rm", "--force", "other@0", "t@0", status=1)
    assert "there is no other" in ended.err
    assert "removed t@" in ended.out
    assert names(btw, "t") == []


def test_the_undeleted_newest_is_built_on_again(btw: Installation, source: Path) -> None:
    """Also a stamp is never used twice."""
    stamps = versions(btw, source, "chunks", 2)
    btw("rm", "--force", "t@latest")
    btw("fs", source, "t")
    assert len(names(btw, "t")) == 2
    btw("undelete", "t")
    assert names(btw, "t")[:2] == stamps
    assert len(names(btw, "t")) == 3
    for stamp in stamps:
        check(btw, stamp)
    btw("fs", source, "t")
    assert len(names(btw, "t")) == 3


@pytest.mark.parametrize("is_flipped", [True, False])
def test_what_was_damaged_while_it_was_removed(btw: Installation, source: Path, is_flipped: bool) -> None:
    """Scrub names and marks also what can be brought back; what it does not miss undelete says, and marks."""
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    others = set((btw.root / ".store" / "chunks").rglob("*.zst"))
    (source / "large").write_bytes(random.Random(1).randbytes(300_000))  # noqa: S311
    btw("fs", source, "t")
    (own,) = set((btw.root / ".store" / "chunks").rglob("*.zst")) - others
    _, stamp = names(btw, "t")
    btw("rm", "--force", f"t@{stamp}")
    if is_flipped:
        content = bytearray(own.read_bytes())
        content[100_000] ^= 1
        own.write_bytes(content)
        (found,) = json.loads(btw("scrub", "--json", status=5).out)
        assert found["backups"] == [f"t@{stamp}"]
    else:
        own.unlink()
        btw("scrub")
    assert [row["valid"] for row in json.loads(btw("list", "t", "--removed", "--json").out)] == [not is_flipped]
    btw("scrub")
    ended = btw("undelete", "t", status=5)
    assert ended.out == f"brought back t@{stamp}\n"
    assert f"1 backup is damaged: t@{stamp}" in ended.err
    assert [row["valid"] for row in json.loads(btw("list", "t", "--json").out)] == [True, False]
    btw("fs", source, "t")
    btw("scrub")
    assert [row["valid"] for row in json.loads(btw("list", "t", "--json").out)] == [True, True, True]
    btw("restore", f"t@{stamp}", "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_a_removed_manifest_that_is_damaged(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    for number in range(2):
        (source / "new").write_text(f"{number}")
        btw("fs", source, "t")
    stamp = names(btw, "t")[0]
    btw("rm", "--force", f"t@{stamp}")
    path = btw.root / "t" / ".removed" / f"{stamp}.manifest.zst"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"1 backup is damaged: t@{stamp}" in btw("undelete", "t", status=5).err
    assert [row["valid"] for row in json.loads(btw("list", "t", "--json").out)] == [False, True]


def test_rdiff_backups_that_are_in_one_repository(btw: Installation, source: Path) -> None:
    btw.tree(source, "rdiff")
    for number in range(3):
        (source / "version").write_text(f"{number}")
        btw("fs", source, "t")
    full, first, second = names(btw, "t")
    for stamp in (full, first, second):
        ended = btw("rm", "--force", f"t@{stamp}", status=1)
        assert "cannot be removed alone: rdiff-backup keeps 3 backups in one" in ended.err
        assert f"t@{full}..{second} are these" in ended.err
    assert names(btw, "t") == [full, first, second]
    btw("rm", "--force", f"t@{full}..{second}")
    assert names(btw, "t") == []
    assert "cannot be removed alone" in btw("undelete", f"t@{first}", status=1).err
    btw("undelete", "t@all")
    assert names(btw, "t") == [full, first, second]
    btw("restore", f"t@{first}", "out")
    assert (btw.top / "out" / "version").read_text() == "1"
    assert all(row["uid"] for row in json.loads(btw("list", "t", "--json").out))
    (source / "version").write_text("3")
    btw("fs", source, "t")
    btw("rm", "--force", "t@all")
    assert json.loads(btw("cleanup", "--grace", "0", "--json").out)["backups"] == 4
    assert names(btw, "t", "--removed") == []


def test_a_full_goes_with_its_incrementals_and_the_next_stays(btw: Installation, source: Path) -> None:
    btw.tree(source, "rdiff", extra="MAX_INCREMENTAL_COUNT = 1\n")
    for number in range(4):
        (source / "version").write_text(f"{number}")
        btw("fs", source, "t")
    first, second, *rest = names(btw, "t")
    assert "cannot be removed alone" in btw("rm", "--force", f"t@{second}", status=1).err
    btw("rm", "--force", f"t@{first}..{second}")
    btw("cleanup", "--grace", "0")
    assert names(btw, "t") == rest
    assert sorted(path.stem for path in (btw.root / "t" / ".records").iterdir()) == rest
    assert [path.name for path in (btw.root / "t").iterdir() if path.name.startswith(".tmp-")] == []
    for number, stamp in enumerate(rest, 2):
        btw("restore", f"t@{stamp}", f"out {stamp}")
        assert (btw.top / f"out {stamp}" / "version").read_text() == f"{number}"


def test_an_archive_of_the_old_script(btw: Installation, source: Path) -> None:
    """It has no record."""
    folder = btw.root / "old"
    folder.mkdir()
    for stamp in ("2020-01-01T00:00:00", "2021-01-01T00:00:00"):
        subprocess.run(["tar", "-C", source, "-cjf", folder / f"{stamp}.tbz", "."], check=True)
    btw("rm", "old@first")
    assert names(btw, "old") == ["2021-01-01T00:00:00"]
    btw("undelete", "old")
    assert names(btw, "old") == ["2020-01-01T00:00:00", "2021-01-01T00:00:00"]


def traced(btw: Installation, calls: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The command, killed at one of its system calls."""
    probe = btw.start("--version")
    probe.communicate()
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", calls, "--", *probe.args[:-1], *words]  # type: ignore[index, misc]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, check=False, cwd=btw.top, env=environment, capture_output=True)


RENAMES = "rename,renameat,renameat2"


@pytest.mark.parametrize("command", ["rm", "undelete"])
def test_killed_between_any_two_renames(btw: Installation, source: Path, command: str) -> None:
    """Every backup is listed, or can be undeleted, and the next one sets its record and mark right."""
    first, middle, last = versions(btw, source, "chunks")
    mark = btw.root / "t" / ".records" / f"{middle}.damaged"
    mark.write_text("{}")
    copy = btw.top / "copy"
    if command == "undelete":
        btw("rm", "--force", f"t@{middle}")
    shutil.copytree(btw.root, copy, symlinks=True)
    words = ("rm", "--force", f"t@{middle}") if command == "rm" else ("undelete", f"t@{middle}")
    killed = 0
    for number in range(1, 10):
        shutil.rmtree(btw.root)
        shutil.copytree(copy, btw.root, symlinks=True)
        ended = traced(btw, f"inject={RENAMES}:signal=KILL:when={number}", *words)
        if ended.returncode == 0:
            break
        killed += 1
        assert sorted([*names(btw, "t"), *names(btw, "t", "--removed")]) == [first, middle, last]
        assert {first, last} <= set(names(btw, "t"))
        if middle in names(btw, "t"):
            check(btw, middle)
        btw(*words, status=None)  # is done, or finds that it is done
        if command == "rm":
            assert names(btw, "t") == [first, last]
            btw("undelete", f"t@{middle}")
        rows = {row["stamp"]: row for row in json.loads(btw("list", "t", "--json").out)}
        if not rows[middle]["uid"]:  # the undelete was done but for the record: the next one that looks brings it
            btw("rm", "--force", f"t@{first}")
            btw("undelete", f"t@{first}")
            rows = {row["stamp"]: row for row in json.loads(btw("list", "t", "--json").out)}
        assert list(rows) == [first, middle, last]
        assert all(row["uid"] for row in rows.values())
        assert [row["valid"] for row in rows.values()] == [True, False, True]
    assert killed == 3


def test_links_in_the_place_of_our_folders(btw: Installation, source: Path, tmp_path: Path) -> None:
    """Whoever owns a dst plants links to what is root's."""
    versions(btw, source, "chunks")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "2020-01-01T00:00:00.manifest.zst").write_text("precious")
    (outside / "2020-01-01T00:00:00.json").write_text("{}")
    before = {path: path.read_bytes() for path in outside.iterdir()}
    (btw.root / "t" / ".removed").symlink_to(outside)
    assert names(btw, "t", "--removed") == []
    assert "is no folder that can be used" in btw("rm", "--force", "t@first", status=1).err
    assert "nothing was removed" in btw("undelete", "t", status=1).err
    assert "is no folder that can be used" in btw("cleanup", "--grace", "0", status=1).err
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    (btw.root / "t" / ".removed").unlink()
    (btw.root / "t" / ".records").rename(tmp_path / "records")
    (btw.root / "t" / ".records").symlink_to(outside)
    assert "is no folder that can be used" in btw("rm", "--force", "t@first", status=1).err
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert len(names(btw, "t")) == 3


def test_strange_things_among_what_was_removed(btw: Installation, source: Path, tmp_path: Path) -> None:
    first, *others = versions(btw, source, "chunks")
    btw("rm", "--force", f"t@{first}")
    removed = btw.root / "t" / ".removed"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (removed / "2020-01-01T00:00:00").symlink_to(outside)
    (removed / "2020-01-02T00:00:00.manifest.zst").symlink_to(outside / "file")
    (removed / "2020-01-03T00:00:00.json").symlink_to(outside / "file")
    (removed / ".tmp-1-x").symlink_to(outside)
    (removed / "mine").write_text("mine")
    (removed / "new\nline.json").write_text("mine")
    assert names(btw, "t", "--removed") == [first]
    btw("cleanup", "--grace", "0")
    assert (outside / "file").read_text() == "precious"
    assert (removed / "mine").exists()
    assert (removed / "new\nline.json").exists()
    assert not (removed / f"{first}.manifest.zst").exists()
    for stamp in others:
        check(btw, stamp)


def test_nothing_is_replaced(btw: Installation, source: Path) -> None:
    first, *_ = versions(btw, source, "tar")
    archive = btw.root / "t" / f"{first}.tar.zst"
    removed = btw.root / "t" / ".removed"
    removed.mkdir()
    (removed / archive.name).write_text("another")
    assert f"{removed / archive.name} exists" in btw("rm", "--force", f"t@{first}", status=1).err
    (removed / archive.name).unlink()
    btw("rm", "--force", f"t@{first}")
    archive.write_text("another")
    assert f"{archive} exists" in btw("undelete", f"t@{first}", status=1).err
    assert archive.read_text() == "another"


def test_a_busy_dst_is_waited_for(btw: Installation, source: Path) -> None:
    versions(btw, source, "chunks", 2)
    with open(btw.root / "t" / ".lock") as lock:
        subprocess.run(["flock", "-x", str(lock.fileno())], check=True, pass_fds=[lock.fileno()])
        assert "is locked" in btw("rm", "--force", "t@first", "--lock-wait", "0", status=4).err
        assert len(names(btw, "t")) == 2


def test_what_was_removed_before_it_was_sent_is_owed_no_more(btw: Installation, source: Path, offsite: Bucket) -> None:
    """And what is brought back is owed again."""
    (source / "version").write_text("0")
    btw.tree(source, "tar")
    btw("fs", source, "t")
    configure(btw, offsite, port=free_port())
    (source / "version").write_text("1")
    btw("fs", source, "t", status=6)
    stamp = names(btw, "t")[-1]
    btw("rm", "--force", f"t@{stamp}")
    configure(btw, offsite)
    btw("sync")
    assert btw("sync-state", "--list").out == ""
    assert not [key for key in offsite.objects() if stamp in key]
    btw("undelete", "t")
    assert len([line for line in btw("sync-state", "--list").out.splitlines() if stamp in line]) == 2
    btw("sync")
    assert len([key for key in offsite.objects() if stamp in key]) == 2
    btw("rm", "--force", f"t@{stamp}")
    btw("sync", "--full")
    assert len([key for key in offsite.objects() if stamp in key]) == 2, "copies stay, and get no others"


@pytest.mark.slow
def test_killed_at_random(btw: Installation, source: Path) -> None:
    """rm, undelete and cleanup again and again, and kill -9: what was not asked away is there, and whole."""
    stamps = versions(btw, source, "chunks", 3)
    rng = random.Random(7)  # noqa: S311
    keep, *others = stamps
    commands: list[Callable[[], tuple[str, ...]]] = [
        lambda: ("rm", "--force", f"t@{rng.choice(others)}"),
        lambda: ("undelete", "t@all"),
        lambda: ("cleanup", "--grace", "1h"),
        lambda: ("cleanup", "--dry-run", "--grace", "0"),
    ]
    for _ in range(8):
        process = btw.start(*rng.choice(commands)())
        time.sleep(rng.uniform(0.15, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert sorted([*names(btw, "t"), *names(btw, "t", "--removed")]) == stamps
    check(btw, keep)
    if names(btw, "t", "--removed"):
        btw("undelete", "t@all")
    assert names(btw, "t") == stamps
    assert all(row["uid"] for row in json.loads(btw("list", "t", "--json").out))
    for stamp in stamps:
        check(btw, stamp)
    assert tree_differences(source, source) == ""
