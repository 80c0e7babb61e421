"""ALLOW_REMOVAL: what rm and cleanup removed here goes at the targets, too, and nothing else ever does."""

import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from btw_backup.configuration.addresses import Address
from btw_backup.offsite import removals
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.state import PUSH, REMOVE, SyncState
from tests.conftest import Installation, random_bytes, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, free_port, s3_server
from tests.test_targets import files_below, mirrored

__all__ = ["bucket", "s3_server"]

LAYOUTS = ("mirror", "objects")
HERE_ONLY = (".store/dsts.json", ".store/.lock")


@dataclass
class Place:
    """A target of `btw` that allows removing, with what restores from it alone."""

    btw: Installation
    layout: str
    name: str
    folder: Path | None = None
    bucket: Bucket | None = None
    key: Path | None = None
    options: list[object] = field(default_factory=list)

    def objects(self) -> dict[str, bytes]:
        """All that is there, but for what doctor --attack could not delete."""
        if self.folder:
            return files_below(self.folder)
        assert self.bucket
        return {path: content for path, content in self.bucket.objects().items() if "probe/" not in path}

    def listed(self) -> list[str]:
        """The backups that are there, as who has nothing else sees them."""
        rows = json.loads(elsewhere(self.btw)("restore", *self.options, "--list", "--json").out)
        return sorted(f"{row['dst']}@{row['stamp']}" for row in rows)

    def restored(self, address: str) -> Path:
        """What comes back from there alone."""
        target = self.btw.top / "restored"
        shutil.rmtree(target, ignore_errors=True)
        elsewhere(self.btw)("restore", *self.options, address, target)
        return target

    def is_as_it_should_be(self) -> None:
        """It has what is here, no more, and proves it; without this program, too."""
        assert self.listed() == listed(self.btw)
        if self.layout == "mirror":
            assert self.objects() == here(self.btw)
        else:
            self.btw("keys", "test", self.key)
            assert live(self.btw, self.name) == stored(self.objects())
        ended = self.btw("sync", "--verify")
        assert (ended.out, ended.err) == ("", "")


def elsewhere(btw: Installation) -> Installation:
    """A machine without configuration and backups."""
    empty = Installation(btw.top / "elsewhere")
    empty.top.mkdir(exist_ok=True)
    return empty


def listed(btw: Installation) -> list[str]:
    """The backups that are here."""
    return sorted(f"{row['dst']}@{row['stamp']}" for row in json.loads(btw("--json", "list").out))


def here(btw: Installation) -> dict[str, bytes]:
    """What a mirror should hold."""
    found = mirrored(btw)
    return {path: content for path, content in found.items() if path not in HERE_ONLY and "/.removed/" not in path}


def stored(objects: dict[str, bytes]) -> set[str]:
    """The objects among what is at a target."""
    return {path for path in objects if path.startswith("objects/")}


def live(btw: Installation, name: str) -> set[str]:
    """The objects that the ledger of a target knows."""
    ledger = Ledger(btw.config_dir / ".offsite" / f"{name}.sqlite")
    found = {ref.path for ref, _ in ledger.all_proved()}
    ledger.close()
    return found


def to_remove(btw: Installation) -> list[str]:
    """What is still to be removed, as sync-state --list says."""
    rows = json.loads(btw("sync-state", "--list", "--json").out)
    return [row["path"] for row in rows if row["op"] == "remove"]


def objects_settings(btw: Installation, layout: str) -> tuple[dict[str, object], Path | None]:
    if layout == "mirror":
        return {}, None
    key = btw.top / "backup.key"
    return {"ENCRYPT_TO": [btw("keys", "generate", key).out.strip()]}, key


@pytest.fixture(params=LAYOUTS)
def nas(btw: Installation, request: pytest.FixtureRequest) -> Place:
    """A folder that allows removing, of each layout."""
    return folder_place(btw, request.param)


def folder_place(btw: Installation, layout: str) -> Place:
    folder = btw.top / "nas"
    folder.mkdir()
    settings, key = objects_settings(btw, layout)
    btw.configure("", OFFSITE={"nas": {"PATH": str(folder), "ALLOW_REMOVAL": True}}, PROTECT_YOUNG="0s", **settings)
    options = ["--from", folder, *(["--identity", key] if key else [])]
    return Place(btw, layout, "nas", folder=folder, key=key, options=options)


