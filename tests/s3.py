"""Real S3 servers on free loopback ports: moto, and s3rver where npm has put it. Import the
fixtures to use them."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config as ClientConfig

from tests.conftest import PATIENCE, Installation
from tests.faultproxy import FaultProxy

S3RVER = Path(os.environ.get("BTW_TEST_NODE", "/")) / "node_modules" / ".bin" / "s3rver"
SERVERS = ("moto", *(("s3rver",) if S3RVER.exists() else ()))


@dataclass
class Server:
    """A running S3 server: where it listens, and a key that it accepts."""

    port: int
    key: str
    secret: str


@dataclass
class Bucket:
    """A bucket of its own for one test. Objects are looked at with boto3, not with what we test."""

    server: Server
    name: str

    @property
    def client(self) -> Any:
        """boto3's client of the server."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.server.port}",
            aws_access_key_id=self.server.key,
            aws_secret_access_key=self.server.secret,
            region_name="us-east-1",
            config=ClientConfig(s3={"addressing_style": "path"}),
        )

    def objects(self, prefix: str = "backups/") -> dict[str, bytes]:
        """Every object under `prefix`, by the rest of its key."""
        client, found = self.client, {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for entry in page.get("Contents", ()):
                body = client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
                found[entry["Key"].removeprefix(prefix)] = body
        return found

    def put(self, path: str, content: bytes, prefix: str = "backups/") -> None:
        """Store an object behind the back of what we test."""
        self.client.put_object(Bucket=self.name, Key=prefix + path, Body=content)

    def s3cmd_config(self, path: Path, port: int = 0) -> Path:
        """Write a configuration for s3cmd that reaches the server, or what listens on `port` instead."""
        host = f"127.0.0.1:{port or self.server.port}"
        path.write_text(
            f"[default]\naccess_key = {self.server.key}\nsecret_key = {self.server.secret}\nhost_base = {host}\n"
            f"host_bucket = {host}\nuse_https = False\nbucket_location = us-east-1\n"
        )
        return path


def configure(btw: Installation, bucket: Bucket, port: int = 0, **settings: object) -> None:
    """Let `btw` send its backups to `bucket`, through what listens on `port` if given."""
    s3cmd_config = bucket.s3cmd_config(btw.top / "s3cmd.conf", port)
    prefix = f"s3://{bucket.name}/backups/"
    btw.configure("", S3_URI_PREFIX=prefix, S3CMD_CONFIG=str(s3cmd_config), **settings)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _started(kind: str, folder: Path) -> tuple[subprocess.Popen[bytes], Server]:
    port = free_port()
    if kind == "moto":
        command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        server = Server(port, "testkey", "testsecret")
    else:
        command = [str(S3RVER), "-a", "127.0.0.1", "-p", str(port), "-d", str(folder), "--silent", "--no-vhost-buckets"]
        server = Server(port, "S3RVER", "S3RVER")  # no other is accepted
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, server
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"{kind} did not start: {(folder / 'log').read_text()}")


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """An S3 server that runs while the block lasts."""
    process, server = _started(kind, folder)
    try:
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session", params=SERVERS)
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running S3 server, of each kind that there is."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def bucket(s3_server: Server) -> Bucket:
    """An empty bucket."""
    made = Bucket(s3_server, f"test-{uuid.uuid4().hex[:12]}")
    made.client.create_bucket(Bucket=made.name)
    return made


@pytest.fixture
def offsite(btw: Installation, bucket: Bucket) -> Bucket:
    """An empty bucket that `btw` sends its backups to."""
    configure(btw, bucket)
    return bucket


@pytest.fixture
def proxy(btw: Installation, bucket: Bucket) -> Iterator[FaultProxy]:
    """A proxy that fails on command, through which `btw` sends its backups to `bucket`."""
    with FaultProxy(bucket.server.port) as faults:
        configure(btw, bucket, faults.port)
        yield faults
