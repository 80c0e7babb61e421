"""The rdiff keeper: what it writes is a plain repository of rdiff-backup, and everything in it comes back."""

import gzip
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import pytest

from btw_backup import files, process, records
from btw_backup.clock import moment_of, stamp_of
from btw_backup.configuration import config
from btw_backup.configuration.jobs import Job
from btw_backup.errors import Damaged, FatalUserError, NotFound
from btw_backup.keepers import Kept, Place, rdiff_program, rdiff_repository
from btw_backup.keepers.rdiff import Rdiff
from btw_backup.keepers.rdiff_change import changed
from btw_backup.sources import Fingerprint, Produced
from tests.conftest import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent
KEEPER = Rdiff()
rng = random.Random(20261121)  # noqa: S311


@pytest.fixture(autouse=True)
def _from_the_beginning_here() -> None:
    """The same contents in every run, whatever ran before."""
    rng.seed(20261121)


@dataclass
class Content:
    """A source that produces the bytes of a file of ours."""

    path: Path
    kind: str = "fs"
    file_name: str = "backup.tar"
    seen: Fingerprint | None = None
    produced: int = 0

    @property
    def name(self) -> str:
        return str(self.path)

    def fingerprint(self) -> Fingerprint | None:
        return self.seen

    def produce(self, out: BinaryIO) -> Produced:
        self.produced += 1
        content = self.path.read_bytes()
        files.write_all(out.fileno(), content)
        digest = hashlib.sha256(content).hexdigest()
        return Produced(len(content), digest, digest)

    def content_of(self, stream: BinaryIO) -> str:
        return hashlib.sha256(stream.read()).hexdigest()

    def programs(self) -> Mapping[str, str]:
        return {}


@dataclass
class Desk:
    """A dst, a source, and what is owed to the targets."""

    top: Path
    settings: dict[str, object] = field(default_factory=dict)
    owed: list[tuple[str, str]] = field(default_factory=list)
    owner: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.place = Place("dst", self.top / "root" / "dst", self.owner)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.source = Content(self.top / "content")

    @property
    def job(self) -> Job:
        values = {"MAX_INCREMENTAL_COUNT": 10, "MAX_INCREMENTAL_SPAN": 86400.0, **self.settings}
        settings = config.Config(self.top / "config.py", config.TREE, MappingProxyType(values))
        return Job("name", "src", "rdiff", settings, self.top / "stage")

    def keep(self, content: bytes | None = None) -> Kept:
        """One run, after writing `content` into the source."""
        if content is not None:
            self.source.path.write_bytes(content)
        return KEEPER.keep(self.job, self.source, self.place, lambda *debt: self.owed.append(debt), reread=False)

    def backups(self) -> list[records.Backup]:
        return records.joined(list(KEEPER.find(self.place)), self.place.folder)

    def contents(self) -> list[bytes]:
        """What every backup holds, oldest first."""
        return [read(backup) for backup in self.backups()]

    @property
    def full(self) -> Path:
        """The newest repository."""
        return max(path for path in self.place.folder.iterdir() if path.name[0] == "2")


def read(backup: records.Backup) -> bytes:
    with KEEPER.open(backup) as stream:
        return stream.read()


def plainly(repository: Path, stamp: str, target: Path) -> bytes:
    """What the program itself restores, from a copy."""
    copy = target / f"copy-{repository.name}"
    shutil.copytree(repository, copy)
    restored = target / f"restored-{stamp}"
    at = f"{stamp}Z"
    command = ["rdiff-backup", "restore", "--at", at, str(copy), str(restored)]  # 201 is broken in 2.2.2's restore
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    shutil.rmtree(copy)
    [file] = restored.iterdir()
    return file.read_bytes()


def noise(length: int) -> bytes:
    return rng.randbytes(length)


