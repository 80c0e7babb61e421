"""Several targets: each has a sync state of its own, and one that is down or lies holds up no other."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_backup.configuration.addresses import Address
from btw_backup.configuration.checks import bandwidth
from btw_backup.offsite.debts import Owed, touches
from btw_backup.offsite.state import SyncState
from tests.conftest import REPOSITORY, Installation, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, free_port, s3_server

__all__ = ["bucket", "s3_server"]


def files_below(top: Path) -> dict[str, bytes]:
    """What a folder holds that was sent to it."""
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if path != ".btw-backup-target"}


def mirrored(btw: Installation) -> dict[str, bytes]:
    """What every mirror should hold."""
    stays = (".lock", ".btw-backup-id", ".btw-backup-dsts", ".fingerprint", ".tmp-")
    found = files_below(btw.root)
    store = tuple(f".store/{name}/" for name in ("index", "writing", "damaged"))
    found = {p: content for p, content in found.items() if not p.startswith(store)}
    return {p: content for p, content in found.items() if not any(part.startswith(stays) for part in p.split("/"))}


def owed(btw: Installation, name: str) -> list[str]:
    """What the journal of a target says is owed."""
    return [debt.path for debt in SyncState(btw.config_dir / f"sync_state.{name}").pending()]


@pytest.fixture
def nas(btw: Installation) -> Path:
    """A folder that `btw` sends its backups to."""
    folder = btw.top / "nas"
    folder.mkdir()
    btw.configure(f"OFFSITE = {{'nas': {{'PATH': {str(folder)!r}}}}}\n")
    return folder


def test_a_folder_gets_what_is_kept(btw: Installation, source: Path, nas: Path) -> None:
    """E02, for every keeper of trees; the journal is its own."""
    for number, type_ in enumerate(("tar", "rdiff", "chunks")):
        tree = btw.top / f"tree{number}"
        subprocess.run(["cp", "-a", source, tree], check=True)
        btw.tree(tree, type_, type_)
        btw("fs", tree, f"www/{type_}")
    (btw.top / "tree1/etc/hosts").write_text("127.0.0.2 other\n")
    btw("fs", btw.top / "tree1", "www/rdiff")
    assert files_below(nas) == mirrored(btw)
    assert owed(btw, "nas") == []
    assert not (btw.config_dir / "sync_state").exists()


def test_a_new_target_is_owed_everything(btw: Installation, source: Path) -> None:
    """What was kept before it was there goes there, too."""
    btw.tree(source)
    btw("fs", source, "www")
    folder = btw.top / "nas"
    folder.mkdir()
    btw.configure(f"OFFSITE = {{'nas': {{'PATH': {str(folder)!r}}}}}\n")
    btw("sync")
    assert files_below(folder) == mirrored(btw)
    moved = btw.top / "other"
    moved.mkdir()
    (btw.config_dir / ".offsite" / "nas.id").unlink()
    btw.configure(f"OFFSITE = {{'nas': {{'PATH': {str(moved)!r}}}}}\n")
    btw("sync")
    assert files_below(moved) == mirrored(btw)


def test_root_path_is_rebuilt_from_a_mirror(btw: Installation, source: Path, nas: Path) -> None:
    """import --from: every keeper's backups come back, and are continued."""
    for type_ in ("tar", "rdiff", "chunks"):
        subprocess.run(["cp", "-a", source, btw.top / type_], check=True)
        btw.tree(btw.top / type_, type_, type_)
        btw("fs", btw.top / type_, f"www/{type_}")
    before, kept = btw("list").out, mirrored(btw)
    shutil.rmtree(btw.root)
    btw.root.mkdir()
    (btw.config_dir / "root-id").unlink()
    btw("import", "--from", "nas", "www/rdiff")
    assert {path for path in mirrored(btw) if not path.startswith((".store", "www/rdiff"))} == set()
    btw("import", "--from", "nas")
    assert mirrored(btw) == kept
    assert btw("list").out == before
    btw("scrub")
    for type_ in ("tar", "rdiff", "chunks"):
        (btw.top / type_ / "new").touch()
        btw("fs", btw.top / type_, f"www/{type_}")
    btw("scrub")
    assert files_below(nas) == mirrored(btw)


