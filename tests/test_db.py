"""The command db, against a real server: what it keeps, what it says, how it fails."""

import bz2
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btw_backup.clock import STAMP
from tests.conftest import PATIENCE, Ended, Installation, peak_memory
from tests.servers import PASSWORD, Postgres, any_postgres, conninfo, filled, postgres, postgres_server, shop

__all__ = ["any_postgres", "postgres", "shop"]

UNCHANGED = "no change in the data to be backed up: skipping creation of new"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("PG", "BTW_PG"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def db(btw: Installation, shop: Postgres) -> Callable[..., Ended]:
    """The command against the server with the database ``shop``."""
    return lambda *args, status=0, **env: btw("db", *args, status=status, env={**shop.env, **env})


def listed(btw: Installation, dst: str) -> list[str]:
    """The stamps that list shows."""
    return btw("list", dst).out.split()


def complained(ended: Ended, message: str, hint: str = "") -> None:
    """One line, as it is to be, and perhaps a hint; nothing on standard output."""
    lines = ended.err.splitlines()
    assert re.fullmatch(r"[\w.-]+: " + message, lines[0]), ended.err
    assert len(lines) == (2 if hint else len(lines)) and len(lines) <= 2 and hint in lines[-1], ended.err
    assert ended.out == ""


def test_a08_a_database(btw: Installation, db: Callable[..., Ended], shop: Postgres) -> None:
    ended = db("shop", "db/shop")
    assert (ended.out, ended.err) == ("", "")
    (dump,) = (btw.root / "db/shop").glob("*/shop.dump")
    assert STAMP.fullmatch(dump.parent.name) and listed(btw, "db/shop") == [dump.parent.name]
    assert (
        b"TABLE DATA sales item" in subprocess.run(["pg_restore", "-l", dump], check=True, capture_output=True).stdout
    )
    shop.sql("CREATE DATABASE back")
    shop.run("pg_restore", "--exit-on-error", "-d", "back", str(dump))
    assert shop.dump("back") == shop.dump("shop")
    assert dump.stat().st_mode & 0o777 == 0o600


def test_a09_the_globals(btw: Installation, db: Callable[..., Ended]) -> None:
    for option in ("-g", "--global"):
        ended = db(option, "globals")
        assert (ended.out, ended.err) == ("", "")
    (file,) = (btw.root / "globals").glob("*/global.sql.bz2")
    assert "CREATE ROLE guarded;" in bz2.decompress(file.read_bytes()).decode()
    assert file.stat().st_mode & 0o777 == 0o600, "it holds what verifies passwords"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-g", "shop", "x"), r"either -g \(--global\) or a database name must be specified"),
        (("x",), r"either -g \(--global\) or a database name must be specified"),
        (("global", "x"), "a database cannot be called global: .*"),
        (("", "x"), "the name of the database is empty"),
        (("--all", "shop", "x"), r"--all takes neither -g \(--global\) nor a database name"),
        (("--all", "-g", "x"), r"--all takes neither -g \(--global\) nor a database name"),
        (("shop", "/x"), "the destination must be relative to ROOT_PATH: /x"),
        (("shop", "../x"), "not a usable destination: .*"),
    ],
)
def test_a09_arguments_that_make_no_sense(
    btw: Installation, db: Callable[..., Ended], args: tuple[str, ...], message: str
) -> None:
    complained(db(*args, status=1), message)
    assert [path.name for path in btw.root.iterdir() if path.name[0] != "."] == []


def test_a10_unchanged_is_no_new_version_and_changed_is_one(btw: Installation, any_postgres: Postgres) -> None:
    """X1 and X2 through the command, on every version of the server."""
    env = {**any_postgres.env, **any_postgres.clients}
    with filled(any_postgres):
        for _ in range(2):
            btw("db", "shop", "d", env=env)
            time.sleep(1.05)
        assert len(listed(btw, "d")) == 1
        (line,) = (btw.root / "d/log.txt").read_text().splitlines()
        assert re.fullmatch(STAMP.pattern + f": {UNCHANGED} incremental backup", line)
        dumps = []
        for name in ("first", "second", "third"):
            any_postgres.sql(f"INSERT INTO sales.item (name) VALUES ('{name}')", "shop")
            dumps.append(any_postgres.dump("shop"))
            btw("db", "shop", "d", env=env)
        stamps = listed(btw, "d")
        assert len(stamps) == 4 and len((btw.root / "d/log.txt").read_text().splitlines()) == 1
        for stamp, expected in zip(sorted(stamps)[1:], dumps, strict=True):
            btw("restore", f"d@{stamp}", "--database", "back", "--force", env=env)
            assert any_postgres.dump("back") == expected