def in_s3(btw: Installation, bucket: Bucket, layout: str, port: int = 0) -> Place:
    """A bucket that allows removing."""
    settings, key = objects_settings(btw, layout)
    configure(btw, bucket, port, ALLOW_REMOVAL=True, PROTECT_YOUNG="0s", **settings)
    config = bucket.s3cmd_config(btw.top / "reading.conf")
    options = ["--from", f"s3://{bucket.name}/backups", "--s3cmd-config", config]
    return Place(btw, layout, "s3", bucket=bucket, key=key, options=[*options, *(["--identity", key] if key else [])])


def three_backups(btw: Installation, source: Path, type_: str = "chunks", dst: str = "www") -> None:
    """Three of a tree, each with something of its own that is the only reason for a chunk, or more."""
    if not any(btw.config_dir.glob(f"{dst}.*")):
        btw.tree(source, type_, dst)
    for number in range(3):
        (source / "own").write_bytes(random_bytes(600_000))
        (source / "small").write_text(f"{number}")
        btw("fs", source, dst)


def copy_of(btw: Installation, source: Path, name: str) -> Path:
    target = btw.top / name
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def test_what_was_removed_goes_after_its_grace(btw: Installation, source: Path, nas: Place) -> None:
    """E09: of every keeper; until cleanup everything is there, and undelete needs nothing from anywhere."""
    trees = {type_: copy_of(btw, source, type_) for type_ in ("tar", "rdiff", "chunks")}
    for type_, tree in trees.items():
        three_backups(btw, tree, type_, type_)
    btw("command-init", "--type", "file", "out", "--", "cat", source / "etc/deep/file")
    btw("command", "out", "out")
    full = nas.objects()
    before = listed(btw)
    btw("rm", "tar@first", "chunks@first", "chunks@1")
    btw("rm", "rdiff@all", "out@all", "--force")
    btw("cleanup")
    assert nas.objects() == full, "the grace is not over"
    assert to_remove(btw) == []
    btw("undelete", "chunks@first")
    btw("sync")
    assert nas.listed() == before, "an undeleted one, and those that may be"
    btw("rm", "chunks@first")
    btw("cleanup", "--grace", "0")
    assert to_remove(btw) == []
    assert len(listed(btw)) == 3
    nas.is_as_it_should_be()
    gone = sum(map(len, full.values())) - sum(map(len, nas.objects().values()))
    assert gone > 5 * 500_000, "the content of two chunks backups, a tar and a repository"
    for type_ in ("tar", "chunks"):
        assert tree_differences(trees[type_], nas.restored(type_)) == ""
    btw("scrub", "--target", "nas")
    assert not list(btw.config_dir.glob("removals.*")) or all(
        path.stat().st_size == 0 for path in btw.config_dir.glob("removals.*")
    )


def test_without_this_program_after_a_removal(btw: Installation, source: Path) -> None:
    """RESTORE.py finds what is there complete; what a provider takes is still told from what we removed."""
    nas = folder_place(btw, "objects")
    three_backups(btw, source)
    btw("rm", "www@first")
    btw("cleanup", "--grace", "0")
    btw("keys", "test", "--pin", nas.key)
    assert nas.folder
    script = ["/usr/bin/python3", "-I", nas.folder / "RESTORE.py", "--identity", nas.key]
    ended = subprocess.run([*script, btw.top / "rebuilt"], check=True, capture_output=True, text=True)
    assert ended.stderr == ""
    assert {path for path in files_below(btw.top / "rebuilt") if path.endswith(".zst")} == {
        path for path in here(btw) if path.endswith(".zst")
    }
    by_hand = [btw.top / "rebuilt" / ".store/RESTORE.py", "www", btw.top / "by-hand"]
    subprocess.run(["/usr/bin/python3", *by_hand], check=True)
    assert tree_differences(source, btw.top / "by-hand") == ""
    largest = max((nas.folder / "objects").rglob("?" * 64), key=lambda path: path.stat().st_size)
    largest.unlink()
    ended = subprocess.run([*script, btw.top / "again"], check=False, capture_output=True, text=True)
    assert ended.returncode == 5
    assert "nas does not have any more what it had" in btw("sync", "--verify").err.replace(f"{nas.folder}/", "nas")
    nas.is_as_it_should_be()
    records = sorted((nas.folder / "index").rglob("0*"))
    records[-1].unlink()
    assert "it was rolled back" in btw("keys", "test", nas.key, status=5).err


