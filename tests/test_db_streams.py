"""Databases as streams, with the keepers chunks and file, on every version of the server."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from btw_backup.sources.postgres_stream import timeless, versions
from tests.conftest import Installation, peak_memory
from tests.servers import Postgres, any_postgres, filled, postgres, shop

__all__ = ["any_postgres", "postgres", "shop"]

TYPES = ("chunks", "file")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("PG", "BTW_PG"))]:
        monkeypatch.delenv(name)


def type_for(server: Postgres) -> str:
    """Each version gets one: both keepers are given the same dump, and servers are slow."""
    return "file" if "/15/" in str(server.programs) else "chunks"


def kept(btw: Installation, dst: str = "d") -> list[dict]:  # type: ignore[type-arg]
    return json.loads(btw("list", dst, "--json").out)  # type: ignore[no-any-return]


def choose(btw: Installation, type_: str, name: str = "shop") -> None:
    (btw.config_dir / f"{name}.py").write_text(f'TYPE = "{type_}"\n')


def test_a_database_comes_back(btw: Installation, any_postgres: Postgres) -> None:
    env, type_ = {**any_postgres.env, **any_postgres.clients}, type_for(any_postgres)
    choose(btw, type_)
    with filled(any_postgres):
        before = any_postgres.dump("shop")
        ended = btw("db", "shop", "d", env=env)
        assert (ended.out, ended.err) == ("", "")
        (row,) = kept(btw)
        assert (row["kind"], row["source"], row["keeper"]) == ("db", "shop", type_)
        time.sleep(1.1)  # the time in the header would be another
        btw("db", "shop", "d", env=env)
        assert len(kept(btw)) == 1 and "no change" in (btw.root / "d/log.txt").read_text()
        any_postgres.sql("INSERT INTO sales.item (name) VALUES ('one more')", "shop")
        after = any_postgres.dump("shop")
        btw("db", "shop", "d", env=env)
        assert len(kept(btw)) == 2
        for spec, expected in (("first", before), ("latest", after)):
            btw("restore", f"d@{spec}", "--database", "back", "--force", env=env)
            assert any_postgres.dump("back") == expected
        btw("restore", "d", "shop.dump", env=env)
        listed = any_postgres.run("pg_restore", "--list", str(btw.top / "shop.dump"))
        assert "Archive created at 2000-01-01 00:00:00" in listed and "TABLE DATA sales item" in listed
        any_postgres.sql("CREATE DATABASE by_hand")
        any_postgres.run("pg_restore", "--exit-on-error", "-j2", "-d", "by_hand", str(btw.top / "shop.dump"))
        assert any_postgres.dump("by_hand") == after


def test_x2_what_others_do_meanwhile_is_no_change(btw: Installation, any_postgres: Postgres) -> None:
    """A temporary table shifts the numbers of all entries."""
    env, type_ = {**any_postgres.env, **any_postgres.clients}, type_for(any_postgres)
    choose(btw, type_)
    with filled(any_postgres):
        btw("db", "shop", "d", env=env)
        command = [any_postgres.programs / "psql", "-Xq", "-c", "CREATE TEMP TABLE mine (a int)"]
        command += ["-c", r"\! echo ready", "-c", "SELECT pg_sleep(60)", "shop"]
        guest = subprocess.Popen(command, env={**os.environ, **any_postgres.env}, stdout=subprocess.PIPE)
        try:
            assert guest.stdout and guest.stdout.readline() == b"ready\n"
            btw("db", "shop", "d", env=env)
            assert len(kept(btw)) == 1
            any_postgres.sql("UPDATE sales.item SET name = 'another' WHERE id = 17", "shop")
            btw("db", "shop", "d", env=env)
            assert len(kept(btw)) == 2
        finally:
            guest.kill()
            guest.communicate()


def test_with_one_client_there_is_nothing_to_ask_before(btw: Installation, shop: Postgres) -> None:
    """Nor is psycopg loaded, which takes longer than a small dump; who cannot be reached is asked, to say why."""
    choose(btw, "chunks")
    code = "import sys; from btw_backup.cli import main; status = main(); print('psycopg' in sys.modules); sys.exit(status)"
    command = [sys.executable, "-c", code, "--config-dir", btw.config_dir, "db"]
    environment = {**os.environ, **shop.env, **shop.clients, "PYTHONPATH": str(Path(__file__).parent.parent)}
    asked = []
    for name, status in (("shop", 0), ("nix", 1)):
        ended = subprocess.run([*command, name, name], env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == status
        asked.append(ended.stdout.strip())
    assert asked == ["False", "True"]
    assert (
        "cannot reach the database nix: connection to server" in ended.stderr
        and 'database "nix" does not' in ended.stderr
    )
    (record,) = (btw.root / "shop" / ".records").glob("*.json")
    version = shop.sql("SHOW server_version")
    assert (
        json.loads(record.read_text())["programs"].items()
        >= {"pg_dump": version.split()[0], "postgresql": version}.items()
    )


def test_globals(btw: Installation, any_postgres: Postgres) -> None:
    env, type_ = {**any_postgres.env, **any_postgres.clients}, type_for(any_postgres)
    choose(btw, type_, "global")
    for _ in range(2):
        btw("db", "-g", "g", env=env)
    (row,) = kept(btw, "g")
    assert (row["kind"], row["keeper"]) == ("globals", type_)
    assert "CREATE ROLE guarded;" in btw("restore", "g", "-").out
    any_postgres.sql("CREATE ROLE late")
    try:
        btw("db", "-g", "g", env=env)
    finally:
        any_postgres.sql("DROP ROLE late")
    assert len(kept(btw, "g")) == 2 and "CREATE ROLE late;" in btw("restore", "g", "-").out
    if type_ == "chunks":
        stored = {path.stem for path in (btw.root / ".store" / "chunks").rglob("*.zst")}
        assert len(stored) == 2, "what only the random word tells apart was not stored"


def test_all_databases_take_the_type_of_the_globals(btw: Installation, shop: Postgres) -> None:
    choose(btw, "chunks", "global")
    choose(btw, "file", "postgres")
    btw("db", "--all", "all", env=shop.env)
    keepers = {row["dst"]: row["keeper"] for row in json.loads(btw("list", "--json").out)}
    assert keepers == {"all/global": "chunks", "all/shop": "chunks", "all/postgres": "file"}


def test_from_rdiff_to_chunks_and_back(btw: Installation, shop: Postgres) -> None:
    for number, type_ in enumerate(("rdiff", "chunks", "rdiff", "file"), 1):
        choose(btw, type_)
        btw("db", "shop", "d", env=shop.env)
        rows = kept(btw)
        assert len(rows) == number and rows[-1]["keeper"] == type_
        btw("restore", f"d@{rows[-1]['stamp']}", "--database", "back", "--force", env=shop.env)
        assert shop.dump("back") == shop.dump("shop")


def test_without_a_record(btw: Installation, shop: Postgres) -> None:
    for type_ in TYPES:
        choose(btw, type_)
        btw("db", "shop", type_, env=shop.env)
        (row,) = kept(btw, type_)
        (btw.root / type_ / ".records" / f"{row['stamp']}.json").unlink()
        (row,) = kept(btw, type_)
        assert (row["kind"], row["keeper"]) == ("db", type_)
        btw("restore", type_, "--database", "back", "--force", env=shop.env)
        assert shop.dump("back") == shop.dump("shop")


@pytest.mark.parametrize("type_", TYPES)
def test_f03_pg_dump_dies(btw: Installation, postgres: Postgres, tmp_path: Path, type_: str) -> None:
    """After some megabytes; what it wrote is a dump that pg_restore can list."""
    with filled(postgres):
        postgres.sql(
            "CREATE TABLE wide AS SELECT repeat(md5(g::text), 90) AS a FROM generate_series(1, 2000) g", "shop"
        )
        fake = tmp_path / "pg_dump"
        real = postgres.programs / "pg_dump"
        fake.write_text(
            f'#!/bin/bash\nif [ "$1" = --version ]; then exec {real} --version; fi\n{real} "$@" | head -c 300000\nexit 1\n'
        )
        fake.chmod(0o700)
        choose(btw, type_)
        ended = btw("db", "shop", "d", status=1, env={**postgres.env, **postgres.clients, "BTW_PG_DUMP": str(fake)})
    assert "the dump of the database shop failed" in ended.err
    assert kept(btw) == [] and not list(btw.root.rglob(".tmp-*"))


def test_what_is_no_dump_is_refused(btw: Installation, shop: Postgres, tmp_path: Path) -> None:
    """pg_dump ends with 0, and pg_restore cannot read what it wrote."""
    fake = tmp_path / "pg_dump"
    real = shop.programs / "pg_dump"
    fake.write_text(
        f'#!/bin/bash\nif [ "$1" = --version ]; then exec {real} --version; fi\n{real} "$@" | head -c 3000\n'
    )
    fake.chmod(0o700)
    for type_ in TYPES:
        choose(btw, type_)
        ended = btw("db", "shop", "d", status=1, env={**shop.env, **shop.clients, "BTW_PG_DUMP": str(fake)})
        assert "the check of the dump of the database shop failed" in ended.err
    assert kept(btw) == []


def test_memory_does_not_grow_with_the_database(btw: Installation, shop: Postgres) -> None:
    shop.sql("CREATE TABLE wide AS SELECT repeat(md5(g::text), 3000) AS a FROM generate_series(1, 2000) g", "shop")
    choose(btw, "chunks")
    process = btw.start("-q", "db", "shop", "d", env=shop.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert peak_memory(process) < 250_000
    assert kept(btw)[0]["size"] > 190_000_000


def test_the_time_alone_is_changed(any_postgres: Postgres, tmp_path: Path) -> None:
    with filled(any_postgres):
        any_postgres.run("pg_dump", "-Fc", "-Z0", "-f", str(tmp_path / "dump"), "shop")
    dump = (tmp_path / "dump").read_bytes()
    changed = timeless(dump)
    assert len(changed) == len(dump)
    different = [at for at in range(len(dump)) if dump[at] != changed[at]]
    assert different and max(different) < 51
    (tmp_path / "changed").write_bytes(changed)
    before, after = (any_postgres.run("pg_restore", "-l", str(tmp_path / name)) for name in ("dump", "changed"))
    assert "created at 2000-01-01 00:00:00" in after
    assert re.sub("created at .*", "", before) == re.sub("created at .*", "", after)
    assert timeless(changed) == changed and timeless(b"PGDMP" + bytes(100)) == b"PGDMP" + bytes(100)
    version = any_postgres.sql("SHOW server_version")
    assert versions(dump[:512]) == {"pg_dump": version.split()[0], "postgresql": version}
    assert all(versions(dump[:length]) == {} for length in range(0, 70, 3)), "it is cut"
    assert versions(b"PGDMP" + bytes(600)) == versions(b"x" * 600) == {}
    assert timeless(b"") == b"" and timeless(dump[:20])[:11] == dump[:11]