def test_a10_unchanged_globals(btw: Installation, any_postgres: Postgres) -> None:
    env = {**any_postgres.env, **any_postgres.clients}
    for _ in range(2):
        btw("db", "-g", "g", env=env)
    assert len(listed(btw, "g")) == 1 and UNCHANGED in (btw.root / "g/log.txt").read_text()
    any_postgres.sql("CREATE ROLE late")
    try:
        btw("db", "-g", "g", env=env)
    finally:
        any_postgres.sql("DROP ROLE late")
    assert len(listed(btw, "g")) == 2


@pytest.mark.parametrize("what", ["shop", "-g"])
def test_a10_what_the_old_script_left_is_compared_with(
    btw: Installation, db: Callable[..., Ended], shop: Postgres, what: str
) -> None:
    """A repository of rdiff-backup with a dump, and no record."""
    stage = btw.top / "stage"
    stage.mkdir()
    if what == "-g":
        (stage / "global.sql.bz2").write_bytes(bz2.compress(shop.run("pg_dumpall", "-g").encode()))
    else:
        shop.run("pg_dump", "-Fc", "-f", str(stage / "shop.dump"), "shop")
    made = time.time() - 100
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(made))
    (btw.root / "d").mkdir()
    command = ["rdiff-backup", "--current-time", str(int(made)), stage, btw.root / "d" / stamp]
    subprocess.run(command, check=True, capture_output=True)
    db(what, "d")
    assert listed(btw, "d") == [stamp] and UNCHANGED in (btw.root / "d/log.txt").read_text()
    shop.sql("CREATE ROLE late" if what == "-g" else "INSERT INTO sales.item (name) VALUES ('new')", "shop")
    try:
        db(what, "d")
    finally:
        shop.sql("DROP ROLE IF EXISTS late")
    assert len(listed(btw, "d")) == 2


def test_a_limit_of_incrementals(btw: Installation, db: Callable[..., Ended], shop: Postgres) -> None:
    """<db>.py is read, also where older installations have it."""
    (btw.config_dir / "db").mkdir()
    (btw.config_dir / "db" / "shop.py").write_text("MAX_INCREMENTAL_COUNT = 1\n")
    for number in range(3):
        shop.sql(f"CREATE TABLE t{number} ()", "shop")
        db("shop", "d")
    assert [line[:1] == " " for line in btw("list", "d").out.splitlines()] == [False, True, False]


def test_the_owner(btw: Installation, db: Callable[..., Ended]) -> None:
    db("-u", "nobody:nogroup", "shop", "deep/shop")
    (dump,) = (btw.root / "deep/shop").glob("*/shop.dump")
    assert (dump.owner(), dump.group()) == (dump.parent.owner(), dump.parent.group()) == ("nobody", "nogroup")


# all


def test_b12_all_databases_and_the_globals(btw: Installation, db: Callable[..., Ended], shop: Postgres) -> None:
    db("--all", "all")
    assert folders(btw) == {"global", "postgres", "shop"}
    shop.sql("CREATE DATABASE late")
    shop.sql("""CREATE DATABASE "we'ird @/%" """)
    ended = db("--all", "all")
    assert (ended.out, ended.err) == ("", "")
    assert folders(btw) == {"global", "postgres", "shop", "late", "we'ird %40%2F%25"}
    assert len(listed(btw, "all/shop")) == 1, "unchanged"
    assert json.loads(btw("list", "--json", "all/we'ird %40%2F%25").out)[0]["source"] == "we'ird @/%"
    btw("restore", "all/we'ird %40%2F%25", "--database", "back", env=shop.env)


def folders(btw: Installation, dst: str = "all") -> set[str]:
    """The dsts below `dst` that hold a backup."""
    return {path.parent.parent.name for path in (btw.root / dst).glob("*/.records/*.json")}


