"""The chunk store itself: chunks, the cutter, manifests, the index, the writer, what a crash leaves, the reader."""

import ctypes
import hashlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from btw_backup import files
from btw_backup.entries import Kind
from btw_backup.errors import Damaged, DamagedPart, FatalUserError
from btw_backup.store import chunks, manifest, writer
from btw_backup.store.chunker import LARGEST, SMALLEST, cut
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.entry import entry_of
from btw_backup.store.index import Index
from btw_backup.store.manifest import End, Header, Member, key_of
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.packing import SIZE, Packed, Packer
from btw_backup.store.reader import AHEAD, KEPT, MOST, SMALL, Contents
from btw_backup.store.writer import ChunkWriter, writing
from tests.conftest import random_bytes

GOLDEN = (3105987, 1281527, 2887038, 3008582, 4757813)
"""Where seeded noise is cut; made by pyfastcdc 0.3.1."""


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    made = ChunkStore(tmp_path)
    made.open()
    return made


def put(store: ChunkStore, *contents: bytes) -> list[str]:
    """Store and publish; the names."""
    with writing(store, lambda path: None, wait=1) as out:
        futures = [out.put([content]) for content in contents]
        names = [future.result().name for future in futures]
        out.publish()
    return names


def frame_of(content: bytes, **how: object) -> bytes:
    return zstandard.ZstdCompressor(**how).compress(content)


def place(store: ChunkStore, name: str, frame: bytes) -> None:
    store.path(name).parent.mkdir(exist_ok=True)
    store.path(name).write_bytes(frame)


# The chunks


def test_a_chunk_is_a_frame_that_zstd_reads_named_by_its_content(store: ChunkStore) -> None:
    (name,) = put(store, b"hello\n" * 1000)
    path = store.folder / "chunks" / name[:2] / f"{name}.zst"
    plain = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    assert plain == store.read(name) == b"hello\n" * 1000
    assert hashlib.sha256(plain).hexdigest() == name
    assert path.stat().st_mode & 0o7777 == 0o600
    assert store.length(name) == 6000


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "longer", "missing", "link", "fifo", "folder"])
def test_a_damaged_chunk_is_never_content(store: ChunkStore, damage: str, tmp_path: Path) -> None:
    name, other = put(store, random_bytes(3000) + b"x" * 3000, b"other")
    path = store.path(name)
    frame = bytearray(path.read_bytes())
    path.unlink()
    frame[len(frame) // 2] ^= damage == "flip"
    if damage == "link":
        path.symlink_to(store.path(other))
    elif damage == "fifo":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        ends = {"cut": frame[:-20], "empty": b"", "other": store.path(other).read_bytes(), "longer": frame + b"x"}
        path.write_bytes(ends.get(damage, bytes(frame)))
    with pytest.raises(Damaged, match=name):
        store.read(name)
    assert not store.reuse_whole(name, 6000) or damage == "flip"


def test_every_cut_of_a_chunk_is_seen_by_its_headers_alone(store: ChunkStore) -> None:
    (name,) = put(store, random_bytes(300_000) + bytes(300_000))
    whole = store.path(name).read_bytes()
    assert store.reuse_whole(name, 600_000)
    assert not store.reuse_whole(name, 600_001)
    for length in [*range(40), *range(0, len(whole), 9973), len(whole) - 1]:
        store.path(name).write_bytes(whole[:length])
        assert not store.reuse_whole(name, 600_000)


def bombs() -> Iterator[tuple[str, bytes]]:
    zeros = bytes(64 << 20)
    yield "bomb", frame_of(zeros, level=19)
    yield "bomb without a size", frame_of(zeros, write_content_size=False)
    yield "window of 2 GiB", bytes.fromhex("28b52ffd00a8") + frame_of(b"x" * 100)[6:]
    yield "skippable", b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    yield "skippable before", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + frame_of(b"x" * 6000)
    yield "two frames", frame_of(b"x" * 3000) * 2
    yield "nothing", b""
    yield "text", b"hello"
    yield "a huge file", frame_of(b"x" * 6000) + bytes(20 << 20)


@pytest.mark.parametrize("what,frame", list(bombs()), ids=lambda value: value if isinstance(value, str) else "")
def test_f38_a_hostile_chunk_costs_neither_memory_nor_time(store: ChunkStore, what: str, frame: bytes) -> None:
    name = hashlib.sha256(b"x" * 6000).hexdigest()
    place(store, name, frame)
    before, began = resident(), time.process_time()
    with pytest.raises(Damaged):
        store.read(name)
    assert time.process_time() - began < 5
    assert resident() - before < 64 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 65])