def states(count: int, length: int = 200_000) -> list[bytes]:
    """Contents that are each made from the one before: parts changed, moved, inserted and removed."""
    content = noise(length)
    made = [content]
    while len(made) < count:
        at, to = sorted(rng.randrange(len(content)) for _ in range(2))
        content = rng.choice(
            [
                content[:at] + noise(500) + content[at:],
                content[:at] + content[to:] + noise(1),
                content[at:] + content[:at],
                content[:at] + noise(to - at) + content[to:],
            ]
        )
        made.append(content)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_full_and_its_incrementals_come_back(desk: Desk, tmp_path: Path) -> None:
    made = states(5)
    for content in made:
        assert desk.keep(content).backup
    found = desk.backups()
    assert desk.contents() == made
    assert [backup.full for backup in found] == [found[0].stamp] * 5
    assert found[0].name == found[0].full == found[0].path.name == desk.full.name
    assert [backup.record.sequence for backup in found if backup.record] == [1, 2, 3, 4, 5]
    assert [backup.record.sha256 for backup in found if backup.record] == [hashlib.sha256(c).hexdigest() for c in made]
    assert os.listdir(tmp_path / "stage") == []


def test_a07_plain_rdiff_backup_restores_each_state(desk: Desk, tmp_path: Path) -> None:
    made = states(4)
    for content in made:
        desk.keep(content)
    assert [plainly(backup.path, backup.stamp, tmp_path) for backup in desk.backups()] == made


def test_what_is_owed_is_noted_before_it_appears(desk: Desk) -> None:
    seen = []

    def owe(kind: str, path: str) -> None:
        seen.append((kind, path, [backup.stamp for backup in desk.backups()]))

    stamps = []
    for content in states(2):
        desk.source.path.write_bytes(content)
        stamps.append(KEEPER.keep(desk.job, desk.source, desk.place, owe, reread=False).stamp)
    full, incremental = stamps
    assert seen[0] == ("push", f"dst/{full}/", [])
    assert ("sync", f"dst/{full}/", [full]) in seen
    assert {f"dst/.records/{stamp}.json" for stamp in stamps} <= {path for _, path, _ in seen}
    assert incremental > full


def test_nothing_new_makes_no_backup(desk: Desk) -> None:
    first = desk.keep(b"one").stamp
    second = desk.keep()
    assert second.backup is None and second.produced
    desk.settings["MAX_INCREMENTAL_COUNT"] = 0
    desk.keep()
    lines = (desk.place.folder / "log.txt").read_text().splitlines()
    said = "no change in the data to be backed up: skipping creation of new"
    assert [line.partition(": ")[2] for line in lines] == [f"{said} incremental backup", f"{said} full backup"]
    assert [backup.stamp for backup in desk.backups()] == [first]
    assert ("push", "dst/log.txt") in desk.owed


def test_a_source_that_looks_the_same_is_not_read(desk: Desk) -> None:
    began = time.time_ns()
    desk.source.seen = Fingerprint("digest", began, began - 10**10, True, 1, 3)
    desk.keep(b"one")
    desk.source.seen = replace(desk.source.seen, began=began + 1)
    assert desk.keep().produced is None
    assert desk.source.produced == 1


def test_x11_same_size_in_the_same_second_is_a_change(desk: Desk) -> None:
    made = [b"1" * 1000, b"2" * 1000, b"3" * 1000]
    for content in made:
        desk.keep(content)
    assert desk.contents() == made
    assert (desk.full / "backup.tar").read_bytes() == made[-1]


def test_x11_a_mirror_from_the_future(desk: Desk) -> None:
    desk.keep(b"1" * 1000)
    later = time.time() + 7200
    os.utime(desk.full / "backup.tar", (later, later))
    desk.keep(b"2" * 1000)
    assert desk.contents() == [b"1" * 1000, b"2" * 1000]