def test_b12_excluded_databases(btw: Installation, db: Callable[..., Ended], shop: Postgres) -> None:
    shop.sql("CREATE DATABASE test_one")
    (btw.config_dir / "global.py").write_text(
        f"EXCLUDE = ['test_*', 'postgres']\nCONNECTION = 'host={shop.folder} user=postgres'\n"
    )
    btw("db", "--all", "all")
    assert folders(btw) == {"global", "shop"}


def test_m06_one_that_fails_does_not_stop_the_others(
    btw: Installation, db: Callable[..., Ended], shop: Postgres
) -> None:
    shop.sql("CREATE DATABASE bad; CREATE DATABASE global")
    shop.sql("CREATE TABLE t (); ALTER DATABASE bad CONNECTION LIMIT 0", "bad")
    shop.sql("GRANT pg_read_all_data TO weak")
    ended = db("--all", "all", status=1, PGUSER="weak")
    shop.sql("REVOKE pg_read_all_data FROM weak")
    assert folders(btw) == {"global", "postgres"}, "shop has a large object, which pg_read_all_data does not let read"
    assert re.search(
        r'^\S+: bad: cannot reach the database bad: .*too many connections for database "bad"$', ended.err, re.MULTILINE
    )
    assert re.search(r"^\S+: global: a database cannot be called global: ", ended.err, re.MULTILINE)
    assert re.search(
        r"^\S+: shop: the dump of the database shop failed: .*permission denied for large object",
        ended.err,
        re.MULTILINE,
    )


# which client


def test_b12_an_old_client_first_on_path_is_not_used(
    btw: Installation, db: Callable[..., Ended], tmp_path: Path
) -> None:
    for name in ("pg_dump", "pg_restore", "pg_dumpall"):
        program(tmp_path / "old" / name, 'echo "$0 (PostgreSQL) 9.6.1"; exit 1')
    db("shop", "d", PATH=f"{tmp_path}/old:{os.environ['PATH']}")
    assert json.loads(btw("list", "--json", "d").out)[0]["stamp"]


def test_b12_a_newer_server_is_an_error_that_says_so(
    btw: Installation, any_postgres: Postgres, postgres: Postgres
) -> None:
    """Debian's client alone, and a server of each version."""
    ended = btw(
        "db", "postgres", "d", status=None, env={**any_postgres.env, "BTW_PG_DUMP": postgres.clients["BTW_PG_DUMP"]}
    )
    if any_postgres.programs == postgres.programs:
        assert ended.status == 0
        return
    major = any_postgres.sql("SHOW server_version").partition(".")[0]
    assert ended.status == 1
    complained(
        ended,
        rf"the server is PostgreSQL {major}, and the newest client here is 15\.\d+, which cannot read it",
        "postgresql-client-",
    )


def test_l13_a_client_can_be_named(btw: Installation, db: Callable[..., Ended], shop: Postgres, tmp_path: Path) -> None:
    program(tmp_path / "x" / "mine", f'echo "$@" >>{tmp_path}/calls; exec {shop.programs}/pg_dump "$@"')
    db("shop", "d", BTW_PG_DUMP=str(tmp_path / "x" / "mine"))
    assert "--format=custom" in (tmp_path / "calls").read_text()
    complained(db("shop", "d", BTW_PG_DUMP="/nowhere", status=1), ".*BTW_PG_DUMP.*")


