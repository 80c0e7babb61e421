"""How a SPEC names backups, and what a record survives."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_backup import records, specs
from btw_backup.errors import Damaged, FatalUserError, NotFound, UsageError
from btw_backup.records import Backup, Record

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
STAMPS = [
    "2026-11-01T01:00:00",
    "2026-11-19T01:00:00",
    "2026-11-20T01:00:00",
    "2026-11-20T13:00:00",
    "2026-11-21T11:30:00",
]


def record(stamp: str, number: int) -> Record:
    uid = f"{number}abcdef{number:025d}"
    tags = ("monthly",) if number == 0 else ("daily", "good") if number == 3 else ("daily",)
    return Record(uid, stamp, number + 1, "fs", "/etc", "tar", stamp, stamp, 10, "ab", "ab", tags=tags)


BACKUPS = [
    Backup("D", stamp, "tar", "fs", Path("/x"), stamp + ".tar.zst", stamp, record(stamp, number))
    for number, stamp in enumerate(STAMPS)
]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("latest", [4]),
        ("first", [0]),
        ("0", [4]),
        ("1", [3]),
        ("4", [0]),
        ("all", [0, 1, 2, 3, 4]),
        ("2026-11-20T13:00:00", [3]),
        ("2026-11-20T13", [3]),
        ("2026-11-01", [0]),
        ("2026-11-20", [3]),
        ("2026-11-18", [0]),
        ("2026-11-20 12:59", [2]),
        ("2026-11-20T12:59:59", [2]),
        ("2026-11-20 13:00", [3]),
        ("yesterday", [3]),
        ("today", [4]),
        ("2h ago", [3]),
        ("10 minutes ago", [4]),
        ("2 days ago", [1]),
        ("3abcdef", [3]),
        (f"2abcdef{2:025d}", [2]),
        ("tag:daily", [1, 2, 3, 4]),
        ("tag:monthly", [0]),
        ("tag:daily and tag:good", [3]),
        ("tag:daily and not tag:good", [1, 2, 4]),
        ("first or latest", [0, 4]),
        ("not latest", [0, 1, 2, 3]),
        ("first..1", [0, 1, 2, 3]),
        ("2026-11-19..2026-11-20", [1, 2, 3]),
        ("yesterday..", [2, 3, 4]),
        ("2026-11-20T01:00:00..", [2, 3, 4]),
        ("..2026-11-19T01:00:00", [0, 1]),
    ],
)
def test_G03_specs(spec: str, expected: list[int]) -> None:
    assert [STAMPS.index(backup.stamp) for backup in specs.resolve(BACKUPS, spec, NOW)] == expected


@pytest.mark.parametrize("spec", ["5", "2026-10-31", "60 days ago", "tag:none", "nonsense", "2027-01-01..", "T", ""])
def test_G04_what_is_not_there(spec: str) -> None:
    with pytest.raises((NotFound, UsageError)):
        specs.resolve(BACKUPS, spec, NOW)


def test_a_prefix_of_several_is_refused() -> None:
    with pytest.raises(UsageError, match="beginning of 2"):
        specs.resolve(BACKUPS, "2026-11-20T", NOW)


def test_one_is_one() -> None:
    with pytest.raises(UsageError, match="names 5 backups"):
        specs.one(BACKUPS, "all", NOW)


@given(st.text(max_size=40))
def test_any_spec_is_an_answer_or_an_error_with_a_line(spec: str) -> None:
    try:
        assert specs.resolve(BACKUPS, spec, NOW)
    except FatalUserError as error:
        assert error.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("D", ("D", "latest")), ("a/b@1", ("a/b", "1")), ("a@b@first", ("a@b", "first")), ("a@", ("a", "latest"))],
)
def test_addresses(text: str, expected: tuple[str, str]) -> None:
    assert specs.address(text) == expected


def test_a_record_comes_back(tmp_path: Path) -> None:
    written = replace(
        record(STAMPS[0], 0), changed=(("a\udcff\n", "file changed"),), sockets=({"path": "s", "mode": 1},)
    )
    records.write(tmp_path, written)
    assert records.read(tmp_path / ".records" / f"{STAMPS[0]}.json") == written


@given(st.binary(max_size=300))
def test_F27_any_bytes_are_a_record_or_damage(content: bytes) -> None:
    path = Path("/tmp") / f"record-{STAMPS[0]}"  # noqa: S108
    path.write_bytes(content)
    try:
        records.read(path)
    except FatalUserError as error:
        assert str(path) in error.message
    path.unlink()


def test_F30_a_record_of_another_backup_is_damage(tmp_path: Path) -> None:
    records.write(tmp_path, record(STAMPS[0], 0))
    other = tmp_path / ".records" / f"{STAMPS[1]}.json"
    other.write_bytes((tmp_path / ".records" / f"{STAMPS[0]}.json").read_bytes())
    with pytest.raises(Damaged, match="of another backup"):
        records.read(other)


def test_F40_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{STAMPS[0]}.json"
    path.write_text('{"format": 2}')
    with pytest.raises(FatalUserError, match="newer format 2"):
        records.read(path)


def test_a_run_reads_one_record_however_many_there_are(tmp_path: Path) -> None:
    for number, stamp in enumerate(STAMPS):
        records.write(tmp_path, record(stamp, number))
    opened: set[str] = set()
    below = str(tmp_path)
    sys.addaudithook(lambda event, args: opened.add(args[0]) if event == "open" and below in str(args[0]) else None)
    assert records.next_sequence(tmp_path) == 6
    assert opened == {f"{tmp_path}/.records/{STAMPS[-1]}.json"}
    (tmp_path / ".records" / f"{STAMPS[-1]}.json").write_text("damaged")
    assert records.next_sequence(tmp_path) == 5
    assert records.next_sequence(tmp_path / "nothing") == 1
