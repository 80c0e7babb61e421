"""The doctor: each of a dozen things is broken, and each is named (L08)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from btw_backup import files, records
from btw_backup.health import doctor
from btw_backup.health.findings import ERROR, OK, WARNING, judge_clock, judge_space
from btw_backup.records import Record
from tests.conftest import REPOSITORY, Installation
from tests.s3 import Bucket, bucket, configure, s3_server  # noqa: F401 - fixtures
from tests.servers import Postgres, postgres  # noqa: F401 - fixtures

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DEAD_S3 = {"S3_URI_PREFIX": "s3://bucket/x", "S3CMD_CONFIG": "s3cfg"}
S3CFG = "[default]\naccess_key=a\nsecret_key=b\nhost_base=127.0.0.1:1\nhost_bucket=127.0.0.1:1\nuse_https=False\n"


def record(btw: Installation, dst: str, stamp: str, **fields: object) -> None:
    """Leave the record of a backup in `dst`."""
    known = {"uid": "u", "stamp": stamp, "sequence": 1, "kind": "fs", "source": "/a", "keeper": "tar", "started": stamp,
             "finished": stamp, "length": 1, "sha256": "", "content": "", **fields}  # fmt: skip
    files.make_folder(btw.root / dst)
    records.write(btw.root / dst, Record(**known))  # type: ignore[arg-type]


@pytest.fixture
def well(btw: Installation, source: Path) -> Installation:
    """An installation that nothing is wrong with."""
    for folder in (btw.config_dir, btw.root):
        folder.chmod(0o700)
    btw.tree(source, "rdiff", "www")
    return btw


def found(btw: Installation, *, env: dict[str, str] | None = None, status: int = 1) -> set[tuple[str, str]]:
    """The level and the name of everything that is not ok."""
    ended = btw("doctor", "-q", "--json", env=env, status=status)
    return {(row["level"], row["what"]) for row in json.loads(ended.out)}


def test_a_sound_installation(well: Installation) -> None:
    ended = well("doctor")
    assert ended.err == ""
    assert {line.split()[0] for line in ended.out.splitlines()} == {"ok"}
    assert "ok       tar: tar (GNU tar) 1." in ended.out
    assert "ok       off-site: nowhere: backups stay on this machine only" in ended.out
    assert f"ok       ROOT_PATH: {well.root}, which holds 0 dsts; the next backup marks it as ours" in ended.out
    assert not (well.config_dir / "root-id").exists()
    assert (well("doctor", "-q").out, well("-q", "doctor", "-m").out) == ("", "")


def test_an_error_is_told_with_its_cure_and_status_1(well: Installation) -> None:
    well.configure("LOCK_WAT = 1\nOFFSITE = {}\n")
    ended = well("doctor", "-q", status=1)
    assert ended.out == (
        f"error    configuration: {well.config_dir}/config.py line 2: there is no setting LOCK_WAT\n"
        "         hint: did you mean LOCK_WAIT?\n"
    )
    assert ended.err.startswith("btw_backup: 1 of ")
    assert ended.err.endswith(" checks found an error\n")


def broken_configuration(btw: Installation) -> None:
    (btw.config_dir / "config.py").unlink()


def writable_configuration(btw: Installation) -> None:
    (btw.config_dir / "config.py").chmod(0o666)


def open_configuration(btw: Installation) -> None:
    btw.config_dir.chmod(0o755)


def open_root(btw: Installation) -> None:
    btw.root.chmod(0o711)


def open_file(btw: Installation) -> None:
    record(btw, "www", "2026-01-02T03:04:05")
    (btw.root / "www" / ".records" / "2026-01-02T03:04:05.json").chmod(0o644)


def foreign_store(btw: Installation) -> None:
    for folder in (btw.root / ".store", btw.root / ".store" / "chunks"):
        folder.mkdir(0o700)
    os.chown(btw.root / ".store" / "chunks", 65534, 65534)


def unmounted_root(btw: Installation) -> None:
    (btw.config_dir / "root-id").write_text("another\n")


def missing_root(btw: Installation) -> None:
    btw.root.rmdir()


def missing_source(btw: Installation) -> None:
    (btw.top / "source").rename(btw.top / "elsewhere")


def empty_source(btw: Installation) -> None:
    missing_source(btw)
    (btw.top / "source").mkdir()


def future_backup(btw: Installation) -> None:
    record(btw, "www", f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%S}")


def no_database_server(btw: Installation) -> None:
    (btw.config_dir / "shop.py").write_text("CONNECTION = 'host=/nonexistent'\n")


def password_in_connection(btw: Installation) -> None:
    (btw.config_dir / "shop.py").write_text("CONNECTION = 'host=/nonexistent password=secret'\n")


def dead_s3(btw: Installation) -> None:
    btw.configure(**DEAD_S3)
    (btw.top / "s3cfg").write_text(S3CFG)
    (btw.top / "s3cfg").chmod(0o600)


def open_credentials(btw: Installation) -> None:
    dead_s3(btw)
    (btw.top / "s3cfg").chmod(0o644)


def owed_paths(btw: Installation) -> None:
    dead_s3(btw)
    (btw.config_dir / "sync_state").write_text("2026-01-02T03:04:05 +push www/x\n")


def no_target_said(btw: Installation) -> None:
    btw.configure("")


CASES: list[tuple[Callable[[Installation], None], set[tuple[str, str]]]] = [
    (broken_configuration, {(ERROR, "configuration")}),
    (writable_configuration, {(ERROR, "configuration")}),
    (open_configuration, {(WARNING, "permissions of CFG")}),
    (open_root, {(WARNING, "permissions of ROOT")}),
    (open_file, {(WARNING, "permissions within ROOT")}),
    (foreign_store, {(WARNING, "owner of STORE")}),
    (unmounted_root, {(ERROR, "ROOT_PATH")}),
    (missing_root, {(ERROR, "ROOT_PATH")}),
    (missing_source, {(ERROR, "job www")}),
    (empty_source, {(ERROR, "job www")}),
    (future_backup, {(ERROR, "clock")}),
    (no_database_server, {(ERROR, "PostgreSQL for shop")}),
    (password_in_connection, {(ERROR, "PostgreSQL for shop")}),
    (dead_s3, {(ERROR, "off-site")}),
    (open_credentials, {(ERROR, "off-site"), (WARNING, "permissions of S3CFG")}),
    (owed_paths, {(ERROR, "off-site"), (WARNING, "sync state")}),
    (no_target_said, {(ERROR, "configuration")}),
]


@pytest.mark.parametrize(("harm", "expected"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_broken_is_named(
    well: Installation, harm: Callable[[Installation], None], expected: set[tuple[str, str]]
) -> None:
    harm(well)
    places = {"CFG": str(well.config_dir), "ROOT": str(well.root), "S3CFG": "s3cfg", "STORE": f"{well.root}/.store"}
    named = set()
    for level, what in expected:
        words = what.split()
        named.add((level, " ".join([*words[:-1], places.get(words[-1], words[-1])])))
    assert found(well, status=1 if ERROR in dict(expected) else 0) == named


@pytest.mark.parametrize(
    ("program", "level"), [("tar", ERROR), ("setpriv", ERROR), ("rdiff-backup", ERROR), ("s3cmd", WARNING)]
)
def test_a_missing_program_is_an_error_where_a_job_needs_it(well: Installation, program: str, level: str) -> None:
    name = f"BTW_{program.upper().replace('-', '_')}"
    problems = found(well, env={name: "/nonexistent"}, status=1 if level == ERROR else 0)
    assert (level, program) in problems


def test_a_program_that_fails_or_hangs_is_an_error(well: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(well, env={"BTW_RDIFF_BACKUP": "/bin/false"}) == {(ERROR, "rdiff-backup")}
    hanging = well.top / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o700)
    monkeypatch.setenv("BTW_RDIFF_BACKUP", str(hanging))
    monkeypatch.setattr(doctor, "VERSION_LIMIT", 0.3)
    details = {finding.what: finding.detail for finding in doctor.examine(well.config_dir, NOW)}
    assert "did not end within 0.3 s" in details["rdiff-backup"]


def test_a_tar_that_is_not_gnus_is_an_error(well: Installation) -> None:
    other = well.top / "bsdtar"
    other.write_text("#!/bin/sh\necho bsdtar 3.6.2\n")
    other.chmod(0o700)
    assert (ERROR, "tar") in found(well, env={"BTW_TAR": str(other)})


@pytest.mark.parametrize("moment", ["1970-01-02 00:00:00", "2019-01-01 00:00:00"])
def test_a_clock_that_lost_its_battery_is_an_error(well: Installation, moment: str) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    problems = found(well, env={"LD_PRELOAD": str(library), "FAKETIME": f"@{moment}"})
    assert (ERROR, "clock") in problems


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small filesystem in memory at `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "btw-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_an_error(well: Installation) -> None:
    with mounted(well.root, "size=1m,mode=700"):
        assert found(well) == {(ERROR, f"space in {well.root}")}


def test_f26_a_filesystem_without_locks(well: Installation) -> None:
    """There is none on this kind of machine."""
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"]
    command = [sys.executable, "-m", "btw_backup", "--config-dir", well.config_dir]
    ended = subprocess.run([*words, *command, "doctor", "-q"], check=False, capture_output=True, cwd=REPOSITORY)
    assert ended.returncode == 1 and b"it has no locks (flock): No locks available" in ended.stdout, ended
    ended = subprocess.run([*words, *command, "cleanup"], check=False, capture_output=True, cwd=REPOSITORY)
    assert ended.returncode == 1 and b" cannot be locked: No locks available" in ended.stderr, ended


def test_a_disk_without_inodes_is_an_error(well: Installation) -> None:
    with mounted(well.root, "size=200m,nr_inodes=2,mode=700"):
        (well.root / "last").touch(0o600)
        assert found(well) == {(ERROR, f"space in {well.root}")}


def test_a_disk_that_is_mounted_read_only_is_an_error(well: Installation) -> None:
    with mounted(well.root, "size=200m,mode=700,ro"):
        assert found(well) == {(ERROR, "ROOT_PATH")}


def test_an_unmounted_disk_is_an_error(well: Installation) -> None:
    with mounted(well.root, "size=200m,mode=700"):
        well("fs", well.top / "source", "www")
        assert found(well, status=0) == set()
    assert found(well) == {(ERROR, "ROOT_PATH")}


def test_databases_that_are_only_known_from_their_backups_count(well: Installation) -> None:
    record(well, "db/shop", "2026-01-02T03:04:05", kind="db", source="shop", keeper="rdiff")
    assert found(well, env={"PGHOST": "/nonexistent"}) == {(ERROR, "PostgreSQL for shop")}


def test_a_database_server_that_answers(well: Installation, postgres: Postgres) -> None:  # noqa: F811
    (well.config_dir / "postgres.py").touch()
    (well.config_dir / "gone.py").write_text(f"CONNECTION = 'host={postgres.folder}'\n")
    ended = well("doctor", env=postgres.env)
    assert "ok       PostgreSQL for postgres: version 15." in ended.out
    assert "ok       PostgreSQL for gone: version 15." in ended.out
    assert "warning  database gone: it is backed up, or has a file, and the server does not have it\n" in ended.out
    assert "database postgres" not in ended.out


def test_a_target_that_answers(well: Installation, bucket: Bucket) -> None:  # noqa: F811
    configure(well, bucket)
    (well.top / "s3cmd.conf").chmod(0o600)
    ended = well("doctor")
    assert f"ok       off-site: s3://{bucket.name}/backups/ answers" in ended.out


def test_without_databases_no_server_is_asked(well: Installation) -> None:
    assert "PostgreSQL:" not in well("doctor", env={"PGHOST": "/nonexistent"}).out


def test_it_runs_without_any_configuration(tmp_path: Path) -> None:
    new = Installation(tmp_path)
    ended = new("doctor", status=1)
    assert f"error    configuration: cannot read the configuration {new.config_dir}/config.py" in ended.out
    assert "ok       tar: " in ended.out
    assert not new.config_dir.exists()


def test_a_damaged_record_stops_nothing(well: Installation) -> None:
    record(well, "www", "2026-01-02T03:04:05")
    (well.root / "www" / ".records" / "2026-01-02T03:04:05.json").write_bytes(b"\xff{")
    ended = well("doctor")
    assert "after the newest backup, www@2026-01-02T03:04:05" in ended.out


def test_the_rows_for_programs(well: Installation) -> None:
    rows = json.loads(well("doctor", "--json").out)
    assert all(row.keys() == {"level", "what", "detail", "hint"} for row in rows)
    lines = well("doctor", "-m", "--fields", "level,what").out.splitlines()
    assert lines == [f"{row['level']}\t{row['what']}" for row in rows]


# Judgements


@pytest.mark.parametrize(
    ("now", "newest", "level"),
    [
        (NOW, None, OK),
        (NOW, NOW - timedelta(days=1), OK),
        (NOW, NOW + timedelta(seconds=30), OK),
        (NOW, NOW + timedelta(minutes=2), ERROR),
        (datetime(1970, 1, 1, tzinfo=UTC), None, ERROR),
        (datetime(2106, 1, 1, tzinfo=UTC), None, ERROR),
    ],
)
def test_clock(now: datetime, newest: datetime | None, level: str) -> None:
    finding = judge_clock(now, "www@x" if newest else None, newest)
    assert finding.level == level
    assert bool(finding.hint) == (level == ERROR)


@pytest.mark.parametrize(
    ("look", "level", "detail"),
    [
        ((50 << 30, 100 << 30, True, 1 << 30), OK, "50.0 GiB of 100.0 GiB free"),
        ((4 << 30, 100 << 30, True, 1 << 30), WARNING, "4.0 GiB of 100.0 GiB free"),
        ((50 << 30, 100 << 30, True, 60 << 30), WARNING, "and the largest of the newest backups took 60.0 GiB"),
        ((1 << 20, 10 << 20, True, 0), ERROR, "1.0 MiB of 10.0 MiB free"),
        ((0, 0, True, 0), ERROR, "0 bytes of 0 bytes free"),
        ((50 << 40, 100 << 50, False, 0), ERROR, "no inodes left"),
    ],
)
def test_space(look: tuple[int, int, bool, int], level: str, detail: str) -> None:
    free, total, names, largest = look
    finding = judge_space("space", free, total, names, largest)
    assert finding.level == level
    assert detail in finding.detail


def test_a_user_who_is_not_root_is_warned(well: Installation) -> None:
    """In a process of its own, because nobody gets root back."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        warned = {(f.level, f.what) for f in doctor.examine(Path("/nonexistent"), NOW)}
        os._exit(0 if (WARNING, "user") in warned else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
