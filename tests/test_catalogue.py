"""The catalogue, in SQLite and in PostgreSQL: it tells what the files tell, and nothing fails for want of it."""

import fcntl
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from btw_backup import records
from btw_backup.catalogue import journal
from btw_backup.catalogue.journal import Run
from btw_backup.records import Record
from tests import many_records
from tests.conftest import Installation, peak_memory
from tests.servers import PASSWORD, Postgres, postgres  # noqa: F401 - a fixture

FILE = "catalogue.sqlite"


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def catalogue(request: pytest.FixtureRequest, btw: Installation) -> Iterator[Installation]:
    """An installation with a catalogue in either database."""
    if request.param == "SQLite":
        yield btw
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"c{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE DATABASE {name}")
    btw.configure(CATALOG=url(server, name))
    yield btw
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


def url(server: Postgres, database: str, user: str = "postgres") -> str:
    return f"postgresql+psycopg://{user}@/{database}?host={server.folder}"


def counts(btw: Installation, *options: str) -> dict[str, int]:
    ended = btw("catalogue", "--json", *options)
    assert ended.err == ""
    return json.loads(ended.out)  # type: ignore[no-any-return]


def backed_up(btw: Installation, source: Path) -> None:
    """One backup, one run that finds nothing new, one that fails, and an archive of the old script's."""
    btw.tree(source)
    btw("fs", source, "t")
    btw("fs", source, "t")
    btw("fs", "/nowhere", "t", status=1)
    old = btw.root / "old" / "2019-01-01T00:00:00.tbz"
    old.parent.mkdir()
    old.touch()


def test_it_holds_backups_and_runs(catalogue: Installation, source: Path) -> None:
    backed_up(catalogue, source)
    expected = {"dsts": 2, "backups": 2, "invalid": 0, "runs": 3, "damaged chunks": 0, "last scrub": ""}
    assert counts(catalogue) == expected
    assert counts(catalogue) == expected
    assert counts(catalogue, "--rebuild") == expected


def test_it_follows_the_files(catalogue: Installation, source: Path) -> None:
    backed_up(catalogue, source)
    counts(catalogue)
    (record,) = (catalogue.root / "t" / ".records").glob("*.json")
    mark = record.with_suffix(records.DAMAGED)
    mark.write_text("{}")
    evidence = catalogue.root / ".store" / "damaged"
    evidence.mkdir(parents=True)
    (evidence / ("a" * 64 + ".zst")).touch()
    (evidence / ("a" * 64 + ".json")).write_text('{"found": "2026-11-21T00:00:00", "backups": ["t@x"]}')
    (evidence / ("b" * 64 + ".json")).write_text("[" * 5000)
    found = counts(catalogue)
    assert (found["invalid"], found["damaged chunks"]) == (1, 2)
    mark.unlink()
    (catalogue.root / "old" / "2019-01-01T00:00:00.tbz").unlink()
    found = counts(catalogue)
    assert (found["invalid"], found["backups"], found["dsts"]) == (0, 1, 1)


def test_runs(catalogue: Installation, source: Path) -> None:
    backed_up(catalogue, source)
    rows = json.loads(catalogue("runs", "--json").out)
    assert [(row["status"], row["outcome"], row["dst"]) for row in rows] == [
        (0, "kept", "t"),
        (0, "unchanged", "t"),
        (1, "failed", "t"),
    ]
    assert rows[0]["stamp"] == catalogue("list", "t").out.split(".")[0]
    assert rows[2]["message"] == "no working directory for: /nowhere"
    lines = catalogue("runs", "--failed").out.splitlines()
    assert [lines[0].split()[1:], lines[1]] == [
        ["1", "failed", "fs", "/nowhere", "->", "t"],
        "    no working directory for: /nowhere",
    ]
    assert len(catalogue("runs", "./t/", "-n", "2", "-m").out.splitlines()) == 2
    assert catalogue("runs", "elsewhere").out == ""


