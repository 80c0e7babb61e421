"""Streams in the chunk store: what the keeper makes of a source that is no tree."""

import hashlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from btw_backup import files
from btw_backup.configuration.config import DATABASE, defaults
from btw_backup.configuration.jobs import Job
from btw_backup.errors import Damaged, ProgramFailed
from btw_backup.inventory import listing
from btw_backup.keepers import Kept, Place
from btw_backup.keepers.chunks import Chunks
from btw_backup.mounting.content import ChunkCache, OpenFile
from btw_backup.records import Backup
from btw_backup.scrub.judgement import judged
from btw_backup.sources import Produced
from btw_backup.store import chunker, manifest
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.collect import collect
from btw_backup.store.manifest import Member
from btw_backup.store.uses import chunks_of

MIB = 1 << 20


@dataclass
class Pieces:
    """A source that gives `content` in pieces of `size` bytes, and fails after the first `good` of them."""

    content: bytes
    size: int = 100_003
    good: int | None = None
    kind: str = "command"
    name: str = "pieces"
    file_name: str = "pieces.out"

    def fingerprint(self) -> None: ...

    def produce(self, out: BinaryIO) -> Produced:
        for number, at in enumerate(range(0, len(self.content), self.size)):
            if number == self.good:
                raise ProgramFailed("it failed")
            out.write(self.content[at : at + self.size])
        return Produced(len(self.content), "", "")

    def content_of(self, stream: BinaryIO) -> str:
        return hashlib.sha256(stream.read()).hexdigest()

    def programs(self) -> Mapping[str, str]:
        return {"pieces": "1"}


@dataclass
class Kit:
    """A dst, and what was owed."""

    place: Place
    owed: list[str]

    def keep(self, source: Pieces) -> Kept:
        job = Job("pieces", "pieces", "chunks", defaults(Path("/nowhere"), DATABASE), Path("/nowhere"))
        files.sweep(self.place.folder)
        return Chunks().keep(job, source, self.place, lambda verb, path: self.owed.append(path), reread=False)

    @property
    def backups(self) -> list[Backup]:
        return listing.backups(self.place)

    def read(self, backup: Backup) -> bytes:
        with Chunks().open(backup) as stream:
            return stream.read()

    def chunks(self) -> set[Path]:
        return set((self.place.folder.parent / ".store" / "chunks").rglob("*.zst"))


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    (tmp_path / "dst").mkdir()
    return Kit(Place("dst", tmp_path / "dst"), [])


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(1).randbytes(20 * MIB)


@pytest.mark.parametrize("length", [1, 1000, 512 << 10, 12 * MIB, 12 * MIB + 1, 20 * MIB])
@pytest.mark.parametrize("size", [4096 + 1, 13 * MIB])
def test_pushing_cuts_as_pulling_does(content: bytes, length: int, size: int) -> None:
    taken: list[bytes] = []
    cutter = chunker.Cutter(lambda chunk: taken.append(bytes(chunk)))
    for at in range(0, length, size):
        part = content[at : min(at + size, length)]
        assert cutter.write(part) == len(part)
    cutter.close()
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        return content[at - count : min(at, length)]

    assert taken == [bytes(chunk) for chunk in chunker.cut(read)]
    assert b"".join(taken) == content[:length]


@pytest.mark.parametrize("length", [0, 1, 300_000, 20 * MIB])
def test_a_stream_comes_back(kit: Kit, content: bytes, length: int) -> None:
    kept = kit.keep(Pieces(content[:length]))
    assert kept.backup and kept.backup.record
    assert kept.backup.path.name == f"{kept.stamp}.manifest.zst"
    assert kept.backup.record.length == length
    assert kept.backup.record.programs.keys() == {"pieces", "zstd"}
    assert set(chunks_of(kept.backup.path)) == {path.stem for path in kit.chunks()}
    assert {path for path in kit.owed if path.startswith("dst")} == {
        f"dst/{kept.backup.path.name}",
        f"dst/.records/{kept.stamp}.json",
    }
    (found,) = kit.backups
    assert (found.kind, found.keeper) == ("command", "chunks")
    assert kit.read(found) == content[:length]


