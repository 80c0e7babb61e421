"""Encrypted targets: the machine can send and cannot read, names tell nothing, and what is not as it was sent is seen."""

import bz2
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest
import zstandard

from btw_backup.offsite.contents import Contents
from btw_backup.offsite.index import File, Ref, state_pieces
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.sealing import padded
from btw_backup.offsite.state import SyncState
from tests.conftest import Installation, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, free_port, s3_server
from tests.servers import Postgres, postgres, shop

__all__ = ["bucket", "postgres", "s3_server", "shop"]

CANARY = "canary-in-a-coal-mine"
TYPES = ("tar", "rdiff", "chunks")


@dataclass
class Key:
    """The file of a secret key, and the public key."""

    path: Path
    public: str


@pytest.fixture
def key(btw: Installation) -> Key:
    """A key, as ``keys generate`` makes it."""
    path = btw.top / "backup.key"
    return Key(path, btw("keys", "generate", path).out.strip())


@pytest.fixture
def nas(btw: Installation, key: Key) -> Path:
    """A folder that `btw` sends its backups to, encrypted."""
    folder = btw.top / "nas"
    folder.mkdir()
    btw.configure("", ENCRYPT_TO=[key.public], OFFSITE={"nas": {"PATH": str(folder)}})
    return folder


def objects(nas: Path) -> list[Path]:
    """The objects and records in a folder."""
    return sorted(path for path in nas.rglob("*") if path.is_file() and path.parent != nas)


def backups_of_all_kinds(btw: Installation, source: Path, types: tuple[str, ...] = TYPES) -> dict[str, Path]:
    """A backup by every keeper of trees, or by `types`, and of a stream; what each should restore to."""
    (source / "etc" / CANARY).write_text(CANARY * 100)
    made = {}
    for type_ in types:
        made[type_] = btw.top / f"source-{type_}"
        subprocess.run(["cp", "-a", source, made[type_]], check=True)
        btw.tree(made[type_], type_, type_)
        btw("fs", made[type_], f"{CANARY}/{type_}")
    for type_ in ("chunks", "file"):
        made[f"stream-{type_}"] = source / "etc/deep/file"
        btw("command-init", "--type", type_, f"{CANARY}-{type_}", "--", "cat", source / "etc/deep/file")
        btw("command", f"{CANARY}-{type_}", f"{CANARY}/stream-{type_}")
    return made


def restored(btw: Installation, name: str, address: str, *options: object, status: int = 0) -> Path:
    """What comes back from a target, without anything that is in the configuration or ROOT_PATH."""
    empty = Installation(btw.top / "elsewhere")
    empty.top.mkdir(exist_ok=True)
    target = empty.top / name
    empty("restore", *options, address, target, status=status)
    return target


def from_(nas: Path, key: Key) -> list[object]:
    """The options that restore from a folder."""
    return ["--from", nas, "--identity", key.path]


