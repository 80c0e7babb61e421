"""The keeper chunks: back up trees into the store, build on the last backup, restore, survive damage."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import torture
from tests.conftest import PATIENCE, Installation, peak_memory, random_bytes, tree_differences

RACY = 2.2


@pytest.fixture
def tree(btw: Installation, tmp_path: Path) -> Path:
    """A tree of small and large files, old enough to be believed, with its working directory."""
    top = tmp_path / "tree"
    for number in range(300):
        path = top / f"folder {number % 10}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * (number + 1))
    (top / "large").write_bytes(random_bytes(20 << 20))
    (top / "empty").touch()
    (top / "link").symlink_to("large")
    os.link(top / "large", top / "second")
    btw.tree(top, "chunks")
    time.sleep(RACY)
    return top


def chunks(btw: Installation) -> set[Path]:
    return set((btw.root / ".store" / "chunks").rglob("*.zst"))


def record(btw: Installation, dst: str = "t", number: int = -1) -> dict:  # type: ignore[type-arg]
    return json.loads(sorted((btw.root / dst / ".records").iterdir())[number].read_bytes())  # type: ignore[no-any-return]


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    return [json.loads(line) for line in text.splitlines()]


def manifests(btw: Installation, dst: str = "t") -> list[Path]:
    return sorted((btw.root / dst).glob("*.manifest.zst"))


def entries(btw: Installation, number: int = -1) -> dict[str, dict]:  # type: ignore[type-arg]
    return {line["path"]: line for line in lines(manifests(btw)[number])[1:-1]}


def leftovers(btw: Installation) -> list[Path]:
    store = btw.root / ".store"
    return [*btw.root.rglob(".tmp-*"), *(store / "writing").glob("*")]


def test_a_tree_comes_back(btw: Installation, tree: Path, tmp_path: Path) -> None:
    ended = btw("fs", tree, "t")
    assert (ended.out, ended.err) == ("", "")
    listed = btw("list", "t").out
    assert listed == manifests(btw)[0].name + "\n"
    ended = btw("restore", "t", "out")
    assert (ended.out, ended.err) == ("", "")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert record(btw)["keeper"] == "chunks"
    assert record(btw)["length"] == (20 << 20) + sum(path.stat().st_size for path in tree.rglob("*.txt"))
    assert leftovers(btw) == []


def test_the_torture_tree(btw: Installation, tmp_path: Path) -> None:
    torture.build(tmp_path / "tree")
    btw.tree(tmp_path / "tree", "chunks")
    ended = btw("fs", tmp_path / "tree", "t")
    assert (ended.out, ended.err) == ("", "")
    for target in ("one", "two"):  # the second from a manifest whose lines are those of the first
        ended = btw("restore", "t", target)
        assert (ended.out, ended.err) == ("", "")
        assert tree_differences(tmp_path / "tree", tmp_path / target) == ""
        assert (tmp_path / target / "nodes" / "socket").is_socket()
        assert (tmp_path / target / "holes" / "5 GiB").stat().st_blocks < 2048
        shutil.rmtree(tmp_path / target)
        time.sleep(RACY)
        (tmp_path / "tree" / "new").write_text("new")
        btw("fs", tmp_path / "tree", "t")


def test_a_chunk_needs_no_program_of_ours(btw: Installation, tree: Path) -> None:
    """With the manifest, zstd and sha256sum every file can be put together."""
    btw("fs", tree, "t")
    known = entries(btw)
    for path in ("large", "folder 7/217.txt"):
        content = b""
        for name, offset, length in known[path]["extents"]:
            chunk = btw.root / ".store" / "chunks" / name[:2] / f"{name}.zst"
            plain = subprocess.run(["zstd", "-dc", chunk], check=True, capture_output=True).stdout
            assert hashlib.sha256(plain).hexdigest() == name
            content += plain[offset : offset + length]
        assert content == (tree / path).read_bytes()
    small = known["folder 7/217.txt"]
    assert small["sha256"] == hashlib.sha256((tree / "folder 7" / "217.txt").read_bytes()).hexdigest()
    assert known["second"]["kind"] == "hard link"


def test_nothing_changed(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    before = chunks(btw)
    btw("fs", tree, "t")
    assert len(manifests(btw)) == 1
    assert (
        (btw.root / "t" / "log.txt").read_text().endswith(": no change in the data to be backed up: dropping backup\n")
    )
    os.utime(tree / "empty", ns=(0, (tree / "empty").stat().st_mtime_ns))  # another ctime, and nothing else
    btw("fs", tree, "t")
    assert len(manifests(btw)) == 1
    btw("fs", "--reread", tree, "t")
    assert len(manifests(btw)) == 1
    assert chunks(btw) == before
    assert leftovers(btw) == []


def test_what_did_not_change_is_not_read(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    (tree / "folder 3" / "new").write_text("new")
    trace = tmp_path / "trace"
    process = btw.start("fs", tree, "t")
    process.wait()
    (tree / "folder 4" / "new").write_text("new")
    command = ["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace, "--", *process.args]  # type: ignore[list-item]
    subprocess.run(
        command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    )
    opened = [
        line for line in trace.read_text().splitlines() if '.txt"' in line and "folder" in line or '"large"' in line
    ]
    assert opened == []
    assert len(manifests(btw)) == 3


def test_an_edit_an_addition_a_removal(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    shutil.copytree(tree, tmp_path / "before", symlinks=True)
    before = chunks(btw)
    (tree / "folder 1" / "11.txt").write_text("edited")
    (tree / "folder 1" / "new").write_text("new")
    (tree / "folder 2" / "12.txt").unlink()
    content = (tree / "large").read_bytes()
    (tree / "large").write_bytes(content[: 10 << 20] + b"inserted" + content[10 << 20 :])
    btw("fs", tree, "t")
    btw("restore", "t", "new")
    assert tree_differences(tree, tmp_path / "new") == ""
    btw("restore", "t@1", "old")
    assert subprocess.run(["diff", "-r", tmp_path / "before", tmp_path / "old"], check=False).returncode == 0
    assert before <= chunks(btw)
    assert len(chunks(btw) - before) <= 3
    assert record(btw)["stored"] < 12 << 20


def test_a_renamed_folder_and_a_copy_cost_nothing(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    before = chunks(btw)
    (tree / "folder 5").rename(tree / "another name")
    shutil.copytree(tree / "folder 6", tree / "copy")
    shutil.copyfile(tree / "large", tree / "large copy")
    btw("fs", tree, "t")
    assert chunks(btw) == before
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_another_tree_with_the_same_content_costs_nothing(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    before = chunks(btw)
    shutil.copytree(tree, tmp_path / "other" / "deeper", symlinks=True)
    btw.tree(tmp_path / "other", "chunks", "other")
    btw("fs", tmp_path / "other", "hosts/other")
    assert chunks(btw) == before
    btw("restore", "hosts/other", "out")
    assert tree_differences(tmp_path / "other", tmp_path / "out") == ""
    assert "hosts/other:" in btw("list").out


def test_a_change_that_hides_its_time_is_seen(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """X11: same size, same mtime; the ctime tells."""
    path = tree / "folder 1" / "11.txt"
    btw("fs", tree, "t")
    status = path.stat()
    path.write_bytes(b"X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert (tmp_path / "out" / "folder 1" / "11.txt").read_bytes() == b"X" * status.st_size


def test_what_is_as_young_as_the_last_run_is_read_again(btw: Installation, tree: Path) -> None:
    (tree / "racy").write_text("racy")
    btw("fs", tree, "t")
    old = (btw.root / "t" / ".fingerprint.json").read_text()
    began = json.loads(old)["began"]
    assert json.loads(old)["newest"] >= began - 2 * 10**9
    before = chunks(btw)
    btw("fs", tree, "t")
    assert len(manifests(btw)) == 1
    assert chunks(btw) == before


def test_a_file_that_changes_while_it_is_read(btw: Installation, tree: Path, tmp_path: Path) -> None:
    (tree / "log").write_bytes(b"0" * 1000)
    ended = threading.Event()

    def grow() -> None:
        with open(tree / "log", "ab", buffering=0) as log:
            while not ended.wait(0.0005):
                log.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(20):
            process = btw.start("fs", "--reread", tree, "t")
            _, err = process.communicate()
            if process.returncode == 3:
                break
    finally:
        ended.set()
        thread.join()
    assert process.returncode == 3, err
    assert "log: file changed as we read it" in err.decode()
    assert record(btw)["changed"] == [["log", "file changed as we read it"]]
    assert entries(btw)["log"]["torn"] is True
    btw("restore", "t", "out")
    restored = (tmp_path / "out" / "log").read_bytes()
    assert restored and (tree / "log").read_bytes().startswith(restored)
    time.sleep(RACY)
    btw("fs", tree, "t")
    assert "torn" not in entries(btw)["log"]


def test_what_cannot_be_read_is_named(btw: Installation, tree: Path) -> None:
    broken = tree / "broken"
    broken.mkdir()
    (broken / "file").write_text("x")
    subprocess.run(["mount", "-t", "proc", "proc", broken], check=True)
    try:
        (Path(btw.config_dir) / next(iter(btw.config_dir.glob("test.*"))).name / "config.py").write_text(
            'TYPE = "chunks"\nONE_FILE_SYSTEM = False\nEXCLUDE = ["/broken/[!s]*", "/broken/s[!e]*", "/broken/self*"]\n'
        )
        ended = btw("fs", tree, "t", status=None)
    finally:
        subprocess.run(["umount", "-l", broken], check=True)
    assert ended.status in (0, 3)
    assert len(manifests(btw)) == 1


def test_holes_stay_holes(btw: Installation, tree: Path, tmp_path: Path) -> None:
    with open(tree / "sparse", "wb") as file:
        file.seek(300 << 20)
        file.write(random_bytes(3 << 20))
        file.truncate(600 << 20)
    btw("fs", tree, "t")
    assert record(btw)["stored"] < 30 << 20
    btw("restore", "t", "out", "--path", "sparse")
    restored = tmp_path / "out" / "sparse"
    assert restored.stat().st_size == 600 << 20
    assert restored.stat().st_blocks * 512 < 8 << 20
    assert subprocess.run(["cmp", tree / "sparse", restored], check=False).returncode == 0


def test_one_path_reads_only_its_chunks(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    wanted = {name for name, _, _ in entries(btw)["folder 1/11.txt"]["extents"]}
    for path in chunks(btw):
        if path.stem not in wanted:
            path.unlink()
    btw("restore", "t", "out", "--path", "folder 1/11.txt")
    assert (tmp_path / "out" / "folder 1" / "11.txt").read_bytes() == (tree / "folder 1" / "11.txt").read_bytes()
    assert "not in this backup: nowhere" in btw("restore", "t", "no", "--path", "nowhere", status=1).err


def test_a_hard_link_whose_first_name_is_not_wanted(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    btw("restore", "t", "out", "--path", "second")
    assert (tmp_path / "out" / "second").read_bytes() == (tree / "large").read_bytes()


def test_into_a_folder_with_something_in_it(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "empty").write_text("mine")
    assert "1 of the names" in btw("restore", "t", "out", "--into", status=1).err
    assert os.listdir(tmp_path / "out") == ["empty"]
    btw("restore", "t", "out", "--into", "--force")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_a_tree_has_no_plain_stream(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    ended = btw("restore", "t", "-", status=1)
    assert ended.out == ""
    assert "is a tree in chunks" in ended.err


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "swapped"])
def test_a_damaged_chunk_spoils_only_its_files(btw: Installation, tree: Path, tmp_path: Path, damage: str) -> None:
    btw("fs", tree, "t")
    names = [name for name, _, _ in entries(btw)["large"]["extents"]]
    path, other = (btw.root / ".store" / "chunks" / name[:2] / f"{name}.zst" for name in names[:2])
    frame = bytearray(path.read_bytes())
    frame[len(frame) // 2] ^= 1
    path.write_bytes({"flipped": bytes(frame), "cut": frame[:-1], "swapped": other.read_bytes()}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    ended = btw("restore", "t", "out", status=5)
    assert "large is not whole" in ended.err
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.glob("out.damaged*")
    assert not (left / "large").exists()
    assert (left / "folder 1" / "11.txt").read_bytes() == (tree / "folder 1" / "11.txt").read_bytes()
    assert (left / "folder 9" / "299.txt").exists()
    (tmp_path / "into").mkdir()
    ended = btw("restore", "t", "into", "--into", status=5)
    assert os.listdir(tmp_path / "into") == []


def test_a_missing_chunk_is_stored_anew(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    for path in chunks(btw):
        path.unlink()
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_a_damaged_manifest(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    path = manifests(btw)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is damaged" in btw("restore", "t", "out", status=5).err
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_a_manifest_of_another_backup(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    shutil.copyfile(*manifests(btw))
    assert "its SHA-256 is not that of what was stored" in btw("restore", "t", "out", status=5).err


def test_f40_a_newer_store_is_refused(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (btw.root / ".store" / "format.json").write_text('{"format": 2}')
    (tree / "new").write_text("new")
    before = sorted((btw.root / ".store").rglob("*"))
    assert "has the format 2" in btw("fs", tree, "t", status=1).err
    assert sorted((btw.root / ".store").rglob("*")) == before
    assert len(manifests(btw)) == 1


def test_small_files_whose_pack_is_hardly_used_are_packed_anew(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    (pack,) = {name for name, _, _ in (entries(btw)[f"folder {n}/{n}.txt"]["extents"][0] for n in range(10))}
    for number in range(100, 300):
        (tree / f"folder {number % 10}" / f"{number}.txt").unlink()
    btw("fs", tree, "t")
    assert lines(manifests(btw)[-1])[-1]["wasteful"] == [pack]
    (tree / "new").write_text("new")
    time.sleep(RACY)
    btw("fs", tree, "t")
    used = {extent[0] for entry in entries(btw).values() for extent in entry.get("extents", ())}
    assert pack not in used
    assert lines(manifests(btw)[-1])[-1]["wasteful"] == []
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_what_lies_better_now_is_no_new_backup(btw: Installation, tmp_path: Path) -> None:
    """A run that has to read again leaves the pack of which little is used; but the tree is what it was."""
    top = tmp_path / "packed"
    top.mkdir()
    for number in range(20):
        (top / f"{number}").write_bytes(random_bytes(50_000))
    btw.tree(top, "chunks", "packed")
    btw("fs", top, "t")
    for number in range(15):
        (top / f"{number}").write_bytes(random_bytes(50_000))
    btw("fs", top, "t")
    assert lines(manifests(btw)[-1])[-1]["wasteful"]
    btw("fs", top, "t")
    assert len(manifests(btw)) == 2
    for chunk in (btw.root / ".store" / "chunks").rglob("*.zst"):
        chunk.unlink()
    btw("fs", top, "t", "--reread")
    assert len(manifests(btw)) == 3, "what is gone is stored anew, and so is the backup"
    btw("restore", "t", "out")
    assert tree_differences(top, tmp_path / "out") == ""


def test_the_order_of_commit(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """DESIGN section 6: mark, chunks under other names, syncfs, names, folders, manifest, record."""
    trace = tmp_path / "trace"
    process = btw.start("--version")
    process.wait()
    command = [*process.args[:-1], "fs", str(tree), "t"]  # type: ignore[index]
    calls = "trace=openat,rename,fsync,syncfs,unlink"
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-e", calls, "-o", trace, "--", *command],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    text = trace.read_text().splitlines()

    def first(*words: str) -> int:
        return next(n for n, line in enumerate(text) if all(word in line for word in words))

    def last(*words: str) -> int:
        return max(n for n, line in enumerate(text) if all(word in line for word in words))

    chunk = re.compile(r"/\.store/\.tmp-\w{32}-\w{64}")
    written = next(n for n, line in enumerate(text) if chunk.search(line) and "O_CREAT" in line)
    opened = max(n for n, line in enumerate(text[:written]) if '.store", O_RDONLY|O_CLOEXEC|O_DIRECTORY' in line)
    assert first("fsync", "/.store/writing/") < opened < written
    synced = max(n for n, line in enumerate(text) if "sync" in line and (chunk.search(line) or "syncfs" in line))
    created = max(n for n, line in enumerate(text) if chunk.search(line) and "O_CREAT" in line)
    assert created < synced < first("rename", "/.store/chunks/")
    assert last("rename", "/.store/chunks/") < first("fsync", "/.store/chunks/")
    assert last("fsync", "/.store/chunks") < first("rename", ".manifest.zst") < first("rename", "/.records/")
    assert first("fsync", "/t/.tmp-", "manifest") < first("rename", ".manifest.zst")
    assert first("rename", "/.records/") < last("unlink", "/.store/writing/")


@pytest.mark.parametrize("moment", [0.25, 0.4, 0.5, 0.6, 0.7, 0.9])
def test_killed_while_it_writes(btw: Installation, tree: Path, tmp_path: Path, moment: float) -> None:
    process = btw.start("fs", tree, "t")
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    listed = btw("list", "t", status=None)
    assert len(listed.out.splitlines()) == len(manifests(btw)) if (btw.root / "t").exists() else True
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    assert leftovers(btw) == []
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_interrupted(btw: Installation, tree: Path) -> None:
    process = btw.start("fs", tree, "t")
    while not list(btw.root.glob(".store/.tmp-" + "?" * 32 + "-*")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    if process.returncode == 143:  # what was written waits for the next run
        assert manifests(btw) == []
        btw("fs", tree, "t")
    assert leftovers(btw) == []


def test_the_sweep_is_waited_for(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    (tree / "new").write_text("new")
    with open(btw.root / ".store" / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = btw.start("fs", tree, "t")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert len(manifests(btw)) == 1
    assert process.wait(PATIENCE) == 0
    assert len(manifests(btw)) == 2


def test_two_trees_at_once(btw: Installation, tree: Path, tmp_path: Path) -> None:
    others = []
    for number in range(3):
        other = tmp_path / f"other {number}"
        shutil.copytree(tree, other, symlinks=True)
        (other / "own").write_bytes(random_bytes(3 << 20))
        btw.tree(other, "chunks", f"other{number}")
        others.append(other)
    running = [btw.start("fs", other, f"o{number}") for number, other in enumerate(others)]
    assert [process.wait() for process in running] == [0, 0, 0]
    for number, other in enumerate(others):
        btw("restore", f"o{number}", f"out {number}")
        assert tree_differences(other, tmp_path / f"out {number}") == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(btw: Installation, tree: Path, small_disk: Path) -> None:
    (btw.config_dir / "config.py").write_text(f"ROOT_PATH = {str(small_disk)!r}\nOFFSITE = {{}}\n")
    ended = btw("fs", tree, "t", status=1)
    assert "No space left" in ended.err
    assert list((small_disk / ".store").rglob("*.zst")) == []
    assert list(small_disk.rglob(".tmp-*")) == []


def test_memory_is_bounded(btw: Installation, tmp_path: Path) -> None:
    top = tmp_path / "big"
    top.mkdir()
    for number in range(3):
        (top / f"{number}").write_bytes(random_bytes(100 << 20))
    btw.tree(top, "chunks", "big")
    for words in (["fs", top, "t"], ["restore", "t", tmp_path / "out"]):
        run = btw.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert peak_memory(run) < 250_000


def test_a_run_that_died_before_its_record_is_not_kept_twice(btw: Installation, tree: Path) -> None:
    """What the manifest tells is enough to see that nothing has changed since."""
    btw("fs", tree, "t")
    (record,) = (btw.root / "t" / ".records").glob("*.json")
    known = json.loads(record.read_bytes())["content"]
    record.unlink()
    assert "has one now" in btw("fs", tree, "t", "--reread").err
    assert len(btw("list", "t").out.splitlines()) == 1
    told = json.loads(record.read_bytes())
    assert (told["content"], told["recovered"]) == (known, True)


def test_a_store_whose_maker_died_half_way(btw: Installation, tree: Path) -> None:
    btw("fs", tree, "t")
    shutil.rmtree(btw.root / "t")
    shutil.rmtree(btw.root / ".store" / "chunks")
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, btw.top / "out") == ""