def test_an_empty_mount_point_is_not_the_target(btw: Installation, source: Path, nas: Path) -> None:
    """Status 6, and nothing is written there; the backup is kept, and sent when the disk is back."""
    btw.tree(source)
    btw("fs", source, "www")
    nas.rename(btw.top / "away")
    ended = btw("sync", "--full", status=6)
    assert "is not a folder" in ended.err
    nas.mkdir()
    (source / "new").touch()
    ended = btw("fs", source, "www", status=6)
    assert f"{nas} is not the target of before" in ended.err
    assert list(nas.iterdir()) == []
    nas.rmdir()
    (btw.top / "away").rename(nas)
    btw("sync")
    assert files_below(nas) == mirrored(btw)


def test_a_folder_that_rots_is_sent_to_again(btw: Installation, source: Path, nas: Path) -> None:
    """F85: what is there is read, not believed."""
    btw.tree(source)
    btw("fs", source, "www")
    [archive] = (nas / "www").glob("*.tar.zst")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    btw("sync", "--full")
    assert files_below(nas) == mirrored(btw)


@pytest.fixture
def lying(bucket: Bucket) -> Iterator[FaultProxy]:
    """A proxy that says stored, and stores nothing."""
    with FaultProxy(bucket.server.port, [Rule("PUT", "", "lie")]) as faults:
        yield faults


def test_f90_one_lies_one_is_down_one_is_well(
    btw: Installation, source: Path, bucket: Bucket, lying: FaultProxy
) -> None:
    """F90, E03, E04: the third is complete; each has its own state, and the status of each is told."""
    folder = btw.top / "nas"
    folder.mkdir()
    others = {
        "liar": {
            "S3_URI_PREFIX": f"s3://{bucket.name}/liar",
            "S3CMD_CONFIG": str(bucket.s3cmd_config(btw.top / "liar.conf", lying.port)),
        },
        "nas": {"PATH": str(folder)},
    }
    configure(btw, bucket, free_port(), OFFSITE=others)
    btw.tree(source)
    ended = btw("fs", source, "www", status=6)
    assert len([line for line in ended.err.splitlines() if ": not at s3://" in line]) == 2
    assert files_below(folder) == mirrored(btw)
    row = json.loads(btw("sync", "--json", status=6).out)
    assert [(each["target"], each["owed"] > 0) for each in row["targets"]] == [
        ("s3", True), ("liar", True), ("nas", False),
    ]  # fmt: skip
    assert "(not at s3, liar yet)" in btw("list", "www").out
    lines = btw("sync-state", "--list").out.splitlines()
    assert {line.rpartition(" (to ")[2] for line in lines if " (to " in line} == {"liar)"}
    assert "cannot reset" in btw("sync-state", "--reset", status=1).err
    configure(btw, bucket, OFFSITE=others)
    lying.rules = []
    btw("sync")
    assert bucket.objects() == bucket.objects("liar/") == mirrored(btw)
    assert "not at" not in btw("list", "www").out
    btw("sync-state", "--reset")


def test_bandwidth(btw: Installation, source: Path, nas: Path) -> None:
    """E11: 3 MB at 1 MB/s."""
    (btw.root / "www").mkdir()
    (btw.root / "www/file").write_bytes(bytes(3 << 20))
    btw.configure(f"OFFSITE = {{'nas': {{'PATH': {str(nas)!r}, 'BANDWIDTH': '1M'}}}}\n")
    began = time.monotonic()
    btw("sync")
    assert 2.5 < time.monotonic() - began < 8
    assert files_below(nas) == mirrored(btw)


