"""Interrupted backups and restores go on where they were; and runs at the same time do not disturb each other."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from btw_backup.commands import NAMES
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.index import Index
from btw_backup.store.writer import writing
from tests.conftest import PATIENCE, Installation, random_bytes, tree_differences

MEGABYTE = 1 << 20


@pytest.fixture
def tree(btw: Installation, tmp_path: Path) -> Path:
    """60 MB: a large file that comes first, many small ones, and a large one that comes last."""
    top = tmp_path / "tree"
    (top / "small").mkdir(parents=True)
    (top / "a large one").write_bytes(random_bytes(15 * MEGABYTE))
    for number in range(1500):
        (top / "small" / f"{number:04}").write_bytes(random_bytes(20_000))
    (top / "z large one").write_bytes(random_bytes(15 * MEGABYTE))
    btw.tree(top, "chunks")
    return top


def size_of(*paths: Path) -> int:
    """The bytes of the files in `paths`; those that vanish meanwhile have none."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def stopped(process: subprocess.Popen[bytes], is_time: Callable[[], bool], number: int = signal.SIGKILL) -> bytes:
    """Send a signal to `process` as soon as it is time, which must come before its end; its standard error.

    It runs for moments only, and stands still while we look: it must not be at its end when we, who have to share this
    machine, have looked.
    """
    while not is_time():
        assert process.poll() is None, "it was too fast"
        process.send_signal(signal.SIGCONT)
        time.sleep(0.003)
        process.send_signal(signal.SIGSTOP)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return process.communicate(timeout=PATIENCE)[1]


def store_of(btw: Installation) -> Path:
    return btw.root / ".store"


def chunks(btw: Installation) -> list[Path]:
    return list((store_of(btw) / "chunks").rglob("*.zst"))


def stop_backup(btw: Installation, tree: Path, number: int = signal.SIGKILL) -> bytes:
    """Make a backup, and stop it when 60 % of it is written."""
    most = 36 * MEGABYTE
    return stopped(btw.start("fs", tree, "t"), lambda: size_of(*store_of(btw).glob(".tmp-*")) > most, number)


def record(btw: Installation) -> dict:  # type: ignore[type-arg]
    return json.loads(max((btw.root / "t" / ".records").glob("*.json")).read_bytes())  # type: ignore[no-any-return]


def leftovers(btw: Installation) -> list[Path]:
    return [*btw.root.rglob(".tmp-*"), *(store_of(btw) / "writing").iterdir()]


