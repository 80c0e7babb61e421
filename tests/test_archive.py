"""The reader of tar archives, against what GNU tar, Python's tarfile and hand-made headers write."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btw_backup.entries import Entry, Kind
from btw_backup.errors import Damaged
from btw_backup.keepers import acl, headers
from btw_backup.keepers.archive import members
from tests import torture
from tests.hostile import END, member, old_sparse, pax, raw_pax, record

TAR_FORMATS = ("v7", "oldgnu", "gnu", "ustar", "posix")


class Trickle(io.RawIOBase):
    """A stream that gives odd amounts."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self._turn = 0

    def read(self, size: int = -1) -> bytes:
        self._turn += 1
        return self._content.read(min(size, 1 + self._turn * 7919 % 3000))


def read(archive: bytes, trickle: bool = False) -> tuple[list[tuple[Entry, bytes]], list[str]]:
    """The entries with their stored bytes, and the complaints."""
    complaints: list[str] = []
    stream = Trickle(archive) if trickle else io.BytesIO(archive)
    found = [(entry, b"".join(content)) for entry, content in members(stream, complaints.append)]  # type: ignore[arg-type]
    return found, complaints


def entries_of(archive: bytes) -> list[Entry]:
    """The entries of an archive that must be in order."""
    found, complaints = read(archive)
    assert complaints == []
    return [entry for entry, _ in found]


def tar(top: Path, *options: str) -> bytes:
    command = ["tar", "--create", "--file=-", "--sort=name", f"--directory={top}", *options, "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree that every format can hold."""
    top = tmp_path / "small"
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "e" / "file").write_bytes(b"content" * 1000)
    (top / "d" / "empty").write_bytes(b"")
    (top / "link").symlink_to("d/e")
    os.link(top / "d" / "empty", top / "second")
    os.mkfifo(top / "fifo")
    for path in top.rglob("*"):
        os.utime(path, ns=(0, 1_600_000_000 * 10**9), follow_symlinks=False)
    return top


@pytest.mark.parametrize("trickle", [False, True])
@pytest.mark.parametrize("format_", TAR_FORMATS)
def test_formats_of_gnu_tar(small: Path, format_: str, trickle: bool) -> None:
    if format_ == "v7":
        (small / "fifo").unlink()  # unknown to v7
    found, complaints = read(tar(small, f"--format={format_}"), trickle)
    assert complaints == []
    by_path = {entry.path: (entry, content) for entry, content in found}
    fifo = [] if format_ == "v7" else [b"fifo"]
    assert sorted(by_path) == sorted([b"", b"d", b"d/e", b"d/e/file", b"d/empty", *fifo, b"link", b"second"])
    file, content = by_path[b"d/e/file"]
    assert (file.kind, file.size, content, file.extents) == (Kind.FILE, 7000, b"content" * 1000, None)
    assert (file.mtime, file.uid, file.gid) == (1_600_000_000 * 10**9, 0, 0)
    assert by_path[b"d"][0].kind is Kind.FOLDER
    assert (by_path[b"link"][0].kind, by_path[b"link"][0].target) == (Kind.LINK, b"d/e")
    assert (by_path[b"second"][0].kind, by_path[b"second"][0].target) == (Kind.HARD_LINK, b"d/empty")


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_of_tarfile(format_: int) -> None:
    name = "folder/" * 20 + "é" * 30
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uid, info.mtime = 3, 0o4751, 2_000_000, 1_500_000_000
        archive.addfile(info, io.BytesIO(b"abc"))
    (entry,) = entries_of(out.getvalue())
    assert (os.fsdecode(entry.path), entry.size, entry.mode, entry.uid) == (name, 3, 0o4751, 2_000_000)
    assert entry.mtime == 1_500_000_000 * 10**9