def test_total_loss_for_every_keeper(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """G17, D01, D04: on an empty machine, with the target and the key; nothing that leaves tells anything."""
    made = backups_of_all_kinds(btw, source)
    (made["rdiff"] / "etc/hosts").write_text("127.0.0.2 changed\n")
    btw("fs", made["rdiff"], f"{CANARY}/rdiff")
    btw("keys", "test", "--pin", key.path)
    names = re.compile(
        r"objects/[0-9a-f]{8}/[0-9a-f]{64}|index/[0-9a-f]{16}/[0-9a-f]{8}-[0-9a-f]{64}|keys/[0-9a-f]{64}"
    )
    assert all(names.fullmatch(str(path.relative_to(nas))) for path in objects(nas))
    for path in objects(nas):
        content = path.read_bytes()
        assert content.startswith(b"age-encryption.org/v1\n-> X25519 ")
        assert hashlib.sha256(content).hexdigest() in path.name
    shutil.rmtree(btw.config_dir)
    shutil.rmtree(btw.root)
    for type_ in TYPES:
        assert tree_differences(made[type_], restored(btw, type_, f"{CANARY}/{type_}", *from_(nas, key))) == ""
    for type_ in ("stream-chunks", "stream-file"):
        target = restored(btw, type_, f"{CANARY}/{type_}", *from_(nas, key))
        assert target.read_bytes() == made[type_].read_bytes()
    first = restored(btw, "first", f"{CANARY}/rdiff@first", *from_(nas, key))
    assert (first / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
    empty = Installation(btw.top / "elsewhere")
    ended = empty("restore", *from_(nas, key), "--list", "--json")
    rows = json.loads(ended.out)
    assert sorted(row["dst"] for row in rows).count(f"{CANARY}/rdiff") == 2
    assert {row["keeper"] for row in rows} == {"tar", "rdiff", "chunks", "file"}
    assert ended.err == "", "the key vouches for the store key"


def test_total_loss_of_databases(btw: Installation, nas: Path, key: Key, shop: Postgres) -> None:
    """The same for dumps, of each type, into a new database; names of databases tell nothing either."""
    for type_ in ("rdiff", "chunks", "file"):
        (btw.config_dir / "shop.py").write_text(f"TYPE = {type_!r}\n")
        btw("db", "shop", f"db/{type_}", env=shop.env)
    btw("db", "-g", "db/global", env=shop.env)
    btw("keys", "test", "--pin", key.path)
    content = b"".join(path.read_bytes() for path in objects(nas))
    assert b"shop" not in content
    shutil.rmtree(btw.config_dir)
    shutil.rmtree(btw.root)
    empty = Installation(btw.top / "elsewhere")
    empty.top.mkdir()
    expected = shop.dump("shop")
    for type_ in ("rdiff", "chunks", "file"):
        empty("restore", *from_(nas, key), f"db/{type_}", "--database", f"back_{type_}", env=shop.env)
        assert shop.dump(f"back_{type_}") == expected
    ended = subprocess.run(
        [sys.executable, "-m", "btw_backup", "restore", *map(str, from_(nas, key)), "db/global", "-"],
        check=True, capture_output=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert b"CREATE ROLE" in bz2.decompress(ended.stdout)


def test_without_this_program(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """F108, F109: RESTORE.py of the target, with Python, zstd and age."""
    made = backups_of_all_kinds(btw, source)
    btw("keys", "test", "--pin", key.path)
    script = ["/usr/bin/python3", "-I", nas / "RESTORE.py", "--identity", key.path]
    listed = subprocess.run(script, check=True, capture_output=True, text=True)
    assert f"{CANARY}/tar/" in listed.stdout
    assert listed.stderr == ""
    root = btw.top / "rebuilt"
    subprocess.run([*script, root], check=True)
    stays = (".lock", ".btw-backup-id", ".btw-backup-dsts", ".fingerprint.json")
    for path in btw.root.rglob("*"):
        inner = path.relative_to(btw.root)
        if path.is_file() and not {*inner.parts} & {*stays, "index", "writing"}:
            assert (root / inner).read_bytes() == path.read_bytes(), inner
    by_hand = btw.top / "by-hand"
    subprocess.run(["/usr/bin/python3", root / ".store/RESTORE.py", f"{CANARY}/chunks", by_hand], check=True)
    assert tree_differences(made["chunks"], by_hand) == ""
    part = btw.top / "part"
    subprocess.run([*script, part, f"{CANARY}/chunks"], check=True)
    shutil.rmtree(by_hand)
    subprocess.run(["/usr/bin/python3", part / ".store/RESTORE.py", f"{CANARY}/chunks", by_hand], check=True)
    assert tree_differences(made["chunks"], by_hand) == ""
    assert not (part / CANARY / "tar").exists()


def test_root_path_is_rebuilt(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """import --from: all backups are there again, proved; and what is at the target is not sent there again."""
    made = backups_of_all_kinds(btw, source)
    before = btw("list").out
    shutil.rmtree(btw.root)
    btw.root.mkdir()
    config = (btw.config_dir / "config.py").read_bytes()
    shutil.rmtree(btw.config_dir)
    btw.config_dir.mkdir()
    (btw.config_dir / "config.py").write_bytes(config)
    btw("import", "--from", "nas", "--identity", key.path)
    assert btw("list").out.replace("  (not at nas yet)", "") == before
    btw("scrub")
    btw("restore", f"{CANARY}/chunks", btw.top / "again")
    assert tree_differences(made["chunks"], btw.top / "again") == ""
    count = len(objects(nas))
    btw("sync")
    assert len(objects(nas)) - count <= 3, "a record, the store key, and no content"
    btw("sync")
    assert tree_differences(made["tar"], restored(btw, "tar", f"{CANARY}/tar", *from_(nas, key))) == ""
    (btw.root / CANARY / "tar" / "log.txt").write_text("longer than what is there")
    [archive] = (btw.root / CANARY / "tar").glob("*.tar.zst")
    archive.write_bytes(b"another")
    ended = btw("import", "--from", "nas", "--identity", key.path, status=1)
    assert f"not overwritten: 1 file in {btw.root}, other than what is there" in ended.err
    assert archive.read_bytes() == b"another"


def test_only_what_changed_is_sent(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """An increment of a repository costs its new files; unchanged content is never sent twice."""
    (source / "big").write_bytes(os.urandom(3 << 20))
    btw.tree(source, "rdiff")
    btw("fs", source, "www")
    before = set(objects(nas))
    (source / "etc/hosts").write_text("other\n")
    btw("fs", source, "www")
    new = [path for path in objects(nas) if path not in before]
    assert before <= set(objects(nas)), "nothing is ever removed"
    data = sum(path.stat().st_size for path in new)
    mirror = next((btw.root / "www").glob("*/backup.tar")).stat().st_size
    assert mirror < data < mirror * 1.3
    btw("sync", "--full")
    assert len(objects(nas)) == len(before) + len(new)


def test_either_of_two_keys_restores(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """D03, F106: and a third does not, nor none."""
    others = {name: btw("keys", "generate", btw.top / name).out.strip() for name in ("second", "third")}
    btw.configure("", ENCRYPT_TO=[key.public, others["second"]], OFFSITE={"nas": {"PATH": str(nas)}})
    btw.tree(source)
    btw("fs", source, "www")
    for name in ("backup.key", "second"):
        target = restored(btw, name, "www", "--from", nas, "--identity", btw.top / name)
        assert tree_differences(source, target) == ""
    empty = Installation(btw.top / "elsewhere")
    ended = empty("restore", "--from", nas, "--identity", btw.top / "third", "www", btw.top / "x", status=1)
    assert f"no key given opens it: it was not encrypted to {others['third']}" in ended.err
    ended = empty("restore", "--from", nas, "www", btw.top / "x", status=1)
    assert "it is encrypted, and needs a key" in ended.err
    ended = empty("restore", "--from", nas, "--identity", btw.top / "missing", "www", btw.top / "x", status=1)
    assert "cannot be read: No such file" in ended.err
    protected = btw.top / "protected"
    protected.write_bytes(pyrage.passphrase.encrypt(key.path.read_bytes(), "correct horse"))
    ended = empty("restore", "--from", nas, "--identity", protected, "www", btw.top / "x", status=1)
    assert "is protected by a passphrase" in ended.err
    assert not (btw.top / "x").exists()


def test_change_of_the_recipients_is_said(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """T12: and what is sent from then on opens with the new key."""
    btw.tree(source)
    btw("fs", source, "www")
    other = Key(btw.top / "other", btw("keys", "generate", btw.top / "other").out.strip())
    btw.configure("", ENCRYPT_TO=[other.public], OFFSITE={"nas": {"PATH": str(nas)}})
    (source / "new").touch()
    ended = btw("fs", source, "www")
    assert "ENCRYPT_TO of the target nas is not what it was" in ended.err
    assert btw("sync").err == "", "said once"
    both = [*from_(nas, key), "--identity", other.path]
    assert tree_differences(source, restored(btw, "both", "www", *both)) == ""


BAD = {
    "a secret key": "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ",
    "a plugin": "age1yubikey1qwgz4tftqmkpfvgc5ce3nlnm5dlhhpd28ar2tlwdlqxcqjtzr",
    "a typing mistake": "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
    "ssh": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ",
    "a file": "/root/key.pub",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_plain_public_key_is_refused(btw: Installation, source: Path, name: str) -> None:
    """T15, F93: before anything is made, and a secret is not told."""
    btw.tree(source)
    btw.configure("OFFSITE = {}\n", ENCRYPT_TO=[BAD[name]])
    ended = btw("fs", source, "www", status=1)
    assert "ENCRYPT_TO must be a list of public keys of age" in ended.err
    assert "QQQQQQQQQQ" not in ended.err + (btw.config_dir / "btw-backup.log").read_text()
    btw.configure("", OFFSITE={"nas": {"PATH": "/mnt/nas", "ENCRYPT_TO": [BAD[name]]}})
    assert "ENCRYPT_TO must be" in btw("fs", source, "www", status=1).err
    assert not list(btw.root.rglob("*.tar.zst"))


def test_mirrors_are_not_encrypted(btw: Installation, key: Key) -> None:
    """It is said, and not done silently."""
    btw.configure("LAYOUT = 'mirror'\n", ENCRYPT_TO=[key.public], OFFSITE={"nas": {"PATH": "/mnt/nas"}})
    assert "what is encrypted cannot be a mirror" in btw("sync", status=1).err


# A provider that lies: whatever it does, a restore gives exactly what was backed up, or ends with 5


def records(nas: Path) -> list[Path]:
    """The records, oldest first."""
    return sorted(path for path in (nas / "index").rglob("*") if path.is_file())


def data(nas: Path) -> list[Path]:
    """The objects, largest first."""
    found = (path for path in (nas / "objects").rglob("*") if path.is_file())
    return sorted(found, key=lambda path: -path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def forge(nas: Path, public: str, *, rename: bool) -> None:
    """Put in the place of the newest record one that was made with the public key alone."""
    newest = records(nas)[-1]
    body = json.dumps({"format": 1, "chain": newest.parent.name, "sequence": 3, "previous": "", "made": "2030",
                       "files": {}, "chunks": {}, "removed": [], "state": None}).encode()  # fmt: skip
    text = zstandard.compress(body + b"\n" + b"0" * 64 + b"\n")
    content = pyrage.encrypt(text, [pyrage.x25519.Recipient.from_str(public)])
    newest.write_bytes(content)
    if rename:
        newest.rename(newest.with_name(f"{newest.name[:8]}-{hashlib.sha256(content).hexdigest()}"))


LIES = {
    "a flipped bit in the content": lambda nas, key: flip(data(nas)[0]),
    "the content cut": lambda nas, key: os.truncate(data(nas)[0], 1000),
    "the content gone": lambda nas, key: data(nas)[0].unlink(),
    "two objects swapped": lambda nas, key: swap(data(nas)[0], data(nas)[1]),
    "an empty object": lambda nas, key: data(nas)[0].write_bytes(b""),
    "a record flipped": lambda nas, key: flip(records(nas)[-1]),
    "a record gone": lambda nas, key: records(nas)[1].unlink(),
    "the first record gone": lambda nas, key: records(nas)[0].unlink(),
    "two records swapped": lambda nas, key: swap(records(nas)[0], records(nas)[1]),
    "a record relabelled": lambda nas, key: records(nas)[0].rename(
        records(nas)[2].with_name("00000004" + records(nas)[0].name[8:])
    ),
    "a record forged": lambda nas, key: forge(nas, key.public, rename=False),
    "a record forged and named rightly": lambda nas, key: forge(nas, key.public, rename=True),
    "the store key gone": lambda nas, key: shutil.rmtree(nas / "keys"),
    "another store key": lambda nas, key: _forge_store_key(nas, key.public),
}


def _forge_store_key(nas: Path, public: str) -> None:
    [path] = (nas / "keys").iterdir()
    path.unlink()
    content = pyrage.encrypt(b"ab" * 32 + b"\n", [pyrage.x25519.Recipient.from_str(public)])
    (path.parent / hashlib.sha256(content).hexdigest()).write_bytes(content)


@pytest.mark.parametrize("lie", LIES)
def test_t5_lies_of_the_provider_are_seen(btw: Installation, source: Path, nas: Path, key: Key, lie: str) -> None:
    """T5, D05: by restore, by keys test, and by RESTORE.py; what comes back without 5 is what was backed up."""
    (source / "big").write_bytes(random.Random(1).randbytes(100_000))  # noqa: S311
    btw.tree(source)
    for number in range(3):
        (source / "number").write_text(str(number))
        btw("fs", source, "www")
    btw("keys", "test", "--pin", key.path)
    LIES[lie](nas, key)
    target = restored(btw, "out", "www", *from_(nas, key), status=None)  # type: ignore[arg-type]
    ended = Installation(btw.top / "elsewhere")("restore", *from_(nas, key), "--list", status=None)
    is_of_content = "content" in lie or "object" in lie
    if is_of_content:
        assert not target.exists() or tree_differences(source, target) == ""
    else:
        assert ended.status == 5, ended
        assert btw("keys", "test", key.path, status=5).err
    script = ["/usr/bin/python3", nas / "RESTORE.py", "--identity", key.path, btw.top / "rebuilt"]
    assert subprocess.run(script, check=False, capture_output=True).returncode == 5


def test_roll_back_is_seen(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """T5: the newest record is gone: only this machine, and who knows its number, can tell."""
    btw.tree(source)
    btw("fs", source, "www")
    (source / "new").touch()
    btw("fs", source, "www")
    btw("keys", "test", "--pin", key.path)
    records(nas)[-1].unlink()
    assert "it was rolled back" in btw("keys", "test", key.path, status=5).err


def test_a_path_costs_what_it_needs(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """Of a tree in chunks only those of the path are fetched, and of a hard link those of its first name."""
    (source / "big").write_bytes(random.Random(1).randbytes(20 << 20))  # noqa: S311
    (source / "etc" / "z-link").hardlink_to(source / "etc" / "deep" / "file")
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    for path in data(nas)[:3]:
        path.unlink()
    target = restored(btw, "out", "www", *from_(nas, key), "--path", "etc/z-link")
    assert (target / "etc/z-link").read_bytes() == (source / "etc/deep/file").read_bytes()
    assert not (target / "big").exists()


def test_chunk_that_rots_ends_in_damaged(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """F107: the rest of the backup comes back, with status 5."""
    (source / "big").write_bytes(random.Random(1).randbytes(3 << 20))  # noqa: S311
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    flip(data(nas)[0])
    target = restored(btw, "out", "www", *from_(nas, key), status=5)
    assert (target.with_name("out.damaged") / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert (target.with_name("out.damaged") / "big.damaged").exists()


def test_full_sync_mends_what_is_lost_there(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """E13, F85: an object that is gone, one that rotted; nothing is overwritten."""
    (source / "big").write_bytes(random.Random(1).randbytes(3 << 20))  # noqa: S311
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    largest, *others = data(nas)
    largest.unlink()
    flip(others[0])
    ended = btw("sync", "--full")
    assert "does not have any more what it had" in ended.err
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""


@pytest.mark.parametrize("how", ["gone", "rotten"])
@pytest.mark.parametrize("what", ["a record", "all records", "the store key", "RESTORE.py", "README.txt"])
def test_verify_mends_what_is_no_object(
    btw: Installation, source: Path, nas: Path, key: Key, what: str, how: str
) -> None:
    """E13: it is named; afterwards all can be read again, by us and by RESTORE.py."""
    btw.tree(source)
    for number in range(3):
        (source / "number").write_text(str(number))
        btw("fs", source, "www")
    btw("keys", "test", "--pin", key.path)
    lost = {"a record": records(nas)[1:2], "all records": records(nas), "the store key": list((nas / "keys").iterdir())}
    for path in lost.get(what, [nas / what]):
        path.unlink() if how == "gone" else flip(path)
    assert "does not have any more what it had" in btw("sync", "--verify").err
    assert btw("sync", "--verify").err == ""
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""
    assert (restored(btw, "first", "www@first", *from_(nas, key)) / "number").read_text() == "0"
    btw("keys", "test", key.path)
    script = ["/usr/bin/python3", nas / "RESTORE.py", "--identity", key.path, btw.top / "rebuilt"]
    subprocess.run(script, check=True)


def test_another_place_gets_all_anew(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """The old one is gone: what the new one tells is complete in itself, and reaches back to before it."""
    btw.tree(source)
    btw("fs", source, "www")
    shutil.rmtree(nas)
    other = btw.top / "other"
    other.mkdir()
    btw.configure("", ENCRYPT_TO=[key.public], OFFSITE={"nas": {"PATH": str(other)}})
    btw("sync")
    btw("keys", "test", key.path)
    assert tree_differences(source, restored(btw, "out", "www", *from_(other, key))) == ""


def test_states_in_pieces(btw: Installation) -> None:
    """They say what was put in, however they are cut."""
    ref = Ref(7, "ab" * 32, 5, 6)
    for count in (0, 1, 2, 500):
        files = {f"dst/\udcff {n}": File(n, "cd" * 32, n, (ref,) * (n % 3)) for n in range(count)}
        chunks = {f"{n:064x}": ref for n in range(count)}
        for size in (1, 100, 1 << 20):
            pieces = list(state_pieces(files.items(), chunks.items(), size))
            assert all(len(piece) == size for piece in pieces[:-1])
            (btw.top / "state").write_bytes(b"".join(pieces))
            read = Contents(btw.top / "read")
            read.load(btw.top / "state", "x")
            assert (dict(read.files()), dict(read.chunks())) == (files, chunks)
            read.close()


def test_many_chunks_are_told_in_several_records(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """So that no record takes much memory, however much is sent at once."""
    (source / "big").write_bytes(random.Random(1).randbytes(20 << 20))  # noqa: S311
    btw.tree(source, "chunks")
    code = (
        "import sys; from btw_backup.offsite import objects; objects.MOST_CHUNKS = 3\n"
        "from btw_backup.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "--config-dir", btw.config_dir, "fs", source, "www"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, capture_output=True)
    assert len(records(nas)) > 2
    btw("keys", "test", "--pin", key.path)
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""


def test_lost_ledger_begins_a_new_chain(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """All is sent anew, and the old is read as well."""
    btw.tree(source)
    btw("fs", source, "www")
    (btw.config_dir / ".offsite/nas.sqlite").write_bytes(b"rubbish" * 1000)
    (source / "new").touch()
    ended = btw("fs", source, "www")
    assert "everything is sent anew" in ended.err
    assert len(list((nas / "index").iterdir())) == 2
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""
    assert len(Installation(btw.top / "elsewhere")("restore", *from_(nas, key), "--list").out.splitlines()) == 2


def test_many_records_get_a_state(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """Who restores does not read all records, and a state that is lost is done without."""
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    code = (
        "import sys; from btw_backup.offsite import chain; chain.RECORDS = 2\n"
        "from btw_backup.cli import main; sys.exit(main())"
    )
    for number in range(7):
        (source / "number").write_text(str(number))
        command = [sys.executable, "-c", code, "--config-dir", btw.config_dir, "fs", source, "www"]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, capture_output=True)
    states = [path for path in records(nas) if path.name.endswith(".state")]
    assert len(states) == 2
    btw("keys", "test", "--pin", key.path)
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""
    records(nas)[0].unlink()
    assert tree_differences(source, restored(btw, "out2", "www@first", *from_(nas, key))).count("number") == 1
    flip(states[-1])
    target = restored(btw, "out3", "www", *from_(nas, key), status=5)
    assert tree_differences(source, target) == ""


# S3


def s3_settings(btw: Installation, bucket: Bucket, key: Key, port: int = 0) -> list[object]:
    """Have `btw` send to a bucket, encrypted; the options that restore from it."""
    configure(btw, bucket, port, ENCRYPT_TO=[key.public])
    place = f"s3://{bucket.name}/backups"
    return ["--from", place, "--s3cmd-config", bucket.s3cmd_config(btw.top / "x.conf"), "--identity", key.path]


def test_s3(btw: Installation, source: Path, bucket: Bucket, key: Key) -> None:
    """Issue 5: from nothing but the bucket and the key; in two steps, by name and by URI."""
    options = s3_settings(btw, bucket, key)
    made = backups_of_all_kinds(btw, source, ("chunks", "rdiff"))
    assert btw("sync-state", "--list").out == ""
    stored = bucket.objects()
    assert CANARY.encode() not in b"".join(stored.values()) + "".join(stored).encode()
    for name in stored:
        head = bucket.client.head_object(Bucket=bucket.name, Key=f"backups/{name}")
        assert "uname" not in head["Metadata"].get("s3cmd-attrs", "")
    assert tree_differences(made["chunks"], restored(btw, "chunks", f"{CANARY}/chunks", *options)) == ""
    btw("restore", "--from", "s3", "--identity", key.path, f"{CANARY}/rdiff", btw.top / "named")
    assert tree_differences(made["rdiff"], btw.top / "named") == ""
    assert "how to reach" in btw("restore", "--from", "s3://other/place", "--list", status=2).err


def test_mirror_restores_from_the_bucket(btw: Installation, source: Path, bucket: Bucket) -> None:
    """G17, without encryption: the layout of old."""
    configure(btw, bucket)
    types = ("chunks", "rdiff")
    made = backups_of_all_kinds(btw, source, types)
    options = ["--from", f"s3://{bucket.name}/backups/", "--s3cmd-config", btw.top / "s3cmd.conf"]
    for type_ in types:
        assert tree_differences(made[type_], restored(btw, type_, f"{CANARY}/{type_}", *options)) == ""
    assert len(btw("restore", *options, "--list").out.splitlines()) == 4


def test_g13_another_target_is_asked(btw: Installation, source: Path, nas: Path, key: Key, bucket: Bucket) -> None:
    """G13: the first is down, and that is said."""
    btw.tree(source)
    btw("fs", source, "www")
    config = bucket.s3cmd_config(btw.top / "dead.conf", free_port())
    options = ["--from", f"s3://{bucket.name}/x", "--s3cmd-config", config, *from_(nas, key)]
    empty = Installation(btw.top / "elsewhere")
    empty.top.mkdir()
    ended = empty("restore", *options, "www", empty.top / "out")
    assert "the next target is asked" in ended.err
    assert tree_differences(source, empty.top / "out") == ""
    rotten = btw.top / "rotten"
    shutil.copytree(nas, rotten)
    flip(data(rotten)[0])
    ended = empty("restore", "--from", rotten, *from_(nas, key), "www", empty.top / "out2")
    assert "the next target is asked" in ended.err
    assert tree_differences(source, empty.top / "out2") == ""


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultProxy]:
    """A proxy that fails on command."""
    with FaultProxy(bucket.server.port) as faults:
        yield faults


FAULTS = {
    "busy": Rule("PUT", "", "busy", 2, 3),
    "denied": Rule("PUT", "", "denied", 3, 30),
    "reset": Rule("PUT", "", "reset", 2, 4),
    "corrupt": Rule("PUT", "", "corrupt", 2, 5),
    "lie": Rule("PUT", "", "lie", 1, 6),
    "lie on the record": Rule("PUT", "/index/", "lie", 1, 4),
    "lose": Rule("PUT", "", "lose", 2, 3),
    "empty listing": Rule("GET", "objects", "empty", 1, 2),
    "wrong listing": Rule("GET", "index", "empty", 1, 3),
}


@pytest.mark.quick_with("s3rver")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_while_it_is_sent_to(
    btw: Installation, source: Path, bucket: Bucket, key: Key, proxy: FaultProxy, fault: str
) -> None:
    """F76 to F87: 0 only if it is there; what is owed is sent by the next run, and then all comes back."""
    options = s3_settings(btw, bucket, key, proxy.port)
    btw.tree(source, "chunks")
    proxy.rules = [FAULTS[fault]]
    ended = btw("fs", source, "www", status=None)
    assert ended.status in (0, 6), ended
    if ended.status == 0:
        assert tree_differences(source, restored(btw, "early", "www", *options)) == ""
    else:
        assert btw("sync-state", "--list").out
    proxy.rules = []
    btw("sync")
    assert tree_differences(source, restored(btw, "out", "www", *options)) == ""
    assert not proxy.methods() & {"DELETE"}


@pytest.mark.parametrize("seed", range(3))
def test_f92_killed_at_any_moment(btw: Installation, source: Path, nas: Path, key: Key, seed: int) -> None:
    """F92: no record is made twice, the chain stays whole, and in the end all is there."""
    rng = random.Random(seed)  # noqa: S311
    (source / "big").write_bytes(rng.randbytes(20 << 20))
    btw.tree(source, "chunks")
    for number in range(5):
        (source / f"number{number}").write_bytes(rng.randbytes(300_000))
        run = btw.start("fs", source, "www")
        time.sleep(rng.uniform(0.4, 1.2))
        run.send_signal(signal.SIGKILL)
        run.wait()
    btw("fs", source, "www")
    assert SyncState(btw.config_dir / "sync_state.nas").pending() == []
    btw("keys", "test", "--pin", key.path)
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""
    numbers = [path.name[:8] for path in records(nas)]
    assert len(set(numbers)) == len(numbers)
    stage = btw.config_dir / ".offsite/nas"
    assert [path for path in stage.rglob("*") if path.is_file()] == []
    ledger = Ledger(btw.config_dir / ".offsite/nas.sqlite")
    assert ledger.staged() == []
    ledger.close()


def test_f12_half_sent_and_lost_here(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """F12: what was staged had not reached the disk when the power failed: its half at the target goes, too."""
    btw.configure("", ENCRYPT_TO=[key.public], OFFSITE={"nas": {"PATH": str(nas), "BANDWIDTH": "100k"}})
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    (source / "big").write_bytes(random.Random(1).randbytes(300_000))  # noqa: S311
    run = btw.start("fs", source, "www")
    while not (half := list(nas.glob("objects/*/.tmp-*"))):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    for path in (btw.config_dir / ".offsite/nas/objects").rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    btw.configure("", ENCRYPT_TO=[key.public], OFFSITE={"nas": {"PATH": str(nas)}})
    assert half[0].exists()
    btw("fs", source, "www")
    assert list(nas.rglob(".tmp-*")) == []
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""


def test_f93_disk_full_while_encrypting(btw: Installation, source: Path, nas: Path, key: Key, tmpfs: Path) -> None:
    """F93: 6, never in clear, nothing left; with room it is sent."""
    (source / "big").write_bytes(random.Random(1).randbytes(70 << 20))  # noqa: S311
    (btw.config_dir / ".offsite").symlink_to(tmpfs)
    btw.tree(source, "chunks")
    ended = btw("fs", source, "www", status=6)
    assert f"nothing can be staged in {btw.config_dir}/.offsite/nas: No space left on device" in ended.err
    (btw.config_dir / ".offsite").unlink()
    subprocess.run(["cp", "-a", tmpfs, btw.config_dir / ".offsite"], check=True)
    btw("sync")
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""


def test_padding() -> None:
    """T4: at most 12 %, and few lengths."""
    for length in (0, 1, 255, 256, 1000, 65_537, 2 << 20, 14 << 20):
        assert max(length, 256) <= padded(length) <= max(256, length * 1.12)
    assert len({padded(length) for length in range(1 << 20, 2 << 20, 997)}) <= 33
    assert padded(14 << 20) < 15 << 20


# What is proved again and again, and what heals


def test_scrub_of_a_target_needs_no_key(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """D08, F85: a flipped byte is found, in parts that go round, and sent anew."""
    (source / "big").write_bytes(random.Random(1).randbytes(3 << 20))  # noqa: S311
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    btw("scrub", "--target", "nas")
    bad = data(nas)[0]
    flip(bad)
    statuses = [btw("scrub", "--target", "nas", "-p", "40", status=None).status for _ in range(3)]
    assert sorted(statuses) == [0, 0, 5] or statuses == [5, 0, 0], statuses
    assert btw("sync-state", "--list").out
    btw("sync")
    btw("scrub", "--target", "nas")
    assert tree_differences(source, restored(btw, "out", "www", *from_(nas, key))) == ""
    assert "there is no target other" in btw("scrub", "--target", "other", status=2).err


def test_scrub_of_a_mirror(btw: Installation, source: Path, bucket: Bucket) -> None:
    """F85: the multipart object rotted while its ETag stayed is found, as it is read."""
    configure(btw, bucket)
    btw.tree(source)
    btw("fs", source, "www")
    btw("scrub", "--target", "s3")
    [name] = [name for name in bucket.objects() if name.endswith(".tar.zst")]
    bucket.put(name, b"rotten")
    ended = btw("scrub", "--target", "s3", status=5)
    assert f"{name}: its content there is another" in ended.out
    btw("sync")
    btw("scrub", "--target", "s3")


def test_sync_verify_names_what_is_lost(btw: Installation, source: Path, bucket: Bucket) -> None:
    """E13: an object is deleted behind its back: named, repaired; and what is only new is not called lost."""
    configure(btw, bucket)
    btw.tree(source)
    btw("fs", source, "www")
    [name] = [name for name in bucket.objects() if name.endswith(".tar.zst")]
    bucket.client.delete_object(Bucket=bucket.name, Key=f"backups/{name}")
    ended = btw("sync", "--verify")
    assert f"does not have any more what it had: {name}: it is not there" in ended.err
    assert name in bucket.objects()
    assert btw("sync", "--verify").err == ""


def test_a_damaged_chunk_heals_from_a_target(btw: Installation, source: Path, nas: Path, key: Key) -> None:
    """H09: scrub sets it aside, import --from fetches it, and the next scrub takes the marks away."""
    (source / "big").write_bytes(random.Random(1).randbytes(3 << 20))  # noqa: S311
    btw.tree(source, "chunks")
    btw("fs", source, "www")
    chunk = max((btw.root / ".store/chunks").rglob("*.zst"), key=lambda path: path.stat().st_size)
    content = chunk.read_bytes()
    flip(chunk)
    btw("scrub", status=5)
    assert not chunk.exists()
    btw("import", "--from", "nas", "--identity", key.path)
    assert chunk.read_bytes() == content
    btw("scrub")
    assert "(not valid)" not in btw("list").out


def test_t1_credentials_that_cannot_delete(
    btw: Installation, source: Path, bucket: Bucket, key: Key, proxy: FaultProxy
) -> None:
    """T1, E05: they suffice for everything; and doctor --attack tells what they can."""
    options = s3_settings(btw, bucket, key, proxy.port)
    btw.tree(source, "rdiff")
    found = {row["what"]: row["level"] for row in json.loads(btw("doctor", "--attack", "--json", status=None).out)}
    assert found["attack on s3: delete"] == found["attack on s3: overwrite"] == "warning"
    proxy.rules = [Rule("DELETE", "", "denied"), Rule("POST", "?delete", "denied"), Rule("GET", "/probe/", "denied")]
    for number in range(3):
        (source / "number").write_text(str(number))
        btw("fs", source, "www")
    found = {row["what"]: row["level"] for row in json.loads(btw("doctor", "--attack", "--json", status=None).out)}
    assert found["attack on s3: delete"] == found["attack on s3: read"] == "ok"
    assert not {method for method, path in proxy.log if "/probe/" not in path} & {"DELETE"}
    assert tree_differences(source, restored(btw, "out", "www", *options)) == ""


def test_a_newer_restore_py_gets_another_name(
    btw: Installation, source: Path, bucket: Bucket, key: Key, proxy: FaultProxy
) -> None:
    """T1: credentials that cannot overwrite suffice after an upgrade, too."""
    options = s3_settings(btw, bucket, key, proxy.port)
    bucket.put("RESTORE.py", b"# an older one")
    proxy.rules = [Rule("PUT", "/RESTORE.py", "denied")]
    btw.tree(source)
    btw("fs", source, "www")
    assert len([name for name in bucket.objects() if name.startswith("RESTORE")]) == 2
    assert tree_differences(source, restored(btw, "out", "www", *options)) == ""


def test_policy(btw: Installation, key: Key) -> None:
    """I07: JSON that allows to write, and denies what would make backups vanish."""
    btw.configure("S3_URI_PREFIX = 's3://bucket/backups'\nS3CMD_CONFIG = '/x'\n", ENCRYPT_TO=[key.public])
    found = json.loads(btw("offsite", "policy").out)
    allowed = {a for s in found["Statement"] if s["Effect"] == "Allow" for a in s["Action"]}
    denied = {a for s in found["Statement"] if s["Effect"] == "Deny" for a in s["Action"]}
    assert "s3:PutObject" in allowed
    assert {"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutLifecycleConfiguration"} <= denied
    assert "s3:GetObject" not in allowed
    assert '"s3:GetObject"' in btw("offsite", "policy", "--read").out
    assert "there is no target nas" in btw("offsite", "policy", "nas", status=1).err
    btw.configure("S3_URI_PREFIX = 's3://bucket/backups'\nS3CMD_CONFIG = '/x'\n")
    assert "rdiff-backup-data" in btw("offsite", "policy").out
    btw.configure("OFFSITE = {'nas': {'PATH': '/mnt/x'}}\n")
    assert "is a folder" in btw("offsite", "policy", "nas", status=2).err
    assert "no target is in S3" in btw("offsite", "policy", status=1).err


def test_lifecycle(btw: Installation, bucket: Bucket, key: Key) -> None:
    """I07: a server takes the rules as they are printed; nothing current goes by its age."""
    configure(btw, bucket, ENCRYPT_TO=[key.public])
    rules = json.loads(btw("offsite", "lifecycle", "--keep-versions", "30").out)
    [rule] = rules["Rules"]
    assert (rule["Filter"], rule["NoncurrentVersionExpiration"]) == ({"Prefix": "backups/"}, {"NoncurrentDays": 30})
    assert "Expiration" not in rule
    btw("offsite", "lifecycle", "--keep-versions", "0", status=2)
    if bucket.server.key == "S3RVER":
        return  # it knows no rules
    bucket.client.put_bucket_lifecycle_configuration(Bucket=bucket.name, LifecycleConfiguration=rules)
    [known] = bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.name)["Rules"]
    assert known["AbortIncompleteMultipartUpload"] == rule["AbortIncompleteMultipartUpload"]
