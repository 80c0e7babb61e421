"""The journal: its format is the old script's, and nothing in it makes a run fail."""

import re
from multiprocessing import Process
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_backup.errors import FatalUserError
from btw_backup.offsite.state import Debt, SyncState, _escaped, _plain
from tests.conftest import Installation

OLD = """\
2016-01-01T12:00:00 +push a
2016-01-01T12:00:00 +push b with spaces
2016-01-01T12:00:00 +sync c/
2016-01-01T12:00:00 +sync \n\
2016-01-01T12:00:00 -push a
2016-01-01T12:00:00 -sync c/
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "sync_state"


def owed(path: Path) -> list[tuple[str, str]]:
    """What a new reader finds in the journal."""
    return [(debt.op, debt.path) for debt in SyncState(path).pending()]


def without_times(path: Path) -> str:
    """The journal, each stamp replaced by T."""
    return re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ", "T ", path.read_text())


def test_lines_are_as_the_old_script_wrote_them(path: Path) -> None:
    """Also the empty path, with its space."""
    journal = SyncState(path)
    journal.owe("push", "a")
    journal.owe("sync", "")
    journal.owe("sync", "c d/")
    for debt in journal.pending()[:2]:
        assert journal.done(debt)
    assert without_times(path) == "T +push a\nT +sync \nT +sync c d/\nT -push a\nT -sync \n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_old_journal_is_continued(path: Path) -> None:
    """A17."""
    path.write_text(OLD)
    journal = SyncState(path)
    assert owed(path) == [("push", "b with spaces"), ("sync", "")]
    journal.owe("push", "new")
    assert path.read_text().startswith(OLD)
    assert owed(path) == [("push", "b with spaces"), ("sync", ""), ("push", "new")]


def test_reading_changes_nothing(path: Path) -> None:
    """Nor does it create the file."""
    assert owed(path) == []
    assert not path.exists()
    path.write_text(OLD)
    owed(path)
    assert path.read_text() == OLD


def test_what_is_noted_again_while_it_is_sent_stays_owed(path: Path) -> None:
    """Or the second change would never be sent."""
    journal, other = SyncState(path), SyncState(path)
    journal.owe("sync", "www/2026-01-01T00:00:00/")
    [debt] = journal.pending()
    other.owe("sync", "www/2026-01-01T00:00:00/")
    assert not journal.done(debt)
    [again] = journal.pending()
    assert again.noted > debt.noted
    assert journal.done(again)
    assert not journal.done(again)
    assert journal.pending() == other.pending() == []


def test_reset(path: Path) -> None:
    """It is refused while anything is owed; another process sees that the journal was emptied and filled again."""
    journal, other = SyncState(path), SyncState(path)
    journal.reset()
    journal.owe("push", "a")
    assert other.pending()
    with pytest.raises(FatalUserError, match=r"^cannot reset: some files must be synced or pushed$"):
        journal.reset()
    journal.done(journal.pending()[0])
    journal.reset()
    assert path.read_bytes() == b""
    journal.owe("push", "longer than what was there before, so that the length tells nothing" * 3)
    assert other.pending() == journal.pending() != []


BAD_ENDS = [b"2026-01-01T00:00:00 +pu", b"2026", b"\0" * 4096, b"\0" * 511 + b"\n", b"2026-01-01T00:00:00 +push x"]


@pytest.mark.parametrize("end", BAD_ENDS)
def test_torn_end_is_cut_off_and_kept_beside(path: Path, end: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """F15, M7: the good lines stay, and who appends does not glue."""
    path.write_bytes(OLD.encode() + end)
    SyncState(path).owe("push", "new")
    expected = [("push", "b with spaces"), ("sync", ""), ("push", "new")]
    assert owed(path) == expected
    [torn] = path.parent.glob("sync_state.torn-*")
    assert torn.read_bytes() == end.rstrip(b"\n") + b"\n"
    assert "1 line that could not be read" in capfd.readouterr().err
    assert owed(path) == expected
    assert capfd.readouterr().err == ""


def test_unreadable_lines_amid_the_journal_cost_a_full_comparison(path: Path) -> None:
    """F33: a debt may be lost with them."""
    path.write_bytes(b"2026-01-01T00:00:00 +push a\nrubbish\n\0\0\0\n2026-01-01T00:00:00 +push b\n")
    assert owed(path) == [("push", "a"), ("push", "b"), ("sync", "")]


HARMLESS = {
    "CRLF": (b"2026-01-01T00:00:00 +push a\r\n2026-01-01T00:00:00 +sync \r\n", [("push", "a"), ("sync", "")]),
    "blank": (b"\n\n2026-01-01T00:00:00 +push a\n\n", [("push", "a")]),
    "duplicate": (b"2026-01-01T00:00:00 +push a\n" * 2 + b"2026-01-01T00:00:00 -push a\n", []),
    "unknown": (b"2026-01-01T00:00:00 -push never\n2026-01-01T00:00:00 +push a\n", [("push", "a")]),
    "no space": (b"2026-01-01T00:00:00 +sync\n", [("sync", "")]),
    "percent": (b"2026-01-01T00:00:00 +push 100%41 %zz %\n", [("push", "100%41 %zz %")]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_oddities_are_read_as_they_are(path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """F33: without a word, and without changing the file."""
    content, expected = HARMLESS[name]
    path.write_bytes(content)
    assert owed(path) == expected
    assert path.read_bytes() == content
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("line", ["/etc/shadow", "../x", "a/../../x", "a/.."])
def test_paths_that_lead_out_are_not_believed(path: Path, line: str) -> None:
    """F33, M14: they are set aside, and do not cost a comparison."""
    path.write_text(f"2026-01-01T00:00:00 +push {line}\n2026-01-01T00:00:00 +push a\n")
    assert owed(path) == [("push", "a")]
    with pytest.raises(ValueError, match="not a path below ROOT_PATH"):
        SyncState(path).owe("push", line)


def test_glued_lines_are_taken_apart(path: Path) -> None:
    """M7: what an older version appended to a torn line."""
    path.write_bytes(b"2026-01-01T00:00:00 +push x2026-01-01T00:00:01 +push y\n2026-01-01T00:00:00 +pu" + OLD.encode())
    assert owed(path)[:2] == [("push", "x"), ("push", "y")]
    assert ("sync", "") in owed(path)


def test_a_million_lines(path: Path) -> None:
    """F33: they are read once, not for each thing that is done."""
    pairs = "".join(f"2026-01-01T00:00:00 +push {n}\n2026-01-01T00:00:00 -push {n}\n" for n in range(500_000))
    path.write_text(pairs + OLD)
    journal = SyncState(path)
    for debt in journal.pending():
        journal.done(debt)
    assert journal.pending() == []


@given(st.text(st.characters(codec="utf-8")) | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_name_comes_back(name: str) -> None:
    """T7: control characters are escaped so that they can be had back."""
    written = _escaped(name)
    assert not re.search(rb"[\x00-\x1f\x7f]", written)
    assert _plain(written) == name


@given(st.binary())
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """F33: never a traceback, and after one repair never another."""
    path = tmp_path_factory.mktemp("any") / "sync_state"
    path.write_bytes(content)
    first = owed(path)
    repaired = path.read_bytes()
    assert owed(path) == first
    assert path.read_bytes() == repaired


def _note_many(path: Path, name: str) -> None:
    journal = SyncState(path)
    for number in range(50):
        journal.owe("push", f"{name}/{number}")
        if number % 2:
            journal.done(next(debt for debt in journal.pending() if debt.path == f"{name}/{number}"))


def test_several_runs_at_once(path: Path) -> None:
    """Trap (d): no line is lost, none is torn."""
    processes = [Process(target=_note_many, args=(path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(owed(path)) == sorted(("push", f"{name}/{n}") for name in "abcd" for n in range(0, 50, 2))
    assert not list(path.parent.glob("*.torn-*"))


def test_command_lists_syncs_first(btw: Installation) -> None:
    """A16, and as JSON."""
    (btw.config_dir / "sync_state").write_text(OLD + "2016-01-01T12:00:00 +push odd%0Aname\n")
    ended = btw("sync-state", "--list")
    assert (ended.out, ended.err) == ("Must sync: \nMust push: b with spaces\nMust push: odd\\nname\n", "")
    assert '"op": "sync"' in btw("sync-state", "--list", "--json").out


def test_command_resets(btw: Installation) -> None:
    """A16: refused while anything is owed."""
    journal = btw.config_dir / "sync_state"
    journal.write_text(OLD)
    ended = btw("sync-state", "--reset", status=1)
    assert (ended.out, ended.err) == ("", "btw_backup: cannot reset: some files must be synced or pushed\n")
    journal.write_text("2016-01-01T12:00:00 +push a\n2016-01-01T12:00:00 -push a\n")
    ended = btw("sync-state", "--reset")
    assert (ended.out, ended.err) == ("The state was reset\n", "")
    assert journal.read_bytes() == b""


@pytest.mark.parametrize("options", [(), ("--list", "--reset")])
def test_command_needs_one_option(btw: Installation, options: tuple[str, ...]) -> None:
    """A16."""
    assert "usage:" in btw("sync-state", *options, status=2).err


def test_debts_are_values() -> None:
    """Two equal debts are one."""
    assert len({Debt("push", "a", 1), Debt("push", "a", 1), Debt("push", "a", 2)}) == 2