def test_what_is_no_name_is_damage(store: ChunkStore, name: str) -> None:
    with pytest.raises(Damaged, match="not the name of a chunk"):
        store.read(name)


def test_f40_a_newer_format_is_refused_and_nothing_written(store: ChunkStore) -> None:
    (store.folder / "format.json").write_text('{"format": 2}')
    before = sorted(store.folder.rglob("*"))
    with pytest.raises(FatalUserError, match="has the format 2") as caught, writing(store, print, wait=0):
        pass
    assert caught.value.status == 1
    assert sorted(store.folder.rglob("*")) == before


@pytest.mark.parametrize("content", ["", "{}", "[", "null", '{"format": "x"}'])
def test_a_format_that_cannot_be_read(store: ChunkStore, content: str) -> None:
    (store.folder / "format.json").write_text(content)
    with pytest.raises(FatalUserError):
        store.open()


def test_a_bad_chunk_is_set_aside_and_stored_anew(store: ChunkStore) -> None:
    content = random_bytes(5000)
    (name,) = put(store, content)
    store.path(name).write_bytes(b"rubbish")
    aside = store.set_aside(name)
    assert aside.read_bytes() == b"rubbish"
    assert put(store, content) == [name]
    assert store.read(name) == content


# The cutter


def reader_of(content: bytes, step: int):  # type: ignore[no-untyped-def]
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        piece = content[at : at + min(count, step)]
        at += len(piece)
        return piece

    return read


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def test_golden_cuts() -> None:
    lengths = tuple(len(chunk) for chunk in cut(reader_of(noise(40 << 20), 1 << 30)))
    assert sum(lengths) == 40 << 20
    assert lengths[:5] == GOLDEN


def test_cuts_do_not_depend_on_the_reads() -> None:
    content = noise(30 << 20) + bytes(20 << 20) + noise(5 << 20, 8)
    whole = [bytes(chunk) for chunk in cut(reader_of(content, 1 << 30))]
    assert b"".join(whole) == content
    assert all(SMALLEST <= len(chunk) <= LARGEST for chunk in whole[:-1])
    for step in (100_000, 3 << 20, 12 << 20):
        assert [bytes(chunk) for chunk in cut(reader_of(content, step))] == whole


def test_an_insertion_moves_few_cuts() -> None:
    content = noise(60 << 20)
    before = {hashlib.sha256(chunk).digest() for chunk in cut(reader_of(content, 1 << 30))}
    changed = content[: 30 << 20] + b"inserted" + content[30 << 20 :]
    after = {hashlib.sha256(chunk).digest() for chunk in cut(reader_of(changed, 1 << 30))}
    assert len(after - before) <= 2


def test_nothing_is_no_chunk() -> None:
    assert list(cut(reader_of(b"", 10))) == []
    assert [bytes(chunk) for chunk in cut(reader_of(b"x", 10))] == [b"x"]


# The writer


def test_nothing_has_its_name_before_it_is_published(store: ChunkStore) -> None:
    with writing(store, lambda path: None, wait=1) as out:
        out.put([b"one"]).result()
        assert list(store.chunks.rglob("*.zst")) == []
        assert len(list(store.folder.glob(".tmp-*"))) == 1
    assert list(store.folder.glob(".tmp-*")) == []
    assert list(store.chunks.rglob("*.zst")) == []
    assert list((store.folder / "writing").iterdir()) == []


