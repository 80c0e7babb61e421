"""G12: whatever is lost, every keeper's backups come back equal: eight losses, each with all keepers."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Installation, tree_differences
from tests.servers import Postgres, postgres, postgres_server, programs_of_all_versions

__all__ = ["postgres"]

TREES = ("tar", "rdiff", "chunks")


@dataclass
class World:
    """An installation with a backup by every keeper at two encrypted targets, and what each should restore to."""

    btw: Installation
    key: Path
    trees: dict[str, Path]
    stream: bytes
    server: Postgres
    dump: str
    number: int = 0

    @property
    def first(self) -> list[object]:
        """The options that restore from the first target."""
        return ["--from", self.btw.top / "nas", "--identity", self.key]

    def everything_comes_back(self, *options: object, btw: Installation | None = None) -> None:
        """Restore all, and compare."""
        self.number += 1
        run, out = btw or self.btw, self.btw.top / f"out{self.number}"
        out.mkdir()
        for type_ in TREES:
            run("restore", *options, f"all/{type_}", out / type_)
            assert tree_differences(self.trees[type_], out / type_) == ""
        for type_ in ("file", "chunks"):
            run("restore", *options, f"all/stream-{type_}", out / f"stream-{type_}")
            assert (out / f"stream-{type_}").read_bytes() == self.stream
        back = f"back_{self.number}"
        run("restore", *options, "all/db", "--database", back, env=self.server.env)
        assert self.server.dump(back) == self.dump
        shutil.rmtree(out)

    @contextmanager
    def without(self, *patterns: str) -> Iterator[None]:
        """What the patterns match, below the top, is gone while the block lasts, and as it was afterwards."""
        kept = self.btw.top / "kept"
        subprocess.run(["rm", "-rf", kept], check=True)
        kept.mkdir()
        for name in ("cfg", "root", "nas", "other"):
            subprocess.run(["cp", "-a", self.btw.top / name, kept / name], check=True)
        for path in [path for pattern in patterns for path in self.btw.top.glob(pattern)]:
            subprocess.run(["rm", "-rf", path], check=True)
        try:
            yield
        finally:
            for name in ("cfg", "root", "nas", "other"):
                subprocess.run(["rm", "-rf", self.btw.top / name], check=True)
                subprocess.run(["mv", kept / name, self.btw.top / name], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Built once; each loss is made good again."""
    btw = Installation(tmp_path_factory.mktemp("losses"))
    for folder in (btw.config_dir, btw.root, btw.top / "nas", btw.top / "other"):
        folder.mkdir()
    btw.configure()
    public = btw("keys", "generate", btw.top / "key").out.strip()
    places = {name: {"PATH": str(btw.top / name)} for name in ("nas", "other")}
    btw.configure("", ENCRYPT_TO=[public], OFFSITE=places)
    trees = {}
    for type_ in TREES:
        trees[type_] = btw.top / f"source-{type_}"
        (trees[type_] / "etc").mkdir(parents=True)
        (trees[type_] / "etc/hosts").write_text(f"127.0.0.1 {type_}\n")
        (trees[type_] / "large").write_bytes(bytes(range(256)) * 20_000)
        (trees[type_] / "link").symlink_to("etc/hosts")
        btw.tree(trees[type_], type_, type_)
        btw("fs", trees[type_], f"all/{type_}")
    for type_ in ("file", "chunks"):
        btw("command-init", "--type", type_, f"stream-{type_}", "--", "cat", trees["tar"] / "large")
        btw("command", f"stream-{type_}", f"all/stream-{type_}")
    with postgres_server(next(iter(programs_of_all_versions().values()))) as server:
        server.sql("CREATE DATABASE shop")
        server.sql("CREATE TABLE item AS SELECT g AS id, md5(g::text) AS name FROM generate_series(1, 9999) g", "shop")
        btw("db", "shop", "all/db", env=server.env)
        btw("keys", "test", "--pin", btw.top / "key")
        stream = (trees["tar"] / "large").read_bytes()
        yield World(btw, btw.top / "key", trees, stream, server, server.dump("shop"))


def everything_here(world: World) -> None:
    """G17: an empty machine, with a target and the key."""
    with world.without("cfg", "root"):
        empty = Installation(world.btw.top / "empty")
        empty.top.mkdir()
        world.everything_comes_back(*world.first, btw=empty)


def catalogue(world: World) -> None:
    """An index, which can be deleted at any time."""
    with world.without("cfg/catalogue.sqlite*", "cfg/runs*"):
        world.everything_comes_back()


