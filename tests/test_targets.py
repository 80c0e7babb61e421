"""Several targets: each has a sync state of its own, and one that is down or lies holds up no other."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_backup.offsite.state import SyncState
from tests.conftest import Installation
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, free_port, s3_server

__all__ = ["bucket", "s3_server"]


def files_below(top: Path) -> dict[str, bytes]:
    """What a folder holds that was sent to it."""
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if path != ".btw-backup-target"}


def mirrored(btw: Installation) -> dict[str, bytes]:
    """What every mirror should hold."""
    stays = (".lock", ".btw-backup-id", ".fingerprint", ".tmp-")
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
    assert f"(not at s3, liar yet)" in btw("list", "www").out
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
