"""The recipes of the manual for SQLite and MySQL, with somebody who writes meanwhile."""

import re
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import manual
from tests.conftest import PATIENCE, Installation

TEXT = manual.README.read_text()


@pytest.fixture
def sqlite_copy(tmp_path: Path) -> Path:
    """The program of the recipe."""
    (recipe,) = [example.commands for example in manual.examples(TEXT) if "sqlite-copy" in example.commands]
    match = re.search(r"<<'END'\n(.*?)^END$", recipe, re.DOTALL | re.MULTILINE)
    assert match and "command-init notes -- sqlite-copy /srv/notes/notes.db" in recipe
    program = tmp_path / "sqlite-copy"
    program.write_text(match[1])
    program.chmod(0o755)
    return program


@contextmanager
def written(path: Path, journal: str) -> Iterator[None]:
    """A database that somebody writes to while the block lasts; in each of its states the sum is 0."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER, text TEXT)")
        rows = ((n, 0, f"{n} " * 50) for n in range(5000))
        with database:
            database.executemany("INSERT INTO account VALUES (?, ?, ?)", rows)
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            number = 0
            while not ended.is_set():
                number += 1
                with database:
                    database.execute("UPDATE account SET amount = amount + 1 WHERE id = ?", (number % 5000,))
                    database.execute("UPDATE account SET amount = amount - 1 WHERE id = ?", (number * 7 % 5000,))
                    database.execute("INSERT INTO account (amount, text) VALUES (0, ?)", ("x" * 100,))
                time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def back_up_many(btw: Installation, program: Path, journal: str, count: int) -> None:
    """`count` backups while somebody writes; each comes back well, and no two are the same."""
    path = btw.top / "notes.db"
    btw("command-init", "notes", "--", program, path)
    with written(path, journal):
        for _ in range(count):
            btw("command", "notes", "hosts/notes")
    addresses = [f"hosts/notes@{name[:19]}" for name in btw("list", "hosts/notes").out.split()]
    assert len(addresses) == count
    counts = []
    for address in addresses:
        restored = btw.top / "restored.db"
        restored.unlink(missing_ok=True)
        btw("restore", address, restored)
        with closing(sqlite3.connect(restored)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows, total = database.execute("SELECT count(*), sum(amount) FROM account").fetchone()
        assert total == 0
        counts.append(rows)
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_b15_sqlite(btw: Installation, sqlite_copy: Path, journal: str) -> None:
    back_up_many(btw, sqlite_copy, journal, 3)


@pytest.mark.slow
def test_b15_sqlite_a_hundred_times(btw: Installation, sqlite_copy: Path) -> None:
    back_up_many(btw, sqlite_copy, "wal", 100)


def test_b15_sqlite_unchanged_and_broken(btw: Installation, sqlite_copy: Path) -> None:
    path = btw.top / "notes.db"
    with written(path, "wal"):
        time.sleep(0.2)
    btw("command-init", "notes", "--", sqlite_copy, path)
    for _ in range(2):
        btw("command", "notes", "n")
    assert len(btw("list", "n").out.split()) == 1
    content = bytearray(path.read_bytes())
    content[4096:40960] = bytes(36864)
    path.write_bytes(content)
    assert "malformed" in (said := btw("command", "notes", "n", status=1).err) or "not well" in said
    path.unlink()
    assert "unable to open database file" in btw("command", "notes", "n", status=1).err
    assert not path.exists() and len(btw("list", "n").out.split()) == 1


@dataclass
class MariaDB:
    """A server of its own, on a socket."""

    folder: Path

    @property
    def options(self) -> Path:
        return self.folder / "options.cnf"

    def sql(self, statements: str) -> str:
        command = ["mariadb", f"--defaults-extra-file={self.options}", "--default-character-set=utf8mb4", "-N"]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", input=statements)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def checksums(self) -> str:
        return self.sql("CHECKSUM TABLE shop.item, shop.sold; SELECT * FROM shop.few; CALL shop.twice(21)")


@pytest.fixture
def mariadb() -> Iterator[MariaDB]:
    """Debian's server, on a new folder."""
    if not shutil.which("mariadbd"):
        pytest.skip("mariadb-server is not installed")
    with tempfile.TemporaryDirectory(prefix="maria", dir="/tmp") as name:
        server = MariaDB(Path(name))
        server.options.write_text(f"[client]\nuser=root\nsocket={name}/socket\n")
        server.options.chmod(0o600)
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={name}/data", "--skip-test-db"]
        subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            "--skip-networking",
        ]
        paths = [f"--datadir={name}/data", f"--socket={name}/socket", f"--pid-file={name}/pid"]
        with open(Path(name) / "log", "wb") as log:
            process = subprocess.Popen([*command, *paths], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while subprocess.run(
                ["mariadb-admin", f"--defaults-extra-file={server.options}", "ping"], check=False, capture_output=True
            ).returncode:
                assert process.poll() is None and time.monotonic() < deadline, (Path(name) / "log").read_text()
                time.sleep(0.1)
            yield server
        finally:
            process.kill()
            process.wait()


FILLING = """
    CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
    CREATE TABLE item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(99), data BLOB) ENGINE=InnoDB;
    INSERT INTO item (name, data) SELECT CONCAT('naïve ☃ ', seq), UNHEX(MD5(seq)) FROM seq_1_to_20000;
    CREATE TABLE sold (id INT, at DATETIME(6)) ENGINE=InnoDB;
    INSERT INTO sold VALUES (1, '2001-02-03 04:05:06.789'), (NULL, NULL);
    CREATE VIEW few AS SELECT * FROM item WHERE id < 4;
    DELIMITER //
    CREATE PROCEDURE twice (x INT) BEGIN SELECT 2 * x; END//
"""


@pytest.mark.slow
def test_b14_mariadb(btw: Installation, mariadb: MariaDB) -> None:
    """The command of the manual, as it stands but for the file with the password."""
    (line,) = re.findall(r"btw-backup (command-init mysql .*?)\n   btw-backup command mysql", TEXT, re.DOTALL)
    words = shlex.split(line.replace("\\\n", " ").replace("/root/mysql-backup.cnf", str(mariadb.options)))
    mariadb.sql(FILLING)
    before = mariadb.checksums()
    btw(*words)
    for _ in range(2):
        btw("command", "mysql", "hosts/mysql")
        time.sleep(1.1)
    assert len(btw("list", "hosts/mysql").out.split()) == 1
    mariadb.sql("UPDATE shop.item SET name = 'another' WHERE id = 5000")
    btw("command", "mysql", "hosts/mysql")
    mariadb.sql("DROP DATABASE shop")
    mariadb.sql(btw("restore", "hosts/mysql@first", "-").out)
    assert mariadb.checksums() == before
    mariadb.sql(btw("restore", "hosts/mysql", "-").out)
    assert mariadb.checksums() != before
    assert mariadb.sql("SELECT name FROM shop.item WHERE id = 5000") == "another\n"
    words[1:2] = ["job"]
    words[-1] = "no_such_database"
    btw(*words)
    assert "Unknown database" in btw("command", "job", "hosts/none", status=1).err