def test_the_same_content_is_stored_once(store: ChunkStore) -> None:
    told: list[str] = []
    with writing(store, told.append, wait=1) as out:
        results = [out.put([b"same", b"same"]) for _ in range(50)]
        assert len({future.result().name for future in results}) == 1
        assert sum(future.result().fresh for future in results) == 1
        out.publish()
        out.publish()
    with writing(store, told.append, wait=1) as out:
        assert not out.put([b"samesame"]).result().fresh
        assert out.stored == 0
    name = hashlib.sha256(b"samesame").hexdigest()
    assert told == [".store/README.txt", ".store/RESTORE.py", f".store/chunks/{name[:2]}/{name}.zst"]


def test_f56_reuse_touches_the_chunk(store: ChunkStore) -> None:
    one, two = put(store, b"one", b"two")
    for name in (one, two):
        os.utime(store.path(name), (1, 1))
    with writing(store, print, wait=1) as out:
        assert out.holds(one)
        assert not out.put([b"two"]).result().fresh
        assert not out.holds("0" * 64)
    for name in (one, two):
        assert time.time() - store.path(name).stat().st_mtime < 60


def test_an_error_of_a_thread_is_raised_and_nothing_published(store: ChunkStore, tmpfs: Path) -> None:
    small = ChunkStore(tmpfs)
    with pytest.raises(OSError, match="No space left"), writing(small, print, wait=1) as out:
        futures = [out.put([random_bytes(8 << 20)]) for _ in range(20)]
        for future in futures:
            future.result()
    assert list(small.chunks.rglob("*.zst")) == list(small.folder.glob(".tmp-*")) == []


def test_f14_what_syncfs_refuses_is_not_published(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), writing(store, print, wait=1) as out:
        monkeypatch.setattr(writer, "_FEW", 0)
        out.put([b"content"]).result()
        monkeypatch.setattr(out, "_descriptor", -1)  # the kernel's own error, without a broken disk
        out.publish()
    assert list(store.chunks.rglob("*.zst")) == list(store.folder.glob(".tmp-*")) == []


def test_what_a_dead_writer_left_is_looked_at(store: ChunkStore) -> None:
    old, good, bad, short = put(store, b"old" * 999, b"good" * 999, b"bad" * 999, b"short" * 999)
    os.utime(store.path(old), (1, 1))
    for name in (old, bad):
        frame = bytearray(store.path(name).read_bytes())
        frame[-6] ^= 1
        store.path(name).write_bytes(frame)
    os.utime(store.path(old), (1, 1))
    store.path(short).write_bytes(b"")
    mark = store.folder / "writing" / "dead"
    mark.touch()
    (store.folder / ".tmp-dead-0123").touch()
    (store.folder / ".tmp-other-0123").touch()
    assert put(store, b"bad" * 999, b"good" * 999, b"short" * 999) == [bad, good, short]
    assert {path.stem for path in (store.folder / "damaged").iterdir()} == {bad, short}
    assert store.read(bad) == b"bad" * 999
    assert not mark.exists()
    assert [path.name for path in store.folder.glob(".tmp-*")] == [".tmp-other-0123"]


def test_a_living_writer_is_left_alone(store: ChunkStore) -> None:
    with writing(store, print, wait=1) as first:
        one = first.put([b"one"]).result().name
        put(store, b"two")
        assert len(list((store.folder / "writing").iterdir())) == 1
        first.publish()
    assert store.read(one) == b"one"