def test_names_and_times_of_gnu_tar(tmp_path: Path) -> None:
    torture.build(tmp_path / "tree")
    for format_ in ("gnu", "posix"):
        found = {entry.path: entry for entry in entries_of(tar(tmp_path / "tree", f"--format={format_}", "--sparse"))}
        for name in torture.NAMES:
            assert found[b"names/" + name].size == len(name)
            assert found[b"names/in/" + name + b"/" + name].kind is Kind.FILE
        assert found[b"links/longest target"].target == b"y" * 4095
        assert found[b"owners/4294967294"].uid == 2**32 - 2
        precise = format_ == "posix"
        assert found[b"times/2 _write"].mtime == (-999_999_999 if precise else -1_000_000_000)
        assert found[b"times/3 mkdir"].mtime == -2_000_000_000_123_456_789 // 10**9 * 10**9 + (
            876_543_211 if precise else 0
        )
        assert found[b"holes/nothing but a hole"].extents == ()
        assert found[b"nodes/high"].device == (300, 70_000)


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files(tmp_path: Path, version: str) -> None:
    file = tmp_path / "tree" / "file"
    file.parent.mkdir()
    with open(file, "wb") as out:
        for number in range(100):
            out.seek(number * 100_000)
            out.write(b"%05d" % number)
        out.truncate(20_000_000)
    options = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    found, complaints = read(tar(file.parent, "--sparse", *options))
    assert complaints == []
    entry, content = next((entry, content) for entry, content in found if entry.kind is Kind.FILE)
    assert (entry.path, entry.size) == (b"file", 20_000_000)
    assert entry.extents is not None and sum(length for _, length in entry.extents) == len(content) < 1_000_000
    whole, at = bytearray(entry.size), 0
    for offset, length in entry.extents:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    assert whole == file.read_bytes()


def test_attributes() -> None:
    text = b"user::rw-\nuser:1000:r--\t#effective:r--\ngroup::r-x\ngroup:root:--x\nmask::rwx\nother::---\n"
    records = [
        record(b"SCHILY.xattr.user.a%3Db%25", b"\0=\n"),
        record(b"SCHILY.xattr.user.empty", b""),
        record(b"SCHILY.acl.access", text),
        record(b"SCHILY.acl.default", b"user::rwx,group::r-x,other::r-x"),
        record(b"RHT.security.selinux", b"system_u:object_r:etc_t:s0"),
        record(b"comment", b"of no interest"),
    ]
    (entry,) = entries_of(raw_pax(b"".join(records)) + member(b"f") + END)
    assert entry.xattrs["user.a=b%"] == b"\0=\n"
    assert entry.xattrs["user.empty"] == b""
    assert entry.xattrs["security.selinux"] == b"system_u:object_r:etc_t:s0\0"
    expected = (
        "02000000 01000600ffffffff 02000400e8030000 04000500ffffffff 0800010000000000 10000700ffffffff 20000000ffffffff"
    )
    assert entry.xattrs["system.posix_acl_access"] == bytes.fromhex(expected)
    assert entry.xattrs["system.posix_acl_default"] == acl.binary(b"u::rwx\ng::r-x\no::r-x\n")
    assert set(entry.xattrs) == {
        "user.a=b%",
        "user.empty",
        "security.selinux",
        "system.posix_acl_access",
        "system.posix_acl_default",
    }


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"-0.000000001", -1),
        (b"1.0000000019", 1_000_000_001),
        (b"16725225600.000000123", 16_725_225_600_000_000_123),
    ],
)
def test_times(text: bytes, moment: int) -> None:
    assert headers.nanoseconds(text) == moment


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"12345670", 0o12345670),
        (b"\0" * 8, 0),
        (b"\x80\0\0\0\0\x20\0\5", 2**21 + 5),
        (b"\xff" * 12, -1),
        (b"\xff" * 11 + b"\xfe", -2),
    ],
)
def test_numbers(text: bytes, value: int) -> None:
    assert headers.number(text) == value