def program(path: Path, text: str) -> None:
    """An executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# failures


@pytest.fixture
def doomed(postgres: Postgres) -> Iterator[Postgres]:
    """A server that a test may kill."""
    with postgres_server(postgres.programs) as server:
        server.sql("CREATE DATABASE shop")
        server.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g", "shop")
        yield server


def nothing_kept(btw: Installation, dst: str = "d") -> bool:
    """Nothing in the dst that anybody could take for a backup, and nothing half-made."""
    names = {path.name for path in (btw.root / dst).rglob("*") if not path.is_dir()}
    return names <= {".lock"} and not any((btw.config_dir / ".stage").glob("*"))


def test_f74_a_missing_database(btw: Installation, db: Callable[..., Ended]) -> None:
    complained(db("nix", "d", status=1), 'cannot reach the database nix: .*FATAL: database "nix" does not exist')
    assert nothing_kept(btw)


def test_f74_no_server(btw: Installation, tmp_path: Path) -> None:
    began = time.monotonic()
    for what in ("shop", "-g", "--all"):
        ended = btw("db", what, "d", status=1, env={"PGHOST": str(tmp_path)})
        complained(
            ended, ".*cannot reach the (database shop|PostgreSQL server): .*No such file or directory.*", "PGHOST"
        )
    assert time.monotonic() - began < PATIENCE and nothing_kept(btw)


def test_f74_a_host_that_does_not_answer(btw: Installation) -> None:
    """192.0.2.0/24 leads nowhere; where there is no route at all, it is an error at once."""
    ended = btw("db", "shop", "d", status=1, env={"PGHOST": "192.0.2.1", "PGCONNECT_TIMEOUT": "2"})
    complained(ended, "cannot reach the database shop: .*")


def test_f74_no_permission(btw: Installation, db: Callable[..., Ended]) -> None:
    complained(
        db("shop", "d", status=1, PGUSER="weak"),
        "the dump of the database shop failed: .*permission denied for .*",
        "pg_read_all_data",
    )
    complained(
        db("-g", "d", status=1, PGUSER="weak"),
        "the dump of the globals failed: .*permission denied for table pg_authid.*",
        "pg_read_all_data",
    )
    complained(db("shop", "d", status=1, PGUSER="nobody_at_all"), '.*role "nobody_at_all" does not exist', "PGUSER")
    assert nothing_kept(btw)


def while_pg_dump_waits(btw: Installation, server: Postgres, act: Callable[[], None]) -> Ended:
    """Run the command; when its pg_dump waits for a lock, act."""
    holder = subprocess.Popen(
        [server.programs / "psql", "-Xq", "-d", conninfo("shop")],
        env={**os.environ, **server.env},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with holder:
        assert holder.stdin is not None
        holder.stdin.write(b"BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;\n")
        holder.stdin.flush()
        waiting = "SELECT 1 FROM pg_locks WHERE relation = 't'::regclass AND "
        wait_until(lambda: bool(server.sql(waiting + "granted", "shop")))
        running = btw.start("db", "shop", "d", env=server.env)
        wait_until(lambda: bool(server.sql(waiting + "NOT granted", "shop")))
        act()
        out, err = running.communicate(timeout=PATIENCE)
        holder.kill()
    return Ended(running.returncode, out.decode(), err.decode())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pg_dumps_of(server: Postgres) -> list[int]:
    """The processes that dump from `server`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            ours = str(server.folder).encode() in path.read_bytes()
            if ours and (path.parent / "comm").read_text() == "pg_dump\n":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_f74_the_server_dies_in_the_middle(btw: Installation, doomed: Postgres) -> None:
    ended = while_pg_dump_waits(btw, doomed, doomed.stop)
    assert ended.status == 1 and nothing_kept(btw)
    complained(ended, "the dump of the database shop failed: .*(server closed the connection|terminating connection).*")
    doomed.start()
    btw("db", "shop", "d", env=doomed.env)
    assert len(listed(btw, "d")) == 1


def test_f03_pg_dump_is_killed(btw: Installation, doomed: Postgres) -> None:
    ended = while_pg_dump_waits(
        btw, doomed, lambda: [os.kill(pid, signal.SIGKILL) for pid in pg_dumps_of(doomed)] and None
    )
    assert ended.status == 1 and nothing_kept(btw)
    complained(ended, "the dump of the database shop failed: pg_dump was killed by SIGKILL")


def test_f03_the_command_is_killed_and_takes_pg_dump_along(btw: Installation, doomed: Postgres) -> None:
    def kill() -> None:
        (parent,) = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in pg_dumps_of(doomed)}
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: pg_dumps_of(doomed) == [])

    assert while_pg_dump_waits(btw, doomed, kill).status == -signal.SIGKILL
    btw("db", "shop", "d", env=doomed.env)
    assert len(listed(btw, "d")) == 1 and not any((btw.config_dir / ".stage").glob("*"))


def test_a_signal_ends_it(btw: Installation, doomed: Postgres) -> None:
    def terminate() -> None:
        (parent,) = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in pg_dumps_of(doomed)}
        os.kill(parent, signal.SIGTERM)

    ended = while_pg_dump_waits(btw, doomed, terminate)
    assert ended.status == 143 and nothing_kept(btw) and pg_dumps_of(doomed) == []