# Backups


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_f02_a_backup_goes_on_where_it_was_killed(btw: Installation, tree: Path, tmp_path: Path, number: int) -> None:
    stop_backup(btw, tree, number)
    assert chunks(btw) == []
    btw("fs", tree, "t")
    assert record(btw)["stored"] < 0.5 * 60 * MEGABYTE
    assert leftovers(btw) == []
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def test_f02_a_few_changes_meanwhile_do_not_cost_the_rest(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Packs with other files in them would have other names: the journal of the dead tells what is in them."""
    stop_backup(btw, tree)
    for number in range(0, 1500, 50):
        (tree / "small" / f"{number:04}").write_bytes(random_bytes(10_000))
    (tree / "0 new").write_bytes(random_bytes(20_000))
    btw("fs", tree, "t")
    assert record(btw)["stored"] < 0.5 * 60 * MEGABYTE
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


@pytest.mark.parametrize(
    "cut", [lambda content: bytes(len(content)), lambda content: content[:-1], lambda content: b""]
)
def test_f02_what_a_power_cut_took_is_stored_anew(
    btw: Installation, tree: Path, tmp_path: Path, cut: Callable[[bytes], bytes]
) -> None:
    stop_backup(btw, tree)
    for path in sorted(store_of(btw).glob(".tmp-*"))[::2]:
        path.write_bytes(cut(path.read_bytes()))
    btw("fs", tree, "t")
    assert leftovers(btw) == []
    assert all(hashlib.sha256(plain(path)).hexdigest() == path.stem for path in chunks(btw))
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


def plain(chunk: Path) -> bytes:
    return subprocess.run(["zstd", "-dc", chunk], check=True, capture_output=True).stdout


def test_f02_what_is_salvaged_is_owed_to_the_targets_first(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    names = die_after_writing(store, b"one" * 1000, b"two" * 1000)
    told = []

    def announce(path: str) -> None:
        assert not (tmp_path / path).exists()
        told.append(path)

    with writing(store, announce, wait=0) as out:
        assert not out.put([b"one" * 1000]).result().fresh
    chunks = [path for path in told if path.startswith(".store/chunks/")]
    assert sorted(chunks) == sorted(f".store/chunks/{name[:2]}/{name}.zst" for name in names)
    assert [store.read(name) for name in names] == [b"one" * 1000, b"two" * 1000]


def die_after_writing(store: ChunkStore, *contents: bytes, rows: bytes = b"") -> list[str]:
    """A process that stores contents, and a journal, and then dies; the names."""
    if not (child := os.fork()):
        with writing(store, lambda path: None, wait=0) as out:
            for content in contents:
                out.put([content]).result()
            out.journal.write_bytes(rows)
            os._exit(0)
    os.waitpid(child, 0)
    return [hashlib.sha256(content).hexdigest() for content in contents]


def test_f02_a_journal_that_lies_is_not_believed(tmp_path: Path) -> None:
    """It was never synced: a row that says what is not so would give back a wrong file."""
    store = ChunkStore(tmp_path)
    content = b"abcdefgh" * 100
    name = hashlib.sha256(content).digest()
    right, wrong, beyond = (hashlib.sha256(text).digest() for text in (b"abcd", b"wrong", b""))
    rows = [(right, 8, 4), (wrong, 8, 4), (beyond, 10_000, 4), (right, 9, 4)]
    journal = b"".join(d + name + at.to_bytes(4, "big") + n.to_bytes(4, "big") for d, at, n in rows)
    die_after_writing(store, content, rows=journal + bytes(72) + b"torn")
    with writing(store, lambda path: None, wait=0):
        index = Index(store.folder)
    assert list(index.find(right)) == [(name, 8, 4)]
    assert list(index.find(wrong)) == []
    assert list(index.find(beyond)) == []
    assert not list(store.folder.glob(".tmp-*"))


def test_f02_what_the_living_write_is_not_touched(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    with writing(store, lambda path: None, wait=0) as first:
        name = first.put([b"one"]).result().name
        with writing(store, lambda path: None, wait=0) as second:
            assert second.put([b"one"]).result().fresh
            assert len(list(store.folder.glob(".tmp-*"))) == 2
            first.publish()
            second.publish()
    assert store.read(name) == b"one"
    assert not list(store.folder.glob(".tmp-*"))


# Restores


def building(folder: Path) -> list[Path]:
    """The folders in which trees are built."""
    return list(folder.glob(".tmp-*-out"))


def content_of(folder: Path) -> int:
    return size_of(*(path for path in folder.rglob("*") if path.is_file()))


def stop_restore(btw: Installation, folder: Path, share: float, number: int = signal.SIGKILL) -> bytes:
    """Restore, and stop when that much of the tree is there."""
    most = share * 60 * MEGABYTE
    return stopped(btw.start("restore", "t", "out"), lambda: sum(map(content_of, building(folder))) > most, number)


def written_by(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The bytes that `process`, which must end well, read and wrote, as far as they were sampled."""
    found = (0, 0)
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/io").read_text()
        except OSError:
            break
        numbers = dict(line.split(": ") for line in text.splitlines())
        found = (int(numbers["rchar"]), int(numbers["wchar"])) if numbers else found
        time.sleep(0.002)
    assert process.wait() == 0
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_f03_a_restore_goes_on_where_it_was_killed(btw: Installation, tree: Path, tmp_path: Path, number: int) -> None:
    btw("fs", tree, "t")
    error = stop_restore(btw, tmp_path, 0.6, number)
    (left,) = building(tmp_path)
    if number == signal.SIGTERM:
        assert f"{left} holds what was restored so far" in error.decode()
    os.sync()
    _, wrote = written_by(btw.start("restore", "t", "out"))
    assert 0 < wrote < 0.5 * 60 * MEGABYTE
    assert tree_differences(tree, tmp_path / "out") == ""
    assert building(tmp_path) == []


def test_f03_killed_again_and_again(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    for share in (0.3, 0.5, 0.7):
        stop_restore(btw, tmp_path, share)
    assert len(building(tmp_path)) > 1
    _, wrote = written_by(btw.start("restore", "t", "out"))
    assert wrote < 0.5 * 60 * MEGABYTE
    assert tree_differences(tree, tmp_path / "out") == ""
    assert building(tmp_path) == []


def test_f03_no_wrong_file_survives(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Zeros, as after a power cut; a cut file; another file; what is in no backup; a link; a name too much."""
    with open(tree / "sparse", "wb") as file:
        file.truncate(3 * MEGABYTE)
        file.seek(MEGABYTE)
        file.write(b"content" * 1000)
    btw("fs", tree, "t")
    stop_restore(btw, tmp_path, 0.6)
    (left,) = building(tmp_path)
    small = left / "small"
    (small / "0001").write_bytes(bytes(20_000))
    (small / "0002").write_bytes(b"short")
    shutil.copyfile(small / "0004", small / "0003")
    (small / "0005").unlink()
    (small / "0005").symlink_to("/etc/passwd")
    (small / "0006").unlink()
    os.mkfifo(small / "0006")
    (small / "0007").unlink()
    (small / "0007").mkdir()
    os.chmod(small / "0008", 0o6777)
    os.chown(small / "0009", 1000, 1000)
    (small / "nobody's.damaged").write_text("not in the backup")
    (left / "new").mkdir()
    with open(left / "sparse", "wb") as file:
        file.write(b"\1" * MEGABYTE + b"content" * 1000)
        file.truncate(3 * MEGABYTE)
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert building(tmp_path) == []


def test_f03_sparse_files_hard_links_and_attributes_go_on(btw: Installation, tree: Path, tmp_path: Path) -> None:
    with open(tree / "a sparse one", "wb") as file:
        file.truncate(900 * MEGABYTE)
        file.seek(300 * MEGABYTE)
        file.write(random_bytes(2 * MEGABYTE))
    (tree / "b").mkdir()
    (tree / "b" / "inner").write_bytes(b"inner")
    os.link(tree / "b" / "inner", tree / "b" / "second")
    os.setxattr(tree / "b" / "inner", "user.color", b"green")
    os.chown(tree / "b" / "inner", 1000, 100)
    os.chmod(tree / "b" / "inner", 0o4751)
    for path in (tree / "b" / "inner", tree / "b"):
        os.utime(path, ns=(1, 123_456_789))
    btw("fs", tree, "t")
    stop_restore(btw, tmp_path, 900 / 60 + 0.6)
    (left,) = building(tmp_path)
    inode = (left / "b" / "inner").stat().st_ino
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert (tmp_path / "out" / "b" / "inner").stat().st_ino == inode
    assert (tmp_path / "out" / "b").stat().st_mtime_ns == 123_456_789
    assert (tmp_path / "out" / "a sparse one").stat().st_blocks * 512 < 3 * MEGABYTE


def test_f03_what_is_there_needs_no_store(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Chunks that hold nothing but what is there already are not read."""
    btw("fs", tree, "t")
    stopped(
        btw.start("restore", "t", "out"),
        lambda: any(
            path.stat().st_size == 15 * MEGABYTE for left in building(tmp_path) for path in left.glob("a large*")
        ),
    )
    (left,) = building(tmp_path)
    lines = plain(next((btw.root / "t").glob("*.manifest.zst"))).splitlines()
    (large,) = (entry for entry in map(json.loads, lines) if entry.get("path") == "a large one")
    assert (left / "a large one").stat().st_size == 15 * MEGABYTE
    for name, _, _ in large["extents"]:
        (store_of(btw) / "chunks" / name[:2] / f"{name}.zst").unlink()
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""


@pytest.mark.parametrize("sparse", [False, True])
def test_f03_of_a_large_file_the_beginning_stays(
    btw: Installation, tree: Path, tmp_path: Path, *, sparse: bool
) -> None:
    shutil.rmtree(tree / "small")
    with open(tree / "a large one", "r+b") as file:
        file.seek(50 * MEGABYTE if sparse else 0)
        file.write(random_bytes(45 * MEGABYTE))
        file.truncate(100 * MEGABYTE if sparse else 45 * MEGABYTE)
    btw("fs", tree, "t")
    sizes = {path: path.stat().st_blocks for path in tree.iterdir()}
    written = 36 * MEGABYTE // 512
    stopped(
        btw.start("restore", "t", "out"),
        lambda: sum(path.stat().st_blocks for left in building(tmp_path) for path in left.glob("a *")) > written,
    )
    (left,) = building(tmp_path)
    with open(left / "a large one", "r+b") as file:  # as if it had been killed in its middle
        file.truncate((85 if sparse else 35) * MEGABYTE)
    _, wrote = written_by(btw.start("restore", "t", "out"))
    assert wrote < 0.75 * 60 * MEGABYTE  # most of it; what comes after it was hardly begun
    assert tree_differences(tree, tmp_path / "out") == ""
    assert (tmp_path / "out" / "a large one").stat().st_blocks <= sizes[tree / "a large one"] + 64


def test_f03_folders_that_others_could_enter_are_not_believed(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    stop_restore(btw, tmp_path, 0.6)
    (left,) = building(tmp_path)
    left.chmod(0o755)
    with open(left / "a large one", "rb") as held:  # else its number might be given to the next file
        btw("restore", "t", "out")
        assert not os.path.samestat(os.fstat(held.fileno()), (tmp_path / "out" / "a large one").stat())
    assert tree_differences(tree, tmp_path / "out") == ""


def test_f03_another_backup_and_a_living_restore_share_nothing(btw: Installation, tree: Path, tmp_path: Path) -> None:
    btw("fs", tree, "t")
    stop_restore(btw, tmp_path, 0.6)
    (left,) = building(tmp_path)
    with open_folder(left) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        inode = (left / "a large one").stat().st_ino
        btw("restore", "t", "out")
        assert (left / "a large one").stat().st_ino == inode
    shutil.rmtree(tmp_path / "out")
    (tree / "new").write_text("new")
    btw("fs", tree, "t")
    btw("restore", "t", "out")
    assert tree_differences(tree, tmp_path / "out") == ""
    assert building(tmp_path) == []


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


# At the same time


def test_f05_backups_restores_and_scrubs_at_once(btw: Installation, tree: Path, tmp_path: Path) -> None:
    """Two backups with much the same content, two restores, and a scrub where there is one: nobody disturbs another."""
    btw("fs", tree, "t")
    others = [tmp_path / "other", tmp_path / "third"]
    for other in others:
        shutil.copytree(tree / "small", other / "same")
        (other / "own").write_bytes(random_bytes(5 * MEGABYTE))
        (other / "new to both").write_bytes(b"new" * MEGABYTE)
        btw.tree(other, "chunks", other.name)
    commands = [["fs", other, f"d/{other.name}"] for other in others]
    commands += [["restore", "t", "out"], ["restore", "t", "again"]]
    commands += [["scrub"]] if "scrub" in NAMES else []
    running = [(words, btw.start(*words)) for words in commands]
    ended = [(words, process.communicate(timeout=PATIENCE)[1], process.returncode) for words, process in running]
    assert [(words, err) for words, err, status in ended if status] == []
    for other in others:
        btw("restore", f"d/{other.name}", f"{other.name} back")
        assert tree_differences(other, tmp_path / f"{other.name} back") == ""
    assert tree_differences(tree, tmp_path / "out") == tree_differences(tree, tmp_path / "again") == ""
    assert leftovers(btw) == []
    assert all(hashlib.sha256(plain(path)).hexdigest() == path.stem for path in chunks(btw))