def test_x12_a26_rdiff_backup_has_nothing_to_complain(tmp_path: Path) -> None:
    """No warning of an old command line; two sessions within a second are none for it."""
    stage, repository = tmp_path / "in", tmp_path / "repository"
    stage.mkdir()
    for session in (1700000000, 1700000001):
        (stage / "backup.tar").write_bytes(str(session).encode())
        os.utime(stage / "backup.tar", (session, session))
        command = rdiff_program.backing_up(stage, repository, session, fsync=True)
        done = subprocess.run([process.locate(command[0]), *command[1:]], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    found = rdiff_repository.read(repository)
    assert found and found.sessions == (1700000000, 1700000001)


def test_a11_the_limits_of_a_chain(desk: Desk) -> None:
    desk.settings["MAX_INCREMENTAL_COUNT"] = 2
    for content in states(5, 3000):
        desk.keep(content)
    fulls = [backup.full for backup in desk.backups()]
    assert [fulls.count(full) for full in sorted(set(fulls))] == [3, 2]


@pytest.mark.parametrize("name, value", [("MAX_INCREMENTAL_COUNT", 0), ("MAX_INCREMENTAL_SPAN", 0.0)])
def test_a11_zero_means_always_full(desk: Desk, name: str, value: object) -> None:
    desk.settings[name] = value
    for content in (b"one", b"two", b"three"):
        desk.keep(content)
    assert all(backup.full == backup.stamp for backup in desk.backups())


def test_a11_a_full_that_is_too_old(desk: Desk) -> None:
    desk.settings["MAX_INCREMENTAL_SPAN"] = 2.0
    desk.keep(b"one")
    time.sleep(2)
    desk.keep(b"two")
    assert [backup.full == backup.stamp for backup in desk.backups()] == [True, True]


def test_a25_many_runs_in_one_second(desk: Desk) -> None:
    made = states(4, 2000)
    stamps = [desk.keep(content).stamp for content in made]
    assert stamps == sorted(set(stamps))
    assert desk.contents() == made


def test_m12_the_clock_went_back(desk: Desk) -> None:
    """One hour: rdiff-backup by itself would not end."""
    desk.keep(b"one")
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from tests.test_rdiff import Desk\n"
        "print(Desk(Path(sys.argv[3])).keep(b'two').stamp)\n"
    )
    command = ["faketime", "-f", "-1h", sys.executable, "-c", program, str(REPOSITORY), "", str(desk.top)]
    stamp = subprocess.run(command, timeout=PATIENCE, check=True, capture_output=True, text=True).stdout.strip()
    assert [backup.stamp for backup in desk.backups()][1] == stamp
    assert desk.contents() == [b"one", b"two"]


def test_another_file_begins_another_repository(desk: Desk) -> None:
    desk.keep(b"one")
    desk.source.kind, desk.source.file_name = "db", "shop.dump"
    desk.keep(b"two")
    assert [(backup.kind, backup.full == backup.stamp) for backup in desk.backups()] == [("fs", True), ("db", True)]


def test_an_interrupted_first_full_is_not_there(desk: Desk) -> None:
    desk.keep(b"one")
    shutil.copytree(desk.full, desk.place.folder / ".tmp-1-2020-01-01T00:00:00")
    (desk.place.folder / "2019-01-01T00:00:00").mkdir()
    assert len(desk.backups()) == 1
    desk.keep(b"two")
    assert desk.contents() == [b"one", b"two"]
    assert not (desk.place.folder / ".tmp-1-2020-01-01T00:00:00").exists()


def test_the_owner_is_given_everything(tmp_path: Path) -> None:
    desk = Desk(tmp_path, owner=(65534, 65534))
    for content in states(2):
        desk.keep(content)
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in [desk.full, *desk.full.rglob("*")]}
    assert owners == {(65534, 65534)}
    assert not [path for path in desk.full.rglob("*") if path.lstat().st_mode & 0o077]