def test_writers_at_once(store: ChunkStore) -> None:
    contents = [noise(100_000, seed) for seed in range(40)]
    threads = [threading.Thread(target=put, args=(store, *random.Random(n).sample(contents, 40))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.stem for path in store.chunks.rglob("*.zst")} == {hashlib.sha256(c).hexdigest() for c in contents}
    assert all(store.read(hashlib.sha256(content).hexdigest()) == content for content in contents)


def test_many_chunks_are_published_in_portions(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MOST", 4)
    with writing(store, print, wait=1) as out:
        for number in range(300):
            out.put([b"%d" % number]).result()
            if out.is_full:
                out.publish()
        assert len(out._known) <= 110
        out.publish()
    assert len(list(store.chunks.rglob("*.zst"))) == 300


# The index and the packs


def test_the_index_finds_what_was_packed(store: ChunkStore) -> None:
    index = Index(store.folder)
    rows = {random_bytes(32): (random_bytes(32), n, n + 1) for n in range(1000)}
    for digest, location in rows.items():
        index.add(digest, location)
    assert all(list(index.find(digest)) == [location] for digest, location in rows.items())
    index.save()
    again = Index(store.folder)
    for one in (index, again):
        assert all(list(one.find(digest)) == [location] for digest, location in rows.items())
        assert list(one.find(bytes(32))) == list(one.find(b"\xff" * 32)) == []


def test_many_tables_become_one(store: ChunkStore) -> None:
    rows = {random_bytes(32): (random_bytes(32), n, 1) for n in range(30)}
    for digest, location in rows.items():
        index = Index(store.folder)
        index.add(digest, location)
        index.save()
    assert len(list((store.folder / "index").iterdir())) <= 9
    assert all(list(Index(store.folder).find(digest)) == [location] for digest, location in rows.items())


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"", lambda c: bytes(len(c)), lambda c: c[:10] + b"!" + c[11:]]
)
def test_a_damaged_table_is_left_out(store: ChunkStore, damage) -> None:  # type: ignore[no-untyped-def]
    index = Index(store.folder)
    index.add(b"a" * 32, (b"b" * 32, 0, 1))
    index.save()
    (path,) = (store.folder / "index").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert list(Index(store.folder).find(b"a" * 32)) == []


def packed(
    store: ChunkStore, contents: Iterable[bytes], avoid: frozenset[str] = frozenset()
) -> list[tuple[str, int, int]]:
    index = Index(store.folder)
    with writing(store, print, wait=1) as out:
        packer = Packer(out, index, avoid)
        places = [packer.add(content, hashlib.sha256(content).digest()) for content in contents]
        extents = [packer.extent(one) if isinstance(one, Packed) else one for one in places]
        out.publish()
        index.save()
    return extents


def test_small_contents_are_packed_in_order_and_only_once(store: ChunkStore) -> None:
    contents = [noise(50_000, seed) for seed in range(200)]
    first = packed(store, [*contents, *contents])
    assert first[:200] == first[200:]
    assert (
        len({name for name, _, _ in first}) == -(-200 * 50_000 // (SIZE + 50_000))
        or len(list(store.chunks.rglob("*.zst"))) == 3
    )
    for content, (name, offset, length) in zip(contents, first, strict=False):
        assert store.read(name)[offset : offset + length] == content
    assert packed(store, reversed(contents)) == first[199::-1]
    assert len(list(store.chunks.rglob("*.zst"))) == 3


def test_a_pack_to_avoid_and_one_that_is_gone(store: ChunkStore) -> None:
    contents = [b"one" * 100, b"two" * 100]
    before = packed(store, contents)
    name = before[0][0]
    after = packed(store, [b"new", *contents], avoid=frozenset((name,)))
    assert all(other != name for other, _, _ in after)
    store.path(after[0][0]).unlink()
    store.path(name).unlink()
    again = packed(store, contents)
    assert store.read(again[0][0]) == b"".join(contents)


# Manifests


def member(path: str, **values: object) -> Member:
    known = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime": 5, "ctime": 6, "inode": 7}
    return Member(path=path, **{**known, **values})  # type: ignore[arg-type]


HEADER = Header(1, "fs", "/src", 123)


def written(path: Path, members: Iterable[Member], wasteful: tuple[str, ...] = ()) -> tuple[str, str]:
    with open(path, "wb") as out:
        lines = ManifestWriter(out, HEADER)
        for one in members:
            lines.add(one)
        return lines.end(wasteful)


def read(path: Path) -> list[Member]:
    with manifest.opened(path) as opened:
        return [one for one, _ in opened]


names = st.binary(min_size=1, max_size=30).filter(lambda name: b"/" not in name and b"\0" not in name)
members_strategy = st.builds(
    lambda name, mode, mtime, size, xattrs: member(
        manifest.text_or_raw(os.fsdecode(name))[0],
        raw_path=manifest.text_or_raw(os.fsdecode(name))[1],
        mode=mode,
        mtime=mtime,
        xattrs=xattrs,
        size=size,
        extents=(("a" * 64, 3, size),) if size else (),
    ),
    names,
    st.integers(0, 0o7777),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 1 << 40),
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.binary(), max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(members_strategy, max_size=20))
def test_a_manifest_comes_back(tmp_path_factory: pytest.TempPathFactory, members: list[Member]) -> None:
    path = tmp_path_factory.mktemp("m") / "m"
    sha256, _ = written(path, members, ("b" * 64,))
    assert read(path) == members
    assert manifest.end_of(path) == End(len(members), sum(one.size for one in members), ("b" * 64,))
    text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    assert hashlib.sha256(text).hexdigest() == sha256
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def test_a_line_that_is_written_again_stays_as_it_is(tmp_path: Path) -> None:
    members = [member("", kind="folder"), member("a", size=3, sha256="0" * 64, extents=(("b" * 64, 1, 3),))]
    first = written(tmp_path / "one", members)
    with open(tmp_path / "two", "wb") as out, manifest.opened(tmp_path / "one") as opened:
        lines = ManifestWriter(out, HEADER)
        for one, line in opened:
            lines.add_known([(one, line)])
        assert lines.end(()) == first


