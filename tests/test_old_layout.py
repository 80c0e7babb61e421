"""What the old script left is listed, compared with, added to and restored, without being changed."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from btw_backup import files, records
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.keepers.rdiff import Rdiff
from tests import old_layout
from tests.conftest import random_bytes
from tests.old_layout import OldInstallation
from tests.test_rdiff import Desk, damaged, read

KEEPER = Rdiff()
STAMPS = [f"2019-03-{day:02}T02:00:00" for day in range(1, 30)]


@pytest.fixture
def old(tmp_path: Path) -> OldInstallation:
    (tmp_path / "cfg").mkdir()
    (tmp_path / "root").mkdir()
    return OldInstallation(tmp_path / "cfg", tmp_path / "root")


def found(old: OldInstallation, dst: str) -> list[records.Backup]:
    return listing.backups(Place(dst, old.root / dst))


def everything(top: Path) -> dict[str, tuple[int, float, bytes]]:
    """Every file and folder below `top`: mode, mtime and content."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime, path.read_bytes() if path.is_file() else b"")
        for path in [top, *top.rglob("*")]
    }


def grow(source: Path, count: int) -> None:
    (source / f"new-{count}").write_bytes(random_bytes(3000))


def test_the_hash_of_the_facts() -> None:
    assert {path: old_layout.hash_of(path) for path in old_layout.HASHES} == old_layout.HASHES


@pytest.mark.parametrize("zone", ["UTC0", "Europe/Berlin", "Asia/Kathmandu"])
def test_a_tree_of_type_rdiff(old: OldInstallation, source: Path, zone: str) -> None:
    """Fulls and increments, whatever the zone of the machine was; the full has the stamp of its folder."""
    old.zone = zone
    archives = []
    for number, stamp in enumerate(STAMPS[:3]):
        grow(source, number)
        repository = old.rdiff_tree(source, "www", stamp, full=STAMPS[0] if number else "", late=2)
        archives.append((repository / "backup.tar").read_bytes())
    before = everything(old.root)
    backups = found(old, "www")
    late = [stamp.replace(":00:00", ":00:02") for stamp in STAMPS[1:3]]
    assert [(b.stamp, b.full, b.kind) for b in backups] == [(s, STAMPS[0], "fs") for s in [STAMPS[0], *late]]
    assert [read(backup) for backup in backups] == archives
    assert everything(old.root) == before


def test_sessions_on_both_sides_of_summer_time(old: OldInstallation, source: Path) -> None:
    old.zone = "Europe/Berlin"
    stamps = ["2019-10-26T22:30:00", "2019-10-27T00:30:00", "2019-10-27T01:30:00"]
    for number, stamp in enumerate(stamps):
        grow(source, number)
        old.rdiff_tree(source, "www", stamp, full=stamps[0] if number else "")
    assert [backup.stamp for backup in found(old, "www")] == stamps
    assert not any(damaged(backup) for backup in found(old, "www"))


def test_databases_and_globals(old: OldInstallation) -> None:
    dumps = [b"PGDMP" + random_bytes(20_000) for _ in range(2)]
    for number, dump in enumerate(dumps):
        old.rdiff_file("shop.dump", dump, "db", STAMPS[number], full=STAMPS[0] if number else "")
        old.rdiff_file("global.sql.bz2", dump, "globals", STAMPS[number], full=STAMPS[0] if number else "")
    for dst, kind in (("db", "db"), ("globals", "globals")):
        assert [read(backup) for backup in found(old, dst)] == dumps
        assert {backup.kind for backup in found(old, dst)} == {kind}


def test_the_layout_of_list(old: OldInstallation, source: Path) -> None:
    """Two fulls with increments, and the archives of a time when the same dst was of type tar."""
    for number, stamp in enumerate(STAMPS[:5]):
        grow(source, number)
        if number == 0:
            old.tar(source, "www", stamp)
        else:
            old.rdiff_tree(source, "www", stamp, full=STAMPS[1] if number in (2, 3) else "")
    old.note("www", STAMPS[5], "skipping creation of new incremental backup")
    lines = [("" if backup.stamp == backup.full else " ") + backup.name for backup in found(old, "www")]
    assert lines == [f"{STAMPS[0]}.tbz", STAMPS[1], f" {STAMPS[2]}", f" {STAMPS[3]}", STAMPS[4]]


def as_old(desk: Desk, old: OldInstallation, contents: list[bytes]) -> None:
    """Backups of the old script in the dst of `desk`, whose age allows an increment."""
    desk.settings["MAX_INCREMENTAL_SPAN"] = 1e12
    for number, content in enumerate(contents):
        old.rdiff_file("backup.tar", content, "dst", STAMPS[number], full=STAMPS[0] if number else "")