def test_no_file_of_another_place_is_given_away(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    os.link(secret, folder / "deep" / "hard")
    (folder / "deep" / "soft").symlink_to(secret)
    (folder / "away").symlink_to(tmp_path)
    (folder / "deep" / "own").write_bytes(b"")
    os.mkfifo(folder / "fifo")
    files.change_owner_below(folder, (65534, 65534))
    assert (secret.stat().st_uid, tmp_path.stat().st_uid) == (0, 0)
    assert (folder / "deep" / "own").stat().st_uid == folder.stat().st_uid == 65534


def test_a_backup_that_is_not_there(desk: Desk) -> None:
    desk.keep(b"one")
    [backup] = desk.backups()
    with pytest.raises(NotFound):
        read(replace(backup, stamp="2000-01-01T00:00:00"))


def test_read_only_and_without_writing(desk: Desk) -> None:
    """M20, F20: restoring and listing need nothing that can be written."""
    made = states(3)
    for content in made:
        desk.keep(content)
    mount = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"',
        "-",
    ]
    program = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:2]\n"
        "from pathlib import Path; from tests.test_rdiff import KEEPER, read\n"
        "from btw_backup import records; from btw_backup.keepers import Place\n"
        "place = Place('dst', Path(sys.argv[2]))\n"
        "for backup in records.joined(list(KEEPER.find(place)), place.folder):\n"
        "    print(hashlib.sha256(read(backup)).hexdigest())\n"
    )
    root = str(desk.place.folder)
    command = [*mount, root, sys.executable, "-c", program, str(REPOSITORY), root]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == [hashlib.sha256(content).hexdigest() for content in made]


def damaged(backup: records.Backup) -> bool:
    try:
        read(backup)
    except Damaged:
        return True
    return False


def test_every_flipped_bit_is_noticed(desk: Desk) -> None:
    """F27, in the mirror and in each delta: the right bytes or `Damaged`, also for backups without a record."""
    made = states(3, 20_000)
    for content in made:
        desk.keep(content)
    victims = [desk.full / "backup.tar", *(desk.full / "rdiff-backup-data" / "increments").iterdir()]
    noticed = 0
    for victim in victims:
        whole = victim.read_bytes()
        for _ in range(60):
            at = rng.randrange(len(whole))
            victim.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
            for backup, content in zip(desk.backups(), made, strict=True):
                for known in (backup, replace(backup, record=None)):
                    if damaged(known):
                        noticed += 1
                    else:
                        assert read(known) == content
        victim.write_bytes(whole[: len(whole) // 2])
        assert any(damaged(backup) for backup in desk.backups())
        victim.write_bytes(whole)
    assert noticed > 300
    assert desk.contents() == made


def test_part_of_a_stream_may_be_read(desk: Desk) -> None:
    desk.keep(noise(5_000_000))
    with KEEPER.open(desk.backups()[0]) as stream:
        assert len(stream.read(10)) == 10


def test_a_link_in_the_place_of_the_file_is_not_followed(desk: Desk, tmp_path: Path) -> None:
    desk.keep(b"one")
    (tmp_path / "secret").write_bytes(b"one")
    (desk.full / "backup.tar").unlink()
    (desk.full / "backup.tar").symlink_to(tmp_path / "secret")
    with pytest.raises(Damaged):
        read(desk.backups()[0])


# interrupted sessions


def interrupt(desk: Desk, content: bytes, *, before: str) -> None:
    """Run the real rdiff-backup on `content`, and kill it before its first call that touches `before`."""
    stage = desk.top / "interrupted"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    (stage / desk.source.file_name).write_bytes(content)
    latest = desk.backups()[-1].stamp
    session = int(moment_of(latest).timestamp()) + 1
    os.utime(stage / desk.source.file_name, (session, session))
    command = [
        *[
            "strace",
            "-f",
            "-o",
            "/dev/null",
            "-P",
            before,
            "-e",
            "inject=rename,openat,unlink:error=EIO:signal=KILL:when=1",
        ],
        *["rdiff-backup", "--api-version", "201", "--current-time", str(session), "backup", str(stage), str(desk.full)],
    ]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "TZ": "UTC0"})
    assert done.returncode in (-9, 137), done
    found = rdiff_repository.read(desk.full)
    assert found and found.interrupted


def the_way(repository: Path, stamp: str, what: str) -> str:
    """A path that rdiff-backup will touch on its way through a session after that at `stamp`."""
    data = repository / "rdiff-backup-data"
    return {
        "metadata": str(data / f"mirror_metadata.{stamp_of(moment_of(stamp).replace(microsecond=0))}Z.diff.gz"),
        "delta": str(data / "increments" / f"backup.tar.{stamp}Z.diff.gz"),
        "marker": str(data / f"current_mirror.{stamp}Z.data"),
    }[what]


