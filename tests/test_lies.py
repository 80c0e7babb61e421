"""A server that fails or lies, whatever is done with it: what is said to be off-site is there, what comes back is what was
kept, and nothing hangs."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import Installation, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, Server, s3_server

__all__ = ["s3_server"]

LIMIT = 150
"""Seconds that any of it may take; s3cmd is told to wait 3 for an answer, and a call of it may take 20."""

FETCHING = {
    "short": Rule("GET", "/objects/", "short"),
    "short once": Rule("GET", "/objects/", "short", 2, 2),
    "flipped": Rule("GET", "/objects/", "flip"),
    "flipped record": Rule("GET", "/index/", "flip"),
    "swapped": Rule("GET", "/objects/", "swap"),
    "swapped records": Rule("GET", "/index/", "swap"),
    "cut": Rule("GET", "/objects/", "cut", 1, 3),
    "hang": Rule("GET", "/objects/", "hang"),
    "busy": Rule("GET", "/objects/", "busy"),
    "denied": Rule("GET", "/objects/", "denied"),
    "busy twice": Rule("GET", "/objects/", "busy", 1, 2),
    "skewed": Rule("GET", "", "skewed"),
    "listing drips": Rule("GET", "prefix=", "drip"),
    "listing hangs": Rule("GET", "prefix=", "hang", 2),
    "half an index": Rule("GET", "prefix=backups%2Findex", "partial"),
    "no keys": Rule("GET", "prefix=backups%2Fkeys", "empty"),
    "no index": Rule("GET", "prefix=backups%2Findex", "empty"),
}
SENDING = {
    "busy": Rule("PUT", "", "busy"),
    "busy twice": Rule("PUT", "", "busy", 2, 3),
    "denied": Rule("PUT", "", "denied"),
    "reset": Rule("PUT", "", "reset"),
    "hang": Rule("PUT", "", "hang"),
    "corrupt": Rule("PUT", "", "corrupt"),
    "corrupt once": Rule("PUT", "", "corrupt", 2, 2),
    "lie": Rule("PUT", "", "lie"),
    "lie once": Rule("PUT", "", "lie", 3, 3),
    "lose": Rule("PUT", "", "lose", 1, 4),
    "odd": Rule("GET", "", "odd"),
    "every second dies": Rule("PUT", "", "reset", every=2),
    "skewed": Rule("PUT", "", "skewed"),
    "drip": Rule("PUT", "", "drip"),
    "listing partial": Rule("GET", "", "partial"),
    "listing empty": Rule("GET", "", "empty"),
    "listing busy": Rule("GET", "", "busy"),
    "listing denied": Rule("GET", "", "denied"),
    "listing hangs": Rule("GET", "", "hang", 2),
    "listing cut": Rule("GET", "", "cut"),
    "listing short": Rule("GET", "", "short"),
}


@dataclass
class World:
    """An installation that sends encrypted through a proxy, with a backup that is off-site."""

    btw: Installation
    bucket: Bucket
    proxy: FaultProxy
    source: Path
    number: int = 0

    def restore(self) -> tuple[int, Path]:
        """Restore through the proxy; the status, and where it should be."""
        self.number += 1
        target = self.btw.top / f"out{self.number}"
        options = ["--from", "s3", "--identity", self.btw.top / "key"]
        began = time.monotonic()
        status = self.btw("restore", *options, "www", target, status=None).status
        assert time.monotonic() - began < LIMIT
        return status, target

    def really_there(self) -> bool:
        """Whether the newest backup comes back from the bucket itself."""
        self.proxy.rules = []
        status, target = self.restore()
        return status == 0 and tree_differences(self.source, target) == ""


@pytest.fixture(scope="module")
def world(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Built once: none of the lies may spoil it."""
    btw = Installation(tmp_path_factory.mktemp("lies"))
    btw.config_dir.mkdir()
    btw.root.mkdir()
    btw.configure()
    public = btw("keys", "generate", btw.top / "key").out.strip()
    bucket = Bucket(s3_server, "lies")
    bucket.client.create_bucket(Bucket=bucket.name)
    with FaultProxy(s3_server.port) as proxy:
        config = bucket.s3cmd_config(btw.top / "s3cmd.conf", proxy.port)
        config.write_text(config.read_text() + "socket_timeout = 3\n")
        settings = {"S3_URI_PREFIX": f"s3://{bucket.name}/backups", "S3CMD_CONFIG": str(config)}
        btw.configure("", **settings, ENCRYPT_TO=[public], SYNC_TIMEOUT="20s")
        source = btw.top / "source"
        source.mkdir()
        (source / "file").write_bytes(bytes(range(256)) * 1000)
        btw.tree(source, "chunks")
        btw("fs", source, "www")
        btw("keys", "test", "--pin", btw.top / "key")
        yield World(btw, bucket, proxy, source)


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> dict[str, object]:
    """What is told at the end of the run: whether it took too long, and whether something false was said."""
    told: dict[str, object] = {"what": "", "hangs": 1, "false": 1}
    request.node.user_properties.append(("lies", told))
    return told


@pytest.mark.parametrize("lie", FETCHING)
def test_restores(world: World, lie: str, verdict: dict[str, object]) -> None:
    """F83, F84: 0 and exactly what was kept, or another status and nothing under its name that is not that."""
    verdict["what"] = "restore"
    world.proxy.rules = [replace(FETCHING[lie])]
    status, target = world.restore()
    verdict["hangs"] = 0
    assert status in (0, 1, 5)
    if status == 0:
        assert tree_differences(world.source, target) == ""
    verdict["false"] = 0
    assert (status == 0) == target.exists() or tree_differences(world.source, target) == ""
    assert lie != "short once" or status == 0
    shutil.rmtree(target, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fs", "sync --full"])
@pytest.mark.parametrize("lie", SENDING)
def test_sends(world: World, lie: str, command: str, verdict: dict[str, object]) -> None:
    """F76 to F87: status 0 only if it comes back; else 6, and the next sync sends it."""
    verdict["what"] = command
    world.proxy.rules = [replace(SENDING[lie])]
    (world.source / "number").write_text(f"{lie} {command}")
    began = time.monotonic()
    if command == "fs":
        ended = world.btw("fs", world.source, "www", status=None)
    else:
        world.proxy.rules, rules = [], world.proxy.rules
        world.btw("fs", world.source, "www")
        world.proxy.rules = rules
        ended = world.btw("sync", "--full", status=None)
    assert time.monotonic() - began < LIMIT
    verdict["hangs"] = 0
    assert ended.status in (0, 6), ended
    if ended.status == 0:
        assert world.really_there()
    verdict["false"] = 0
    world.proxy.rules = []
    world.btw("sync")
    assert world.really_there()
