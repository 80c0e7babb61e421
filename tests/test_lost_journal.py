"""The journal of what a target is owed is lost, or a part of it: the next sync finds out, says so, and sends all."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btw_backup.offsite import sync
from btw_backup.offsite.state import SyncState
from btw_backup.offsite.witness import Witness
from tests.conftest import Installation, tree_differences

REBUILT = "it is rebuilt"
COMPARED = "the next sync compares all backups with the target"


def deleted(journal: Path, older: bytes) -> None:
    """F34."""
    journal.unlink()


def emptied(journal: Path, older: bytes) -> None:
    """F34."""
    journal.write_bytes(b"")


def put_back(journal: Path, older: bytes) -> None:
    """F31."""
    assert journal.read_bytes().startswith(older) and older
    journal.write_bytes(older)


def without_what_is_owed(journal: Path, older: bytes) -> None:
    """F33: and what is left makes sense."""
    lines = journal.read_bytes().splitlines(keepends=True)
    paid = {line.partition(b" -")[2] for line in lines if b" -" in line}
    journal.write_bytes(b"".join(line for line in lines if line.split(b" ", 1)[1].lstrip(b"+-") in paid))


def without_one_line(journal: Path, older: bytes) -> None:
    """F33: of a chunk if there is one, else of the backup."""
    lines = journal.read_bytes()[len(older) :].splitlines(keepends=True)
    [first, *_] = sorted(lines, key=lambda line: b"/chunks/" not in line)
    journal.write_bytes(older + b"".join(line for line in lines if line != first))


def cut_to_half(journal: Path, older: bytes) -> None:
    """F33: most likely amid a line."""
    os.truncate(journal, journal.stat().st_size // 2)


def cut_at_a_line(journal: Path, older: bytes) -> None:
    """F33."""
    os.truncate(journal, len(journal.read_bytes().rstrip(b"\n").rpartition(b"\n")[0]) + 1)


LOSSES = [deleted, emptied, put_back, without_what_is_owed, without_one_line, cut_to_half, cut_at_a_line]


@pytest.fixture
def nas(btw: Installation) -> Path:
    """Where a target is; it is not configured yet."""
    folder = btw.top / "nas"
    folder.mkdir()
    return folder


def owing(btw: Installation, source: Path, nas: Path, layout: str, type_: str) -> bytes:
    """Have `nas` be owed a backup, after one that it has: the journal between the two."""
    btw.configure("", OFFSITE={"nas": {"PATH": str(nas), "LAYOUT": layout, "ENCRYPT_TO": []}})
    btw.tree(source, type_)
    btw("fs", source, "www")
    older = (btw.config_dir / "sync_state.nas").read_bytes()
    (source / "new").write_text("is to be sent, too")
    nas.rename(btw.top / "away")
    btw("fs", source, "www", status=6)
    (btw.top / "away").rename(nas)
    return older


@pytest.mark.parametrize("type_", ["tar", "chunks"])
@pytest.mark.parametrize("layout", ["mirror", "objects"])
@pytest.mark.parametrize("loss", LOSSES)
def test_all_is_sent_after(
    loss: Callable[[Path, bytes], None], layout: str, type_: str, btw: Installation, source: Path, nas: Path
) -> None:
    """It is said once, and the target has what it was owed."""
    older = owing(btw, source, nas, layout, type_)
    loss(btw.config_dir / "sync_state.nas", older)
    assert COMPARED in btw("sync").err
    assert btw("sync").err == btw("sync-state", "--list").out == ""
    btw("restore", "--from", nas, "www", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_the_run_that_reuses_a_lost_chunk_says_so(btw: Installation, source: Path, nas: Path) -> None:
    """F33: the backup is not only said to be there."""
    older = owing(btw, source, nas, "mirror", "chunks")
    without_one_line(btw.config_dir / "sync_state.nas", older)
    (source / "newer").write_text("yet another")
    ended = btw("fs", source, "www")
    assert f"{REBUILT}\nbtw_backup: hint: {COMPARED}\n" in ended.err
    btw("restore", "--from", nas, "www", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_what_the_target_has_besides_stays(btw: Installation, source: Path, nas: Path) -> None:
    """A lost journal removes nothing there."""
    btw.configure("", OFFSITE={"nas": {"PATH": str(nas), "ALLOW_REMOVAL": True, "ENCRYPT_TO": []}})
    btw.tree(source)
    btw("fs", source, "www")
    btw("fs", source, "other")
    before = {path for path in nas.rglob("*") if path.is_file()}
    subprocess.run(["rm", "-r", btw.root / "other", btw.config_dir / "sync_state.nas"], check=True)
    assert REBUILT in btw("sync").err
    assert {path for path in nas.rglob("*") if path.is_file()} == before


def test_the_journal_of_the_first_target_is_watched_too(btw: Installation) -> None:
    """What --reset emptied is not lost; nor is what nobody asks for, because the target is none any more."""
    journal = sync.journal(btw.config_dir, "s3")
    journal.owe("push", "a")
    journal.done(journal.pending()[0])
    btw("sync-state", "--reset")
    assert journal.pending() == []
    journal.owe("push", "b")
    (btw.config_dir / "sync_state").unlink()
    ended = btw("sync-state", "--list")
    assert (ended.out, ended.err) == ("", "")
    assert [(debt.op, debt.path) for debt in sync.journal(btw.config_dir, "s3").pending()] == [("sync", "")]
    assert btw("sync-state", "--list").out == "Must sync: \n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is."""
    return tmp_path / "sync_state"


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where it is noted how far it goes."""
    return tmp_path / "known" / "s3.journal"


def watched(path: Path, note: Path) -> SyncState:
    """A new reader of the journal."""
    return SyncState(path, witness=Witness(note))


def owed(path: Path, note: Path) -> list[str]:
    """What a new reader finds."""
    return [debt.path for debt in watched(path, note).pending()]


def test_a_journal_of_an_earlier_version_is_right(path: Path, note: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is noted of it until something is appended; and one that does not exist is new."""
    assert owed(path, note) == []
    path.write_text("2016-01-01T12:00:00 +push a\n")
    assert owed(path, note) == ["a"]
    assert not note.exists()
    watched(path, note).owe("push", "b")
    path.unlink()
    assert owed(path, note) == [""]
    assert REBUILT in capfd.readouterr().err


