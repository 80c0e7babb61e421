"""What must not be told is told nobody: a canary in contents, names, host and database leaves this machine nowhere; and
no secret is in an argument, an environment, a log or an answer.

Our log, which only root reads, has the names of destinations and the paths of sources by design, and tar and pg_dump
are told what to keep. So of names the promise is about what leaves and about s3cmd, who speaks to the world; of contents
and secrets it is about everything.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Installation, tree_differences
from tests.faultproxy import FaultProxy
from tests.s3 import Bucket, bucket, configure, s3_server
from tests.servers import PASSWORD, Postgres, postgres

__all__ = ["bucket", "postgres", "s3_server"]

CONTENT = "canary0in0content"
NAMES = {
    "file": "canary0of0a0file",
    "link": "canary0of0a0link",
    "attribute": "canary0of0an0attribute",
    "folder": "canary0of0a0folder",
    "dst": "canary0of0a0dst",
    "job": "canary0of0a0job",
    "command": "canary0of0a0command",
    "database": "canary0of0a0database",
    "table": "canary0of0a0table",
    "host": "canary0of0a0host",
    "user": "canary0of0a0user",
}
PLAIN = re.compile(r"/(README\.txt|RESTORE\.py) HTTP/")


@dataclass
class Watched:
    """An installation whose every program, and every request to the server, is seen."""

    btw: Installation
    proxy: FaultProxy
    traces: Path
    out: str = ""

    def __call__(self, *args: object, env: dict[str, str] | None = None) -> str:
        """Run the command on the host with the canary's name, under strace."""
        trace = ["strace", "-f", "-ff", "-qq", "-v", "-s", "99999", "-e", "trace=execve"]
        command = [*trace, "-o", self.traces / "trace", sys.executable, "-m", "btw_backup", "--config-dir"]
        named = ["unshare", "--uts", "sh", "-c", f'hostname {NAMES["host"]} && exec "$@"', "sh"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.btw.top), **(env or {})}
        environment |= {"USER": NAMES["user"], "LOGNAME": NAMES["user"]}
        words = [*named, *command, self.btw.config_dir, *args]
        ended = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended
        self.out += ended.stdout + ended.stderr
        return ended.stdout

    def programs(self) -> list[str]:
        """Arguments and environment of each program that was started, but for the first, which is the test's."""
        lines = [line for path in sorted(self.traces.iterdir()) for line in path.read_text().splitlines()]
        started = [line for line in lines if line.startswith("execve(") and line.endswith(" = 0")]
        return [line for line in started if '-m", "btw_backup' not in line]


@pytest.fixture
def watched(btw: Installation, bucket: Bucket) -> Iterator[Watched]:
    """It sends to the bucket, through a proxy that keeps all it sees."""
    (btw.top / "traces").mkdir()
    with FaultProxy(bucket.server.port, seen=[]) as proxy:
        configure(btw, bucket, proxy.port)
        yield Watched(btw, proxy, btw.top / "traces")


def canaries(top: Path) -> Path:
    """A tree full of canaries."""
    tree = top / NAMES["folder"]
    tree.mkdir()
    (tree / NAMES["file"]).write_text(CONTENT * 10)
    (tree / "large").write_text(f"{CONTENT}\n" * 500_000)
    (tree / NAMES["link"]).symlink_to(NAMES["file"])
    os.setxattr(tree / NAMES["file"], f"user.{NAMES['attribute']}", CONTENT.encode())
    return tree


def everything_is_kept(watched: Watched, tree: Path, postgres: Postgres) -> None:
    """A backup by every keeper, sent and looked at by every command that speaks to targets."""
    btw, name = watched.btw, NAMES["database"]
    for keeper in ("tar", "rdiff", "chunks"):
        copy = btw.top / f"{NAMES['folder']}-{keeper}"
        subprocess.run(["cp", "-a", tree, copy], check=True)
        btw.tree(copy, keeper, f"{NAMES['job']}-{keeper}")
        watched("fs", copy, f"{NAMES['dst']}/{keeper}")
    btw("command-init", NAMES["command"], "--", "cat", tree / NAMES["file"])
    watched("command", NAMES["command"], f"{NAMES['dst']}/command")
    postgres.sql(f"CREATE DATABASE {name}")
    postgres.sql(f"CREATE TABLE {NAMES['table']} AS SELECT '{CONTENT}' AS text", name)
    (btw.top / ".pgpass").write_text(f"*:*:*:guarded:{PASSWORD}\n")
    (btw.top / ".pgpass").chmod(0o600)
    (btw.config_dir / f"{name}.py").write_text(f"CONNECTION = 'host={postgres.folder} user=guarded'\n")
    watched("db", name, f"{NAMES['dst']}/database")
    postgres.sql(f"DROP DATABASE {name}")
    for command in (["sync", "--verify", "--json"], ["doctor", "--attack", "--json"], ["list", "--json"]):
        watched(*command)
    watched("scrub", "--target", "s3")
    watched("config", "show", "--json")


