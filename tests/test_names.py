"""The names behind a manifest, and the counting of names: proved, passed over by others, bounded."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from btw_backup.errors import Damaged
from btw_backup.store import manifest, names, tally
from btw_backup.store.manifest import FORMAT, Header, Member
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.tally import SEVERAL, Tally
from btw_backup.store.uses import chunks_of, names_of

HEADER = Header(FORMAT, "fs", "/tree", 1)


def name_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def made(path: Path, *numbers: int) -> str:
    """A manifest whose files are in these chunks; the digest of its text."""
    with open(path, "xb") as out:
        lines = ManifestWriter(out, HEADER)
        for at, number in enumerate(numbers):
            extents = ((name_of(number), at, 1),)
            lines.add(Member(f"{at:09}", "file", 0o600, 0, 0, 0, 1, sha256="0" * 64, extents=extents))
        return lines.end(())[0]


def text_of(path: Path) -> bytes:
    return subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout


def without(path: Path, count: int) -> Path:
    """The manifest as older versions wrote it: without its names, of which there are `count`."""
    other = path.with_name("older")
    other.write_bytes(path.read_bytes()[: -(8 + 112 + 32 * count)])
    return other


def test_names_are_sorted_each_once_and_passed_over_by_zstd(tmp_path: Path) -> None:
    digest = made(tmp_path / "one", 3, 1, 2, 2, 3)
    assert list(chunks_of(tmp_path / "one")) == sorted(map(name_of, (1, 2, 3)))
    assert hashlib.sha256(text_of(tmp_path / "one")).hexdigest() == digest
    assert text_of(tmp_path / "one").count(b"\n") == 7
    with manifest.opened(tmp_path / "one") as opened:
        assert len(list(opened)) == 5
        assert opened.sha256 == digest


def test_no_names(tmp_path: Path) -> None:
    made(tmp_path / "empty")
    assert list(chunks_of(tmp_path / "empty")) == []
    with manifest.opened(tmp_path / "empty") as opened:
        assert list(opened) == []


def test_an_older_manifest_has_none_and_is_read(tmp_path: Path) -> None:
    made(tmp_path / "one", 3, 1, 2)
    older = without(tmp_path / "one", 3)
    assert text_of(older) == text_of(tmp_path / "one")
    assert list(chunks_of(older)) == sorted(map(name_of, (1, 2, 3)))
    with manifest.opened(older) as opened:
        assert len(list(opened)) == 3


def test_every_flipped_byte_and_every_cut_is_seen(tmp_path: Path) -> None:
    """The names are never wrong: from their frame, or from the text, or `Damaged`. Reading the text sees it all."""
    digest = made(tmp_path / "one", 3, 1)
    content = (tmp_path / "one").read_bytes()
    frame = len(content) - (8 + 112 + 64)
    expected = sorted(map(name_of, (1, 3)))
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        for bad in (bytes(damaged), content[:at]):
            if bad == content[:frame]:  # an older manifest
                continue
            (tmp_path / "bad").write_bytes(bad)
            with pytest.raises(Damaged), manifest.opened(tmp_path / "bad") as opened:
                list(opened)
                if opened.sha256 != digest:
                    raise Damaged("as the record tells")
            try:
                assert list(chunks_of(tmp_path / "bad", digest)) == expected
            except Damaged:
                assert at < frame or len(bad) != frame


def test_a_damaged_frame_leaves_the_text(tmp_path: Path) -> None:
    """The names are then read from the text; but the manifest is not what was written."""
    made(tmp_path / "one", 3, 1)
    content = bytearray((tmp_path / "one").read_bytes())
    content[-130] ^= 1
    (tmp_path / "one").write_bytes(content)
    assert list(chunks_of(tmp_path / "one")) == sorted(map(name_of, (1, 3)))
    with pytest.raises(Damaged, match="what follows the text"), manifest.opened(tmp_path / "one") as opened:
        list(opened)


def test_names_of_another_manifest_are_not_believed(tmp_path: Path) -> None:
    made(tmp_path / "one", 3, 1, 2)
    one, two, number = (tmp_path / "one").read_bytes(), b"", 5
    while len(one) != len(two):  # else the place alone would tell
        (tmp_path / "two").unlink(missing_ok=True)
        digest = made(tmp_path / "two", number, 6, 7)
        two, number = (tmp_path / "two").read_bytes(), number + 3
    frame = 8 + 112 + 96
    (tmp_path / "mixed").write_bytes(two[:-frame] + one[-frame:])
    assert list(chunks_of(tmp_path / "mixed", digest)) == sorted(map(name_of, (number - 3, 6, 7)))
    with pytest.raises(Damaged, match="what follows the text"), manifest.opened(tmp_path / "mixed") as opened:
        list(opened)


def test_junk_behind_a_manifest_is_seen(tmp_path: Path) -> None:
    made(tmp_path / "one", 3, 1, 2)
    for junk in (b"\0", text_of(tmp_path / "one"), (tmp_path / "one").read_bytes()):
        shutil.copyfile(tmp_path / "one", tmp_path / "bad")
        with open(tmp_path / "bad", "ab") as file:
            file.write(junk)
        with pytest.raises(Damaged), manifest.opened(tmp_path / "bad") as opened:
            list(opened)


def test_a_hostile_name_in_the_text(tmp_path: Path) -> None:
    for number, name in enumerate(("../../../etc/passwd", "AB" * 32, " " * 64, "zz" * 32, "a" * 63)):
        path = tmp_path / f"{number}"
        text = [
            b'{"type":"header","format":1,"kind":"fs","source":"/","began":1}',
            b'{"path":"a","kind":"file","mode":0,"uid":0,"gid":0,"mtime":0,"extents":[["%s",0,1]]}' % name.encode(),
            b'{"type":"end","entries":1,"size":0}\n',
        ]
        subprocess.run(["zstd", "-q", "-", "-o", path], input=b"\n".join(text), check=True)
        with pytest.raises(Damaged, match="is not the name of a chunk"):
            list(names_of(path))


def test_a_tally_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when most of it is in files, and files were joined."""
    monkeypatch.setattr(tally, "_AT_ONCE", 50)
    rng = random.Random(1)  # noqa: S311
    expected: dict[bytes, int] = {}
    with Tally(tmp_path) as counted:
        for user in range(40):
            mine = {rng.randrange(3000).to_bytes(32, "big") for _ in range(100)}
            counted.add(mine, user)
            for name in mine:
                expected[name] = user if expected.get(name, user) == user else SEVERAL
        assert list(counted) == sorted(expected.items())
        assert list(counted) == sorted(expected.items())
        assert list(tmp_path.iterdir()) == []
        assert len(counted._runs) <= tally._MOST + 1


def test_many_names_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PIECE", 64)
    made(tmp_path / "one", *range(10_001))
    assert list(chunks_of(tmp_path / "one")) == sorted(map(name_of, range(10_001)))
    with manifest.opened(tmp_path / "one") as opened:
        assert len(list(opened)) == 10_001
    assert (tmp_path / "one").stat().st_size == os.path.getsize(
        without(tmp_path / "one", 10_001)
    ) + 8 + 112 + 32 * 10_001