@pytest.mark.quick_with("moto")
@pytest.mark.parametrize("seed", range(2))
def test_f92_killed_while_three_are_sent_to(btw: Installation, source: Path, bucket: Bucket, seed: int) -> None:
    """F92: whenever it dies, each target misses nothing in the end."""
    public = btw("keys", "generate", btw.top / "key").out.strip()
    for name in ("plain", "sealed"):
        (btw.top / name).mkdir()
    plain, sealed = {"PATH": str(btw.top / "plain")}, {"PATH": str(btw.top / "sealed"), "ENCRYPT_TO": [public]}
    configure(btw, bucket, OFFSITE={"plain": plain, "sealed": sealed})
    btw.tree(source, "chunks")
    rng = random.Random(seed)  # noqa: S311
    for number in range(5):
        (source / f"new{number}").write_bytes(rng.randbytes(3 << 20))
        run = btw.start("fs", source, "www")
        time.sleep(rng.uniform(0.3, 2.0))
        run.kill()
        run.wait()
    btw("fs", source, "www")
    btw("sync")
    assert files_below(btw.top / "plain") == bucket.objects() == mirrored(btw)
    btw("keys", "test", "--pin", btw.top / "key")
    options = ["--from", "sealed", "--identity", btw.top / "key"]
    btw("restore", *options, "www", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_bandwidth_to_s3(btw: Installation, bucket: Bucket) -> None:
    """E11: all calls of s3cmd together."""
    (btw.root / "www").mkdir()
    for number in range(60):
        (btw.root / f"www/{number}").write_bytes(bytes(100_000))
    configure(btw, bucket, BANDWIDTH="1M")
    began = time.monotonic()
    btw("sync", "--full")
    assert time.monotonic() - began > 4
    assert bucket.objects() == mirrored(btw)


def test_e03_the_source_is_read_once(btw: Installation, source: Path) -> None:
    """However many targets there are: as often as with none, which is by tar, and by what reads ahead of it."""
    btw.tree(source)
    places = {name: {"PATH": str(btw.top / name)} for name in ("one", "two", "three")}
    file, trace = source / "etc/deep/file", btw.top / "trace"
    counts = []
    for offsite in ({}, places):
        for name in offsite:
            (btw.top / name).mkdir()
        btw.configure("", OFFSITE=offsite)
        file.write_bytes(file.read_bytes()[:-1])
        command = [
            "strace",
            "-f",
            "-qq",
            "-y",
            "-e",
            "trace=openat,open",
            "-o",
            trace,
            sys.executable,
            "-m",
            "btw_backup",
        ]
        subprocess.run([*command, "--config-dir", btw.config_dir, "fs", source, "www"], check=True, cwd=REPOSITORY)
        counts.append(trace.read_text().count("/etc/deep/file>\n"))  # in a mount of its own, it has no other name
    assert counts[0] == counts[1] > 0
    for name in places:
        assert files_below(btw.top / name) == mirrored(btw)


def test_d07_encryption_of_each_target_is_told(btw: Installation, source: Path) -> None:
    """D07: chosen for each, and shown."""
    public = btw("keys", "generate", btw.top / "key").out.strip()
    for name in ("one", "two"):
        (btw.top / name).mkdir()
    one, two = {"PATH": str(btw.top / "one")}, {"PATH": str(btw.top / "two"), "ENCRYPT_TO": []}
    btw.configure("", ENCRYPT_TO=[public], OFFSITE={"one": one, "two": two})
    btw.tree(source)
    btw("fs", source, "www")
    rows = json.loads(btw("sync", "--json").out)["targets"]
    assert {row["target"]: (row["encryption"], row["layout"]) for row in rows} == {
        "one": ("age", "objects"),
        "two": ("none", "mirror"),
    }


def test_config_show_knows_targets(btw: Installation, nas: Path) -> None:
    """What holds for each, wherever it was said."""
    rows = json.loads(btw("config", "show", "--json").out)
    found = {row["setting"]: row["value"] for row in rows if row["job"] == "target nas"}
    assert (found["PATH"], found["LAYOUT"], found["ENCRYPT_TO"]) == (str(nas), "mirror", [])


def test_bandwidth_by_the_hour() -> None:
    """E11: also over midnight; as fast as can be in the hours that are not named."""
    rates = bandwidth({"08-18": "500k", "22-06": "2M"})
    found = {hour: Address("x", "/x", bandwidth=rates).rate(hour) for hour in (7, 8, 17, 18, 21, 22, 23, 0, 5, 6)}
    assert found == {7: 0, 8: 512000, 17: 512000, 18: 0, 21: 0, 22: 2 << 20, 23: 2 << 20, 0: 2 << 20, 5: 2 << 20, 6: 0}
    for bad in ("", "0", "fast", {}, {"8-18": "1M"}, {"08-25": "1M"}, {"08-18": 1}, 5):
        with pytest.raises((ValueError, TypeError)):
            bandwidth(bad)


@given(
    st.lists(st.text("ab/", max_size=6).filter(lambda path: "//" not in path and not path.startswith("/"))),
    st.text("ab/", min_size=1, max_size=6).filter(lambda path: "//" not in path and path.strip("/") == path),
)
def test_what_is_owed_of_a_path(owed: list[str], path: str) -> None:
    """As fast as it is for many, it is the same as asking of each."""
    assert Owed(owed).touches(path) == any(touches(path, each) for each in owed)