def records(world: World) -> None:
    """What is known of backups, fetched back from a target."""
    with world.without("root/all/*/.records"):
        world.btw("import", "--from", "nas", "--identity", world.key)
        world.btw("scrub")
        world.everything_comes_back()


def sync_state(world: World) -> None:
    """What is owed, and what is known to be there: all is sent anew, and both times can be read."""
    with world.without("cfg/sync_state*", "cfg/.offsite/*.sqlite", "cfg/.offsite/*.json"):
        world.btw("sync")
        world.btw("keys", "test", world.key)
        world.everything_comes_back(*world.first)


def sync_state_alone(world: World) -> None:
    """F34: also what was owed is there, and what was there already."""
    with world.without():
        late, nas, away = world.btw.top / "late", world.btw.top / "nas", world.btw.top / "away"
        late.mkdir()
        (late / "file").write_text("made while the target was away")
        world.btw.tree(late, "chunks", "late")
        nas.rename(away)
        world.btw("fs", late, "all/late", status=6)
        away.rename(nas)
        for journal in world.btw.config_dir.glob("sync_state*"):
            journal.unlink()
        assert world.btw("sync").err.count("it is rebuilt") == 2
        world.btw("keys", "test", world.key)
        world.btw("restore", *world.first, "all/late", world.btw.top / "late-again")
        assert tree_differences(late, world.btw.top / "late-again") == ""
        world.everything_comes_back(*world.first)


def configuration(world: World) -> None:
    """Another one is written, and continues."""
    text = (world.btw.config_dir / "config.py").read_text()
    with world.without("cfg", "root"):
        world.btw.config_dir.mkdir()
        world.btw.root.mkdir()
        (world.btw.config_dir / "config.py").write_text(text)
        world.btw("import", "--from", "nas", "--identity", world.key)
        world.everything_comes_back()
        world.btw("sync")


def one_target(world: World) -> None:
    """The other is asked."""
    with world.without("nas/objects", "root"):
        other = ["--from", world.btw.top / "nas", "--from", world.btw.top / "other", "--identity", world.key]
        world.everything_comes_back(*other)


def this_program(world: World) -> None:
    """F108, F109: RESTORE.py, and what each format's own program is; then, to compare, all of the rebuilt ROOT_PATH."""
    rebuilt = world.btw.top / f"rebuilt{world.number}"
    script = ["/usr/bin/python3", "-I", world.btw.top / "nas/RESTORE.py", "--identity", world.key]
    subprocess.run([*script, rebuilt], check=True)
    out = world.btw.top / "by-hand"
    out.mkdir()
    [archive] = (rebuilt / "all/tar").glob("*.tar.zst")
    subprocess.run(["tar", "-C", out, "--zstd", "-xpf", archive], check=True)
    assert tree_differences(world.trees["tar"], out) == ""
    [repository] = (path for path in (rebuilt / "all/rdiff").glob("2*") if path.is_dir())
    subprocess.run(["rdiff-backup", "restore", "--at", "now", repository, out / "r"], check=True)
    subprocess.run(["tar", "-C", out / "r", "-xpf", out / "r/backup.tar"], check=True)
    (out / "r/backup.tar").unlink()
    assert (out / "r/etc/hosts").read_text() == "127.0.0.1 rdiff\n"
    for type_ in ("chunks", "stream-chunks"):
        subprocess.run(["/usr/bin/python3", rebuilt / ".store/RESTORE.py", f"all/{type_}", out / type_], check=True)
    assert tree_differences(world.trees["chunks"], out / "chunks") == ""
    assert (out / "stream-chunks").read_bytes() == world.stream
    [stream] = (rebuilt / "all/stream-file").glob("*.zst")
    assert subprocess.run(["zstd", "-dc", stream], check=True, capture_output=True).stdout == world.stream
    [repository] = (path for path in (rebuilt / "all/db").glob("2*") if path.is_dir())
    subprocess.run(["rdiff-backup", "restore", "--at", "now", repository, out / "db"], check=True)
    world.server.sql("CREATE DATABASE by_hand")
    world.server.run("pg_restore", "-d", "by_hand", str(out / "db/shop.dump"))
    assert world.server.dump("by_hand") == world.dump
    shutil.rmtree(out)


LOSSES: dict[str, Callable[[World], None]] = {
    "everything here": everything_here,
    "catalogue": catalogue,
    "records": records,
    "sync state": sync_state,
    "sync state alone": sync_state_alone,
    "configuration": configuration,
    "one target": one_target,
    "this program": this_program,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_all_keepers_after(world: World, loss: str) -> None:
    """G12, C05: equal, whatever is lost."""
    LOSSES[loss](world)
