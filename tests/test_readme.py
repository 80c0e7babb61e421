"""The manual: its tables are those of the code, and its examples are run.

The examples run as root in a mount namespace of their own, where /etc is a copy and /root, /opt, /srv, /mnt,
/usr/local/bin, /var/backups and the socket of PostgreSQL are private: what the manual says is typed as it stands.
First the blocks named ``install`` and ``quickstart``, then a change and a second backup, then the others in their
order, because the manual begins with the restore. Before a disaster page the disaster happens: tests/disasters.py.
"""

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from btw_backup.commands import NAMES
from tests import disasters, manual
from tests.conftest import REPOSITORY
from tests.s3 import guarded
from tests.servers import Postgres, postgres, shop  # noqa: F401 - fixtures

TEXT = manual.README.read_text()
EXAMPLES = {f"line {example.line}": example for example in manual.examples(TEXT)}
SECOND_BACKUPS = """
echo "# changed" >>/etc/hosts
psql -q -d shop -c "INSERT INTO sales.item (name) VALUES ('one more')"
btw-backup fs /etc hosts/etc
btw-backup db shop db/shop
btw-backup db -g db/global
"""
PRIVATE = {
    "/root": "home",
    "/opt": "opt",
    "/srv": "srv",
    "/mnt": "mnt",
    "/usr/local/bin": "bin",
    "/var/backups": "backups",
    "/etc": "etc",
}


@pytest.mark.parametrize("name", manual.PARTS)
def test_part_is_that_of_the_code(name: str) -> None:
    assert manual.part(TEXT, name) == manual.PARTS[name](), "python -m tests.manual writes it"


def test_every_command_is_in_the_manual() -> None:
    prose = TEXT.replace(manual.part(TEXT, "synopsis"), "")
    assert [name for name in NAMES if not re.search(rf"(btw-backup |``){name}\b", prose)] == []


def test_manual_has_what_the_test_needs() -> None:
    named = [example.name for example in EXAMPLES.values() if example.name]
    assert named == ["install", "quickstart", *disasters.PAGES]
    assert len(EXAMPLES) > 5


def test_every_disaster_is_found_at_the_top() -> None:
    """M03: whoever opens the manual in need sees each page before anything else."""
    top = TEXT.partition(".. contents::")[0]
    pages = TEXT.partition("When it has happened\n====")[2].partition("\nSettings\n====")[0]
    titles = re.findall(r"\n(.+)\n---+\n", pages)
    assert len(titles) >= 7
    assert re.findall(r"`([^`]+)`_", top) == titles


@pytest.fixture
def machine(tmp_path: Path, shop: Postgres) -> Iterator[Path]:
    """The folders that become private, with a copy of /etc, and a server where root is known."""
    for folder in PRIVATE.values():
        (tmp_path / folder).mkdir(mode=0o755)
    subprocess.run(["cp", "-a", "/etc/.", tmp_path / "etc"], check=True)
    (tmp_path / "etc/ssh").mkdir(exist_ok=True)
    (tmp_path / "srv/notes").mkdir()
    with closing(sqlite3.connect(tmp_path / "srv/notes/notes.db")) as notes, notes:
        notes.execute("CREATE TABLE note (text)")
    (tmp_path / "etc/ssh/sshd_config").touch()
    shop.sql("CREATE ROLE root SUPERUSER LOGIN")
    yield tmp_path
    shop.sql("REASSIGN OWNED BY root TO postgres; DROP ROLE root")


def typed(machine: Path, server: Postgres, commands: str) -> subprocess.CompletedProcess[str]:
    """Run `commands` as somebody would type them, with the private folders in their places."""
    places = {"/var/run/postgresql": server.folder} | {path: machine / folder for path, folder in PRIVATE.items()}
    mounts = "".join(f"mount --bind {folder} {path}\n" for path, folder in places.items())
    script = f"{mounts}cd {REPOSITORY}\nset -ex\n{commands}"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PG", "VIRTUAL_ENV", "AWS_"))
    }
    environment |= {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    # An interrupted run must not leave folders mounted, so the namespace ends with its shell.
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )


def with_own(commands: str, replaced: dict[str, str]) -> str:
    """`commands` with what a user would write in place of an example's word."""
    return " ".join(replaced.get(word, word) for word in commands.split(" "))


def test_examples(machine: Path, shop: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    def run(commands: str) -> str:
        ended = typed(machine, shop, commands)
        assert ended.returncode == 0, f"{commands}:\n{ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{commands}:\n{ended.stderr}"
        return ended.stdout

    first = {example.name: example for example in EXAMPLES.values() if example.name in ("install", "quickstart")}
    for example in first.values():
        run(example.commands)
    run(SECOND_BACKUPS)
    with guarded(tmp_path_factory.mktemp("s3")) as server:
        scene = disasters.Scene(machine, shop, server, run)
        for example in EXAMPLES.values():
            if example.name in disasters.PAGES:
                disaster = disasters.PAGES[example.name](scene)
                next(disaster)
                run(with_own(example.commands, scene.replaced))
                assert next(disaster, "proved") == "proved"
            elif example.name not in first:
                run(example.commands)
    differences = ["diff", "-r", "--no-dereference", machine / "etc", machine / "home/etc-restored"]
    assert subprocess.run(differences, check=False, capture_output=True, text=True).stdout == ""
    assert "# changed" not in (machine / "home/etc-first/hosts").read_text()
    assert sorted(path.name for path in (machine / "home/etc-two-files").rglob("*") if path.is_file()) == [
        "hosts",
        "sshd_config",
    ]
