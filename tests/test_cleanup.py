"""cleanup: nothing that is needed goes, all that is not needed does, as list --sizes said, whoever works or dies."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from btw_backup import files
from tests import many
from tests.conftest import PATIENCE, Installation, peak_memory, random_bytes, tree_differences
from tests.faults.killing import other_clock


def stamps_of(btw: Installation, dst: str = "t") -> list[str]:
    return [row["stamp"] for row in json.loads(btw("list", dst, "--json").out)]


def store(btw: Installation) -> Path:
    return btw.root / ".store"


def chunks(btw: Installation) -> set[str]:
    return {path.stem for path in (store(btw) / "chunks").rglob("*.zst")}


def size_of(btw: Installation) -> int:
    """The bytes of all files but those that only help to work: what is found where, who holds a lock."""
    files = (path for path in btw.root.rglob("*") if path.is_file() and path.parent.name != "index")
    return sum(path.stat().st_size for path in files if path.name not in (".lock", "dsts.json"))


def freed(btw: Installation, *words: str) -> int:
    row = json.loads(btw("cleanup", *words, "--json").out)
    return int(row["size"])


@pytest.fixture
def tree(btw: Installation, tmp_path: Path) -> Path:
    """A tree with small and large files."""
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(60):
        (top / f"{number}").write_bytes(random.Random(number).randbytes(20_000))  # noqa: S311
    (top / "large").write_bytes(random_bytes(6 << 20))
    btw.tree(top, "chunks")
    return top


def change(tree: Path, number: int) -> None:
    """Some files go, some change, some come, and something is inserted into the large one."""
    (tree / f"{number}").unlink()
    for other in range(10 * number + 1, 10 * number + 6):
        (tree / f"{other}").write_bytes(random_bytes(30_000))
    content = (tree / "large").read_bytes()
    (tree / "large").write_bytes(content[: number << 20] + random_bytes(10_000) + content[number << 20 :])
    (tree / f"new{number}").write_bytes(random_bytes(1 << 20))


def history(btw: Installation, tree: Path, count: int) -> dict[str, Path]:
    """Backups of the tree as it changes, and a copy of what each should be."""
    made: dict[str, Path] = {}
    for number in range(count):
        change(tree, number)
        btw("fs", tree, "t")
        (stamp,) = set(stamps_of(btw)) - made.keys()
        made[stamp] = tree.with_name(f"copy{number}")
        subprocess.run(["cp", "-a", tree, made[stamp]], check=True)
    return made


def check(btw: Installation, copies: dict[str, Path], dst: str = "t") -> None:
    """All these backups come back as they were."""
    for stamp, copy in copies.items():
        btw("restore", f"{dst}@{stamp}", "out")
        assert tree_differences(copy, btw.top / "out") == ""
        shutil.rmtree(btw.top / "out")


def test_any_one_goes_and_frees_what_was_promised(btw: Installation, tree: Path) -> None:
    """C02, I10: one after the other, in any order; all others come back; freed is what list --sizes said."""
    left = history(btw, tree, 4)
    everything = 0
    for stamp in [list(left)[number] for number in (1, 3, 0, 2)]:
        sizes = {row["name"].partition(".")[0]: row for row in json.loads(btw("list", "t", "--sizes", "--json").out)}
        before = size_of(btw)
        btw("rm", "--force", f"t@{stamp}")
        assert freed(btw, "--dry-run", "--grace", "0") == sizes[stamp]["own"]
        assert freed(btw, "--grace", "0") == sizes[stamp]["own"]
        assert before - size_of(btw) == sizes[stamp]["own"]
        everything += sizes[stamp]["own"]
        del left[stamp]
        if left:
            assert stamps_of(btw) == list(left)
            check(btw, left)
        else:
            assert sizes[stamp]["own"] == sizes["total"]["own"]
    assert everything > 10 << 20
    assert chunks(btw) == set()
    assert list((store(btw) / "chunks").iterdir()) == []
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_what_is_shared_stays(btw: Installation, tree: Path) -> None:
    """Two dsts with the same content: rm of the one frees hardly anything, of both all."""
    btw("fs", tree, "t")
    btw("fs", tree, "hosts/deep/t")
    rows = json.loads(btw("list", "--sizes", "--json").out)
    assert [row["dst"] for row in rows] == ["hosts/deep/t"] * 2 + ["t"] * 2
    assert all(row["own"] < 50_000 and row["shared"] > 7_000_000 for row in rows)
    btw("rm", "--force", "t@0")
    assert freed(btw, "--grace", "0") == rows[2]["own"]
    btw("restore", "hosts/deep/t", "out")
    assert tree_differences(tree, btw.top / "out") == ""
    rows = json.loads(btw("list", "--sizes", "--json").out)
    assert rows[0]["own"] > 7_000_000
    assert rows[0]["shared"] == 0


def test_the_grace(btw: Installation, tree: Path) -> None:
    """Of removed backups, and of chunks."""
    history(btw, tree, 2)
    btw("rm", "--force", "t@first")
    before = chunks(btw)
    assert freed(btw) == 0
    btw("undelete", "t")
    btw("rm", "--force", "t@first")
    time.sleep(1.1)
    btw.configure(GRACE="1s")
    assert json.loads(btw("cleanup", "--grace", "1h", "--json").out)["backups"] == 0
    row = json.loads(btw("cleanup", "--json").out)
    assert row["backups"] == 1
    assert row["chunks"] > 0
    assert chunks(btw) < before


def test_a_young_chunk_stays(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    shutil.rmtree(btw.root / "t")
    assert json.loads(btw("cleanup", "--json").out)["chunks"] == 0
    row = json.loads(btw("cleanup", "--grace", "0", "--json").out)
    assert row["chunks"] > 0
    assert chunks(btw) == set()


@pytest.mark.parametrize("years", [-5, 5])
def test_a_clock_that_jumps(btw: Installation, tree: Path, years: int) -> None:
    """Nothing that is needed rests on it."""
    copies = history(btw, tree, 2)
    shutil.copytree(tree, tree.with_name("orphan"))
    btw.tree(tree.with_name("orphan"), "chunks", "orphan")
    (tree.with_name("orphan") / "large").write_bytes(random_bytes(3 << 20))
    btw("fs", tree.with_name("orphan"), "orphan")
    shutil.rmtree(btw.root / "orphan")
    probe = btw.start("--version")
    probe.communicate()
    command = ["faketime", "-f", f"{years:+}y", *probe.args[:-1], "cleanup"]  # type: ignore[index]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "NO_FAKE_STAT": "1"}
    ended = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert "chunk" in ended.stdout
    assert "0 chunks" not in ended.stdout
    check(btw, copies)


@pytest.mark.parametrize("place", ["text and names", "names"])
def test_a_manifest_that_cannot_be_read(btw: Installation, tree: Path, place: str) -> None:
    """Then nobody knows which chunks it needs, and none goes; unless only the names behind it are damaged."""
    copies = history(btw, tree, 3)
    first, middle, last = copies
    path = btw.root / "t" / f"{middle}.manifest.zst"
    content = bytearray(path.read_bytes())
    content[-130] ^= 1
    if place == "text and names":
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    btw("rm", "--force", f"t@{first}")
    before = chunks(btw)
    if place == "names":
        assert freed(btw, "--grace", "0") > 100_000
        check(btw, {last: copies[last]})
        return
    for words in (("--dry-run",), ()):
        ended = btw("cleanup", "--grace", "0", *words, status=5)
        assert f"{path} is damaged" in ended.err
        assert "no chunk was removed" in ended.err
        assert chunks(btw) == before
    assert f"{path} is damaged" in btw("list", "t", "--sizes", status=5).err
    btw("rm", "--force", f"t@{middle}")
    assert json.loads(btw("cleanup", "--grace", "0", "--json").out)["backups"] == 1
    assert chunks(btw) < before
    check(btw, {last: copies[last]})


def test_a_manifest_without_a_record_or_in_a_strange_place_is_one(btw: Installation, tree: Path) -> None:
    """A run was killed between the two; or somebody moved a dst out of sight."""
    copies = history(btw, tree, 2)
    shutil.rmtree(btw.root / "t" / ".records")
    (btw.root / "t").rename(btw.root / ".set-aside")
    before = chunks(btw)
    assert freed(btw, "--grace", "0") == 0
    assert chunks(btw) == before
    (btw.root / ".set-aside").rename(btw.root / "t")
    check(btw, copies)


def test_a_folder_that_cannot_be_listed(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    shutil.rmtree(btw.root / "t")
    (btw.root / "gone").mkdir()
    probe = btw.start("--version")
    probe.communicate()
    refused = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(btw.root / "gone"), "-e", "inject=openat:error=EIO"]
    command = [*refused, "--", *probe.args[:-1], "cleanup", "--grace", "0"]  # type: ignore[index]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    before = chunks(btw)
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert ended.returncode == 5
    assert f"{btw.root / 'gone'} cannot be listed: Input/output error" in ended.stderr
    assert chunks(btw) == before


def test_a_dst_whose_disk_is_not_mounted(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Its manifests are not there to be read; they may come back, and then their chunks must be there."""
    (btw.root / "disk").mkdir()
    copies = history(btw, tree, 1)
    btw("fs", tree, "disk/t")
    btw("cleanup", "--grace", "0")
    before = chunks(btw)
    (btw.root / "disk").rename(tmp_path / "disk")
    (btw.root / "disk").mkdir()
    btw("rm", "--force", "t@0")
    for words in (("--dry-run",), ()):
        ended = btw("cleanup", "--grace", "0", *words, status=5)
        assert "disk/t had backups, and is not there any more; no chunk was removed" in ended.err
        assert "cleanup --forget disk/t" in ended.err
    assert chunks(btw) == before
    (btw.root / "disk").rmdir()
    (tmp_path / "disk").rename(btw.root / "disk")
    btw("cleanup", "--grace", "0")
    (stamp,) = stamps_of(btw, "disk/t")
    check(btw, {stamp: copies.popitem()[1]}, "disk/t")
    shutil.rmtree(btw.root / "disk")
    btw("cleanup", "--grace", "0", "--forget", "disk/t")
    assert chunks(btw) == set()
    btw("cleanup", "--grace", "0")