@pytest.mark.quick_with("moto")
def test_canaries(watched: Watched, postgres: Postgres, tmp_path: Path) -> None:
    """T3, T4, T13, D01, D11: of what is sent encrypted."""
    btw = watched.btw
    key = btw.top / "backup.key"
    public = watched("keys", "generate", key).strip()
    with open(btw.config_dir / "config.py", "a") as file:
        file.write(f"ENCRYPT_TO = [{public!r}]\n")
    tree = canaries(tmp_path)
    everything_is_kept(watched, tree, postgres)
    watched("keys", "test", "--pin", key)
    options = ["--from", "s3", "--identity", key]
    watched("restore", *options, f"{NAMES['dst']}/chunks", btw.top / "out")
    assert tree_differences(tree, btw.top / "out") == ""

    requests = watched.proxy.seen or []
    assert len(requests) > 30
    for head, body in requests:
        told = [word for word in (CONTENT, *NAMES.values()) if word.encode() in head + body]
        assert told == [], head
        if head.startswith(b"PUT") and not PLAIN.search(head.decode()) and b"/probe/" not in head:
            assert body.startswith(b"age-encryption.org/v1\n"), head

    programs = watched.programs()
    assert len([line for line in programs if "s3cmd" in line]) > 10
    for line in programs:
        assert CONTENT not in line
        if "s3cmd" in line.partition("[")[0] or "bin/s3cmd" in line:
            assert [word for kind, word in NAMES.items() if kind != "user" and word in line] == []

    config = (btw.top / "s3cmd.conf").read_text()
    secrets = {
        "the secret key": re.search("AGE-SECRET-KEY-1[A-Z0-9]+", key.read_text())[0],  # type: ignore[index]
        "the store key": (btw.config_dir / ".offsite/store-key").read_text().strip(),
        "the password of the database": PASSWORD,
        "the secret of S3": re.search("secret_key = (.+)", config)[1],  # type: ignore[index]
    }
    log = (btw.config_dir / "btw-backup.log").read_text()
    sent = b"".join(head + body for head, body in requests).decode("latin-1")
    journal = (btw.config_dir / "runs.jsonl").read_text()
    for what, secret in secrets.items():
        if f"access_key = {secret}\n" in config:
            continue  # a server whose secret is its name, which is told
        for where, text in {"programs": "\n".join(programs), "log": log, "answers": watched.out, "sent": sent}.items():
            assert secret not in text, f"{what} is in {where}"
    assert CONTENT not in log + watched.out + journal


SOURCES = {
    "a file": "S3CMD_CONFIG = {path!r}\n",
    "the environment": "import os\nS3CMD_CONFIG = os.environ['WHERE_THE_SECRET_IS']\n",
    "a systemd credential": "import os\nS3CMD_CONFIG = os.environ['CREDENTIALS_DIRECTORY'] + '/s3cfg'\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_where_the_credentials_of_s3_may_come_from(btw: Installation, bucket: Bucket, source: Path, name: str) -> None:
    """D11: a configuration is Python, and says where."""
    credentials = btw.top / "credentials"
    credentials.mkdir()
    path = bucket.s3cmd_config(credentials / "s3cfg")
    btw.tree(source)
    btw.configure(SOURCES[name].format(path=str(path)), S3_URI_PREFIX=f"s3://{bucket.name}/backups")
    btw("fs", source, "www", env={"WHERE_THE_SECRET_IS": str(path), "CREDENTIALS_DIRECTORY": str(credentials)})
    assert any(name.endswith(".tar.zst") for name in bucket.objects())


def test_a_key_from_a_command(btw: Installation, source: Path) -> None:
    """D11: `--identity <(pass show backup)`: it never lies on a disk of this machine."""
    (btw.top / "nas").mkdir()
    public = btw("keys", "generate", btw.top / "key").out.strip()
    btw.configure("", ENCRYPT_TO=[public], OFFSITE={"nas": {"PATH": str(btw.top / "nas")}})
    btw.tree(source)
    btw("fs", source, "www")
    btw("keys", "test", "--pin", btw.top / "key")
    command = f"{sys.executable} -m btw_backup --config-dir {btw.config_dir} restore --from nas"
    script = f"{command} --identity <(cat {btw.top}/key) www {btw.top}/out"
    subprocess.run(["bash", "-c", script], check=True, cwd=REPOSITORY)
    assert tree_differences(source, btw.top / "out") == ""