def test_the_same_content_comes_again(btw: Installation, source: Path, nas: Place) -> None:
    """The ledger forgets what was removed; what is needed again is sent again, from a rebuilt ROOT_PATH, too."""
    three_backups(btw, source)
    own = (source / "own").read_bytes()
    (source / "own").write_bytes(b"")
    btw("fs", source, "www")
    btw("rm", "www@1")
    btw("cleanup", "--grace", "0")
    nas.is_as_it_should_be()
    (source / "own").write_bytes(own)
    btw("fs", source, "www")
    assert tree_differences(source, nas.restored("www")) == ""
    nas.is_as_it_should_be()
    before = btw("list").out
    shutil.rmtree(btw.root)
    btw.root.mkdir()
    (btw.config_dir / "root-id").unlink()
    btw("import", "--from", "nas", *(["--identity", nas.key] if nas.key else []))
    assert btw("list").out == before
    btw("scrub")


@pytest.mark.quick_with("moto")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_a_bucket(btw: Installation, source: Path, bucket: Bucket, layout: str) -> None:
    """The same in S3."""
    place = in_s3(btw, bucket, layout)
    three_backups(btw, source)
    other = copy_of(btw, source, "other")
    three_backups(btw, other, "rdiff", "db")
    btw("rm", "--force", "www@first", "www@1", "db@all")
    btw("cleanup", "--grace", "0")
    assert len(listed(btw)) == 1
    place.is_as_it_should_be()
    assert tree_differences(source, place.restored("www")) == ""


@pytest.mark.quick_with("s3rver")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_credentials_that_cannot_delete(btw: Installation, source: Path, bucket: Bucket, layout: str) -> None:
    """E05: status 6 and the right that is missing; the debt stays, is told, and is paid when there is the right."""
    denied = [Rule("DELETE", "", "denied"), Rule("POST", "?delete", "denied")]
    with FaultProxy(bucket.server.port, denied) as proxy:
        place = in_s3(btw, bucket, layout, proxy.port)
        three_backups(btw, source)
        before = place.objects()
        btw("rm", "www@first")
        ended = btw("cleanup", "--grace", "0", status=6)
        assert "not removed at s3://" in ended.err
        assert "s3:DeleteObject" in ended.err
        assert len(ended.err.splitlines()) == 2
        assert before.items() <= place.objects().items()
        left = to_remove(btw)
        assert any(path.endswith(".manifest.zst") for path in left)
        [row] = json.loads(btw("sync", "--json", status=6).out)["targets"]
        assert (row["owed"], row["to_remove"], row["allow_removal"]) == (0, len(left), True)
        assert f"Must remove: {left[0]}" in btw("sync-state", "--list").out
        assert "cannot reset" in btw("sync-state", "--reset", status=1).err
        found = {row["what"]: row["level"] for row in json.loads(btw("doctor", "--attack", "--json", status=None).out)}
        assert found["attack on s3: remove"] == found["removals"] == "warning"
        (source / "new").touch()
        btw("fs", source, "www")
        proxy.rules = []
        btw("sync")
    configure_again(place)
    place.is_as_it_should_be()
    found = {row["what"]: row["level"] for row in json.loads(btw("doctor", "--attack", "--json", status=None).out)}
    assert found["attack on s3: remove"] == "ok"
    assert found.get("attack on s3: delete") == (None if layout == "mirror" else "warning")


def configure_again(place: Place) -> None:
    """Reach the bucket without a proxy."""
    assert place.bucket
    place.bucket.s3cmd_config(place.btw.top / "s3cmd.conf")


