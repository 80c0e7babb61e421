"""PostgreSQL as a source, against real servers of every version that is installed."""

import bz2
import hashlib
import io
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from psycopg.conninfo import conninfo_to_dict

from btw_backup.errors import FatalUserError, ImproperlyConfigured, ProgramFailed, WouldOverwrite
from btw_backup.sources import Produced, postgres_client, postgres_digest, postgres_server, postgres_temporary
from btw_backup.sources.postgres import Database, Globals, safe_name
from btw_backup.sources.postgres_client import Client, suitable
from btw_backup.sources.postgres_restore import restore_database
from tests.conftest import PATIENCE, random_bytes
from tests.servers import Postgres, any_postgres, filled, postgres, programs_of_all_versions, shop

__all__ = ["any_postgres", "postgres", "shop"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of whoever runs the tests, and nothing remembered between them."""
    for name in [name for name in os.environ if name.startswith(("PG", "BTW_"))]:
        monkeypatch.delenv(name)
    forget()
    yield
    forget()


def forget() -> None:
    """What is looked up once in a run."""

    postgres_client.installed.cache_clear()


def use(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use the clients of the server's own version; the connection to it."""
    for name, value in server.clients.items():
        monkeypatch.setenv(name, value)
    forget()
    return f"host={server.folder} user=postgres"


def dumped(source: Database | Globals) -> tuple[Produced, bytes]:
    """What a source produces into a file, and the file."""
    with tempfile.TemporaryFile(buffering=0) as file:
        produced = source.produce(cast(BinaryIO, file))
        file.seek(0)
        return produced, file.read()


def file_of(content: bytes) -> BinaryIO:
    """A file without a name."""
    file = tempfile.TemporaryFile()
    file.write(content)
    file.seek(0)
    return cast(BinaryIO, file)


def wait_for_next_second() -> None:
    """The header of a dump has whole seconds."""
    time.sleep(1.05 - time.time() % 1)


def test_x1_a_changed_row_changes_the_digest(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_restore without -f prints nothing since PostgreSQL 12: the original compared nothing with nothing."""
    with filled(any_postgres):
        database = Database("shop", use(any_postgres, monkeypatch))
        changes = (
            "INSERT INTO sales.item (name) VALUES ('new')",
            "UPDATE sales.item SET name = 'item x' WHERE name = 'item 1'",
            "SELECT lo_put(4711, 0, '\\xaa')",
            "SELECT nextval('sales.item_id_seq')",
            "ALTER DATABASE shop SET work_mem TO '78MB'",
            "COMMENT ON DATABASE shop IS 'other'",
            "GRANT SELECT ON sales.item TO weak",
            "UPDATE sales.item SET name = E'\\restrict looks otherwise' WHERE name LIKE '%looks so%'",
        )
        seen = {state(database)}
        for number, change in enumerate(changes, 1):
            any_postgres.sql(change, "shop")
            seen.add(state(database))
            assert len(seen) == number + 1, change
        assert len({content for content, _ in seen}) == len({slow for _, slow in seen}) == len(changes) + 1


def state(database: Database) -> tuple[str, str]:
    """Both digests of the present content."""
    produced, content = dumped(database)
    return produced.content, database.content_of(file_of(content))


def test_x2_an_unchanged_database_has_the_same_digest(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(any_postgres):
        database = Database("shop", use(any_postgres, monkeypatch))
        first, old = dumped(database)
        wait_for_next_second()
        second, new = dumped(database)
        assert first.sha256 == hashlib.sha256(old).hexdigest() != second.sha256 and first.length == len(old)
        assert first.content == second.content
        assert database.content_of(file_of(old)) == database.content_of(file_of(new))


def test_x2_unchanged_globals_have_the_same_digest(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Globals(use(any_postgres, monkeypatch))
    first, old = dumped(everything)
    second, new = dumped(everything)
    assert first.sha256 == hashlib.sha256(old).hexdigest() != second.sha256, "the random word is kept"
    assert first.content == second.content == everything.content_of(file_of(old)) == everything.content_of(file_of(new))
    assert b"CREATE ROLE owner;" in bz2.decompress(old)
    any_postgres.sql("CREATE ROLE late")
    try:
        assert dumped(everything)[0].content != first.content
    finally:
        any_postgres.sql("DROP ROLE late")


def test_x2_what_others_do_meanwhile_is_no_change(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary table shifts the numbers of all entries of a dump; ANALYZE changes the plans of pg_dump's questions."""
    with filled(any_postgres):
        database = Database("shop", use(any_postgres, monkeypatch))
        first, old = dumped(database)
        command = [
            any_postgres.programs / "psql",
            "-Xq",
            "-c",
            "CREATE TEMP TABLE mine (a int)",
            "-c",
            "SELECT pg_sleep(6000)",
            "shop",
        ]
        with subprocess.Popen(command, env={**os.environ, **any_postgres.env}, stderr=subprocess.DEVNULL) as guest:
            while guest.poll() is None and not any_postgres.sql(
                "SELECT 1 FROM pg_class WHERE relname = 'mine'", "shop"
            ):
                time.sleep(0.05)
            any_postgres.sql("VACUUM ANALYZE; REINDEX DATABASE shop; CHECKPOINT", "shop")
            second, new = dumped(database)
            guest.kill()
        assert old[100:] != new[100:], "it was to be made difficult"
        assert first.content == second.content


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_rows_that_look_like_the_random_word_count(size: int) -> None:
    def digest(word: str, row: bytes) -> str:
        head = f"--\n-- PostgreSQL database dump\n--\n\n\\restrict {word}\n\n-- Dumped by pg_dump version {len(word)}\n"
        script = head.encode() + b"SET x = 1;\n" * 30 + row + f"\\unrestrict {word}\n".encode()
        return postgres_digest.of_sql(split(script, size))

    rows = (
        b"",
        b"\\restrict x\n",
        b"\\restrict y\n",
        b"\\unrestrict x\n",
        b"-- Dumped by pg_dump version 1\n",
        b"\\restrict " + b"y" * 63 + b"\n",
    )
    seen = {digest("a" * 63, row) for row in rows}
    assert seen == {digest("aB1" * 20, row) for row in rows} and len(seen) == len(rows)


def split(script: bytes, size: int) -> Iterator[bytes]:
    """As `postgres_digest.pieces` does, with blocks of `size`."""
    stream = io.BytesIO(script)
    for _ in range(20):
        yield stream.readline()
    yield from iter(lambda: stream.read(size), b"")


def test_a_pipe_gets_what_a_file_gets(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database("shop", use(shop, monkeypatch))
    pipe = io.BytesIO()
    produced = database.produce(pipe)
    assert (produced.length, produced.sha256) == (len(pipe.getvalue()), hashlib.sha256(pipe.getvalue()).hexdigest())
    assert produced.content == dumped(database)[0].content
    everything = io.BytesIO()
    assert Globals(f"host={shop.folder} user=postgres").produce(everything).length == len(everything.getvalue())


def test_a_compressed_file_is_not_taken_for_a_file(
    shop: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its fileno is that of the file that it unpacks."""
    database = Database("shop", use(shop, monkeypatch))
    _, content = dumped(database)
    (tmp_path / "x.bz2").write_bytes(bz2.compress(content))
    with bz2.open(tmp_path / "x.bz2") as stream:
        assert database.content_of(cast(BinaryIO, stream)) == database.content_of(file_of(content))


def test_programs(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database("postgres", use(any_postgres, monkeypatch))
    programs = database.programs()
    version = any_postgres.sql("SHOW server_version")
    assert programs == {"pg_dump": version.split()[0], "postgresql": version}
    assert (database.kind, database.name, database.file_name, database.fingerprint()) == (
        "db",
        "postgres",
        "postgres.dump",
        None,
    )
    everything = Globals(f"host={any_postgres.folder} user=postgres")
    assert (everything.kind, everything.name, everything.file_name) == ("globals", "global", "global.sql.bz2")
    assert everything.fingerprint() is None and "pg_dumpall" in everything.programs()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("shop", "shop"),
        ("a/b", "a%2Fb"),
        ("50%", "50%25"),
        (".x", "%2Ex"),
        ("a\nb", "a%0Ab"),
        ("naïve ☃", "naïve ☃"),
        ("..", "%2E."),
    ],
)
def test_names_are_safe_for_files(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name("a@b", "@") == "a%40b"


# which client


def clients(*versions: str) -> list[Client]:
    found = [tuple(map(int, version.split("."))) for version in versions]
    return [Client(f"/{version}", (numbers[0], numbers[1])) for version, numbers in zip(versions, found, strict=True)]


def test_b12_the_client_of_the_servers_own_version_is_the_best() -> None:
    found = clients("13.4", "15.2", "15.18", "16.14", "18.4")
    assert [str(client) for client in suitable(found, 15)] == ["15.18", "15.2", "16.14", "18.4"]
    assert [str(client) for client in suitable(found, 14)][0] == "15.18"
    assert [str(client) for client in suitable(found, 17)] == ["18.4"]


def test_b12_only_older_clients_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(ProgramFailed) as raised:
        suitable(clients("13.4", "15.18"), 18)
    assert (
        raised.value.message == "the server is PostgreSQL 18, and the newest client here is 15.18, which cannot read it"
    )
    assert "postgresql-client-18" in raised.value.hint


def test_b12_a_newer_clients_dump_does_not_go_back(shop: Postgres, tmp_path: Path) -> None:
    """Why the newest client of all is not the best. If this fails one day, the choice can be made anew."""
    newer = programs_of_all_versions()["18"]
    environment = {**os.environ, **shop.env}
    subprocess.run([newer / "pg_dump", "-Fc", "-f", tmp_path / "d", "shop"], env=environment, check=True)
    shop.sql("CREATE DATABASE back")
    command = [newer / "pg_restore", "--exit-on-error", "-d", "back", tmp_path / "d"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0 and "transaction_timeout" in ended.stderr


def test_installed_finds_debians_and_says_their_versions() -> None:
    found = postgres_client.installed()
    assert found and str(found[-1]) == re.search(r"[\d.]+", programs_of_all_versions_printed())[0]  # type: ignore[index]
    assert found[-1].program("pg_restore").startswith("/usr/lib/postgresql/")


def programs_of_all_versions_printed() -> str:
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    return subprocess.run([newest / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout


# the connection


@pytest.mark.parametrize(
    "connection", ["host=/x password=s3cret", "postgresql://me:s3cret@db/shop", "sslpassword=s3cret"]
)
def test_a_password_in_the_connection_is_refused_and_not_repeated(connection: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="must not hold a") as raised:
        postgres_server.reaching(connection, "shop")
    assert "pgpass" in raised.value.hint and "s3cret" not in str(raised.value) + raised.value.hint


def test_a_connection_that_makes_no_sense() -> None:
    with pytest.raises(ImproperlyConfigured, match='CONNECTION makes no sense: invalid connection option "hst"'):
        postgres_server.reaching("hst=x")


def test_a_name_cannot_become_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq takes a dbname with = in it for a whole connection string."""
    assert "dbname=host=evil " in postgres_server.reaching("host=/x", "host=evil") + " "
    assert "dbname='a host=evil' " in postgres_server.reaching("host=/x", "a host=evil") + " "
    assert postgres_server.reaching("postgresql://u@h:7/other?sslmode=require", "shop").startswith(
        "user=u dbname=shop host=h port=7"
    )
    monkeypatch.setenv("PGDATABASE", "mine")
    assert "dbname=mine" in postgres_server.reaching("")


@pytest.mark.parametrize("name", ["shop", "a b", "host=evil", "it's", "\\", "'", "dbname=x host=y", "a\nb", "50%", "☃"])
def test_a_conninfo_without_psycopg_says_the_same(name: str) -> None:
    said = [conninfo_to_dict(text) for text in (postgres_client.conninfo_of(name), postgres_server.reaching("", name))]
    assert said[0] == said[1] and said[0]["dbname"] == name


def test_time_limits_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "connect_timeout=10" in postgres_server.reaching("")
    assert "connect_timeout=3" in postgres_server.reaching("connect_timeout=3")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert "connect_timeout" not in postgres_server.reaching("")


def test_only_libpqs_variables_reach_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPASSFILE", "PGSERVICE", "PGPASSWORD", "PGDATA", "PG_COLOR", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert set(postgres_client.environment()) == {"PGHOST", "PGPASSFILE", "PGSERVICE", "PGPASSWORD"}


# restore


def restored(server: Postgres, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, **options: bool) -> None:
    restore_database(file_of(content), name, connection=use(server, monkeypatch), **options)


def test_g11_a_restored_database_equals(any_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(any_postgres):
        _, content = dumped(Database("shop", use(any_postgres, monkeypatch)))
        restored(any_postgres, monkeypatch, "shop2", content)
        assert any_postgres.dump("shop2") == any_postgres.dump("shop")
        created, before = (any_postgres.dump(name, "--create", "--schema-only") for name in ("shop2", "shop"))
        assert set(created.replace("shop2", "shop").splitlines()) == set(before.splitlines()), (
            "owner, comment, rights, settings"
        )
        assert any_postgres.databases() == {"postgres", "shop", "shop2"}


def test_g11_a_stream_will_do(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writing) as cat:
        os.close(writing)
        assert cat.stdin is not None
        import threading

        threading.Thread(target=lambda: (cat.stdin.write(content), cat.stdin.close())).start()  # type: ignore[union-attr]
        restore_database(stream, "shop2", connection=f"host={shop.folder} user=postgres")
    assert shop.dump("shop2") == shop.dump("shop")


@pytest.mark.parametrize(
    "name", ["we'ird \"; DROP DATABASE shop; --", "host=evil", "postgresql://x", "ünï", "a\nb", "UPPER"]
)
def test_g11_odd_names(shop: Postgres, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From an oddly named one into an oddly named one."""
    connection = use(shop, monkeypatch)
    _, content = dumped(Database("shop", connection))
    restored(shop, monkeypatch, name, content)
    _, again = dumped(Database(name, connection))
    restored(shop, monkeypatch, name + "2", again)
    assert shop.dump(name + "2") == shop.dump("shop")


def test_g11_an_encoding_and_an_owner_come_back(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' OWNER owner")
    shop.sql("CREATE TABLE t (x text); INSERT INTO t VALUES ('naïve'); COMMENT ON DATABASE latin IS 'café'", "latin")
    shop.sql("ALTER DATABASE latin SET default_transaction_read_only TO on")
    _, content = dumped(Database("latin", use(shop, monkeypatch)))
    restored(shop, monkeypatch, "latin2", content)
    looks = "SELECT pg_encoding_to_char(encoding), datcollate, datdba::regrole, shobj_description(oid, 'pg_database') FROM pg_database"
    assert shop.sql(f"{looks} WHERE datname = 'latin2'", "latin2") == "LATIN1|C|owner|café"
    assert shop.sql("SELECT x FROM t; SHOW default_transaction_read_only", "latin2") == "naïve\non"


def test_g11_an_existing_database_is_refused(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    with pytest.raises(WouldOverwrite, match="there is a database shop already") as raised:
        restored(shop, monkeypatch, "shop", content)
    assert "--force" in raised.value.hint
    with pytest.raises(WouldOverwrite, match="is a template"):
        restored(shop, monkeypatch, "template1", content, force=True)
    for name in ("", "x" * 64):
        with pytest.raises(FatalUserError, match="1 to 63 bytes"):
            restored(shop, monkeypatch, name, content)


def test_g11_force_replaces_even_with_somebody_in_it(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop.dump("shop")
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    shop.sql("DROP TABLE sales.item CASCADE; CREATE TABLE worthless ()", "shop")
    command = [shop.programs / "psql", "-Xqc", "SELECT pg_sleep(6000)", "shop"]
    with subprocess.Popen(command, env={**os.environ, **shop.env}, stderr=subprocess.PIPE) as guest:
        while not shop.sql(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(6%' AND pid <> pg_backend_pid()"
        ):
            time.sleep(0.05)
        restored(shop, monkeypatch, "shop", content, force=True)
        assert guest.wait(timeout=PATIENCE) != 0
    assert shop.dump("shop") == before
    assert shop.databases() == {"postgres", "shop"}
    assert shop.sql("SELECT datallowconn FROM pg_database WHERE datname = 'shop'") == "t"


def test_force_replaces_a_database_whose_clients_come_again_at_once(
    shop: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait or are refused while it is replaced, and at no moment is it closed to them in a way that would last."""
    before = shop.dump("shop")
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    shop.sql("CREATE TABLE worthless ()", "shop")
    coming = f"while :; do {shop.programs}/psql -Xqc 'SELECT pg_sleep(6000)' shop; done"
    command = ["setpriv", "--pdeathsig", "KILL", "--", "bash", "-c", coming]
    guests = [subprocess.Popen(command, env={**os.environ, **shop.env}, stderr=subprocess.DEVNULL) for _ in range(3)]
    try:
        while shop.sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(6000)'") != "3":
            time.sleep(0.05)
        closed = "SELECT count(*) FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'"
        restored(shop, monkeypatch, "shop", content, force=True)
        assert shop.sql(closed) == "0"
    finally:
        for guest in guests:
            guest.kill()
            guest.wait()
        shop.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(6000)'")
    assert shop.dump("shop") == before
    assert shop.databases() == {"postgres", "shop"}


def test_what_a_restore_left_that_died_is_dropped_by_the_next(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what another one is at, nor what only sounds alike."""
    connection = use(shop, monkeypatch)
    with postgres_server.connected(connection, "postgres") as other:
        names = postgres_temporary.claimed(other)
        dead = ("btw_restore_0123456789abcde", "btw_replaced_fedcba987654321")
        alive = {names.new, "btw_restore_1234", "btw_restore_0123456789abcdef", "xbtw_restore_0123456789abcde"}
        for name in (*dead, *alive):
            shop.sql(f'CREATE DATABASE "{name}"')
        assert postgres_server.databases(connection) == sorted(alive - {names.new} | {"postgres", "shop"})
        _, content = dumped(Database("shop", connection))
        restored(shop, monkeypatch, "shop2", content)
        assert shop.databases() == {"postgres", "shop", "shop2"} | alive
        with pytest.raises(FatalUserError, match="would be dropped by the next restore"):
            restored(shop, monkeypatch, dead[0], content)
    restored(shop, monkeypatch, "shop3", content)
    assert shop.databases() == {"postgres", "shop", "shop2", "shop3"} | alive - {names.new}


def test_a_failed_restore_leaves_everything_as_it_was(shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql("CREATE ROLE gone; CREATE TABLE mine (); ALTER TABLE mine OWNER TO gone", "shop")
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    shop.sql("DROP TABLE mine; DROP ROLE gone", "shop")
    before = shop.dump("shop")
    for name, options in (("shop", {"force": True}), ("shop2", {})):
        with pytest.raises(ProgramFailed, match='role "gone" does not exist') as raised:
            restored(shop, monkeypatch, name, content, **options)
        assert "globals" in raised.value.hint and "\n" not in raised.value.message
    assert shop.dump("shop") == before
    assert shop.databases() == {"postgres", "shop"}


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped"])
def test_a_damaged_dump_makes_no_database(shop: Postgres, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    _, content = dumped(Database("shop", use(shop, monkeypatch)))
    middle = len(content) // 2
    bad = {
        "cut": content[: len(content) * 9 // 10],
        "garbage": random_bytes(100_000),
        "empty": b"",
        "flipped": content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 64]) + content[middle + 64 :],
    }[damage]
    with pytest.raises(ProgramFailed) as raised:
        restored(shop, monkeypatch, "shop2", bad)
    assert "\n" not in raised.value.message
    assert shop.databases() == {"postgres", "shop"}
