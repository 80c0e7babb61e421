"""F27: what scrub marks as damaged here comes back from a target, proved; what cannot be proved leaves all as it is."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from btw_backup import records
from tests.conftest import Installation, random_bytes, tree_differences
from tests.damage import Damage

TREES = ("tar", "rdiff", "chunks")
LAYOUTS = ("mirror", "encrypted")


@dataclass
class World:
    """An installation with two backups by every keeper, all at a target; `options` name that."""

    btw: Installation
    layout: str
    options: list[object]

    @property
    def nas(self) -> Path:
        return self.btw.top / "nas"

    def find(self, pattern: str) -> Path:
        """The largest file in ROOT_PATH that the pattern matches."""
        found = [path for path in self.btw.root.glob(pattern) if path.is_file()]
        return max(found, key=lambda path: (path.stat().st_size, path))

    def damage(self, path: Path, how: str = "flip") -> None:
        """Damage it in the middle."""
        Damage(path.name, how, path.stat().st_size // 2).inflict(path.parent)

    def heal(self, *args: object, status: int = 0) -> str:
        """Import, and what it says on both its outputs."""
        ended = self.btw("import", "--from", "nas", *self.options, *args, status=status)
        return ended.out + ended.err


def world_at(top: Path, layout: str) -> World:
    btw = Installation(top)
    for folder in (btw.config_dir, btw.root, top / "nas"):
        folder.mkdir()
    btw.configure()
    settings: dict[str, object] = {"OFFSITE": {"nas": {"PATH": str(top / "nas")}}}
    options: list[object] = []
    if layout == "encrypted":
        settings["ENCRYPT_TO"] = [btw("keys", "generate", top / "key").out.strip()]
        options = ["--identity", top / "key"]
    btw.configure("", **settings)
    source = top / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (source / "large").write_bytes(random_bytes(1 << 20))
    for type_ in TREES:
        subprocess.run(["cp", "-a", source, top / type_], check=True)
        btw.tree(top / type_, type_, type_)
    btw("command-init", "--type", "file", "stream", "--", "cat", source / "etc/hosts", source / "large")
    for _ in range(2):
        for type_ in TREES:
            btw("fs", top / type_, f"all/{type_}")
            (top / type_ / "large").write_bytes(random_bytes(1 << 20))
        btw("command", "stream", "all/file")
        (source / "etc/hosts").write_text("127.0.0.2 localhost\n")
    return World(btw, layout, options)


@pytest.fixture(scope="module", params=LAYOUTS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once; each test makes its damage good."""
    return world_at(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def spoilt(world: World) -> Iterator[World]:
    """It may be spoilt at both ends: it is as it was afterwards."""
    names = ("cfg", "root", "nas")
    kept = world.btw.top / "kept"
    kept.mkdir()
    subprocess.run(["cp", "-a", *names, kept], cwd=world.btw.top, check=True)
    yield world
    subprocess.run(["rm", "-rf", *names], cwd=world.btw.top, check=True)
    for name in names:
        (kept / name).rename(world.btw.top / name)
    kept.rmdir()


of_a_mirror = pytest.mark.parametrize("world", ["mirror"], indirect=True)


def contents(world: World) -> dict[str, tuple[object, ...]]:
    """What ROOT_PATH holds that is sent, and marks; with modes and owners, outside the repositories of rdiff-backup."""
    stays = (".lock", ".btw-backup-id", ".btw-backup-dsts", ".fingerprint", ".store", ".scrub", ".tmp-")
    found = {path.relative_to(world.btw.root): path for path in world.btw.root.rglob("*") if path.is_file()}
    paths = {str(name): path for name, path in found.items() if not any(p.startswith(stays) for p in name.parts)}
    return {
        name: (path.read_bytes(), *(() if "rdiff/2" in name else (path.stat().st_mode, path.stat().st_uid)))
        for name, path in paths.items()
    }


REPOSITORY = "all/rdiff/*/backup.tar"
INCREMENT = "all/rdiff/*/rdiff-backup-data/increments/*.diff*"
THINGS = {
    "backups": ("all/tar/*.tar.zst", "all/file/*.out.zst", "all/chunks/*.manifest.zst", REPOSITORY),
    "records": ("all/tar/.records/*.json", "all/chunks/.records/*.json", "all/rdiff/.records/*.json"),
    "increment": (INCREMENT,),
}


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize("things", THINGS)
def test_what_scrub_finds_damaged_comes_back(world: World, things: str, how: str) -> None:
    """F27: with the owner and the mode that it had; the next scrub takes the mark away, and nothing is owed."""
    before, paths = contents(world), [world.find(pattern) for pattern in THINGS[things]]
    for path in paths:
        os.chown(path, 1234, 1234)
        path.chmod(0o640)
    before |= {name: state for name, state in contents(world).items() if "rdiff/2" not in name}
    for path in paths:
        world.damage(path, how)
    world.btw("scrub", status=5)
    said = world.heal()
    verb = "was" if len(paths) == 1 else "were"
    assert f"; {len(paths)} {verb} damaged, and {verb} replaced\n" in said
    assert "0 files fetched" in said
    world.btw("scrub")
    assert contents(world) == before
    assert "(not valid)" not in world.btw("list").out
    world.btw("sync")
    assert world.btw("sync-state", "--list").out == ""
    assert not [name for name in os.listdir(world.btw.root) if name.startswith(".tmp-")]
    assert "replaced" not in world.heal()


def test_a_backup_and_its_record_come_back(world: World) -> None:
    """Both are damaged; so are others at the same time, of which a DST is healed alone if it is given."""
    before = contents(world)
    archive, newest = world.find("all/tar/*.tar.zst"), world.find("all/rdiff/*/backup.tar")
    for path in (
        archive,
        archive.parent / ".records" / archive.name.replace(".tar.zst", ".json"),
        newest,
        newest.parents[1] / ".records" / f"{newest.parent.name}.json",
    ):
        world.damage(path)
    world.btw("scrub", status=5)
    assert "2 were damaged, and were replaced" in world.heal("all/tar")
    world.btw("scrub", "all/tar")
    world.btw("scrub", "all/rdiff", status=5)
    assert "2 were damaged, and were replaced" in world.heal()
    world.btw("scrub")
    assert contents(world) == before


def test_what_nobody_marked_stays(world: World) -> None:
    """It may be newer than what is there; scrub tells."""
    path = world.find("all/tar/*.tar.zst")
    before = path.read_bytes()
    path.write_bytes(b"another")
    ended = world.btw("import", "--from", "nas", *world.options, status=1)
    assert "not overwritten: 1 file" in ended.err
    assert "hint: scrub marks what is damaged here" in ended.err
    assert path.read_bytes() == b"another"
    world.btw("scrub", status=5)
    world.heal()
    assert path.read_bytes() == before
    world.btw("scrub")


def test_a_backup_that_is_distrusted_and_well_stays(world: World) -> None:
    """Only what does not prove to be what was stored is replaced."""
    path = world.find("all/tar/*.tar.zst")
    status = path.stat()
    world.btw("distrust", "all/tar")
    assert "replaced" not in world.heal()
    assert (path.stat().st_ino, path.stat().st_ctime_ns) == (status.st_ino, status.st_ctime_ns)
    world.btw("scrub")


def _rotten(world: World, there: Path) -> None:
    world.damage(there)


def _gone(world: World, there: Path) -> None:
    there.unlink()


def _another(world: World, there: Path) -> None:
    """A backup that is well, and is not this one."""
    kin = sorted(path for path in there.parent.iterdir() if path.suffix == there.suffix and path != there)
    if kin:
        shutil.copyfile(kin[0], there)
    else:
        there.write_bytes(random_bytes(there.stat().st_size))


@pytest.mark.parametrize("spoil", [_rotten, _gone, _another])
@pytest.mark.parametrize("things", THINGS)
@of_a_mirror
def test_what_cannot_be_proved_replaces_nothing(
    spoilt: World, things: str, spoil: Callable[[World, Path], None]
) -> None:
    """The target lies, or rots: status 5, it is named, and the file here stays, byte for byte."""
    paths = [spoilt.find(pattern) for pattern in THINGS[things]]
    for path in paths:
        spoil(spoilt, spoilt.nas / path.relative_to(spoilt.btw.root))
        spoilt.damage(path)
    spoilt.btw("scrub", status=5)
    before = contents(spoilt)
    said = spoilt.heal(status=5)
    for path in paths:
        named = re.sub("(rdiff/2[^/]*)/.*", r"\1", str(path.relative_to(spoilt.btw.root)))
        assert f"{named} is damaged, and cannot be replaced from {spoilt.nas}/: " in said
    count = f"{len(paths)} things stay" if len(paths) > 1 else "1 thing stays"
    assert f"{count} damaged here: {spoilt.nas} has nothing better" in said
    assert "replaced\n" not in said
    assert contents(spoilt) == before


@of_a_mirror
def test_a_backup_that_is_well_stays_if_its_record_there_is_of_another(spoilt: World) -> None:
    """The target has a record and an archive that fit each other; here nothing but the record is damaged."""
    first, second = sorted(spoilt.btw.root.glob("all/tar/*.tar.zst"))
    stamp, other = (path.name.removesuffix(".tar.zst") for path in (first, second))
    shutil.copyfile(second, spoilt.nas / "all/tar" / first.name)
    record = records.read(spoilt.btw.root / f"all/tar/.records/{other}.json")
    records.write(spoilt.nas / "all/tar", replace(record, stamp=stamp, full=stamp))
    spoilt.damage(spoilt.btw.root / f"all/tar/.records/{stamp}.json")
    content = first.read_bytes()
    spoilt.btw("scrub", status=5)
    said = spoilt.heal(status=5)
    assert (
        f".records/{stamp}.json is damaged, and cannot be replaced from {spoilt.nas}/: all/tar@{stamp} is damaged: it"
        in said
    ), said
    assert first.read_bytes() == content


@of_a_mirror
def test_a_repository_that_went_on_since_stays(spoilt: World) -> None:
    """What is there lacks a backup that is here, and is well here: it does not take its place."""
    spoilt.btw.configure()
    spoilt.btw("fs", spoilt.btw.top / "rdiff", "all/rdiff")
    spoilt.btw.configure("", OFFSITE={"nas": {"PATH": str(spoilt.nas)}})
    spoilt.damage(min(spoilt.btw.root.glob("all/rdiff/*/rdiff-backup-data/increments/*.diff*")))
    spoilt.btw("scrub", status=5)
    assert "there is no backup all/rdiff@" in spoilt.heal(status=5)
    spoilt.btw("restore", "all/rdiff", spoilt.btw.top / "out")
    assert tree_differences(spoilt.btw.top / "rdiff", spoilt.btw.top / "out") == ""