def test_a_target_that_is_away_keeps_its_debt(btw: Installation, source: Path, nas: Place) -> None:
    """And what comes again meanwhile is not removed when it is back, even if it was lost here since."""
    assert nas.folder
    three_backups(btw, source)
    own = (source / "own").read_bytes()
    (source / "own").write_bytes(b"")
    btw("fs", source, "www")
    there = nas.objects()
    nas.folder.rename(btw.top / "away")
    btw("rm", "www@first", "www@1")
    ended = btw("cleanup", "--grace", "0", status=6)
    assert "is not a folder" in ended.err
    left = to_remove(btw)
    (source / "own").write_bytes(own)
    btw("fs", source, "www", status=6)
    struck = set(left) - set(to_remove(btw))
    assert len(struck) == 1, "the one chunk that is needed again"
    assert all(path.startswith(".store/chunks/") for path in struck)
    [chunk] = struck
    content = (btw.root / chunk).read_bytes()
    (btw.root / chunk).unlink()
    (btw.top / "away").rename(nas.folder)
    btw("sync", status=None)
    assert nas.layout == "objects" or nas.objects()[chunk] == content == there[chunk]
    btw("import", "--from", "nas", *(["--identity", nas.key] if nas.key else []))
    assert (btw.root / chunk).read_bytes() == content
    btw("sync")
    nas.is_as_it_should_be()
    assert tree_differences(source, nas.restored("www")) == ""


def test_nothing_goes_unless_it_is_allowed(btw: Installation, source: Path, nas: Place) -> None:
    """The default; nor later what was removed before it was allowed."""
    text = (btw.config_dir / "config.py").read_text()
    (btw.config_dir / "config.py").write_text(text.replace(", 'ALLOW_REMOVAL': True", ""))
    rows = json.loads(btw("config", "show", "--json").out)
    assert [row["value"] for row in rows if (row["job"], row["setting"]) == ("target nas", "ALLOW_REMOVAL")] == [False]
    three_backups(btw, source)
    before = nas.objects()
    btw("rm", "www@first")
    btw("cleanup", "--grace", "0")
    assert nas.objects() == before
    assert not list(btw.config_dir.glob("removals*"))
    (btw.config_dir / "config.py").write_text(text)
    btw("sync", "--full")
    assert nas.objects() == before


def everything(btw: Installation, nas: Place) -> dict[str, bytes]:
    """What is there, but for what tells of what is sent."""
    assert nas.folder
    return {path: content for path, content in nas.objects().items() if not path.startswith(("index/", "keys/"))}


@pytest.mark.parametrize("loss", ["dst", "root", "ledger", "catalogue", "all that is known", "store"])
def test_what_is_missing_here_removes_nothing(btw: Installation, source: Path, nas: Place, loss: str) -> None:
    """T17: whatever is lost here, cleanup and sync remove nothing there."""
    three_backups(btw, source)
    before = everything(btw, nas)
    if loss == "dst":
        shutil.rmtree(btw.root / "www")
    elif loss == "root":
        btw.root.rename(btw.top / "moved")
        btw.root.mkdir()
    elif loss == "ledger":
        for path in (btw.config_dir / ".offsite").glob("*.sqlite"):
            path.unlink()
    elif loss == "catalogue":
        for path in btw.config_dir.glob("catalogue*"):
            path.unlink()
    elif loss == "all that is known":
        shutil.rmtree(btw.config_dir / ".offsite")
        for path in btw.config_dir.glob("removals*"):
            path.unlink()
    else:
        shutil.rmtree(btw.root / ".store")
    ended = btw("cleanup", "--grace", "0", "--forget", "www", status=None)
    if loss == "dst":
        assert ended.status == 6, "chunks are freed here, because that was said"
        assert ".manifest.zst is there, which is not here, and may need them" in ended.err
    btw("sync", status=None)
    btw("sync", "--full", status=None)
    assert before.items() <= everything(btw, nas).items()


def test_a_lost_ledger_ends_removing_and_says_so(btw: Installation, source: Path) -> None:
    """The chain of before may name what is there: nobody here can tell."""
    nas = folder_place(btw, "objects")
    three_backups(btw, source)
    (btw.config_dir / ".offsite" / "nas.sqlite").unlink()
    btw("sync", "--full")
    before = nas.objects()
    btw("rm", "www@first")
    ended = btw("cleanup", "--grace", "0", status=6)
    assert "the records of somebody else, who may need them" in ended.err
    assert nas.objects() == before