def test_the_same_again_keeps_nothing(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    before = kit.chunks()
    assert kit.keep(Pieces(content, size=77_777)).backup is None
    assert len(kit.backups) == 1 and kit.chunks() == before
    assert "no change in the data to be backed up" in (kit.place.folder / "log.txt").read_text()


def test_an_insertion_costs_little(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    before = kit.chunks()
    changed = content[: 10 * MIB] + b"inserted" + content[10 * MIB :]
    kept = kit.keep(Pieces(changed))
    assert kept.backup and kept.backup.record
    assert len(kit.chunks() - before) <= 2
    assert kept.backup.record.stored < 17 * MIB
    assert [kit.read(backup) for backup in kit.backups] == [content, changed]


def edited(content: bytes, count: int, seed: int) -> bytes:
    """With so many small changes all over it."""
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(count):
        at = chance.randrange(len(changed))
        changed[at : at + chance.randrange(50)] = chance.randbytes(chance.randrange(50))
    return bytes(changed)


def member_of(backup: Backup) -> Member:
    with manifest.opened(backup.path) as opened:
        ((member, _),) = opened
        return member


def test_small_changes_all_over_cost_what_they_are(kit: Kit, content: bytes) -> None:
    first = kit.keep(Pieces(content))
    changed = edited(content, 200, 1)
    second = kit.keep(Pieces(changed))
    assert first.backup and second.backup and second.backup.record
    assert second.backup.record.stored < 30_000
    one, two = kit.backups
    assert kit.read(one) == content and kit.read(two) == changed
    member = member_of(two)
    assert member_of(one).segments == () and len(member.segments) > 5 and len(member.extents) > 200
    assert kit.keep(Pieces(changed)).backup is None, "it is the same, although it lies in many places"


def test_back_to_what_was_there_before(kit: Kit, content: bytes) -> None:
    changed = edited(content, 20, 1)
    for one in (content, changed, content, changed):
        assert kit.keep(Pieces(one)).backup
    records = [backup.record for backup in kit.backups]
    assert all(records) and len({record.content for record in records if record}) == 2
    assert all(record.stored < 20_000 for record in records[1:] if record)
    first, second, third, fourth = map(member_of, kit.backups)
    assert first.extents == third.extents and second.pieces == fourth.pieces
    assert [kit.read(backup) for backup in kit.backups] == [content, changed, content, changed]


def test_many_generations_each_whole_by_itself(kit: Kit, content: bytes) -> None:
    """Any of them can go, and what it needed alone goes with it."""
    states = [content[: 6 * MIB]]
    for seed in range(7):
        states.append(edited(states[-1], 30, seed))
    for state in states:
        assert kit.keep(Pieces(state)).backup
    root = kit.place.folder.parent
    gone, backups = [0, 1, 4, 7], kit.backups
    for number in gone:
        backups[number].path.rename(root / f"{number}.away")
    swept = collect(root, lambda path: None, lambda paths: None, grace=0, now=time.time() + 10, forgotten=(), wait=1)
    assert swept.chunks
    for number in gone:
        (root / f"{number}.away").unlink()
    left = [number for number in range(len(states)) if number not in gone]
    assert [kit.read(backups[number]) == states[number] for number in left] == [True] * len(left)
    needed = {name for number in left for name in chunks_of(backups[number].path)}
    assert needed == {path.stem for path in kit.chunks()}


def test_what_is_hardly_used_any_more_is_kept_anew(kit: Kit, content: bytes) -> None:
    """Else a backup would be all over chunks of which it needs next to nothing."""
    part = content[: 3 * MIB]
    kit.keep(Pieces(part))
    kept = part[: MIB // 2] + content[3 * MIB : 5 * MIB]
    kit.keep(Pieces(kept))
    kit.keep(Pieces(kept + b"."))
    one, *_, last = kit.backups
    assert kit.read(last) == kept + b"."
    used = {name: 0 for name, _, _ in member_of(last).extents}
    for name, _, length in member_of(last).extents:
        used[name] += length
    store = ChunkStore(kit.place.folder.parent)
    assert all(2 * count >= store.length(name) for name, count in used.items())
    assert kit.read(one) == part


def test_what_is_new_is_packed_together(kit: Kit, content: bytes) -> None:
    """However many parts it is in; and so many changes that less than half is the same, make it a new part."""
    kit.keep(Pieces(content))
    before = kit.chunks()
    kit.keep(Pieces(edited(content, 100, 3)))
    assert len(kit.chunks() - before) == 1
    before = kit.chunks()
    torn = bytearray(content)
    torn[::500] = bytes(len(torn[::500]))
    kit.keep(Pieces(bytes(torn)))
    extents = member_of(kit.backups[-1]).extents
    assert len(extents) == len(kit.chunks() - before) and all(offset == 0 for _, offset, _ in extents)


def test_a_damaged_chunk_of_an_older_backup_is_not_built_on(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    path = max(kit.chunks(), key=lambda path: path.stat().st_size)
    frame = bytearray(path.read_bytes())
    frame[len(frame) // 2] ^= 1
    path.write_bytes(frame)
    changed = edited(content, 50, 4)
    kit.keep(Pieces(changed))
    assert path.stem not in set(chunks_of(kit.backups[-1].path))
    assert kit.read(kit.backups[-1]) == changed


def test_any_place_of_a_scattered_stream_can_be_read(kit: Kit, content: bytes) -> None:
    """As a mounted backup is."""
    kit.keep(Pieces(content))
    changed = edited(content, 300, 5)
    kit.keep(Pieces(changed))
    file = OpenFile(member_of(kit.backups[-1]), ChunkCache(ChunkStore(kit.place.folder.parent)))
    chance = random.Random(6)
    for _ in range(300):
        at, size = chance.randrange(len(changed)), chance.randrange(200_000)
        assert file.read(at, size) == changed[at : at + size]
    assert file.read(0, len(changed)) == changed


def test_a_stream_that_fails_half_way_leaves_nothing(kit: Kit, content: bytes) -> None:
    with pytest.raises(ProgramFailed, match="it failed"):
        kit.keep(Pieces(content, good=170))
    assert kit.backups == [] and kit.chunks() == set()
    assert set(kit.owed) <= {".store/format.json", ".store/README.txt", ".store/RESTORE.py"}  # which is no backup
    assert list(kit.place.folder.parent.rglob(".tmp-*")) == []


def test_what_is_gone_from_the_store_is_kept_anew(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    (kit.chunks().pop()).unlink()
    with pytest.raises(Damaged):
        kit.read(kit.backups[0])
    assert kit.keep(Pieces(content)).backup is not None
    assert [kit.read(backup) for backup in kit.backups] == [content, content]


def test_what_is_gone_of_a_scattered_stream_is_kept_anew(kit: Kit, content: bytes) -> None:
    changed = edited(content, 50, 7)
    for one in (content, changed):
        kit.keep(Pieces(one))
    needed = set(chunks_of(kit.backups[-1].path))
    for gone in (min, max):
        gone((path for path in kit.chunks() if path.stem in needed), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(Damaged):
        kit.read(kit.backups[-1])
    assert kit.keep(Pieces(changed)).backup is not None
    assert kit.read(kit.backups[-1]) == changed


@pytest.mark.parametrize("which", ["pack", "part"])
def test_a_scattered_stream_heals_with_the_next_backup_of_the_same_content(
    kit: Kit, content: bytes, which: str
) -> None:
    changed = edited(content, 50, 7)
    for one in (content, changed):
        kit.keep(Pieces(one))
    path = (min if which == "pack" else max)(kit.chunks(), key=lambda path: path.stat().st_size)
    frame = bytearray(path.read_bytes())
    frame[len(frame) // 3] ^= 1
    path.write_bytes(frame)
    (found,) = judged(kit.place.folder.parent, [path.stem], "test", 1)
    assert len(found.backups) == (1 if which == "pack" else 2) and not path.exists()
    assert kit.keep(Pieces(changed)).backup
    assert path.exists()
    assert [kit.read(backup) for backup in kit.backups] == [content, changed, changed]


def damages() -> Iterator[tuple[str, int]]:
    yield from (("flip", at) for at in (0, 5, 100_000, -1))
    yield from (("cut", at) for at in (0, 100_000, -1))


@pytest.mark.parametrize(("how", "at"), list(damages()))
def test_a_damaged_chunk_is_never_handed_out(kit: Kit, content: bytes, how: str, at: int) -> None:
    kit.keep(Pieces(content))
    path = max(kit.chunks(), key=lambda path: content.index(_plain(path)[:100]))
    frame = bytearray(path.read_bytes())
    if how == "flip":
        frame[at] ^= 1
    path.write_bytes(frame if how == "flip" else frame[:at])
    read = b""
    with pytest.raises(Damaged, match=r"dst@\S+ is damaged: .*chunk"), Chunks().open(kit.backups[0]) as stream:
        while piece := stream.read(MIB):
            read += piece
    assert read and content.startswith(read)


def _plain(path: Path) -> bytes:
    import zstandard  # noqa: PLC0415 - only here

    return zstandard.ZstdDecompressor().decompress(path.read_bytes())


def test_a_manifest_that_is_not_what_was_written(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    kit.keep(Pieces(b"another" + content))
    one, two = kit.backups
    one.path.write_bytes(two.path.read_bytes())
    with pytest.raises(Damaged, match="not what was written"):
        kit.read(kit.backups[0])


def test_without_a_record_the_manifest_tells_the_kind(kit: Kit, content: bytes) -> None:
    kit.keep(Pieces(content))
    (kit.place.folder / ".records" / f"{kit.backups[0].stamp}.json").unlink()
    (found,) = kit.backups
    assert found.record is None and found.kind == "command"
    assert kit.read(found) == content
    assert kit.keep(Pieces(content)).backup is not None