def test_a_locked_and_an_interrupted_run_are_runs(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", source, "t")
    with open(btw.root / "t" / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        btw("--lock-wait", "0", "fs", source, "t", status=4)
        waiting = btw.start("fs", source, "t")
        while str(btw.root / "t" / ".lock") not in opened_by(waiting):
            assert waiting.poll() is None
            time.sleep(0.01)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait() == 143
    assert [row["status"] for row in json.loads(btw("runs", "--json").out)] == [0, 4, 143]


def opened_by(process: "subprocess.Popen[bytes]") -> set[str]:
    """The files that a process has open."""
    found = set()
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(path))
    return found


def test_a_uid_names_a_backup_wherever_it_is(catalogue: Installation, source: Path, tmp_path: Path) -> None:
    backed_up(catalogue, source)
    uid = json.loads(catalogue("list", "t", "--json").out)[0]["uid"]
    catalogue("restore", f"@{uid}", "out")
    assert (tmp_path / "out" / "etc" / "hosts").exists()
    catalogue("restore", f"@{uid[:8]}", "again")
    ended = catalogue("restore", "@0123456789", "none", status=1)
    assert ended.err.splitlines()[0].endswith("there is no backup of the uid 0123456789")
    catalogue("restore", "@", "none", status=2)


def test_what_no_database_takes_is_no_trouble(catalogue: Installation) -> None:
    """Names that are no UTF-8, NUL, and numbers of any size are in records that somebody planted."""
    stamp = "2026-11-21T00:00:00"
    place = catalogue.root / "t"
    place.mkdir()
    hostile = Record(
        "u\0", stamp, 10**30, "fs", "/\udcff\0'\"", "tar", stamp, stamp, 10**40, "", "", stored=-(10**40), status=10**20
    )
    records.write(place, hostile)
    (place / f"{stamp}.tar.zst").touch()
    other = "2026-11-22T00:00:00"
    (place / f"{other}.tar.zst").touch()
    os.mkfifo(place / ".records" / f"{other}.json")
    journal.append(catalogue.config_dir, Run("i", "fs", "/\udcff\0", "t\udcfe", stamp, stamp, 0, "kept"))
    assert counts(catalogue)["backups"] == 2
    assert len(catalogue("runs", "-m").out.splitlines()) == 1
    assert counts(catalogue)["backups"] == 2


def test_several_at_once(catalogue: Installation, source: Path) -> None:
    many_records.make(catalogue.root, 1000)
    running = [catalogue.start("catalogue", "--rebuild", "--json") for _ in range(4)]
    for process in running:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert json.loads(out)["backups"] in range(1001)  # another may have begun anew
    assert counts(catalogue)["backups"] == 1000


def test_a_killed_update_leaves_nothing_wrong(catalogue: Installation) -> None:
    many_records.make(catalogue.root, 1000)
    counts(catalogue)
    for pause in (0.3, 0.4, 0.5, 0.7):
        process = catalogue.start("catalogue", "--rebuild")
        time.sleep(pause)
        process.kill()
        process.communicate()
    assert counts(catalogue)["backups"] == 1000


def test_a_newer_version_is_left_alone(catalogue: Installation, source: Path) -> None:
    backed_up(catalogue, source)
    rows = catalogue("runs", "-m").out
    set_version(catalogue, "99")
    ended = catalogue("runs", "-m")
    assert ended.out == rows
    assert "the catalogue has the newer version 99" in ended.err
    catalogue("catalogue", status=1)
    set_version(catalogue, "0")
    assert counts(catalogue)["runs"] == 3


def set_version(btw: Installation, version: str) -> None:
    """By another program than ours."""
    code = (
        "import sys, sqlalchemy as s\n"
        "with s.create_engine(sys.argv[1]).begin() as c:\n"
        "    c.execute(s.text(\"UPDATE btw_state SET value = :v WHERE name = 'version'\"), {'v': sys.argv[2]})\n"
    )
    names: dict[str, str] = {}
    exec((btw.config_dir / "config.py").read_text(), names)  # noqa: S102 - it is ours
    where = names.get("CATALOG", f"sqlite:///{btw.config_dir / FILE}")
    subprocess.run([sys.executable, "-c", code, where, version], check=True)


@pytest.mark.parametrize("catalogue", ["PostgreSQL"], indirect=True)  # a file belongs to one
def test_two_installations_share_a_database(catalogue: Installation, source: Path, tmp_path: Path) -> None:
    text = (catalogue.config_dir / "config.py").read_text()
    backed_up(catalogue, source)
    found = counts(catalogue)
    other = Installation(tmp_path / "other")
    other.config_dir.mkdir(parents=True)
    other.root.mkdir()
    (other.config_dir / "config.py").write_text(text.replace(str(catalogue.root), str(other.root)))
    many_records.make(other.root, 5)
    assert counts(other, "--rebuild")["backups"] == 5
    assert counts(catalogue) == found


def test_no_server_is_no_trouble_and_no_password_is_told(
    btw: Installation,
    source: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    backed_up(btw, source)
    rows = btw("runs", "-m").out
    uid = json.loads(btw("list", "t", "--json").out)[0]["uid"]
    for number, host in enumerate((btw.top, postgres.folder)):
        btw.configure(CATALOG=f"postgresql+psycopg://guarded:s3cr%2Ft@/nowhere?host={host}")
        ended = btw("runs", "-m")
        assert ended.out.startswith(rows)
        assert "cannot use the catalogue" in ended.err
        assert "hint: nothing is lost" in ended.err
        assert btw("restore", f"@{uid}", f"out{number}").out == ""
        shown = btw("config", "show").out + btw("doctor", status=None).out + ended.err
        log = (btw.config_dir / "btw-backup.log").read_text()
        assert "s3cr" not in shown + log
        assert btw("fs", source, "t").err == ""
    btw.configure(CATALOG="mysql://joe:s3cret@host/x")
    ended = btw("list", status=1)
    assert "CATALOG must be postgresql+psycopg://" in ended.err
    assert "s3cret" not in ended.err
    btw.configure(CATALOG=url(postgres, "postgres", "guarded"))
    assert json.loads(btw("catalogue", "--json", env={"PGPASSWORD": PASSWORD}).out)["backups"] == 2
    postgres.sql("DROP TABLE btw_state, btw_backups, btw_runs, btw_damage")


def test_a_damaged_file_is_made_anew(btw: Installation, source: Path) -> None:
    backed_up(btw, source)
    expected = counts(btw)
    whole = (btw.config_dir / FILE).read_bytes()
    for offset in (0, 18, 40, 100, 4100, len(whole) - 4000):
        damaged = bytearray(whole)
        damaged[offset : offset + 16] = b"\xff" * 16
        (btw.config_dir / FILE).write_bytes(damaged)
        assert len(btw("runs", "-m").out.splitlines()) == 3, offset
        assert counts(btw, "--rebuild") == expected, offset
    for other in (b"", b"no database", b"SQLite format 3\0" + b"\xff" * 5000):
        (btw.config_dir / FILE).write_bytes(other)
        assert counts(btw) == expected, other


def test_locked_full_or_in_a_place_that_cannot_be_written(btw: Installation, source: Path, tmpfs: Path) -> None:
    backed_up(btw, source)
    rows = btw("runs", "-m").out
    counts(btw)
    holder = sqlite3.connect(btw.config_dir / FILE)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    btw("fs", source, "t")
    ended = btw("runs", "-m", "-n", "0")
    assert ended.out.startswith(rows)
    holder.close()
    (btw.config_dir / FILE).unlink()
    subprocess.run(["cp", "-a", f"{btw.config_dir}/.", tmpfs], check=True)
    subprocess.run(["dd", "if=/dev/zero", f"of={tmpfs}/full", "bs=64k"], check=False, capture_output=True)
    ended = btw("--config-dir", tmpfs, "runs", "-m", "-n", "0")
    assert ended.out.startswith(rows)
    assert "cannot use the catalogue: " in ended.err
    (tmpfs / "full").unlink()
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    ended = btw("--config-dir", tmpfs, "runs", "-m", "-n", "0")
    assert ended.out.startswith(rows)
    assert "cannot use the catalogue: " in ended.err


def test_a_run_that_keeps_nothing_loads_no_database(btw: Installation, source: Path) -> None:
    backed_up(btw, source)
    ended = btw("fs", source, "t", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "btw_backup.runner" in ended.err
    assert "sqlalchemy" not in ended.err
    assert len(journal_lines(btw)) == 4


def journal_lines(btw: Installation) -> list[str]:
    return (btw.config_dir / journal.NAME).read_text().splitlines()


def run_of(number: int) -> Run:
    return Run(f"{number}", "fs", "/s", "t", "2026-11-21T00:00:00", "2026-11-21T00:00:00", 0, "kept", message="x" * 900)


def test_the_journal_survives_what_is_not_its_own(btw: Installation) -> None:
    journal.append(btw.config_dir, run_of(1))
    with open(btw.config_dir / journal.NAME, "ab") as file:
        file.write(b'\xff\0garbage\n[]\n{"id": 1}\n' + b"[" * 5000 + b'\n{"id":"cut')
    journal.append(btw.config_dir, run_of(2))
    assert [run.id for run in journal.read(btw.config_dir)] == ["1", "2"]
    assert len(btw("runs", "-m").out.splitlines()) == 2


def test_the_journal_is_bounded(btw: Installation) -> None:
    for number in range(10_000):
        journal.append(btw.config_dir, run_of(number))
    sizes = [(btw.config_dir / name).stat().st_size for name in (journal.NAME, journal.OLDER)]
    assert max(sizes) < journal.LARGEST + 2000
    kept = [int(run.id) for run in journal.read(btw.config_dir)]
    assert kept == list(range(kept[0], 10_000))
    assert len(kept) > 4000
    assert len(btw("runs", "-m", "-n", "0").out.splitlines()) == len(kept)


def test_the_journal_is_followed_through_no_link(btw: Installation, source: Path, tmp_path: Path) -> None:
    (btw.config_dir / journal.NAME).symlink_to(tmp_path / "precious")
    btw.tree(source)
    ended = btw("fs", source, "t")
    assert "cannot note the run" in ended.err
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_are_rebuilt_and_listed(catalogue: Installation, count: int) -> None:
    stamps = many_records.make(catalogue.root, count)
    began = time.monotonic()
    assert counts(catalogue, "--rebuild")["backups"] == count
    assert time.monotonic() - began < 60 * max(1, count / 10_000)
    took = []
    for options in (("many",), ("--json",)):
        began = busy()
        ended = catalogue("list", *options)
        took.append(busy() - began)
        assert ended.out.count(".manifest.zst") == count
        assert stamps[0] in ended.out
    assert max(took) < 1
    for command in (("catalogue", "--rebuild"), ("list", "--json")):
        assert peak_memory(catalogue.start(*command, stdout=subprocess.DEVNULL)) < 100_000


def busy() -> float:
    """The seconds that our ended children have computed: others on this machine do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