def test_two_machines_in_one_place(btw: Installation, source: Path, nas: Place) -> None:
    """What another one needs there stays, though its chunks have the same names; that is said."""
    assert nas.folder
    other = Installation(btw.top / "other")
    for folder in (other.top, other.config_dir, other.root):
        folder.mkdir()
    text = (btw.config_dir / "config.py").read_text().replace(str(btw.root), str(other.root))
    (other.config_dir / "config.py").write_text(text)
    tree = copy_of(btw, source, "theirs")
    (tree / "own").write_bytes(random_bytes(700_000))
    other.tree(tree, "chunks", "theirs")
    other("fs", tree, "theirs")
    (source / "own").write_bytes((tree / "own").read_bytes())
    btw.tree(source, "chunks", "www")
    btw("fs", source, "www")
    (source / "own").write_bytes(b"")
    btw("fs", source, "www")
    btw("rm", "www@first")
    ended = btw("cleanup", "--grace", "0", status=6)
    assert "who may need them" in ended.err or "which is not here, and may need them" in ended.err
    other("sync", "--verify")
    assert tree_differences(tree, nas.restored("theirs")) == ""
    assert tree_differences(source, nas.restored("www")) == ""


def test_another_place_under_the_same_name(btw: Installation, source: Path, nas: Place) -> None:
    """What was to be removed in one place is not removed in the next one."""
    assert nas.folder
    three_backups(btw, source)
    before = nas.objects()
    copy = btw.top / "copy"
    subprocess.run(["cp", "-a", nas.folder, copy], check=True)
    nas.folder.rename(btw.top / "away")
    btw("rm", "www@first")
    btw("cleanup", "--grace", "0", status=6)
    text = (btw.config_dir / "config.py").read_text()
    (btw.config_dir / "config.py").write_text(text.replace(str(nas.folder), str(copy)))
    btw("sync", status=None)
    assert before.items() <= files_below(copy).items()