def test_f42_an_interrupted_first_incremental(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """M5: rdiff-backup cannot repair it as long as there is no increment."""
    one, two, three = states(3)
    stamp = desk.keep(one).stamp
    interrupt(desk, two, before=the_way(desk.full, stamp, "delta"))
    broken = desk.full
    assert not list((broken / "rdiff-backup-data" / "increments").iterdir())
    assert desk.contents() == [one]
    kept = desk.keep(two)
    assert kept.backup and kept.backup.full == kept.stamp
    said = capsys.readouterr().err
    assert "was interrupted; it is left as it is, and a new full backup is made" in said
    assert said.count("\n") == 1
    desk.keep(three)
    assert desk.contents() == [one, two, three]
    assert desk.full != broken and len(list(desk.full.glob("rdiff-backup-data/increments/*"))) == 1


@pytest.mark.parametrize("what", ["delta", "metadata", "marker"])
@pytest.mark.parametrize("before", [1, 2])
def test_f43_an_interrupted_incremental(desk: Desk, what: str, before: int) -> None:
    """M6: never "no change" while two markers are there, though the mirror may hold the new content already."""
    made = states(before + 2)
    stamps = [desk.keep(content).stamp for content in made[:before]]
    interrupt(desk, made[before], before=the_way(desk.full, stamps[-1], what))
    assert desk.contents() == made[:before]
    assert desk.keep(made[before]).backup
    assert desk.contents() == made[: before + 1]
    desk.keep(made[-1])
    assert desk.contents() == made
    assert not [path for path in desk.full.rglob("*") if path.name.startswith("rdiff-backup.tmp.")]


def test_f44_regress_fails(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    made = [noise(200_000)]
    for number in range(3):  # changes so small that each increment is a difference, which needs those that follow
        made.append(made[-1][: 1000 * number] + noise(500) + made[-1][1000 * number :])
    stamps = [desk.keep(content).stamp for content in made[:2]]
    interrupt(desk, made[2], before=the_way(desk.full, stamps[-1], "marker"))
    (desk.full / "rdiff-backup-data" / "increments" / f"backup.tar.{stamps[1]}Z.diff.gz").unlink()
    kept = desk.keep(made[2])
    assert kept.backup and kept.backup.full == kept.stamp
    assert "a new full backup is made" in capsys.readouterr().err
    desk.keep(made[3])
    found = desk.backups()
    assert [damaged(backup) for backup in found] == [True, True, False, False]
    assert [read(backup) for backup in found[2:]] == made[2:]


def test_a_mirror_that_is_gone_is_not_added_to(desk: Desk) -> None:
    desk.keep(b"one")
    (desk.full / "backup.tar").unlink()
    assert desk.keep(b"two").backup
    assert [backup.full == backup.stamp for backup in desk.backups()] == [True, True]


def test_a_failed_session_is_taken_back_at_once(desk: Desk) -> None:
    """A full disk: what is owed to the targets is not half-made, and the next run succeeds."""
    made = [noise(300_000), noise(300_000), noise(300_000)]
    with small_disk(desk.place.folder, "2M"):
        for content in made[:2]:
            desk.keep(content)
        filler = desk.place.folder / "filler"
        free = os.statvfs(desk.place.folder)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 200_000))
        with pytest.raises(FatalUserError):
            desk.keep(made[2])
        assert desk.contents() == made[:2]
        filler.unlink()
        assert desk.keep(made[2]).backup
        assert desk.contents() == made


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_filesystem_that_cannot_exchange_folders(desk: Desk, interrupted: bool) -> None:
    """The repository is then changed in place, and mended in place."""
    made = states(3)
    stamps = [desk.keep(content).stamp for content in made[:2]]
    inode = desk.full.stat().st_ino
    if interrupted:
        interrupt(desk, made[2], before=the_way(desk.full, stamps[-1], "marker"))
    desk.source.path.write_bytes(made[2])
    refused = ["strace", "-f", "-o", "/dev/null", "-e", "inject=renameat2:error=EINVAL"]
    subprocess.run([*refused, sys.executable, "-c", RUN, str(REPOSITORY), str(desk.top)], check=True)
    assert desk.contents() == made
    assert desk.full.stat().st_ino == inode
    desk.keep(made[0])
    assert desk.contents() == [*made, made[0]]
    assert desk.full.stat().st_ino != inode


