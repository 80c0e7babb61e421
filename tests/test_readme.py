"""The manual: its tables are those of the code, and its examples are run.

The examples run as root in a mount namespace of their own, where /etc is a copy and /root, /opt, /srv, /mnt,
/usr/local/bin, /var/backups and the socket of PostgreSQL are private: what the manual says is typed as it stands.
First the blocks named ``install`` and ``quickstart``, then a change and a second backup, then the others in their
order, because the manual begins with the restore.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_backup.commands import COMMANDS
from tests import manual
from tests.conftest import REPOSITORY

TEXT = manual.README.read_text()
EXAMPLES = {f"line {example.line}": example for example in manual.examples(TEXT)}
SECOND_BACKUPS = """
echo "# changed" >>/etc/hosts
psql -q -d shop -c "INSERT INTO article VALUES (3, 'third')"
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
    "/var/run/postgresql": "socket",
    "/etc": "etc",
}


@pytest.mark.parametrize("name", manual.PARTS)
def test_part_is_that_of_the_code(name: str) -> None:
    assert manual.part(TEXT, name) == manual.PARTS[name](), "python -m tests.manual writes it"


def test_every_command_is_in_the_manual() -> None:
    prose = TEXT.replace(manual.part(TEXT, "synopsis"), "")
    assert [command.name for command in COMMANDS if not re.search(rf"(btw-backup |``){command.name}\b", prose)] == []


def test_manual_has_what_the_test_needs() -> None:
    assert [example.name for example in EXAMPLES.values() if example.name] == ["install", "quickstart"]
    assert len(EXAMPLES) > 5


@pytest.fixture
def machine() -> Iterator[Path]:
    """The folders that become private, with a copy of /etc and a PostgreSQL server with a database."""
    # Not below the folder of pytest, which the user of the server cannot enter, and which is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="btw-readme-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield from furnished(Path(name))


def furnished(top: Path) -> Iterator[Path]:
    """Fill `top`, and keep the server running meanwhile."""
    for folder in PRIVATE.values():
        (top / folder).mkdir(mode=0o755)
    subprocess.run(["cp", "-a", "/etc/.", top / "etc"], check=True)
    (top / "etc/ssh").mkdir(exist_ok=True)
    (top / "etc/ssh/sshd_config").touch()
    (top / "socket").chmod(0o777)
    server = Server(top)
    server.start()
    try:
        yield top
    finally:
        server.stop()


class Server:
    """PostgreSQL on a socket, with root as its superuser, and a database ``shop``."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run one of the server's programs as its user."""
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--reset-env"]
        command = [*user, self.programs / program, *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def start(self) -> None:
        """Make the server and the database, and start it."""
        data = self.top / "server"
        subprocess.run(["install", "-d", "-o", "postgres", data], check=True)
        self.run("initdb", "-D", data / "data", "-U", "root", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={self.top / 'socket'}"
        self.run("pg_ctl", "-D", data / "data", "-l", data / "log", "-o", options, "-w", "start")
        at = ["-h", str(self.top / "socket"), "-U", "root"]
        subprocess.run(["createdb", *at, "shop"], check=True)
        table = "CREATE TABLE article (id int PRIMARY KEY, name text); INSERT INTO article VALUES (1, 'first'), (2, 'second')"
        subprocess.run(["psql", "-q", *at, "-d", "shop", "-c", table], check=True)

    def stop(self) -> None:
        """Stop it at once."""
        self.run("pg_ctl", "-D", self.top / "server/data", "-m", "immediate", "stop")


def typed(machine: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Run `commands` as somebody would type them, with the private folders in their places."""
    mounts = "".join(f"mount --bind {machine / folder} {path}\n" for path, folder in PRIVATE.items())
    script = f"{mounts}cd {REPOSITORY}\nset -ex\n{commands}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PG", "VIRTUAL_ENV"))}
    environment |= {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    # An interrupted run must not leave folders mounted, so the namespace ends with its shell.
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def test_examples(machine: Path) -> None:
    named = {example.name: example.commands for example in EXAMPLES.values() if example.name}
    others = {where: example.commands for where, example in EXAMPLES.items() if not example.name}
    for where, commands in {**named, "second backups": SECOND_BACKUPS, **others}.items():
        ended = typed(machine, commands)
        assert ended.returncode == 0, f"{where}:\n{ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{where}:\n{ended.stderr}"
    differences = ["diff", "-r", "--no-dereference", machine / "etc", machine / "home/etc-restored"]
    assert subprocess.run(differences, check=False, capture_output=True, text=True).stdout == ""
    assert "# changed" not in (machine / "home/etc-first/hosts").read_text()
    assert sorted(path.name for path in (machine / "home/etc-two-files").rglob("*") if path.is_file()) == ["hosts", "sshd_config"]