def test_the_content_digest_is_of_what_the_tree_holds(tmp_path: Path) -> None:
    def content(**values: object) -> str:
        return written(tmp_path / "m", [member("a", size=3, **values)])[1]

    packed_once = {"sha256": "0" * 64, "extents": (("b" * 64, 1, 3),)}
    same = content(**packed_once)
    assert content(**packed_once, ctime=99, inode=100) == same
    assert content(sha256="0" * 64, extents=(("c" * 64, 9, 3),)) == same
    assert content(sha256="1" * 64, extents=(("b" * 64, 1, 3),)) != same
    assert content(**packed_once, mode=0o600) != same
    large = content(extents=(("b" * 64, 0, 3),))
    assert content(extents=(("c" * 64, 0, 3),)) != large


def test_every_damage_to_a_manifest_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "m"
    written(path, [member(f"file {number}", size=number) for number in range(300)])
    whole = path.read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(Damaged):
            read(path)
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}\n",
        b'{"type":"header","format":1}\n',
        b"null\n",
        b"[" * 100_000 + b"\n",
        b'{"path":' + b"9" * 100 + b"}\n",
        b'{"path":"x","kind":"door","mode":0,"uid":0,"gid":0,"mtime":0}\n',
        b'{"path":"x","kind":"file","mode":0,"uid":0,"gid":0,"mtime":0}\n',
        b'{"type":"end","entries":7,"size":0}\n',
        b'{"type":"end","entries":0,"size":0}\n{"type":"end","entries":0,"size":0}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_hostile_manifest_is_damage(tmp_path: Path, text: bytes) -> None:
    head = b'{"type":"header","format":1,"kind":"fs","source":"/","began":1}\n'
    (tmp_path / "m").write_bytes(frame_of(head + text))
    with pytest.raises(Damaged):
        read(tmp_path / "m")


def test_a_line_without_an_end_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "LONGEST_LINE", 1 << 20)
    head = b'{"type":"header","format":1,"kind":"fs","source":"/","began":1}\n'
    (tmp_path / "m").write_bytes(frame_of(head + b"x" * (256 << 20)))
    before = resident()
    with pytest.raises(Damaged, match="a line without an end"):
        read(tmp_path / "m")
    assert resident() - before < 64 << 20


def test_a_newer_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(frame_of(b'{"type":"header","format":2,"kind":"fs","source":"/","began":1}\n'))
    with pytest.raises(FatalUserError, match="newer format 2"):
        read(tmp_path / "m")


