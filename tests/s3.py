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
        return _client(self.server.port, self.server.key, self.server.secret)

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


@dataclass
class Guarded:
    """An S3 server that checks who asks, with a versioned bucket ``bucket``: ``host`` may do what `allow` says,
    ``rescuer`` may read, and an owner may do everything. What is here stands for the provider's console."""

    port: int
    credentials: dict[str, tuple[str, str]]

    def client(self, who: str = "owner", service: str = "s3") -> Any:
        """boto3's client with the credentials of `who`."""
        key, secret = self.credentials[who]
        return _client(self.port, key, secret, service)

    def allow(self, who: str, policy: str) -> None:
        """Give a user just this policy."""
        self.client(service="iam").put_user_policy(UserName=who, PolicyName="only", PolicyDocument=policy)

    def add(self, who: str) -> None:
        """A new user, who may do nothing yet."""
        iam = self.client(service="iam")
        iam.create_user(UserName=who)
        made = iam.create_access_key(UserName=who)["AccessKey"]
        self.credentials[who] = made["AccessKeyId"], made["SecretAccessKey"]

    def keys(self) -> list[str]:
        """The names of all objects."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket="bucket")
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def overwrite(self, who: str) -> list[tuple[str, str]]:
        """Overwrite all objects with the credentials of `who`; the versions that this made."""
        client = self.client(who)
        rubbish = {key: client.put_object(Bucket="bucket", Key=key, Body=b"pay!") for key in self.keys()}
        return [(key, made["VersionId"]) for key, made in rubbish.items()]

    def forget(self, versions: list[tuple[str, str]]) -> None:
        """Remove versions of objects, so that what was before them is there again."""
        for key, version in versions:
            self.client().delete_object(Bucket="bucket", Key=key, VersionId=version)

    def s3cmd_config(self, path: Path, who: str) -> None:
        """Write a configuration for s3cmd."""
        key, secret = self.credentials[who]
        Bucket(Server(self.port, key, secret), "bucket").s3cmd_config(path)


EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
READING = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}]}'
)


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """moto with its checks of signatures and policies, while the block lasts."""
    process, server = _started("moto", folder, INITIAL_NO_AUTH_ACTION_COUNT="3")
    try:
        found = Guarded(server.port, {"owner": (server.key, server.secret)})
        found.add("owner")
        found.allow("owner", EVERYTHING)
        found.client().create_bucket(Bucket="bucket")
        found.client().put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
        for who, policy in {"host": "", "rescuer": READING}.items():
            found.add(who)
            if policy:
                found.allow(who, policy)
        yield found
    finally:
        process.kill()
        process.wait()


def _client(port: int, key: str, secret: str, service: str = "s3") -> Any:
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=ClientConfig(s3={"addressing_style": "path"}),
    )


def _started(kind: str, folder: Path, **environment: str) -> tuple[subprocess.Popen[bytes], Server]:
    port = free_port()
    if kind == "moto":
        command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        server = Server(port, "testkey", "testsecret")
    else:
        command = [str(S3RVER), "-a", "127.0.0.1", "-p", str(port), "-d", str(folder), "--silent", "--no-vhost-buckets"]
        server = Server(port, "S3RVER", "S3RVER")  # no other is accepted
    log = (folder / "log").open("wb")
    environment = {**os.environ, **environment}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
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