def test_a_dst_that_is_called_as_a_stamp_is(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "2020-01-01T00:00:00/t")
    assert freed(btw, "--grace", "0") == 0
    btw("restore", "2020-01-01T00:00:00/t", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_a_store_without_its_lock(btw: Installation, tree: Path) -> None:
    """Copies have none; whoever writes makes it, so that the sweep waits."""
    btw("fs", tree, "t")
    (store(btw) / ".lock").unlink()
    (tree / "new").touch()
    btw("fs", tree, "t")
    assert (store(btw) / ".lock").exists()
    (store(btw) / ".lock").unlink()
    btw("rm", "--force", "t@first")
    assert (store(btw) / ".lock").exists()


def test_litter_goes_and_evidence_stays(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (store(btw) / "damaged").mkdir()
    evidence = store(btw) / "damaged" / ("a" * 64 + ".zst")
    evidence.write_text("evidence")
    litter = [
        store(btw) / ".tmp-4000000-format.json",
        store(btw) / f".tmp-{'a' * 32}-{'b' * 64}",
        store(btw) / "index" / ".tmp-4000000-x.idx",
    ]
    for path in litter:
        path.write_text("litter")
    (store(btw) / "writing" / ("c" * 32)).touch()
    mine = store(btw) / "chunks" / "aa"
    mine.mkdir(exist_ok=True)
    (mine / "notes.txt").write_text("mine")
    (store(btw) / "chunks" / "a0").mkdir(exist_ok=True)
    alive = store(btw) / ".tmp-4000001-x"
    with files.create(alive):  # somebody is at it
        btw("cleanup", "--grace", "0")
    assert [path for path in litter if path.exists()] == []
    assert list((store(btw) / "writing").iterdir()) == []
    assert evidence.exists()
    assert alive.exists()
    assert (mine / "notes.txt").exists()
    assert all(any(folder.iterdir()) for folder in (store(btw) / "chunks").iterdir())
    btw("restore", "t", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_the_index_forgets_what_is_gone(btw: Installation, tree: Path) -> None:
    history(btw, tree, 3)
    rows = sum((path.stat().st_size - 32) // 72 for path in (store(btw) / "index").iterdir())
    btw("rm", "--force", "t@0", "t@1")
    btw("cleanup", "--grace", "0")
    (table,) = (store(btw) / "index").iterdir()
    left = (table.stat().st_size - 32) // 72
    assert 0 < left < rows
    names = {table.read_bytes()[at + 32 : at + 64].hex() for at in range(0, left * 72, 72)}
    assert names <= chunks(btw)
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_no_store(btw: Installation, source: Path) -> None:
    btw.tree(source, "tar")
    btw("fs", source, "t")
    before = sorted(btw.root.rglob("*"))
    assert btw("cleanup").out == "freed 0 bytes: 0 backups, 0 chunks\n"
    assert sorted(btw.root.rglob("*")) == before
    assert btw("-q", "cleanup").out == ""


def test_a_newer_store_is_left_alone(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    shutil.rmtree(btw.root / "t")
    (store(btw) / "format.json").write_text('{"format": 2}')
    before = chunks(btw)
    assert "has the format 2" in btw("cleanup", "--grace", "0", status=1).err
    assert chunks(btw) == before


@pytest.mark.parametrize("moment", [0.0, 0.2])
def test_a_backup_builds_on_chunks_that_are_about_to_be_swept(btw: Installation, tree: Path, moment: float) -> None:
    """F05: what it found is there when its manifest is. The sweep waits for it, and reads its manifest then."""
    btw("fs", tree, "t")
    shutil.rmtree(btw.root / "t")
    (tree / "more").write_bytes(random_bytes(40 << 20))
    running = btw.start("fs", tree, "new")
    while not list((store(btw) / "writing").iterdir()) and running.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    running.send_signal(signal.SIGSTOP)
    try:
        ended = btw("cleanup", "--grace", "0", "--lock-wait", "1", status=None)
        assert ended.status in (4, 0), ended  # 0 if it was stopped when it had released the lock already
        sweeping = btw.start("cleanup", "--grace", "0", "--lock-wait", "60")
        time.sleep(1.5)  # the mark is done by then, and knows nothing of the new backup
    finally:
        running.send_signal(signal.SIGCONT)
    assert running.wait(PATIENCE) == 0
    sweeping.communicate(timeout=PATIENCE)
    assert sweeping.returncode == 0
    btw("restore", "new", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_backups_and_cleanups_at_once(btw: Installation, tree: Path) -> None:
    history(btw, tree, 2)
    btw("rm", "--force", "t@first")
    other = tree.with_name("other")
    shutil.copytree(tree, other)
    btw.tree(other, "chunks", "other")
    for number in range(3):
        (other / f"x{number}").write_bytes(random_bytes(5 << 20))
        running = [btw.start("fs", other, "o"), *(btw.start("cleanup", "--grace", "0") for _ in range(2))]
        assert [process.wait(PATIENCE) for process in running] == [0, 0, 0]
        btw("restore", "o", "out")
        assert tree_differences(other, btw.top / "out") == ""
        shutil.rmtree(btw.top / "out")
        btw("rm", "--force", "o@0")


@pytest.mark.slow
def test_killed_at_any_moment(btw: Installation, tree: Path) -> None:
    """C13: everything that was not asked away comes back, and the next cleanup finishes."""
    copies = history(btw, tree, 4)
    doomed, *_ = list(copies)
    btw("rm", "--force", f"t@{doomed}", f"t@{list(copies)[2]}")
    del copies[list(copies)[2]], copies[doomed]
    rng = random.Random(3)  # noqa: S311
    for _ in range(6):
        process = btw.start("cleanup", "--grace", "0")
        time.sleep(rng.uniform(0.2, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert stamps_of(btw) == list(copies)
    check(btw, copies)
    freed(btw, "--grace", "0")
    assert freed(btw, "--grace", "0") == 0
    check(btw, copies)


@pytest.mark.parametrize("number", [1, 3])
def test_killed_between_two_removals(btw: Installation, tree: Path, number: int) -> None:
    copies = history(btw, tree, 2)
    first, last = copies
    btw("rm", "--force", f"t@{first}")
    probe = btw.start("--version")
    probe.communicate()
    killed = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject=unlink,unlinkat:signal=KILL:when={number}"]
    command = [*killed, "--", *probe.args[:-1], "cleanup", "--grace", "0"]  # type: ignore[index]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(command, check=False, env=environment, capture_output=True)
    assert ended.returncode != 0
    check(btw, {last: copies[last]})
    btw("cleanup", "--grace", "0")
    assert freed(btw, "--grace", "0") == 0
    assert not (btw.root / "t" / ".removed").exists()
    used = {row["own"] for row in json.loads(btw("list", "t", "--sizes", "--json").out)}
    assert len(used) == 1, "all that is left is its own"
    check(btw, {last: copies[last]})


def run_many(btw: Installation, backups: int, needs: int, extra: int) -> dict[str, int]:
    """Peak memory, in KiB, of what is done with that many backups that need that many chunks each."""
    with many.unsynced():
        for number in range(backups):
            many.make_backup(btw.root / f"d{number % 3}", number, range(number, number + needs))
        many.make_chunks(btw.root, range(backups + needs + extra))
    commands = {
        "sizes": ("list", "--sizes", "-q"),
        "dry run": ("cleanup", "--dry-run", "--grace", "0"),
        "rm": ("rm", "-q", "--force", "d0@all"),
        "cleanup": ("cleanup", "--grace", "0"),
    }
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    peaks = {name: peak_memory(btw.start(*words, **silent)) for name, words in commands.items()}  # type: ignore[arg-type]
    print(backups, needs, extra, peaks)  # for pytest -rP
    needed = {chunk for n in range(backups) if n % 3 for chunk in range(n, n + needs)}
    assert chunks(btw) == {many.name_of(number) for number in needed}
    return peaks


def test_memory_with_some_backups(btw: Installation) -> None:
    assert max(run_many(btw, 100, 200, 300).values()) < 80_000


@pytest.mark.slow
def test_memory_with_10_000_backups(btw: Installation) -> None:
    """It holds when, 2."""
    assert max(run_many(btw, 10_000, 200, 50_000).values()) < 100_000


@pytest.mark.slow
def test_memory_with_a_million_chunks(btw: Installation) -> None:
    """C13."""
    assert max(run_many(btw, 3, 900_000, 100_000).values()) < 300_000


def test_what_was_removed_keeps_its_chunks_until_it_is_purged(btw: Installation, tree: Path) -> None:
    """However old they are."""
    btw("fs", tree, "t")
    btw("rm", "--force", "t@0")
    for path in (store(btw) / "chunks").glob("*/*"):
        os.utime(path, (1, 1))
    assert json.loads(btw("cleanup", "--json").out)["chunks"] == 0
    btw("undelete", "t@0")
    btw("restore", "t", "out")
    assert tree_differences(tree, btw.top / "out") == ""


def test_f37_a_manifest_that_is_lost(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """As long as its record names it: it may come from a target, and then its chunks must be there."""
    (tmp_path / "copy").mkdir()
    btw.configure("", OFFSITE={"copy": {"PATH": str(tmp_path / "copy"), "ENCRYPT_TO": []}})
    copies = history(btw, tree, 2)
    first, _ = copies
    before = chunks(btw)
    for path in (btw.root / "t").glob("*.manifest.zst"):
        path.unlink()
    for words in (("--dry-run",), ()):
        ended = btw("cleanup", "--grace", "0", *words, status=5)
        assert f"t@{first} and 1 more are lost: there is nothing but the record; no chunk was removed" in ended.err
        assert "import --from" in ended.err
        assert "cleanup --forget t" in ended.err
    assert chunks(btw) == before
    btw("import", "--from", "copy")
    btw("cleanup", "--grace", "0")
    assert chunks(btw) == before
    check(btw, copies)


def test_f37_a_lost_manifest_that_is_given_up(btw: Installation, tree: Path) -> None:
    """Then its record goes, and its chunks; nothing else does."""
    copies = history(btw, tree, 2)
    first, last = copies
    btw("distrust", f"t@{first}")
    before = chunks(btw)
    (btw.root / "t" / f"{first}.manifest.zst").unlink()
    ended = btw("cleanup", "--grace", "0", status=5)
    assert f"t@{first} is lost" in ended.err
    assert f"cleanup --forget t@{first}" in ended.err
    btw("cleanup", "--grace", "0", "--forget", f"t@{last}", status=5)
    assert freed(btw, "--dry-run", "--grace", "0", "--forget", f"t@{first}") > 0
    assert chunks(btw) == before
    assert len(list((btw.root / "t" / ".records").iterdir())) == 3
    assert freed(btw, "--grace", "0", "--forget", f"t@{first}") > 0
    assert chunks(btw) < before
    assert [path.name for path in (btw.root / "t" / ".records").iterdir()] == [f"{last}.json"]
    assert not (btw.root / "t" / ".removed").exists()
    btw("cleanup", "--grace", "0")
    btw("scrub")
    check(btw, {last: copies[last]})


@pytest.mark.parametrize("way", ["grace", "forget"])
def test_f37_a_removed_manifest_that_is_lost(btw: Installation, tree: Path, way: str) -> None:
    """Its chunks stay as long as they would have stayed."""
    copies = history(btw, tree, 2)
    first, last = copies
    btw("rm", "--force", f"t@{first}")
    before = chunks(btw)
    (btw.root / "t" / ".removed" / f"{first}.manifest.zst").unlink()
    for path in (store(btw) / "chunks").glob("*/*"):
        os.utime(path, (1, 1))
    for words in (("--dry-run",), ()):
        assert f"t@{first} is lost" in btw("cleanup", *words, status=5).err
    assert chunks(btw) == before
    words = ("--grace", "0") if way == "grace" else ("--forget", "t")
    assert freed(btw, "--dry-run", *words) > 0
    assert freed(btw, *words) > 0
    assert not (btw.root / "t" / ".removed").exists()
    btw("cleanup")
    check(btw, {last: copies[last]})


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99}'])
def test_f37_a_record_that_cannot_be_read_may_be_of_a_lost_manifest(
    btw: Installation, tree: Path, content: str
) -> None:
    history(btw, tree, 1)
    before = chunks(btw)
    (stamp,) = stamps_of(btw)
    (btw.root / "t" / f"{stamp}.manifest.zst").unlink()
    (btw.root / "t" / ".records" / f"{stamp}.json").write_text(content)
    btw("cleanup", "--grace", "0", status=1 if "99" in content else 5)
    assert chunks(btw) == before


def test_f37_a_purge_that_died(btw: Installation, tree: Path) -> None:
    """What it left is nothing that was lost, whatever the grace is the next time."""
    copies = history(btw, tree, 3)
    last = list(copies)[-1]
    btw("rm", "--force", "t@1", "t@2")
    probe = btw.start("--version")
    probe.communicate()
    copy = btw.top / "copy"
    shutil.copytree(btw.root, copy, symlinks=True)
    for number in range(1, 6):
        shutil.rmtree(btw.root)
        shutil.copytree(copy, btw.root, symlinks=True)
        killed = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", btw.root / "t" / ".removed"]
        killed += ["-e", f"inject=unlink,unlinkat:signal=KILL:when={number}"]
        command = [*killed, "--", *probe.args[:-1], "cleanup", "--grace", "0"]  # type: ignore[index]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(command, check=False, env=environment, capture_output=True)
        assert btw("cleanup").err == ""
        btw("cleanup", "--grace", "0")
        assert stamps_of(btw) == [last]
    check(btw, {last: copies[last]})


def test_f37_other_backups_that_are_lost_need_no_chunks(btw: Installation, tree: Path, tmp_path: Path) -> None:
    history(btw, tree, 1)
    for type_ in ("tar", "rdiff"):
        source = tmp_path / type_
        source.mkdir()
        btw.tree(source, type_, type_)
        for number in range(2):
            (source / "file").write_text(f"{number}")
            btw("fs", source, type_)
    next((btw.root / "tar").glob("*.tar.*")).unlink()
    assert btw("cleanup", "--grace", "0").err == ""


YEARS, HOURS = 365 * 86400, 3600
JUMPED = "days: what was removed is kept for another grace"


def purged(btw: Installation, jump: float, *words: str) -> int:
    """How many backups a cleanup purges whose clock is so many seconds ahead."""
    return int(json.loads(btw("cleanup", "--json", *words, env=other_clock(int(jump))).out)["backups"])


@pytest.mark.parametrize("type_", ["chunks", "tar"])
@pytest.mark.parametrize("is_backed_up_first", [False, True])
def test_f48_a_jump_ends_no_grace(btw: Installation, source: Path, type_: str, is_backed_up_first: bool) -> None:
    """It begins anew, also if a run of the new time came before the cleanup; and ends when it has passed."""
    btw.tree(source, type_)
    for number in range(2):
        (source / "file").write_text(f"{number}")
        btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    far = 10 * YEARS
    if is_backed_up_first:
        (source / "file").write_text("2")
        btw("fs", source, "t", env=other_clock(far))
    assert JUMPED in btw("cleanup", "--dry-run", env=other_clock(far)).err
    ended = btw("cleanup", env=other_clock(far))
    assert ended.out.endswith(": 0 backups, 0 chunks\n")
    assert len(ended.err.splitlines()) == 2
    assert JUMPED in ended.err
    assert btw("cleanup", env=other_clock(far + 20 * HOURS)).err == "", "said once"
    btw("undelete", "t@first")
    btw("rm", "--force", "t@first")
    assert purged(btw, far + 23 * HOURS) == 0
    assert purged(btw, far + 25 * HOURS, "--dry-run") == 1
    assert purged(btw, far + 25 * HOURS) == 1


def test_f48_a_jump_that_was_one(btw: Installation, source: Path) -> None:
    """When the clock is right again, the grace is what it was, and another jump is one, too."""
    btw.tree(source, "tar")
    btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    for _ in range(2):
        assert JUMPED in btw("cleanup", env=other_clock(10 * YEARS)).err
        assert (btw.config_dir / "clock-jumped").exists()
        assert btw("cleanup").err == ""
        assert not (btw.config_dir / "clock-jumped").exists()
    assert purged(btw, 25 * HOURS) == 1


def test_f48_who_wants_no_grace_gets_none(btw: Installation, source: Path) -> None:
    btw.tree(source, "tar")
    btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    assert purged(btw, 10 * YEARS, "--grace", "0") == 1


def test_f48_time_that_has_passed_is_no_jump(btw: Installation, source: Path) -> None:
    """However rarely somebody cleans up: runs, or the stamps of backups, tell that it has passed."""
    btw.tree(source, "tar")
    btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    for days in range(20, 100, 20):
        (source / "file").write_text(f"{days}")
        btw("fs", source, "t", env=other_clock(days * 24 * HOURS))
    shutil.copytree(btw.root, btw.top / "copy")
    ended = btw("cleanup", "--dry-run", env=other_clock(100 * 24 * HOURS))
    assert (ended.err, "1 backup," in ended.out) == ("", True)
    (btw.config_dir / "runs.jsonl").unlink()
    assert purged(btw, 100 * 24 * HOURS) == 1


def test_f48_what_the_future_removed_is_not_held_until_then(btw: Installation, source: Path) -> None:
    """Its moment becomes that of the cleanup that sees it."""
    btw.tree(source, "tar")
    btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    (archive,) = (btw.root / "t" / ".removed").glob("*.tar*")
    before = archive.stat()
    assert purged(btw, -10 * YEARS, "--dry-run") == 0
    assert archive.stat().st_ctime_ns == before.st_ctime_ns
    assert purged(btw, -10 * YEARS) == 0
    after = archive.stat()
    assert after.st_ctime > before.st_ctime
    assert after.st_mtime_ns == before.st_mtime_ns
    assert purged(btw, 25 * HOURS) == 1


def test_f48_a_lost_manifest_that_was_removed_before_a_jump(btw: Installation, tree: Path) -> None:
    history(btw, tree, 2)
    btw("rm", "--force", "t@first")
    before = chunks(btw)
    next((btw.root / "t" / ".removed").glob("*.manifest.zst")).unlink()
    assert "is lost" in btw("cleanup", status=5, env=other_clock(10 * YEARS)).err
    assert chunks(btw) == before


@pytest.mark.parametrize("words", [("rm", "--force", "t@0"), ("undelete", "t"), ("distrust", "t"), ("cleanup",)])
def test_f40_nothing_is_changed_beside_a_newer_store(btw: Installation, source: Path, words: tuple[str, ...]) -> None:
    btw.tree(source, "chunks")
    for number in range(3):
        (source / "file").write_text(f"{number}")
        btw("fs", source, "t")
    btw("rm", "--force", "t@first")
    (store(btw) / "format.json").write_text('{"format": 2}')
    before = {path: path.lstat().st_ctime_ns for path in btw.root.rglob("*")}
    ended = btw(*words, *(["--grace", "0"] if words[0] == "cleanup" else []), status=1)
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 2
    assert "has the format 2, and we know 1" in ended.err
    assert {path: path.lstat().st_ctime_ns for path in btw.root.rglob("*")} == before
