"""What a new stream has in common with an old one."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_backup.store.chunker import Cutter
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.former import Former, Stretch
from btw_backup.store.manifest import Member
from btw_backup.store.writer import writing

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def parts_of(content: bytes) -> list[bytes]:
    """As a stream is cut."""
    found: list[bytes] = []
    cutter = Cutter(lambda part: found.append(bytes(part)))
    cutter.write(content)
    cutter.close()
    return found


def kept(store: ChunkStore, content: bytes) -> Member:
    """The entry of a stream whose parts are a chunk each."""
    with writing(store, lambda path: None, wait=1) as writer:
        stored = [writer.put([part]).result() for part in parts_of(content)]
        writer.publish()
    extents = tuple((one.name, 0, one.length) for one in stored)
    return Member("x", "file", 0o600, 0, 0, 0, len(content), extents=extents)


def compared(former: Former, content: bytes) -> Iterator[tuple[bytes, list[Stretch]]]:
    """The parts of `content`, none of which the store is asked for as it is."""
    for part in parts_of(content):
        yield part, former.stretches("0" * 64, memoryview(part))


def new_bytes(store: ChunkStore, former: Former, content: bytes) -> int:
    """How much of `content` is new; what is not, is proved to be where it is said to be."""
    count = 0
    for part, stretches in compared(former, content):
        at = 0
        for begin, end, extent in stretches:
            assert begin == at < end
            at = end
            if extent is None:
                count += end - begin
            else:
                name, offset, length = extent
                assert store.read(name)[offset : offset + length] == part[begin:end] and length == end - begin
        assert at == len(part)
    return count


def rows(count: int, seed: int = 1) -> bytes:
    """Lines as a dump has them, each another."""
    chance = random.Random(seed)
    return b"".join(b"%d\t%d\t%s\n" % (n, chance.randrange(10**9), b" " * 80) for n in range(count))


def test_the_same_again(store: ChunkStore) -> None:
    content = noise(9 * MIB)
    assert new_bytes(store, Former(store, kept(store, content), ()), content) == 0


def test_a_row_that_is_gone_costs_next_to_nothing_and_a_new_one_itself(store: ChunkStore) -> None:
    lines = rows(100_000).splitlines(keepends=True)
    member = kept(store, b"".join(lines))
    chance = random.Random(2)
    for gone in sorted(chance.sample(range(len(lines)), 100), reverse=True):
        del lines[gone]
    assert new_bytes(store, Former(store, member, ()), b"".join(lines)) < 2000, "at the ends of parts"
    added = [b"%d\tadded" % n for n in range(100)]
    for row in added:
        lines.insert(chance.randrange(len(lines)), row + b"\n")
    assert new_bytes(store, Former(store, member, ()), b"".join(lines)) < 5000


@pytest.mark.parametrize("seed", range(6))
def test_any_edits(store: ChunkStore, seed: int) -> None:
    """Insertions, deletions, copies and moves of up to 300 KB: nothing is ever taken for what it is not."""
    chance = random.Random(seed)
    content = rows(40_000, seed) + noise(2 * MIB, seed) + bytes(MIB) + rows(20_000, seed + 9)
    member = kept(store, content)
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 40)):
        at, length = chance.randrange(len(changed)), int(10 ** chance.uniform(0, 5.5))
        moved = bytes(changed[at : at + length])
        match chance.randrange(4):
            case 0:
                changed[at:at] = chance.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at : at + length] = chance.randbytes(length)
            case _:
                there = chance.randrange(len(changed))
                changed[there:there] = moved
    assert new_bytes(store, Former(store, member, ()), bytes(changed)) < 0.9 * len(changed)


def test_nothing_in_common(store: ChunkStore) -> None:
    former = Former(store, kept(store, noise(12 * MIB)), ())
    assert new_bytes(store, former, noise(6 * MIB, 2)) == 6 * MIB
    assert new_bytes(store, Former(store, kept(store, b""), ()), noise(MIB)) == MIB


def test_it_is_found_again_behind_what_was_inserted(store: ChunkStore) -> None:
    content = noise(20 * MIB)
    former = Former(store, kept(store, content), ())
    inserted = noise(50 * MIB, 2)
    changed = content[: 5 * MIB] + inserted + content[5 * MIB :]
    assert new_bytes(store, former, changed) < len(inserted) + 100_000


def test_it_is_found_again_behind_what_was_removed(store: ChunkStore) -> None:
    content = noise(40 * MIB)
    former = Former(store, kept(store, content), ())
    assert new_bytes(store, former, content[: 5 * MIB] + content[13 * MIB :]) < 100_000
    former = Former(store, kept(store, content), ())
    assert new_bytes(store, former, content[: 5 * MIB] + content[30 * MIB :]) < 12 * MIB


def test_a_whole_part_says_where_we_are(store: ChunkStore) -> None:
    """Behind more than is looked through."""
    content = noise(70 * MIB)
    parts = parts_of(content)
    member = kept(store, content)
    name, _, length = member.extents[-4]
    former = Former(store, member, ())
    assert former.stretches(name, memoryview(parts[-4])) == [(0, length, (name, 0, length))]
    changed = parts[-3][:1000] + b"inserted" + parts[-3][1000:]
    assert new_bytes(store, former, changed + parts[-2]) == len(b"inserted")


def test_a_part_that_is_known_is_not_read(store: ChunkStore) -> None:
    """Nor is it lost, if it lies in pieces."""
    content = noise(3 * MIB)
    member = kept(store, content)
    one, *others = member.extents
    name, _, length = one
    scattered = Member(
        *("x", "file", 0o600, 0, 0, 0, len(content)),
        extents=((name, 0, 1000), (name, 1000, length - 1000), *others),
        segments=((name, length),),
    )
    assert scattered.pieces == member.pieces
    store.path(name).write_bytes(b"damaged" + store.path(name).read_bytes()[7:])
    former = Former(store, scattered, ())
    assert former.stretches(name, memoryview(content[:length])) == [(0, length, None)], "it does not look whole"


def test_what_is_damaged_missing_or_to_be_avoided_is_new(store: ChunkStore) -> None:
    content = noise(24 * MIB)
    member = kept(store, content)
    flipped, missing, avoided = (member.extents[n] for n in (1, 3, 5))
    frame = bytearray(store.path(flipped[0]).read_bytes())
    frame[len(frame) // 2] ^= 1
    store.path(flipped[0]).write_bytes(frame)
    store.path(missing[0]).unlink()
    bad = {flipped[0], missing[0], avoided[0]}
    changed = content[:100] + b"x" + content[100:]
    count = 0
    for _, stretches in compared(Former(store, member, {avoided[0]}), changed):
        assert not bad & {extent[0] for _, _, extent in stretches if extent}
        count += sum(end - begin for begin, end, extent in stretches if extent is None)
    lost = flipped[2] + missing[2] + avoided[2]
    assert lost <= count <= lost + 3 * (128 << 10)


def test_zeros_are_not_taken_for_what_cannot_be_read(store: ChunkStore) -> None:
    """What cannot be used stands there as zeros."""
    content = noise(9 * MIB)
    member = kept(store, content)
    for name, _, _ in member.extents:
        store.path(name).unlink()
    assert new_bytes(store, Former(store, member, ()), bytes(9 * MIB)) == 9 * MIB


def test_the_same_over_and_over(store: ChunkStore) -> None:
    content = b"the same line\n" * 500_000
    former = Former(store, kept(store, content), ())
    assert new_bytes(store, former, content[: 3 * MIB] + b"another line\n" + content[3 * MIB :]) < 100_000