def test_nothing_is_shared_with_the_repository_of_before(desk: Desk) -> None:
    """What rdiff-backup writes to in place is copied: a run that fails leaves every byte as it was."""
    one, two = states(2)
    desk.keep(one)
    before = {path: path.read_bytes() for path in desk.full.rglob("*") if path.is_file()}
    desk.source.path.write_bytes(two)
    with pytest.raises(ZeroDivisionError), changed(desk.full, desk.place) as second:
        stage = desk.top / "in"
        stage.mkdir()
        (stage / "backup.tar").write_bytes(two)
        session = int(moment_of(desk.full.name).timestamp()) + 5
        rdiff_program.back_up(stage, second, session, fsync=False, utc=True)
        assert {path: path.read_bytes() for path in before} == before
        raise ZeroDivisionError
    assert {path: path.read_bytes() for path in desk.full.rglob("*") if path.is_file()} == before
    assert not [path for path in desk.place.folder.iterdir() if path.name.startswith(files.TEMPORARY)]


RUN = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path; from tests.test_rdiff import Desk\n"
    "Desk(Path(sys.argv[2])).keep()\n"
)


@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_f01_killed_at_any_moment(desk: Desk, earlier: int) -> None:
    """kill -9 of a run and its children after random times: what was there is there, and the next run succeeds."""
    made = states(earlier + 14, 400_000)
    kept = made[:earlier]
    for content in kept:
        desk.keep(content)
    for content in made[earlier:]:
        desk.source.path.write_bytes(content)
        before = {backup.stamp for backup in desk.backups()}
        run = subprocess.Popen([sys.executable, "-c", RUN, str(REPOSITORY), str(desk.top)], start_new_session=True)
        time.sleep(rng.uniform(0.15, 0.65))
        run.kill()
        run.wait()
        found = desk.backups()
        assert before <= {backup.stamp for backup in found}
        assert [read(b) for b in found if b.stamp in before] == kept
        assert [read(b) for b in found if b.stamp not in before] in ([], [content])
        desk.keep()
        kept = [*kept, content]
        assert desk.contents() == kept
        assert desk.keep().backup is None


def test_many_moves_back_are_still_right(desk: Desk) -> None:
    """A delta whose literals are needed in any order is unpacked after some rewinds."""
    blocks = [noise(4000) for _ in range(60)]
    first = b"".join(blocks)
    rng.shuffle(blocks)
    second = b"".join(block + noise(100) for block in blocks)
    rng.shuffle(blocks)
    third = b"".join(blocks)
    made = [first, second, noise(100_000), third]
    for content in made:
        desk.keep(content)
    assert desk.contents() == made


def test_the_oldest_session_has_the_stamp_of_its_folder(desk: Desk) -> None:
    """The old script took the time before it started rdiff-backup."""
    desk.keep(b"one")
    desk.keep(b"two")
    stamp = stamp_of(datetime.fromtimestamp(moment_of(desk.full.name).timestamp() - 2, UTC))
    shutil.rmtree(desk.place.folder / records.FOLDER)
    desk.full.rename(desk.place.folder / stamp)
    assert desk.backups()[0].stamp == stamp
    assert desk.contents() == [b"one", b"two"]


def test_metadata_that_cannot_be_read_costs_only_the_check(desk: Desk) -> None:
    for content in states(2):
        desk.keep(content)
    made = desk.contents()
    for path in (desk.full / "rdiff-backup-data").glob("mirror_metadata.*"):
        path.write_bytes(gzip.compress(b"File \nnonsense"))
    assert desk.contents() == made
