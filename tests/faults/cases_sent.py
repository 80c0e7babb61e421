"""What is swept of what goes to a target that is a folder: it is struck by faults as what is here is.

There are two: one that is a mirror of ROOT_PATH, and one that holds encrypted objects.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from btw_backup.recovering.keypair import pins_in
from tests.conftest import Ended
from tests.faults.case import Case
from tests.faults.contents import Content, change_source, content_of, make_source
from tests.faults.world import World, empty

ALL_IS_WELL = (0, 3)


def tree(world: World) -> Path:
    """What is backed up."""
    return world.outside / "src"


def target(world: World) -> Path:
    """The folder that backups go to."""
    return world.top / "out" / "nas"


def _key(world: World) -> Path:
    return world.top / "out" / "backup.key"


def _restored(world: World) -> Path:
    return world.top / "out" / "restored"


def _sends(world: World, *, encrypted: bool) -> None:
    """From now on backups go to the folder."""
    target(world).mkdir()
    more = ""
    if encrypted:
        world.well("keys", "generate", _key(world))
        public = world.well("keys", "public", _key(world)).out.strip()
        more = f"ENCRYPT_TO = [{public!r}]\n"
    world.configure(f"OFFSITE = {{'nas': {{'PATH': {str(target(world))!r}}}}}\n{more}")


def _sent(world: World, keeper: str, *, encrypted: bool, backups: int = 1) -> None:
    """So many backups that are in the folder, too; the tree has changed since."""
    _sends(world, encrypted=encrypted)
    make_source(tree(world), 1)
    world.well("fs-init", "--type", keeper, tree(world), "src")
    for number in range(backups):
        world.well("fs", tree(world), "hosts/src")
        world.learn("hosts/src", content_of(tree(world)))
        change_source(tree(world), number + 2)


def is_there(world: World) -> None:
    """Nothing is owed, and every backup comes back from the target as it should; or it was said that something is owed."""
    owed = world.well("sync-state", "--list").out
    if world.last.status == 6:
        assert owed, "I6: said to be owed, and nothing is"
        return
    assert not owed, f"I6: done, and this is owed: {owed}"
    identity = ("--identity", _key(world)) if _key(world).exists() else ()
    rows = json.loads(world.well("--json", "restore", "--from", target(world), *identity, "--list").out or "[]")
    there = {f"{row['dst']}@{row['stamp']}" for row in rows}
    here = {f"{row['dst']}@{row['stamp']}" for row in world.listed() if row["valid"] is not False}
    assert here <= there, f"I6: not at the target: {here - there}"
    newest = max(here)
    place = world.place / "scratch" / "from the target"
    shutil.rmtree(place, ignore_errors=True)
    ended = world.run("restore", "--from", target(world), *identity, newest, place)
    assert ended.status == 0, f"I6: {newest} does not come back from the target: {ended}"
    wanted = world.sure.get(newest) or content_of(tree(world))
    assert content_of(place) == wanted, f"I6: {newest} comes back from the target as something else"


def _backup(keeper: str, *, encrypted: bool) -> Case:
    return Case(
        f"fs {keeper}, to a folder{', encrypted' if encrypted else ''}",
        "fs",
        lambda world: _sent(world, keeper, encrypted=encrypted),
        lambda world: ("fs", tree(world), "hosts/src"),
        "hosts/src",
        lambda world: content_of(tree(world)),
        done=is_there,
    )


def _lost(world: World) -> None:
    """The target has lost one of the larger things that were sent."""
    _sent(world, "chunks", encrypted=False, backups=2)
    max(target(world).glob(".store/chunks/*/*.zst"), key=lambda path: (path.stat().st_size, path.name)).unlink()


def _lost_record(world: World) -> None:
    """The target has lost the newest record of what is there."""
    _sent(world, "chunks", encrypted=True, backups=2)
    max(target(world).glob("index/*/*"), key=lambda path: path.name).unlink()


def _sync(option: str, statuses: tuple[int, ...], what: str, lost: Callable[[World], None]) -> Case:
    return Case(
        f"sync {option}, {what} is lost there",
        "sync",
        lost,
        lambda world: ("sync", option),
        done=is_there,
        statuses=statuses,
        is_fine=lambda world, ended: ended.status in (0, *statuses),
    )


def _rebuilding(encrypted: bool) -> Case:
    """ROOT_PATH is lost, and comes back from the target."""

    def build(world: World) -> None:
        _sent(world, "chunks", encrypted=encrypted, backups=2)
        world.coming = dict(world.sure)
        world.sure.clear()
        mark = (world.root / ".btw-backup-id").read_bytes()
        empty(world.root)
        (world.root / ".btw-backup-id").write_bytes(mark)

    def words(world: World) -> Sequence[object]:
        return ("import", "--from", "nas", *(("--identity", _key(world)) if encrypted else ()))

    def done(world: World) -> None:
        rows = {f"{row['dst']}@{row['stamp']}" for row in world.listed()}
        assert set(world.coming) <= rows, "reported as rebuilt, and not there"

    name = f"import --from a folder{', encrypted' if encrypted else ''}"
    return Case(name, "import", build, words, comes=lambda world: world.coming, done=done)


def _healing(keeper: str, *, encrypted: bool) -> Case:
    """A backup and a record are damaged here, which scrub has marked, and come back from the target."""

    def build(world: World) -> None:
        _sent(world, keeper, encrypted=encrypted, backups=2)
        for pattern in ("*.tar.zst", "*/backup.tar", ".records/*.json"):
            for path in sorted(world.root.glob(f"hosts/src/{pattern}"))[:1]:
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
        assert world.run("scrub").status == 5
        marked = {f"{row['dst']}@{row['stamp']}" for row in world.listed() if row["valid"] is False}
        world.coming = {address: world.sure.pop(address) for address in marked}

    def words(world: World) -> Sequence[object]:
        return ("import", "--from", "nas", *(("--identity", _key(world)) if encrypted else ()))

    def done(world: World) -> None:
        world.well("scrub")
        assert all(row["valid"] for row in world.listed()), "reported as healed, and still marked"

    name = f"import --from a folder{', encrypted' if encrypted else ''}, a backup by {keeper} is damaged here"
    return Case(name, "import", build, words, comes=lambda world: world.coming, done=done)


def _restoring() -> Case:
    def wanted(world: World) -> Content:
        return world.saved_sure[max(world.saved_sure)]

    def partial(world: World) -> None:
        if world.last.status in ALL_IS_WELL[:1] or not os.path.lexists(_restored(world)):
            return
        if world.last.status == 3:  # it said that something could not be set
            shutil.rmtree(_restored(world))
            return
        assert content_of(_restored(world)) == wanted(world), "what was restored is something else"

    def done(world: World) -> None:
        assert content_of(_restored(world)) == wanted(world), "what was restored is something else"

    def is_fine(world: World, ended: Ended) -> bool:
        return ended.status == 0 or (ended.status == 1 and "exists\n" in ended.err)

    return Case(
        "restore --from a folder, encrypted",
        "restore",
        lambda world: _sent(world, "chunks", encrypted=True, backups=2),
        lambda world: ("restore", "--from", "nas", "--identity", _key(world), "hosts/src", _restored(world)),
        partial=partial,
        done=done,
        is_fine=is_fine,
    )


def _pinning() -> Case:
    def key_is_whole(world: World) -> None:
        world.well("keys", "public", _key(world))

    def done(world: World) -> None:
        key_is_whole(world)
        world.well("keys", "test", _key(world))
        assert len(pins_in(_key(world).read_text())) == 1, "reported as noted, and not there"

    return Case(
        "keys test --pin",
        "keys",
        lambda world: _sent(world, "chunks", encrypted=True),
        lambda world: ("keys", "test", "--pin", _key(world)),
        partial=key_is_whole,
        done=done,
    )


def _scrubbing() -> Case:
    def build(world: World) -> None:
        _sent(world, "chunks", encrypted=True)
        path = max((path for path in target(world).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def done(world: World) -> None:
        assert world.run("sync-state", "--list").out, "found to be damaged, and not owed anew"

    return Case(
        "scrub --target, something is damaged there",
        "scrub",
        build,
        lambda world: ("scrub", "--target", "nas"),
        done=done,
        statuses=(5,),
        is_fine=lambda world, ended: ended.status == 5 or bool(world.run("sync-state", "--list").out),
    )


def _attacking() -> Case:
    def no_probe_is_left(world: World) -> None:
        left = [path.name for path in target(world).rglob("*attack*")]
        assert not left, f"I5: left at the target: {left}"

    status: Callable[[World, Ended], bool] = lambda world, ended: ended.status in (0, 1)  # noqa: E731
    return Case(
        "doctor --attack",
        "doctor",
        lambda world: _sent(world, "tar", encrypted=True),
        lambda world: ("doctor", "--attack"),
        done=no_probe_is_left,
        again=lambda world: ("sync", "--verify"),  # removes what a run left half sent, as all that send do
        statuses=(0, 1),
        is_fine=status,
    )


CASES_SENT = (
    _backup("tar", encrypted=False),
    _backup("rdiff", encrypted=False),
    _backup("chunks", encrypted=False),
    _backup("chunks", encrypted=True),
    _backup("rdiff", encrypted=True),
    _sync("--full", (0,), "something", _lost),
    _sync("--verify", (0,), "something", _lost),
    _sync("--verify", (0,), "a record", _lost_record),
    _rebuilding(encrypted=False),
    _rebuilding(encrypted=True),
    _healing("tar", encrypted=False),
    _healing("rdiff", encrypted=False),
    _healing("tar", encrypted=True),
    _restoring(),
    _pinning(),
    _scrubbing(),
    _attacking(),
)
"""What goes to a folder, and comes from there."""
