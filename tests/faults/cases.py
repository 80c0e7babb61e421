"""What is swept: for every command that changes something, an installation to run it in, and what it has to come to.

A case fails at its first step, its second, and so on; what must hold then is in `audit`.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from btw_backup.configuration.addresses import FIRST
from btw_backup.offsite import sync
from tests.conftest import Ended
from tests.faults.case import Case
from tests.faults.cases_sent import CASES_SENT
from tests.faults.contents import Content, change_source, content_of, make_source
from tests.faults.world import World, empty

READ_ONLY = {
    "list": "reads ROOT_PATH",
    "find": "reads ROOT_PATH",
    "diff": "reads two backups",
    "explain": "reads the settings of a tree",
    "mount": "shows what is stored; a kill ends the mount",
    "config": "reads the configuration",
    "doctor": "only looks, unless it plays a burglar, which is swept",
    "offsite": "prints a policy",
}
"""Commands that persist nothing, and what they do instead."""


# Trees


def _tree(world: World) -> Path:
    return world.outside / "src"


def _content_of_tree(world: World) -> Content:
    return content_of(_tree(world))


def _backed_up(world: World, keeper: str, backups: int) -> None:
    """A tree of which there are so many backups, each of another content, and which has changed since."""
    make_source(_tree(world), 1)
    world.well("fs-init", "--type", keeper, _tree(world), "src")
    for number in range(backups):
        world.well("fs", _tree(world), "hosts/src")
        world.learn("hosts/src", content_of(_tree(world)))
        change_source(_tree(world), number + 2)


def _unchanged(world: World, keeper: str) -> None:
    """A tree of which the newest backup has everything, and it is old enough to be believed."""
    _backed_up(world, keeper, 1)
    time.sleep(2.2)
    world.well("fs", _tree(world), "hosts/src")
    world.learn("hosts/src", content_of(_tree(world)))
    time.sleep(0.1)


def _fs(keeper: str, name: str, backups: int) -> Case:
    return Case(
        f"fs {keeper}, {name}",
        "fs",
        lambda world: _backed_up(world, keeper, backups),
        lambda world: ("fs", _tree(world), "hosts/src"),
        "hosts/src",
        _content_of_tree,
    )


def _fs_unchanged(keeper: str) -> Case:
    return Case(
        f"fs {keeper}, unchanged",
        "fs",
        lambda world: _unchanged(world, keeper),
        lambda world: ("fs", _tree(world), "hosts/src"),
        "hosts/src",
        _content_of_tree,
        is_new=False,
    )


def _made_tree(world: World) -> None:
    make_source(_tree(world), 1)


def _can_back_up(world: World) -> None:
    """After fs-init: the tree can be backed up."""
    world.well("fs", _tree(world), "after")
    address = world.learn("after", content_of(_tree(world)))
    assert world.restored(world.listed()[-1]) == world.sure.pop(address)
    shutil.rmtree(world.root / "after")


def _can_run(world: World) -> None:
    """After command-init: the output can be kept."""
    world.well("command", "out", "after")
    assert world.restored(world.listed()[-1]) == content_of(_output(world))
    shutil.rmtree(world.root / "after")


def _is_there_already(world: World, ended: Ended) -> bool:
    """Done now, or done by the run that failed."""
    return ended.status == 0 or (ended.status == 1 and "already" in ended.err)


# Output of commands, and dumps


def _output(world: World) -> Path:
    return world.outside / "output"


def _command(keeper: str, backups: int) -> Case:
    def build(world: World) -> None:
        _write_output(world, 0)
        world.well("command-init", "--type", keeper, "out", "--", "/bin/cat", _output(world))
        for number in range(backups):
            world.well("command", "out", "hosts/out")
            world.learn("hosts/out", content_of(_output(world)))
            _write_output(world, number + 1)

    return Case(
        f"command {keeper}, {('first', 'second')[backups]}",
        "command",
        build,
        lambda world: ("command", "out", "hosts/out"),
        "hosts/out",
        lambda world: content_of(_output(world)),
        may_be_twice=keeper == "chunks",
    )


def _write_output(world: World, number: int) -> None:
    lines = (f"{line} of {number if line > 9000 else 0}\n" for line in range(10_000))
    _output(world).write_text("".join(lines))


def _db(keeper: str, backups: int, globals_: bool = False) -> Case:
    what = ["-g"] if globals_ else ["faulty"]

    def build(world: World) -> None:
        _configure_databases(world, keeper)
        _make_database(world, "faulty")
        for number in range(backups):
            world.well("db", *what, "db/faulty")
            world.learn("db/faulty", dumped(world))
            _change_server(world, number)

    def dumped(world: World) -> Content:
        return _backed_up_database(world, "" if globals_ else "faulty")

    return Case(
        f"db {'-g ' if globals_ else ''}{keeper}, {('first', 'second', 'third')[backups]}",
        "db",
        build,
        lambda world: ("db", *what, "db/faulty"),
        "db/faulty",
        dumped,
        may_be_twice=True,
        needs="postgres",
    )


def _configure_databases(world: World, keeper: str) -> None:
    """Those whose names begin with an f, and the roles, are kept so."""
    folder = world.config_dir / "db"
    folder.mkdir()
    (folder / "global.py").write_text(f"TYPE = {keeper!r}\nEXCLUDE = ['[!f]*']\n")
    (folder / "faulty.py").write_text(f"TYPE = {keeper!r}\n")
    world.sql("postgres", "DROP ROLE IF EXISTS of_0")


def _make_database(world: World, name: str, lines: int = 999) -> None:
    world.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    world.sql("postgres", f"CREATE DATABASE {name}")
    world.sql("postgres", f"ALTER DATABASE {name} SET work_mem TO '77MB'")
    world.sql("postgres", f"COMMENT ON DATABASE {name} IS 'of {lines} lines'")
    rows = f"INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, {lines}) n"
    world.sql(name, f"CREATE TABLE t (n int, x text); {rows}; CREATE INDEX i ON t (x)")


def _change_server(world: World, number: int) -> None:
    """Another row, and another role."""
    world.sql("postgres", f"CREATE ROLE of_{number}")
    world.sql("faulty", f"INSERT INTO t VALUES ({number}, 'another')")


def _dumped(world: World, database: str) -> Content:
    """What is in a database; of none, the roles."""
    path = world.place / "scratch.dump"
    path.unlink(missing_ok=True)
    path.write_bytes(world.dump(database or None))
    return content_of(path)


def _backed_up_database(world: World, database: str) -> Content:
    """As `_dumped`, of what is only read by the command that is harmed."""
    if database not in world.dumped:
        world.dumped[database] = _dumped(world, database)
    return world.dumped[database]


def _all_databases(world: World) -> dict[str, Content]:
    """What `db --all` keeps, by its places."""
    return {f"db/{name or 'global'}": _backed_up_database(world, name) for name in ("", "faulty", "further")}


def _db_all(keeper: str) -> Case:
    def build(world: World) -> None:
        _configure_databases(world, keeper)
        for name in ("faulty", "further"):
            _make_database(world, name)
        world.well("db", "--all", "db")
        for dst, content in _all_databases(world).items():
            world.learn(dst, content)
        _change_server(world, 0)
        world.sql("further", "DELETE FROM t WHERE n = 5")

    return Case(
        f"db --all {keeper}",
        "db",
        build,
        lambda world: ("db", "--all", "db"),
        keeps_also=_all_databases,
        may_be_twice=True,
        needs="postgres",
    )


_PROPERTIES = (
    "SELECT datdba::regrole, datallowconn, datconnlimit, shobj_description(oid, 'pg_database'), setconfig"
    " FROM pg_database LEFT JOIN pg_db_role_setting ON setdatabase = oid WHERE datname = '{}'"
)


def _database(world: World, name: str) -> tuple[str, Content | None]:
    """What a database is, as a value that can be compared: its properties, and what is in it."""
    assert world.postgres is not None
    found = world.postgres.sql(_PROPERTIES.format(name))
    return found, _dumped(world, name) if found else None


def _to_database(keeper: str, *, force: bool = False) -> Case:
    """A dump becomes the database ``restored``; with `force` in the place of one that is there."""
    wanted: tuple[str, Content | None] = ("", None)
    replaced: tuple[str, Content | None] = ("", None)

    def build(world: World) -> None:
        nonlocal wanted, replaced
        _configure_databases(world, keeper)
        _make_database(world, "faulty")
        wanted = _database(world, "faulty")
        world.well("db", "faulty", "db/faulty")
        world.learn("db/faulty", _dumped(world, "faulty"))
        set_back(world)
        replaced = _database(world, "restored")

    def set_back(world: World) -> None:
        assert world.postgres is not None
        world.postgres.becomes_idle()
        for name in world.postgres.databases() - {"postgres", "faulty"}:
            world.sql("postgres", f"DROP DATABASE {name}")
        if force:
            _make_database(world, "restored", 99)

    def partial(world: World) -> None:
        """There is all of it, or what was there before; and nothing has happened to any other."""
        assert world.postgres is not None
        world.postgres.becomes_idle()
        assert _database(world, "restored") in (wanted, replaced), (
            "a database is neither what it was nor what it is to be"
        )
        assert _database(world, "faulty") == wanted, "another database has changed"

    def done(world: World) -> None:
        assert world.postgres is not None
        assert _database(world, "restored") == wanted, "what was restored is something else"
        left = world.postgres.databases() - {"postgres", "faulty", "restored"}
        untold = {name for name in left if f"the database {name} is left behind" not in world.last.err}
        assert not untold, "a database is left over, and nobody has said so"

    return Case(
        f"restore --database{' --force' if force else ''} {keeper}",
        "restore",
        build,
        lambda world: ("restore", "db/faulty", "--database", "restored", *(["--force"] if force else [])),
        partial=partial,
        done=done,
        is_fine=lambda world, ended: (
            "left behind" not in ended.err
            and (ended.status == 0 or (not force and "there is a database restored" in ended.err))
        ),
        needs="postgres",
        set_back=set_back,
    )


# What is done with backups


def _two(world: World) -> None:
    """Two trees in chunks that share content, the first with two backups; and the second as an archive, too."""
    _backed_up(world, "chunks", 2)
    other = world.outside / "other"
    shutil.copytree(_tree(world) / "folder", other)
    world.well("fs-init", "--type", "chunks", other, "other")
    world.well("fs", other, "other")
    world.learn("other", content_of(other))


def _first(world: World) -> str:
    return min(address for address in world.saved_sure if address.startswith("hosts/src@"))


def _last(world: World) -> str:
    return max(address for address in world.saved_sure if address.startswith("hosts/src@"))


def _removed(world: World) -> None:
    _two(world)
    address = min(world.sure)
    world.well("rm", "--force", address)
    world.removed = {address: world.sure.pop(address)}


def _is_removed(world: World) -> None:
    rows = json.loads(world.well("--json", "list", "--removed").out or "[]")
    assert _first(world) in {f"{row['dst']}@{row['stamp']}" for row in rows}, "gone, and not among the removed"
    assert _first(world) not in _addresses(world), "reported as removed, and there"


def _addresses(world: World) -> set[str]:
    return {f"{row['dst']}@{row['stamp']}" for row in world.listed()}


def _in_one_of_two_places(world: World) -> None:
    """A backup that is being removed or brought back is here or there."""
    rows = json.loads(world.well("--json", "list", "--removed").out or "[]")
    there = {f"{row['dst']}@{row['stamp']}" for row in rows}
    which = {*world.removed, *([_first(world)] if not world.removed else [])}
    lost = which - there - _addresses(world)
    assert not lost, f"neither here nor among the removed: {lost}"


def _all_are_removed(world: World) -> None:
    if world.last.status == 0:
        assert not _addresses(world), "reported as removed, and there"


def _brought_back(world: World) -> None:
    assert set(world.removed) <= _addresses(world), "reported as brought back, and not there"


def _one_is_gone(world: World) -> None:
    """A destination that had backups at the last cleanup was deleted by hand."""
    _two(world)
    world.well("cleanup")
    shutil.rmtree(world.root / "other")
    world.sure = {address: content for address, content in world.sure.items() if not address.startswith("other@")}


def _cleaned(world: World) -> None:
    rows = json.loads(world.well("--json", "list", "--removed").out or "[]")
    assert not rows, "reported as freed, and there"
    ended = world.run("--json", "cleanup", "--dry-run", "--grace", "0")
    left = json.loads(ended.out)
    assert (left["backups"], left["chunks"]) == (0, 0), f"not all was freed: {left}"


def _nas(world: World) -> Path:
    return world.top / "nas"


def _removed_with_a_copy(world: World, layout: str) -> None:
    """As `_removed`; all is in another folder, too, from which it may be removed."""
    _nas(world).mkdir(0o700)
    world.configure(
        f"OFFSITE = {{'nas': {{'PATH': {str(_nas(world))!r}, 'ALLOW_REMOVAL': True}}}}\nLAYOUT = {layout!r}\n"
    )
    _removed(world)


def _in_the_copy(world: World) -> set[str]:
    rows = json.loads(world.well("--json", "restore", "--from", _nas(world), "--list").out)
    return {f"{row['dst']}@{row['stamp']}" for row in rows}


def _copy_has_what_is_kept(world: World) -> None:
    """Whatever died: what is kept here is there, and comes back from there alone."""
    assert world.sure.keys() <= _in_the_copy(world), "I6: something that is kept here is not there any more"
    target = world.place / "scratch" / "from-the-copy"
    shutil.rmtree(target, ignore_errors=True)
    world.well("restore", "--from", _nas(world), _last(world), target)
    assert content_of(target) == world.sure[_last(world)], "I6: what is there comes back as something else"


def _cleaned_in_both(world: World) -> None:
    _cleaned(world)
    assert world.well("sync-state", "--list").out == "", "done, and something is still to be removed"
    assert _in_the_copy(world) == _addresses(world), "what was removed here is there"
    assert world.well("sync", "--verify").err == "", "something is lost there"
    _copy_has_what_is_kept(world)


def _cleanup_with_a_copy(layout: str) -> Case:
    return Case(
        f"cleanup, {layout}",
        "cleanup",
        lambda world: _removed_with_a_copy(world, layout),
        lambda world: ("cleanup", "--grace", "0"),
        partial=_copy_has_what_is_kept,
        done=_cleaned_in_both,
    )


# Restore


def _target(world: World) -> Path:
    return world.top / "out" / "restored"


def _restore(keeper: str, build: Callable[[World], None] | None = None, which: str = "") -> Case:
    return Case(
        f"restore {keeper}{which}",
        "restore",
        build or (lambda world: _backed_up(world, keeper, 2)),
        lambda world: ("restore", _last(world), _target(world)),
        partial=lambda world: _whole_or_absent(world, _last(world)),
        done=lambda world: _whole(world, _last(world)),
        is_fine=_restored_or_there,
    )


def _large(world: World) -> None:
    """So much that several processes restore it, although it does not take long to store."""
    chance = random.Random(7)
    folder = _tree(world) / "many"
    make_source(_tree(world), 1)
    for number in range(12):
        (folder / f"{number % 4}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 4}" / f"{number}").write_bytes(chance.randbytes(1000) * 2000)
    world.well("fs-init", "--type", "chunks", _tree(world), "src")
    world.well("fs", _tree(world), "hosts/src")
    world.learn("hosts/src", content_of(_tree(world)))


def _whole(world: World, address: str) -> None:
    assert content_of(_target(world)) == world.saved_sure[address], "what was restored is something else"


def _whole_or_absent(world: World, address: str) -> None:
    if not os.path.lexists(_target(world)):
        return
    if world.last.status != 3:
        _whole(world, address)
        return
    _same_bytes(content_of(_target(world)), world.saved_sure[address])  # it said that something could not be set
    shutil.rmtree(_target(world))


def _same_bytes(one: Content, other: Content) -> None:
    assert isinstance(one, dict) and isinstance(other, dict)
    assert one.keys() == other.keys(), "names are missing"
    wrong = [name for name in one if _bytes_of(one[name])[:2] != _bytes_of(other[name])[:2]]
    assert not wrong, f"another content: {wrong[:3]}"


def _restored_or_there(world: World, ended: Ended) -> bool:
    return ended.status == 0 or (ended.status == 1 and "exists\n" in ended.err)


def _restore_into() -> Case:
    def build(world: World) -> None:
        _backed_up(world, "chunks", 2)
        (_target(world) / "folder").mkdir(parents=True)
        (_target(world) / "folder" / "text").write_text("old")
        (_target(world) / "mine").write_text("mine")

    def partial(world: World) -> None:
        """What has a name is what was there, or what is to come; owners and times may still have to come."""
        wanted, found = world.saved_sure[_last(world)], content_of(_target(world))
        assert isinstance(wanted, dict) and isinstance(found, dict)
        assert _bytes_of(found["mine"]) == _bytes_of(world.saved_target["mine"]), "what was not in the backup changed"
        for name in found.keys() & wanted.keys():
            allowed = {_bytes_of(wanted[name]), _bytes_of(world.saved_target.get(name, wanted[name]))}
            assert _bytes_of(found[name]) in allowed, f"{name} has another content"

    def done(world: World) -> None:
        wanted, found = world.saved_sure[_last(world)], content_of(_target(world))
        assert isinstance(wanted, dict) and isinstance(found, dict)
        mine = found.pop("mine")
        assert _bytes_of(mine) == _bytes_of(world.saved_target["mine"])
        assert found == wanted, "what was restored is something else"

    def words(world: World) -> Sequence[object]:
        return ("restore", _last(world), _target(world), "--into", "--force")

    return Case("restore --into", "restore", build, words, partial=partial, done=done)


def _bytes_of(entry: tuple[object, ...]) -> tuple[object, ...]:
    """Of an entry of a tree, its type and its content."""
    kind = int(str(entry[0]), 8) >> 12
    return kind, *entry[5:7]


def _restore_file() -> Case:
    case = _command("file", 1)

    def address(world: World) -> str:
        return next(iter(world.saved_sure))

    return Case(
        "restore of a stream",
        "restore",
        case.build,
        lambda world: ("restore", address(world), _target(world)),
        partial=lambda world: _whole_or_absent(world, address(world)),
        done=lambda world: _whole(world, address(world)),
        is_fine=_restored_or_there,
    )


# Export and import


def _exported(world: World) -> Path:
    return world.top / "out" / "exported.tar"


def _key(world: World) -> Path:
    return world.top / "out" / "backup.key"


def _is_a_whole_key(world: World) -> None:
    """A key is there whole or not at all."""
    if _key(world).exists():
        world.well("keys", "public", _key(world))


def _can_be_imported(world: World) -> None:
    """An export is there whole or not at all."""
    if not _exported(world).exists():
        return
    with fresh(world) as other:
        other.well("import", _exported(world), "imported")
        contents = [other.restored(row) for row in other.listed()]
        wanted = [content for address, content in world.saved_sure.items() if address.startswith("hosts/src@")]
        assert contents == wanted, "what was exported is something else"


def _is_exported(world: World) -> None:
    assert _exported(world).exists(), "reported as exported, and not there"
    _can_be_imported(world)


def _exported_before(world: World) -> None:
    """There is an export of the same name already."""
    _two(world)
    world.well("export", "hosts/src@all", _exported(world))


class fresh:
    """Another installation beside `world`, while the block lasts."""

    def __init__(self, world: World) -> None:
        self._place = world.place / "fresh"
        self._world = world

    def __enter__(self) -> World:
        return World(self._place, self._world.forks, env=self._world.env)

    def __exit__(self, *rest: object) -> None:
        shutil.rmtree(self._place)


def _to_import(keeper: str) -> Case:
    """Backups of another installation come into a store that has some of their content."""

    def build(world: World) -> None:
        _backed_up(world, keeper, 1)
        world.coming = {}
        with fresh(world) as other:
            source = other.outside / "src"
            shutil.copytree(_tree(world), source, symlinks=True, copy_function=shutil.copy2, ignore=_fifos)
            other.well("fs-init", "--type", keeper, source, "src")
            for number in (7, 8):
                change_source(source, number)
                other.well("fs", source, "hosts/src")
                other.learn("hosts/src", content_of(source))
            other.well("export", "hosts/src@all", world.outside / "exported.tar")
            for address, content in other.sure.items():
                world.coming["imported@" + address.partition("@")[2]] = content

    return Case(
        f"import {keeper}",
        "import",
        build,
        lambda world: ("import", world.outside / "exported.tar", "imported"),
        comes=lambda world: world.coming,
        done=_is_imported,
    )


def _fifos(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "fifo"}


def _is_imported(world: World) -> None:
    assert set(world.coming) <= _addresses(world), "reported as imported, and not there"


# Scrub, marks, the catalogue


def _damaged(world: World) -> None:
    """A chunk that only the second backup of the tree needs has a wrong byte."""
    _backed_up(world, "chunks", 1)
    before = set(world.root.glob(".store/chunks/*/*"))
    world.well("fs", _tree(world), "hosts/src")
    address = world.learn("hosts/src", content_of(_tree(world)))
    chunk = max(set(world.root.glob(".store/chunks/*/*")) - before, key=lambda path: path.stat().st_size)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    del world.sure[address]
    world.damaged = {address}


def _is_marked(world: World) -> None:
    rows = {f"{row['dst']}@{row['stamp']}": row["valid"] for row in world.listed()}
    wrong = {address for address, valid in rows.items() if valid is not (address not in world.damaged)}
    assert not wrong, f"marked wrongly, or not at all: {wrong}"


def _distrusted(world: World) -> None:
    rows = {f"{row['dst']}@{row['stamp']}": row["valid"] for row in world.listed()}
    assert rows[_last(world)] is False, "reported as marked, and not marked"


def _many_runs(world: World) -> None:
    _backed_up(world, "chunks", 2)
    world.well("catalogue")
    world.well("fs", _tree(world), "hosts/src")
    world.learn("hosts/src", content_of(_tree(world)))


def _catalogue_is_right(world: World) -> None:
    counted = json.loads(world.well("--json", "catalogue").out)
    assert counted["backups"] == len(world.listed()), f"the catalogue counts {counted}"


def _rebuilt_in_postgres() -> Case:
    """The catalogue is in a database of its own."""

    def build(world: World) -> None:
        assert world.postgres is not None
        world.configure(
            f"OFFSITE = {{}}\nCATALOG = 'postgresql+psycopg://postgres@/the_catalogue?host={world.postgres.folder}'\n"
        )
        set_back(world)
        _many_runs(world)

    def set_back(world: World) -> None:
        """An empty one, which the first run fills: it holds nothing that is not elsewhere."""
        assert world.postgres is not None
        world.postgres.becomes_idle()
        world.sql("postgres", "DROP DATABASE IF EXISTS the_catalogue")
        world.sql("postgres", "CREATE DATABASE the_catalogue")

    return Case(
        "catalogue --rebuild in PostgreSQL",
        "catalogue",
        build,
        lambda world: ("catalogue", "--rebuild"),
        done=_catalogue_is_right,
        needs="postgres",
        set_back=set_back,
    )


# Off-site


def _owing(world: World, keeper: str) -> None:
    """Backups that could not be sent, because there was no way to; now there is."""
    world.go_offsite(working=False)
    make_source(_tree(world), 1)
    world.well("fs-init", "--type", keeper, _tree(world), "src")
    for number in (2, 3):
        assert world.run("fs", _tree(world), "hosts/src").status == 6
        world.learn("hosts/src", content_of(_tree(world)))
        change_source(_tree(world), number)
    world.go_offsite(working=True)


def _settled(world: World) -> None:
    """A journal with things that were owed, and no longer are."""
    journal = sync.journal(world.config_dir, FIRST)
    journal.owe_all("push", [f"a/{number}" for number in range(99)])
    journal.done_all(journal.pending())


def _owes_nothing(world: World) -> None:
    assert world.well("sync-state", "--list").out == "", "it owes what it did not before"


def _is_offsite(world: World) -> None:
    assert world.run("sync-state", "--list").out == "", "done, and something is owed"
    here = {
        os.path.relpath(path, world.root): path.read_bytes()
        for path in world.root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    there = world.objects()
    wrong = {name for name, content in there.items() if here.get(name) != content}
    assert not wrong, f"off-site is something else than here: {sorted(wrong)[:3]}"
    missing = {name for name in here if _is_sent(name) and name not in there}
    assert not missing, f"not off-site: {sorted(missing)[:3]}"


def _is_sent(name: str) -> bool:
    parts = Path(name).parts
    return (
        not any(part in (".lock", ".fingerprint.json", ".scrub.json", "index", "writing") for part in parts)
        and (parts[0] != ".store" or parts[1] == "chunks")
        and not parts[-1].startswith(".btw-backup")
    )


def _locked(world: World) -> None:
    """A backup that is off-site, and locked there."""
    world.object_lock = "30 days"
    world.go_offsite(working=True)
    _backed_up(world, "chunks", 1)


def _is_extended(world: World) -> None:
    """What was reported as locked is locked for as long as is noted."""
    assert world.bucket is not None
    [noted] = [json.loads(path.read_bytes()) for path in world.config_dir.glob(".offsite/*.locks.json")]
    until = datetime.fromisoformat(f"{noted['until']}+00:00")
    assert until > datetime.now(UTC) + timedelta(days=29)
    locked = [name for name in world.objects() if name.startswith(".store/chunks/")]
    for name in locked:
        head = world.bucket.client.head_object(Bucket=world.bucket.name, Key=f"{world.prefix}/{name}")
        assert head["ObjectLockRetainUntilDate"] >= until, f"reported as locked, and not locked: {name}"
    assert locked


def _init(world: World) -> None:
    empty(world.config_dir)
    empty(world.root)


def _is_initialised(world: World) -> None:
    world.well("list")
    shutil.rmtree(world.place / "scratch" / "tried", ignore_errors=True)
    make_source(world.place / "scratch" / "tried", 3)
    world.well("fs-init", "--type", "tar", world.place / "scratch" / "tried", "tried")
    world.well("fs", world.place / "scratch" / "tried", "tried")
    shutil.rmtree(world.root / "tried")
    for folder in world.config_dir.glob("tried.*"):
        shutil.rmtree(folder)


CASES = (
    _fs("tar", "first", 0),
    _fs("tar", "third", 2),
    _fs_unchanged("tar"),
    _fs("chunks", "first", 0),
    _fs("chunks", "third", 2),
    _fs_unchanged("chunks"),
    _fs("rdiff", "first", 0),
    _fs("rdiff", "second", 1),
    _fs("rdiff", "third", 2),
    _fs_unchanged("rdiff"),
    _command("chunks", 0),
    _command("chunks", 1),
    _command("file", 0),
    _command("file", 1),
    _db("rdiff", 1),
    _db("chunks", 1),
    _db("file", 1),
    _db("rdiff", 1, globals_=True),
    _db_all("chunks"),
    Case(
        "init",
        "init",
        _init,
        lambda world: ("init", "--root", world.root),
        done=_is_initialised,
        is_fine=_is_there_already,
    ),
    Case(
        "fs-init",
        "fs-init",
        _made_tree,
        lambda world: ("fs-init", "--type", "tar", _tree(world), "src"),
        done=_can_back_up,
        is_fine=_is_there_already,
    ),
    Case(
        "command-init",
        "command-init",
        lambda world: _write_output(world, 0),
        lambda world: ("command-init", "out", "--", "/bin/cat", _output(world)),
        done=_can_run,
        is_fine=_is_there_already,
    ),
    Case(
        "rm",
        "rm",
        _two,
        lambda world: ("rm", "--force", _first(world)),
        goes=lambda world: {_first(world)},
        partial=_in_one_of_two_places,
        done=_is_removed,
        is_fine=lambda world, ended: ended.status == 0 or "no backup" in ended.err,
    ),
    Case(
        "rm of several",
        "rm",
        _two,
        lambda world: ("rm", "--force", "hosts/src@all", "other@0"),
        goes=lambda world: set(world.saved_sure),
        partial=_in_one_of_two_places,
        done=_all_are_removed,
        is_fine=lambda world, ended: ended.status == 0 or "no backup" in ended.err,
    ),
    Case(
        "undelete",
        "undelete",
        _removed,
        lambda world: ("undelete", next(iter(world.removed))),
        comes=lambda world: world.removed,
        partial=_in_one_of_two_places,
        done=_brought_back,
        is_fine=lambda world, ended: ended.status == 0 or set(world.removed) <= _addresses(world),
    ),
    Case("cleanup", "cleanup", _removed, lambda world: ("cleanup", "--grace", "0"), done=_cleaned),
    _cleanup_with_a_copy("mirror"),
    _cleanup_with_a_copy("objects"),
    Case(
        "cleanup --forget",
        "cleanup",
        _one_is_gone,
        lambda world: ("cleanup", "--grace", "0", "--forget", "other"),
        done=_cleaned,
    ),
    _restore("tar"),
    _restore("rdiff"),
    _restore("chunks"),
    _restore("chunks", _large, " by several"),
    _restore_into(),
    _restore_file(),
    _to_database("rdiff"),
    _to_database("chunks", force=True),
    Case(
        "export",
        "export",
        _two,
        lambda world: ("export", "hosts/src@all", _exported(world)),
        partial=_can_be_imported,
        done=_is_exported,
        is_fine=_restored_or_there,
    ),
    Case(
        "export --force",
        "export",
        _exported_before,
        lambda world: ("export", "--force", "hosts/src@all", _exported(world)),
        partial=_can_be_imported,
        done=_is_exported,
    ),
    _to_import("chunks"),
    _to_import("tar"),
    _to_import("rdiff"),
    Case(
        "keys generate",
        "keys",
        _two,
        lambda world: ("keys", "generate", _key(world)),
        partial=_is_a_whole_key,
        done=_is_a_whole_key,
        is_fine=lambda world, ended: ended.status == 0 or "exists" in ended.err,
    ),
    Case("scrub, all well", "scrub", _two, lambda world: ("scrub",)),
    Case("scrub of a part", "scrub", _two, lambda world: ("scrub", "-p", "40")),
    Case(
        "scrub, a chunk is damaged",
        "scrub",
        _damaged,
        lambda world: ("scrub",),
        done=_is_marked,
        is_fine=lambda world, ended: ended.status == 5,
        statuses=(5,),
    ),
    Case(
        "distrust",
        "distrust",
        _two,
        lambda world: ("distrust", _last(world)),
        goes=lambda world: {_last(world)},
        done=_distrusted,
    ),
    Case("catalogue", "catalogue", _many_runs, lambda world: ("catalogue",), done=_catalogue_is_right),
    Case(
        "catalogue --rebuild",
        "catalogue",
        _many_runs,
        lambda world: ("catalogue", "--rebuild"),
        done=_catalogue_is_right,
    ),
    _rebuilt_in_postgres(),
    Case("sync-state --reset", "sync-state", _settled, lambda world: ("sync-state", "--reset"), done=_owes_nothing),
    Case("runs", "runs", _many_runs, lambda world: ("runs",), done=_catalogue_is_right),
    Case("sync tar", "sync", lambda world: _owing(world, "tar"), lambda world: ("sync",), done=_is_offsite, needs="s3"),
    Case(
        "sync chunks",
        "sync",
        lambda world: _owing(world, "chunks"),
        lambda world: ("sync",),
        done=_is_offsite,
        needs="s3",
    ),
    Case(
        "sync rdiff",
        "sync",
        lambda world: _owing(world, "rdiff"),
        lambda world: ("sync",),
        done=_is_offsite,
        needs="s3",
    ),
    Case("lock extend", "lock", _locked, lambda world: ("lock", "extend"), done=_is_extended, needs="s3"),
    *CASES_SENT,
)
"""Every command that changes something, with every keeper."""