def test_who_dies_before_it_is_noted_raises_no_alarm(path: Path, note: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does an earlier version, or a power cut: the note is older than the journal, torn, empty, or gone."""
    journal = watched(path, note)
    journal.owe("push", "a")
    older = note.read_bytes()
    journal.owe("push", "b")
    newer = note.read_bytes()
    assert len(older) == len(newer)
    for end in (*range(0, len(older) + 1), 15, 18):
        for content in (newer[:end] + older[end:], older[:end] + newer[end:], newer[:end], bytes(end)):
            note.write_bytes(content)
            assert owed(path, note) == ["a", "b"]
    note.unlink()
    assert owed(path, note) == ["a", "b"]
    assert capfd.readouterr().err == ""


def test_a_torn_end_that_nobody_relied_on_costs_no_comparison(
    path: Path, note: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was never noted; one that was is missed, whoever mends the journal."""
    watched(path, note).owe_all("push", ["a", "b"])
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00 +pu")
    assert owed(path, note) == owed(path, note) == ["a", "b"]
    assert COMPARED not in capfd.readouterr().err
    watched(path, note).owe("push", "c")
    os.truncate(path, path.stat().st_size - 1)
    assert owed(path, note) == owed(path, note) == ["a", "b", ""]
    assert capfd.readouterr().err.count(COMPARED) == 1


def test_who_is_at_it_notices_too(path: Path, note: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The journal goes while a run has it, and comes back shorter than another has left it."""
    one, other = watched(path, note), watched(path, note)
    one.owe("push", "a")
    short = path.read_bytes()
    other.owe("push", "b")
    path.write_bytes(short)
    one.owe("push", "c")
    assert [debt.path for debt in one.pending()] == owed(path, note) == ["a", "", "c"]
    path.unlink()
    other.owe("push", "d")
    assert [debt.path for debt in one.pending()] == owed(path, note) == ["", "d"]
    assert capfd.readouterr().err.count(REBUILT) == 2


def test_what_cannot_be_noted_keeps_nothing_from_being_owed(path: Path, note: Path) -> None:
    """A note is worth less than what it is about."""
    note.mkdir(parents=True)
    watched(path, note).owe("push", "a")
    assert owed(path, note) == ["a"]