def test_f74_a_full_disk(btw: Installation, shop: Postgres) -> None:
    shop.sql("CREATE TABLE big AS SELECT md5(g::text) FROM generate_series(1, 100000) g", "shop")
    stage = btw.config_dir / ".stage"
    stage.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", stage], check=True)
    try:
        ended = btw("db", "shop", "d", status=1, env=shop.env)
        assert nothing_kept(btw)
    finally:
        subprocess.run(["umount", stage], check=True)
    complained(ended, "the dump of the database shop failed: .*No space left on device.*")


# passwords


@pytest.mark.parametrize("how", ["PGPASSWORD", "PGPASSFILE", ".pgpass"])
def test_a_password_is_used_and_not_shown(
    btw: Installation, db: Callable[..., Ended], shop: Postgres, how: str
) -> None:
    file = btw.top / ".pgpass"
    file.write_text(f"*:*:*:guarded:{PASSWORD}\n")
    file.chmod(0o600)
    env = {
        "PGPASSWORD": {"PGPASSWORD": PASSWORD, "HOME": "/nowhere"},
        "PGPASSFILE": {"PGPASSFILE": str(file), "HOME": "/"},
        ".pgpass": {},
    }[how]
    ended = db("--all", "all", PGUSER="guarded", **env)
    assert folders(btw) == {"global", "postgres", "shop"} and ended.err == ""
    assert PASSWORD not in (btw.config_dir / "btw-backup.log").read_text()


def test_a_wrong_password(btw: Installation, db: Callable[..., Ended]) -> None:
    complained(
        db("shop", "d", status=1, PGUSER="guarded", PGPASSWORD="wrong s3cret"),
        ".*password authentication failed.*",
        ".pgpass",
    )
    complained(db("shop", "d", status=1, PGUSER="guarded"), ".*no password supplied", ".pgpass")
    assert "s3cret" not in (btw.config_dir / "btw-backup.log").read_text()


def test_a_password_in_the_configuration_is_refused(btw: Installation, db: Callable[..., Ended]) -> None:
    (btw.config_dir / "shop.py").write_text("CONNECTION = 'user=guarded password=s3cret'\n")
    complained(db("shop", "d", status=1), "CONNECTION must not hold a password, .*", "~/.pgpass")
    assert "s3cret" not in (btw.config_dir / "btw-backup.log").read_text()


# restore, through the command


def test_g11_restore_into_a_new_database(btw: Installation, db: Callable[..., Ended], shop: Postgres) -> None:
    db("shop", "d")
    before = shop.dump("shop")
    btw("restore", "d", "--database", "shop2", env=shop.env)
    assert shop.dump("shop2") == before
    shop.sql("DROP TABLE sales.item CASCADE", "shop")
    complained(
        btw("restore", "d", "--database", "shop", env=shop.env, status=1), "there is a database shop already", "--force"
    )
    btw("restore", "d", "--database", "shop", "--force", env=shop.env)
    assert shop.dump("shop") == before and shop.databases() == {"postgres", "shop", "shop2"}


def test_g11_a_server_comes_back(btw: Installation, db: Callable[..., Ended], shop: Postgres, doomed: Postgres) -> None:
    """Globals and database, on a server that knows nothing of them."""
    db("--all", "all")
    doomed.sql("DROP DATABASE shop; DROP ROLE owner; DROP ROLE weak; DROP ROLE guarded")
    ended = btw("restore", "all/shop", "--database", "shop", env=doomed.env, status=1)
    complained(ended, '.*role "owner" does not exist', "globals")
    packed = btw.top / "global.sql.bz2"
    btw("restore", "all/global", packed)
    doomed.run("psql", "-Xq", stdin=bz2.decompress(packed.read_bytes()).decode())
    btw("restore", "all/shop", "--database", "shop", env=doomed.env)
    assert doomed.dump("shop", "--create") == shop.dump("shop", "--create")
    assert "guarded" in doomed.sql("SELECT rolname FROM pg_roles WHERE rolpassword IS NOT NULL OR rolsuper").split()


def test_memory_does_not_grow_with_the_database(btw: Installation, shop: Postgres) -> None:
    """A row of 200 MB, and 150 MB for all of us."""
    shop.sql("CREATE TABLE big (x text); INSERT INTO big SELECT repeat('0123456789', 20000000)", "shop")
    if shutil.disk_usage(btw.top).free < 2 << 30:
        pytest.fail("2 GB are needed")
    for _ in range(2):
        run = btw.start("db", "shop", "d", env=shop.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert peak_memory(run) < 150_000