@pytest.mark.parametrize(
    "values",
    [
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"path": "a//b"},
        {"path": "a/./b"},
        {"path": "a\0b"},
        {"path": "x", "kind": "hard link", "target": "../../etc/shadow"},
        {"path": "x", "size": 5},
        {"path": "x", "size": 5, "extents": (("a" * 64, 0, 6),)},
        {"path": "x", "uid": -1},
        {"path": "x", "gid": 1 << 32},
        {"path": "x", "mtime": 1 << 64},
        {"path": "x", "size": 9, "parts": ((5, 5),), "extents": (("a" * 64, 0, 5),)},
        {"path": "x", "size": 9, "parts": ((5, 2), (3, 2)), "extents": (("a" * 64, 0, 4),)},
        {"path": "x", "size": 1 << 70, "parts": ((1, 1),), "extents": (("a" * 64, 0, 1),)},
    ],
)
def test_what_cannot_be_an_entry_is_none(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        entry_of(member(**values))  # type: ignore[arg-type]


def test_an_entry_is_what_was_stored() -> None:
    entry = entry_of(member("a/b", mode=0o104755, size=10, parts=((0, 2), (6, 4)), extents=(("a" * 64, 0, 6),)))
    assert (entry.path, entry.kind, entry.mode, entry.size) == (b"a/b", Kind.FILE, 0o4755, 10)
    assert entry.extents == ((0, 2), (6, 4))


def test_keys_sort_as_a_walk_does() -> None:
    walked = ["", "a", "a/b", "a/b/c", "a/z", "a b", "a.b", "a.b/c", "ab", "b"]
    assert sorted(walked, key=key_of) == walked


# The reader


def test_contents_come_in_order_each_chunk_read_once(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [noise(100_000, seed) for seed in range(60)]
    stored = put(store, *contents)
    count: list[str] = []
    plain = store.read
    monkeypatch.setattr(store, "read", lambda name: count.append(name) or plain(name))
    members = [
        member(f"{n}-{part}", extents=((name, 1000 * part, 1000),))
        for n, name in enumerate(stored)
        for part in range(5)
    ]
    whole = member("all", extents=tuple((name, 0, 100_000) for name in stored[-5:]))
    reader = Contents(store, [*members, whole])
    found = {one.path: b"".join(content) for one, content in reader}
    reader.close()
    assert list(found) == [*(one.path for one in members), "all"]
    assert all(found[f"{n}-{p}"] == contents[n][1000 * p : 1000 * p + 1000] for n in range(60) for p in range(5))
    assert found["all"] == b"".join(contents[-5:])
    assert sorted(count) == sorted(stored)


def test_little_is_read_ahead_and_nothing_in_vain(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = put(store, *(b"%d" % n for n in range(200)))
    count: list[str] = []
    plain = store.read
    monkeypatch.setattr(store, "read", lambda name: count.append(name) or plain(name))
    large = member("large", extents=tuple((name, 0, 1) for name in stored))
    reader = Contents(store, [large, member("after")])
    for taken, _ in enumerate(next(iter(reader))[1], 1):
        assert len(count) <= taken + AHEAD
        assert len(reader._taken) + len(reader._untaken) <= MOST
    reader.close()
    count.clear()
    reader = Contents(store, [large, member("after")])
    assert [one.path for one, _ in reader] == ["large", "after"]
    reader.close()
    assert len(count) <= AHEAD


def test_few_bytes_stay_in_memory(store: ChunkStore) -> None:
    stored = put(store, *(bytes([n]) * (8 << 20) for n in range(20)))
    members = [member(f"{n:02}", size=8 << 20, extents=((name, 0, 8 << 20),)) for n, name in enumerate(stored)]
    reader = Contents(store, members)
    for number, (_, content) in enumerate(reader):
        if number % 2:
            assert b"".join(content) == bytes([number]) * (8 << 20)
        there = [one.content for one in (*reader._taken.values(), *reader._untaken.values()) if one.content.done()]
        assert sum(len(content.result()) for content in there) <= KEPT + (AHEAD + 2) * (8 << 20)
    reader.close()


def small(path: str, content: bytes, name: str, offset: int) -> Member:
    """A file that is packed with others."""
    sha256 = hashlib.sha256(content).hexdigest()
    return member(path, size=len(content), sha256=sha256, extents=((name, offset, len(content)),))


def test_what_lies_in_the_packs_of_many_backups(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in a tree whose files changed at random, day after day, lie in a hundred packs."""
    packs = [b"".join(b"%3d %5d " % (pack, n) * 2000 for n in range(200)) for pack in range(100)]
    length = len(packs[0]) // 200
    stored = put(store, *packs)
    count: list[str] = []
    plain = store.read
    monkeypatch.setattr(store, "read", lambda name: count.append(name) or plain(name))
    members = [
        small(f"{n:03} {pack:03}", packs[pack][n * length : (n + 1) * length], stored[pack], n * length)
        for n in range(0, 200, 2)
        for pack in range(100)
    ]
    reader = Contents(store, [*members, *members[:200]])
    for one, content in reader:
        assert hashlib.sha256(b"".join(content)).hexdigest() == one.sha256
        copies = sum(map(len, reader._copies.values()))
        kept = sum(len(chunk.content.result()) for chunk in reader._taken.values())
        assert copies <= SMALL + length and kept <= KEPT + len(packs[0])
    reader.close()
    assert not reader._copies and not reader._needed and not reader._ahead
    together = sum(one.size for one in members)
    assert len(count) <= 100 * (2 * together / SMALL + 3)  # else nearly 10,000


def test_what_is_good_before_a_damaged_manifest(store: ChunkStore) -> None:
    (stored,) = put(store, b"content")

    def members() -> Iterator[Member]:
        for number in range(100):
            yield small(str(number), b"content", stored, 0)
        raise Damaged("the rest is damaged")

    found = []
    reader = Contents(store, members())
    with pytest.raises(Damaged, match="the rest"):
        found.extend(b"".join(content) for _, content in reader)
    reader.close()
    assert found == [b"content"] * 100


@pytest.mark.parametrize("extent", [(0, -5), (-1, 3), (695, 9), (1 << 62, 1 << 62)])
def test_parts_of_packs_that_cannot_be(store: ChunkStore, extent: tuple[int, int]) -> None:
    (stored,) = put(store, b"content" * 100)
    odd = member("odd", sha256="00" * 32, extents=((stored, *extent),))
    found: list[bytes] = []
    reader = Contents(store, [small("1", b"con", stored, 0), odd, small("2", b"tent", stored, 3), odd])
    for one, content in reader:
        if one.path == "odd":
            with pytest.raises(DamagedPart):
                b"".join(content)
        else:
            found.append(b"".join(content))
    reader.close()
    assert found == [b"con", b"tent"]


def test_one_bad_chunk_spoils_only_what_is_in_it(store: ChunkStore) -> None:
    one, two, three = put(store, b"one", b"two", b"three")
    store.path(two).unlink()
    members = [
        member("1", extents=((one, 0, 3),)),
        member("2", extents=((two, 0, 3),)),
        member("3", extents=((three, 0, 6),)),
        member("4", extents=((three, 0, 5),)),
    ]
    found: list[bytes | str] = []
    reader = Contents(store, members)
    for _, content in reader:
        try:
            found.append(b"".join(content))
        except DamagedPart as error:
            found.append(error.message)
    reader.close()
    assert found == [
        b"one",
        f"the chunk {two} is missing",
        f"the manifest asks for more than the chunk {three} has",
        b"three",
    ]


def test_the_library_is_what_syncs() -> None:
    """`files.sync_filesystem` is the real syncfs(2)."""
    assert ctypes.CDLL(None).syncfs
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.sync_filesystem(-1)
    assert chunks.LARGEST >= LARGEST
    assert ChunkWriter.publish.__doc__