def test_nothing_goes_while_something_is_owed(btw: Installation, source: Path, nas: Place) -> None:
    """The target gets the new before it loses the old."""
    assert nas.folder
    three_backups(btw, source)
    before = nas.objects()
    nas.folder.rename(btw.top / "away")
    (source / "new").write_bytes(random_bytes(1000))
    btw("fs", source, "www", status=6)
    manifest = max((btw.root / "www").glob("*.manifest.zst"))
    btw("rm", "www@first")
    btw("cleanup", "--grace", "0", status=6)
    (btw.top / "away").rename(nas.folder)
    hidden = manifest.with_name("hidden")
    manifest.rename(hidden)
    ended = btw("sync", status=6)
    assert "although it was kept" in ended.err
    assert before.items() <= nas.objects().items()
    hidden.rename(manifest)
    btw("sync")
    nas.is_as_it_should_be()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_killed_at_any_moment(btw: Installation, source: Path, nas: Place, seed: int) -> None:
    """Whoever is killed forgets nothing, and no copy of what is kept is ever short of anything."""
    three_backups(btw, source)
    btw("rm", "www@first", "www@1")
    chance = random.Random(seed)  # noqa: S311 - moments, not keys
    for _ in range(4):
        process = btw.start("cleanup", "--grace", "0")
        time.sleep(chance.uniform(0.2, 1.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert tree_differences(source, nas.restored("www@latest")) == ""
    btw("cleanup", "--grace", "0")
    btw("sync")
    assert to_remove(btw) == []
    nas.is_as_it_should_be()


@pytest.mark.parametrize(
    "path",
    ["", "/", "www", "www/", "www/etc/", ".store", ".store/chunks/", ".store/chunks/ab/", "../x", ".records/x.json",
     "2026-11-21T01:23:45/", ".store/2026-11-21T01:23:45/", "www/.records/", "www/2026-11-21T01:23:45x"],
)  # fmt: skip
def test_a_damaged_journal_costs_no_folder(btw: Installation, tmp_path: Path, path: str) -> None:
    """Only backups, their records and marks, and chunks are ever removed, whatever stands in the journal."""
    file = btw.config_dir / "removals.nas.01234567"
    file.write_text(f"2026-11-21T02:00:00 +remove {path}\n")
    noted = SyncState(file, (REMOVE,))
    assert removals.due(noted, str(btw.root)) == []
    assert noted.pending() == []


def test_what_is_due(btw: Installation) -> None:
    """What is here again is struck off, what is here still waits; a push strikes off; torn lines are set aside."""
    stamp = "2026-11-21T01:23:45"
    chunk = f".store/chunks/ab/ab{'0' * 62}.zst"
    paths = [f"www/{stamp}.tbz", f"www/{stamp}/", f"www/.records/{stamp}.json", f"a/b/.records/{stamp}.damaged", chunk]
    address = Address("nas", "/mnt/nas", allow_removal=True)
    removals.owe_removal([address], btw.config_dir)(paths)
    removals.owe_removal([Address("other", "/mnt/other")], btw.config_dir)(paths)
    [(name, noted)] = removals.journals(btw.config_dir)
    assert name == "nas"
    assert [debt.path for debt in removals.due(noted, str(btw.root))] == paths
    (btw.root / "www/.removed").mkdir(parents=True)
    (btw.root / f"www/.removed/{stamp}.json").touch()
    (btw.root / f"www/{stamp}.tbz").touch()
    noted.strike(REMOVE, chunk)
    noted.strike(PUSH, f"www/{stamp}/")
    assert [debt.path for debt in removals.due(noted, str(btw.root))] == [paths[1], paths[3]]
    assert [debt.path for debt in noted.pending()] == [paths[1], paths[2], paths[3]]
    [file] = btw.config_dir.glob("removals.*")
    with file.open("ab") as out:
        out.write(b"2026-11-21T01:23:45 +remove www/2026")
    again = SyncState(file, (REMOVE,))
    assert [debt.path for debt in again.pending()] == [paths[1], paths[2], paths[3]]
    assert [name for name, _ in removals.journals(btw.config_dir)] == ["nas"]


def test_names_that_s3cmd_takes_for_patterns(btw: Installation, source: Path, bucket: Bucket) -> None:
    """They would remove others, too: they stay, and that is said."""
    in_s3(btw, bucket, "mirror")
    btw.tree(source, "tar", "x")
    for dst in ("www", "ww?", "w*"):
        (source / "new").write_text(dst)
        btw("fs", source, dst)
    btw("rm", "--force", "ww?@all", "w*@all")
    before = {path for path in bucket.objects() if path.startswith("www/")}
    ended = btw("cleanup", "--grace", "0", status=6)
    assert "which s3cmd takes for a pattern" in ended.err
    assert before <= set(bucket.objects())


def test_a_dead_server_keeps_its_debt(btw: Installation, source: Path, bucket: Bucket) -> None:
    """F01: the local half is done, the other is owed; status 6."""
    place = in_s3(btw, bucket, "mirror")
    three_backups(btw, source)
    bucket.s3cmd_config(btw.top / "s3cmd.conf", free_port())
    btw("rm", "www@first")
    assert "freed" in btw("cleanup", "--grace", "0", status=6).out
    assert to_remove(btw)
    configure_again(place)
    btw("sync")
    place.is_as_it_should_be()


def test_policy_allows_it(btw: Installation) -> None:
    """I07: with ALLOW_REMOVAL the right to delete, of objects but not of their records, and never of versions."""
    common = "S3_URI_PREFIX = 's3://bucket/backups'\nS3CMD_CONFIG = '/x'\n"
    wanted = {"mirror": "arn:aws:s3:::bucket/backups/*", "objects": "arn:aws:s3:::bucket/backups/objects/*"}
    for layout, where in wanted.items():
        btw.configure(common, LAYOUT=layout, ALLOW_REMOVAL=True)
        found = json.loads(btw("offsite", "policy").out)["Statement"]
        allowed = [s["Resource"] for s in found if s["Effect"] == "Allow" and "s3:DeleteObject" in s["Action"]]
        assert allowed == [where]
        denied = [s for s in found if s["Effect"] == "Deny"]
        assert all("s3:DeleteObject" not in s["Action"] for s in denied if "Resource" in s)
        assert [s["NotResource"] for s in denied if s["Action"] == "s3:DeleteObject"] == [where]
        assert any("s3:DeleteObjectVersion" in s["Action"] for s in denied)