@pytest.mark.parametrize("zone", ["UTC0", "Asia/Kathmandu", "America/St_Johns"])
def test_an_old_repository_is_added_to(old: OldInstallation, tmp_path: Path, zone: str) -> None:
    """Compared with its stream, as there is no record; the increment is a plain one, of the same zone.

    Not so in Newfoundland: rdiff-backup 2.2.2 writes its offset of -03:30 as -04:30, so that all times are wrong by an
    hour; ours are in UTC there.
    """
    desk = Desk(tmp_path)
    contents = [random_bytes(50_000) for _ in range(3)]
    old.zone = zone
    as_old(desk, old, contents[:2])
    desk.source.path.write_bytes(contents[1])
    os.environ["TZ"] = zone
    try:
        assert desk.keep().backup is None
        kept = desk.keep(contents[2])
    finally:
        del os.environ["TZ"]
    assert kept.backup and kept.backup.full == STAMPS[0]
    assert desk.contents() == contents
    names = " ".join(path.name for path in desk.full.glob("rdiff-backup-data/mirror_metadata.*"))
    zones = re.findall(r"(?:Z|[+-]\d\d:\d\d)(?=[.](?:snapshot|diff))", names)
    assert len(zones) == 3
    assert len(set(zones)) == 1 or zone == "America/St_Johns", names
    verified = subprocess.run(["rdiff-backup", "verify", str(desk.full)], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified


def test_same_size_as_the_old_mirror_in_the_same_second(old: OldInstallation, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    as_old(desk, old, [b"1" * 5000, b"2" * 5000])
    desk.keep(b"3" * 5000)
    assert desk.contents() == [b"1" * 5000, b"2" * 5000, b"3" * 5000]


def interrupted(repository: Path, stamp: str, replaced: bytes | None) -> None:
    """The state in which a killed rdiff-backup leaves a repository: a second marker, perhaps a new mirror."""
    data = repository / "rdiff-backup-data"
    (data / f"current_mirror.{stamp}Z.data").write_text("PID 1\n")
    (data / f"mirror_metadata.{stamp}Z.snapshot.gz").write_bytes(b"\x1f\x8b\x08")
    if replaced is not None:
        (repository / "backup.tar").write_bytes(replaced)


def test_f42_left_by_the_old_script(old: OldInstallation, tmp_path: Path) -> None:
    """A first increment that it began: rdiff-backup fails for ever on it; a new full is made."""
    desk = Desk(tmp_path)
    one, two, three = (random_bytes(5000) for _ in range(3))
    as_old(desk, old, [one])
    interrupted(desk.full, STAMPS[1], None)
    before = everything(desk.full)
    assert [b.stamp for b in desk.backups()] == STAMPS[:1]
    assert desk.keep(one).backup is None
    assert desk.keep(two).backup
    assert everything(desk.place.folder / STAMPS[0]) == before
    desk.keep(three)
    assert desk.contents() == [one, two, three]
    assert len({backup.full for backup in desk.backups()}) == 2


def test_f43_left_by_the_old_script(old: OldInstallation, tmp_path: Path) -> None:
    """A later increment, with the mirror replaced: the old script said "no change" from then on."""
    desk = Desk(tmp_path)
    one, two, three, four = (random_bytes(5000) for _ in range(4))
    as_old(desk, old, [one, two])
    state = desk.top / "state"
    shutil.copytree(desk.full, state, symlinks=True)
    old.rdiff_file("backup.tar", three, "dst", STAMPS[2], full=STAMPS[0])
    data = desk.full / "rdiff-backup-data"
    old_marker = f"current_mirror.{STAMPS[1]}Z.data"
    shutil.copy2(state / "rdiff-backup-data" / old_marker, data / old_marker)
    assert [read(backup) for backup in desk.backups()] == [one, two]
    kept = desk.keep(three)
    assert kept.backup and kept.backup.full == STAMPS[0]
    desk.keep(four)
    assert desk.contents() == [one, two, three, four]


def test_a_full_that_the_old_script_did_not_complete(old: OldInstallation, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    as_old(desk, old, [b"one"])
    half = desk.place.folder / STAMPS[2]
    shutil.copytree(desk.full, half)
    for marker in half.glob("rdiff-backup-data/current_mirror.*"):
        marker.unlink()
    assert [backup.stamp for backup in desk.backups()] == STAMPS[:1]
    desk.keep(b"two")
    assert desk.contents() == [b"one", b"two"]


def test_damage_is_told_by_the_digest_of_rdiff_backup(old: OldInstallation, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    as_old(desk, old, [b"1" * 5000, b"2" * 5000])
    (desk.full / "backup.tar").write_bytes(b"2" * 4999 + b"3")
    assert damaged(desk.backups()[1])


def test_a_dst_that_two_databases_shared(old: OldInstallation) -> None:
    """The old script put the second one's dump into the repository of the first."""
    dumps = {"shop.dump": random_bytes(9000), "mail.dump": random_bytes(9000)}
    turns = ["shop.dump", "mail.dump", "shop.dump", "mail.dump"]
    for number, name in enumerate(turns):
        old.rdiff_file(name, dumps[name] + bytes([number]), "db", STAMPS[number], full=STAMPS[0] if number else "")
    assert [read(backup) for backup in found(old, "db")] == [
        dumps[name] + bytes([number]) for number, name in enumerate(turns)
    ]


def test_more_sessions_than_one_chain_of_metadata(old: OldInstallation, tmp_path: Path) -> None:
    """rdiff-backup writes its metadata whole again after nine diffs."""
    desk = Desk(tmp_path, {"MAX_INCREMENTAL_COUNT": 100})
    contents = [bytes([number]) * (3000 + number) for number in range(24)]
    as_old(desk, old, contents[:22])
    for content in contents[22:]:
        desk.keep(content)
    assert desk.contents() == contents
    known = KEEPER.find(desk.place)
    assert (
        hashlib.sha256(b"".join(read(backup) for backup in known)).digest()
        == hashlib.sha256(b"".join(contents)).digest()
    )


def test_what_is_left_in_the_stage_is_removed(old: OldInstallation, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "backup.tar").write_bytes(b"left by a killed run")
    desk.keep(b"one")
    assert list((tmp_path / "stage").iterdir()) == []
    assert not [path for path in desk.place.folder.rglob("*") if path.name.startswith(files.TEMPORARY)]