def test_global_headers_hold_until_they_are_replaced() -> None:
    archive = (
        pax(b"g", mtime=b"5", uid=b"7")
        + member(b"a")
        + pax(uid=b"8")
        + member(b"b")
        + pax(b"g", mtime=b"6")
        + member(b"c")
        + END
    )
    assert [(e.path, e.mtime // 10**9, e.uid) for e in entries_of(archive)] == [
        (b"a", 5, 7),
        (b"b", 5, 8),
        (b"c", 6, 7),
    ]


def test_content_that_is_not_read_is_passed_over() -> None:
    archive = member(b"a", data=b"a" * 3_000_000) + member(b"b", data=b"bb") + END
    complaints: list[str] = []
    assert [entry.path for entry, _ in members(io.BytesIO(archive), complaints.append)] == [b"a", b"b"]
    partly = []
    for _, content in members(io.BytesIO(archive), complaints.append):
        partly.append(len(next(iter(content))))
    assert partly[1] == 2 and complaints == []


def test_signed_checksums_of_old_programs() -> None:
    block = bytearray(member(b"\xff\xfe name"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    assert [entry.path for entry in entries_of(bytes(block) + END)] == [b"\xff\xfe name"]


def test_an_empty_archive_and_a_label() -> None:
    assert read(END) == ([], [])
    assert read(END + bytes(10240)) == ([], [])
    assert entries_of(member(b"label", b"V") + member(b"a") + END)[0].path == b"a"
    assert entries_of(member(b"a") + END[:512])[0].path == b"a"


def test_the_archive_is_read_on_behind_damage() -> None:
    archive = member(b"a", data=b"a") + b"\1" + member(b"b", data=b"b" * 999)[1:] + member(b"c", data=b"c") + END
    found, complaints = read(archive)
    assert [entry.path for entry, _ in found] == [b"a", b"c"]
    assert complaints == ["at byte 1024 of the archive there is no header: left out 1536 bytes"]


def test_a_header_of_zeros_is_no_end() -> None:
    found, complaints = read(member(b"a") + bytes(512) + member(b"c") + END)
    assert [entry.path for entry, _ in found] == [b"a", b"c"] and len(complaints) == 1


def test_a_member_is_left_out_with_its_damaged_extended_header() -> None:
    found, complaints = read(raw_pax(b"nonsense") + member(b"wrong name", data=b"x" * 600) + member(b"b") + END)
    assert [entry.path for entry, _ in found] == [b"b"]
    assert len(complaints) == 2 and "wrong name" in complaints[1]


def test_something_behind_the_end() -> None:
    found, complaints = read(member(b"a") + END + member(b"b") + END)
    assert len(found) == 1 and "behind the end" in complaints[0]


def test_every_cut_is_noticed() -> None:
    archive = (
        pax(mtime=b"1.5")
        + member(b"a", data=b"a" * 1000)
        + old_sparse(b"s", [(0, 4)], 9, b"data")
        + member(b"d/", b"5")
    )
    for at in range(0, len(archive) + 1, 64):
        with pytest.raises(Damaged, match="cut|no tar"):
            read(archive[:at])


@pytest.mark.parametrize("content", [b"PK\3\4" * 1024, b"PK\3\4" * 10_000_000, bytes(100) + b"x" * 924])
def test_what_is_no_archive(content: bytes) -> None:
    with pytest.raises(Damaged, match="this is no tar archive"):
        read(content)


def test_a_damaged_first_header_does_not_lose_the_rest() -> None:
    found, complaints = read(b"x" + member(b"a")[1:] + member(b"b") + END)
    assert [entry.path for entry, _ in found] == [b"b"]
    assert complaints == ["at byte 0 of the archive there is no header: left out 512 bytes"]


def test_an_unknown_acl_does_not_lose_the_file() -> None:
    (entry,) = entries_of(pax(SCHILY__acl__access=b"user:nobody-of-that-name:rwx\n") + member(b"f") + END)
    assert entry.xattrs == {"system.posix_acl_access": b"user:nobody-of-that-name:rwx\n"}


ARCHIVE = (
    pax(
        mtime=b"-5.25",
        path=b"p" * 200,
        SCHILY__xattr__user__x=b"1",
        SCHILY__acl__access=b"user::rwx\ngroup::r-x\nother::r-x\n",
    )
    + member(b"short", data=b"x" * 700)
    + member(b"L", b"L", b"n" * 150 + b"\0")
    + member(b"n", b"2", link=b"target")
    + pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__name=b"s", GNU__sparse__realsize=b"99")
    + member(b"s", data=b"1\n50\n4\n".ljust(512, b"\0") + b"data")
    + old_sparse(b"o", [(0, 4)], 9, b"data")
    + pax(GNU__sparse__map=b"0,4,8,1", GNU__sparse__size=b"10")
    + member(b"t", data=b"12345")
    + member(b"h", b"1", link=b"short")
    + END
)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), min_size=1, max_size=8), st.booleans()
)
def test_any_bytes_give_entries_or_damage(changes: list[tuple[int, int]], fix: bool) -> None:
    archive = bytearray(ARCHIVE)
    for at, byte in changes:
        archive[at] = byte
    if fix:  # checksums that fit lead the changes further in
        for at in range(0, len(archive), 512):
            block = bytes(archive[at : at + 512])
            if ARCHIVE[at + 257 : at + 262] == b"ustar":
                archive[at + 148 : at + 156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    try:
        found, _ = read(bytes(archive))
    except Damaged:
        return
    for entry, content in found:
        assert not entry.path.startswith(b"/") and b".." not in entry.path.split(b"/") and b"\0" not in entry.path
        assert 0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1 and 0 <= entry.mode <= 0o7777
        stored = entry.size if entry.extents is None else sum(length for _, length in entry.extents)
        assert entry.kind is not Kind.FILE or len(content) == stored


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_no_bytes_surprise(archive: bytes) -> None:
    for beginning in (b"", member(b"a")):
        try:
            read(beginning + archive)
        except Damaged:
            pass
