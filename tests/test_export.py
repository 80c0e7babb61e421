"""Exports: what is imported is what was exported, whoever keeps it; what was not exported so is not imported."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from btw_backup.store import rescue
from tests.conftest import REPOSITORY, Installation, peak_memory, random_bytes, tree_differences

STAMP = "2019-01-01T00:00:00"


@pytest.fixture
def other(tmp_path: Path) -> Installation:
    """An installation that has nothing yet."""
    return empty(tmp_path / "other")


def empty(top: Path) -> Installation:
    installation = Installation(top)
    installation.config_dir.mkdir(parents=True)
    installation.root.mkdir()
    installation.configure()
    return installation


@pytest.fixture(params=["tar", "rdiff", "chunks"])
def kept(request: pytest.FixtureRequest, btw: Installation, source: Path) -> Installation:
    """Three backups in ``hosts/t``, and the source as the last of them has it."""
    return backed_up(btw, source, request.param)


def backed_up(btw: Installation, source: Path, keeper: str) -> Installation:
    btw.tree(source, keeper)
    for number in range(3):
        (source / f"new {number}").write_bytes(b"%d\n" % number * 10_000 * (number + 1))
        btw("fs", source, "hosts/t", "--reread")
    return btw


@pytest.fixture
def chunked(btw: Installation, source: Path) -> Path:
    """An export of three backups in chunks."""
    backed_up(btw, source, "chunks")
    btw("export", "hosts/t@all", "e.tar")
    return btw.top / "e.tar"


def listed(btw: Installation) -> str:
    return btw("list", "--json").out


def files_of(btw: Installation) -> dict[str, bytes]:
    """What is in the dsts, but what is not a part of backups."""
    left_out = {".lock", "log.txt", ".fingerprint.json", ".btw-backup-id", ".btw-backup-dsts"}
    return {
        str(path.relative_to(btw.root)): path.read_bytes()
        for path in btw.root.rglob("*")
        if path.is_file() and path.name not in left_out and ".store" not in path.parts
    }


def leftovers(btw: Installation) -> list[Path]:
    found = [*btw.root.rglob(".tmp-*"), *(btw.root / ".store" / "writing").glob("*")]
    of_first_runs = (".btw-backup-id", ".btw-backup-dsts", "-format.json")  # which a kill leaves to cleanup
    return [path for path in found if not path.name.endswith(of_first_runs)]


def test_C07_list_is_the_same_after_import(kept: Installation, other: Installation, source: Path) -> None:
    kept("catalogue")
    ended = kept("export", "hosts/t@all", "e.tar")
    assert (ended.out, ended.err) == ("", "")
    ended = other("import", kept.top / "e.tar")
    assert ended.out.endswith(": 3 backups imported into hosts/t\n")
    (kept.config_dir / "catalogue.sqlite").unlink()
    assert listed(other) == listed(kept)
    assert files_of(other) == files_of(kept)
    kept_counts, other_counts = (json.loads(btw("catalogue", "--json").out)["backups"] for btw in (kept, other))
    assert kept_counts == other_counts == 3
    other("restore", "hosts/t", "out")
    assert tree_differences(source, other.top / "out") == ""
    other("restore", "hosts/t@first", "first")
    assert not (other.top / "first" / "new 1").exists()
    assert leftovers(other) == []
    ended = other("import", kept.top / "e.tar")
    assert ended.out.endswith(": 0 backups imported into hosts/t; 3 there already\n")
    assert listed(other) == listed(kept)


def test_it_goes_on_where_it_was_imported(kept: Installation, other: Installation, source: Path) -> None:
    kept("export", "hosts/t@all", "e.tar")
    other("import", kept.top / "e.tar")
    other.tree(source, json.loads(listed(kept))[0]["keeper"])
    (source / "more").write_bytes(b"more" * 1000)
    other("fs", source, "hosts/t")
    other("restore", "hosts/t", "out")
    assert tree_differences(source, other.top / "out") == ""
    other("restore", "hosts/t@1", "before")
    assert not (other.top / "before" / "more").exists()


def test_tar_unpacks_it_into_a_root_path(kept: Installation, other: Installation, source: Path) -> None:
    kept("export", "hosts/t@all", "e.tar")
    subprocess.run(["tar", "-C", other.root, "-xf", kept.top / "e.tar"], check=True)
    command = ["sha256sum", "--strict", "--quiet", "-c", ".export/SHA256SUMS"]
    subprocess.run(command, check=True, cwd=other.root)
    assert listed(other) == listed(kept)
    other("restore", "hosts/t", "out")
    assert tree_differences(source, other.top / "out") == ""


def test_through_a_pipe_into_another_dst(kept: Installation, other: Installation, source: Path) -> None:
    spec = "all" if json.loads(listed(kept))[0]["keeper"] == "rdiff" else "latest"
    piped = kept.start("export", f"hosts/t@{spec}", "-")
    ended = other("import", "-", "elsewhere", stdin=piped.stdout)
    assert piped.wait() == 0
    assert "imported into elsewhere" in ended.out
    other("restore", "elsewhere", "out")
    assert tree_differences(source, other.top / "out") == ""


def test_an_archive_of_the_old_script(btw: Installation, other: Installation, source: Path) -> None:
    place = btw.root / "old"
    place.mkdir()
    subprocess.run(["tar", "-cjf", place / f"{STAMP}.tbz", "-C", source, "."], check=True)
    btw("export", "old", "e.tar")
    for _ in range(2):
        other("import", btw.top / "e.tar")
        assert listed(other) == listed(btw)
    (other.root / "old" / f"{STAMP}.tbz").write_bytes(b"another")
    assert "is another backup" in other("import", btw.top / "e.tar", status=1).err


def test_a_repository_goes_as_a_whole(btw: Installation, source: Path) -> None:
    backed_up(btw, source, "rdiff")
    ended = btw("export", "hosts/t@first", "e.tar", status=2)
    hint = ended.err.splitlines()[1].partition("export ")[2]
    btw("export", hint, "e.tar")


def test_what_is_there_is_not_stored_again(chunked: Path, btw: Installation, source: Path) -> None:
    before = {path: path.stat().st_ino for path in (btw.root / ".store" / "chunks").rglob("*.zst")}
    btw("import", chunked, "copy")
    assert {path: path.stat().st_ino for path in (btw.root / ".store" / "chunks").rglob("*.zst")} == before
    shutil.rmtree(btw.root / "hosts")
    btw("restore", "copy", "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_another_backup_of_the_same_stamp_stays(kept: Installation, other: Installation) -> None:
    kept("export", "hosts/t@all", "e.tar")
    other("import", kept.top / "e.tar")
    record = max((other.root / "hosts/t/.records").iterdir())
    record.write_text(record.read_text().replace('"uid": "', '"uid": "x').partition(',\n "checksum"')[0] + "\n}\n")
    before = files_of(other)
    ended = other("import", kept.top / "e.tar", status=1)
    assert "is there, and is another backup" in ended.err
    assert files_of(other) == before


def test_where_it_goes(btw: Installation, source: Path) -> None:
    backed_up(btw, source, "tar")
    target = btw.top / "e.tar"
    target.write_text("precious")
    assert "e.tar exists" in btw("export", "hosts/t", target, status=1).err
    assert target.read_text() == "precious"
    btw("export", "hosts/t", target, "--force")
    assert target.stat().st_mode & 0o777 == 0o600
    btw("export", "hosts/nothing", "x.tar", status=1)
    btw("export", "hosts/t@tag:none", "x.tar", status=1)
    btw("export", "hosts/t", "nowhere/x.tar", status=1)
    btw("import", "nowhere.tar", status=1)
    for dst in ("../x", "/x", ".store"):
        btw("import", target, dst, status=1)
    assert sorted(path.name for path in btw.top.iterdir()) == ["cfg", "e.tar", "root", "source"]


def test_debts_are_noted(btw: Installation, other: Installation, source: Path) -> None:
    backed_up(btw, source, "chunks")
    btw("export", "hosts/t", "e.tar")
    (other.top / "s3cfg").touch()
    other.configure("", S3_URI_PREFIX="s3://b/x", S3CMD_CONFIG=str(other.top / "s3cfg"))
    other("import", btw.top / "e.tar")
    owed = other("sync-state", "--list").out
    for path in other.root.rglob("*.*"):
        if (
            path.is_file()
            and path.suffix in (".zst", ".json")
            and path.name not in ("format.json", ".fingerprint.json")
        ):
            assert str(path.relative_to(other.root)) in owed


def test_damaged_backups(btw: Installation, other: Installation, source: Path) -> None:
    backed_up(btw, source, "chunks")
    stamps = [row["stamp"] for row in json.loads(listed(btw))]
    last = {line["path"]: line for line in manifest(btw.root / "hosts/t" / f"{stamps[-1]}.manifest.zst")}
    (name, _, _) = last["new 2"]["extents"][0]
    (btw.root / ".store/chunks" / name[:2] / f"{name}.zst").write_bytes(b"no chunk")
    ended = btw("export", "hosts/t@all", "e.tar", status=5)
    assert name in ended.err
    assert not (btw.top / "e.tar").exists()
    (btw.root / "hosts/t/.records" / f"{stamps[-1]}.damaged").write_text("{}")
    btw("export", "hosts/t@all", "e.tar", status=3)
    other("import", btw.top / "e.tar")
    assert listed(other) == listed(btw)
    assert [row["valid"] for row in json.loads(listed(other))] == [True, True, False]
    other("restore", "hosts/t@1", "out")


def test_what_is_damaged_is_not_exported(kept: Installation) -> None:
    """Nobody wants to hear of it where it is imported."""
    path = max(
        path for path in (kept.root / "hosts/t").rglob("*") if path.is_file() and path.suffix in (".zst", ".tar")
    )
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"flipped")
    kept("export", "hosts/t@all", "e.tar", status=5)
    assert not (kept.top / "e.tar").exists()


def manifest(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    text = subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    yield from (json.loads(line) for line in text.splitlines()[1:-1])


def refused(btw: Installation, export: bytes) -> str:
    """Import what is no export as it should be: an error, and nothing is left."""
    before = sorted(btw.top.iterdir())
    (btw.top / "hostile.tar").write_bytes(export)
    ended = btw("import", "hostile.tar", status=None)
    assert ended.status in (1, 5), ended
    assert listed(btw) == "[]\n"
    assert leftovers(btw) == []
    (btw.top / "hostile.tar").unlink()
    assert sorted(btw.top.iterdir()) == before
    assert not [
        p
        for p in btw.root.rglob("*")
        if p.is_file() and p.suffix not in (".zst", ".json") and p.name[0] != "." and p.name not in rescue.NAMES
    ]
    return ended.err


def test_flipped_and_cut(chunked: Path, btw: Installation, other: Installation) -> None:
    content, chance = chunked.read_bytes(), random.Random(3)  # noqa: S311
    for at in chance.sample(range(len(content)), 10):
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        (other.top / "flipped.tar").write_bytes(flipped)
        ended = other("import", "flipped.tar", status=None)
        assert ended.status in (0, 1, 5)
        if ended.status == 0:  # the time of a file, a byte that fills a block
            assert listed(other) == listed(btw)
            assert files_of(other) == files_of(btw)
            shutil.rmtree(other.root / "hosts")
        assert leftovers(other) == []
        if ended.status:
            assert listed(other) == "[]\n"
    for length in (0, 1, 512, 5000, len(content) // 2, len(content) - 10240):
        refused(other, content[:length])


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def changed(path: Path, change: Change) -> bytes:
    """The export in `path`, with other members, in the hand of somebody who knows how it is made."""
    with tarfile.open(path) as tar:
        members = [(info, file.read()) for info in tar if (file := tar.extractfile(info))]
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, content


HOSTILE = {
    "above": member("../evil"),
    "above in a dst": member("hosts/t/../../../evil"),
    "absolute": member("/evil"),
    "link": member("hosts/t/2026-01-01T00:00:00.tar.zst", kind=tarfile.SYMTYPE, target="/etc/passwd"),
    "link for a folder": member("hosts/t/.records", kind=tarfile.SYMTYPE, target="/etc"),
    "hard link": member("hosts/t/.records/x", kind=tarfile.LNKTYPE, target="/etc/passwd"),
    "device": member("hosts/t/2026-01-01T00:00:00.tbz", kind=tarfile.BLKTYPE),
    "fifo": member(".store/chunks/fifo", kind=tarfile.FIFOTYPE),
    "another dst": member("hosts/u/2026-01-01T00:00:00.tar.zst"),
    "id": member(".btw-backup-id"),
    "lock": member("hosts/t/.lock"),
    "fingerprint": member("hosts/t/.fingerprint.json"),
    "no backup": member("hosts/t/2026-01-01T00:00:00.what"),
    "backup that is not named": member("hosts/t/2026-01-01T00:00:00.tbz"),
    "record that is not named": member("hosts/t/.records/2026-01-01T00:00:00.json"),
    "chunk in the wrong folder": member(f".store/chunks/ab/{'c' * 64}.zst"),
    "chunk that is none": member(f".store/chunks/cc/{'c' * 64}.zst"),
    "chunk of another name": member(f".store/chunks/cc/{'c' * 64}.zst", zstandard.compress(b"other")),
    "chunk that is a bomb": member(f".store/chunks/cc/{'c' * 64}.zst", zstandard.compress(bytes(1 << 28))),
    "chunk that is long": member(f".store/chunks/cc/{'c' * 64}.zst", bytes(20 << 20)),
    "deep": member("hosts/t/2026-01-01T00:00:00/" + "d/" * 1500 + "x"),
    "folder and file": member("hosts/t/.records/2026-01-01T00:00:00.json/x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members(name: str, chunked: Path, other: Installation) -> None:
    """Somebody may even have written the sums for it."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.insert(1, HOSTILE[name])
        resum(members)

    error = refused(other, changed(chunked, change))
    assert "import: " not in error
    assert len(error.splitlines()) <= 2


def resum(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Write the sums anew."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {info.name}\n"
        for info, content in members[:-1]
        if not info.name.startswith(".store/chunks")
    ]
    members[-1] = (members[-1][0], "".join(lines).encode())


def test_hostile_content(chunked: Path, other: Installation) -> None:
    """Records, manifests and headers that are not what they should be, with sums that are right."""

    def replacing(ending: str, make: Callable[[bytes], bytes]) -> Change:
        def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
            at = next(n for n, (info, _) in enumerate(members) if info.name.endswith(ending))
            members[at] = (members[at][0], make(members[at][1]))
            resum(members)

        return change

    def without(ending: str) -> Change:
        def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
            del members[next(n for n, (info, _) in enumerate(members) if info.name.endswith(ending))]
            resum(members)

        return change

    def twice(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.insert(2, members[1])
        resum(members)

    changes = [
        twice,
        without(".manifest.zst"),
        without("SHA256SUMS"),
        replacing(".json", lambda _: b"[" * 100_000),
        replacing(".json", lambda text: text.replace(b"hosts/t", b"../../t")),
        replacing(".json", lambda text: text.replace(b'"format": 1', b'"format": 9')),
        replacing("header.json", lambda _: b"{}"),
        replacing(".manifest.zst", lambda _: b"no manifest"),
        replacing(".manifest.zst", lambda _: zstandard.compress(b'{"type":"header"' + b" " * 100_000)),
        replacing("header.json", lambda text: text.replace(b'"stamps": [', b'"stamps": [\n  "x",')),
    ]
    for change in changes:
        refused(other, changed(chunked, change))
    refused(other, changed(chunked, swap))


def swap(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """The content of the first two records is exchanged."""
    (one, first), (two, second) = members[1], members[2]
    members[1], members[2] = (one, second), (two, first)
    resum(members)


def test_what_is_no_export(btw: Installation, source: Path) -> None:
    for content in (b"", b"x", bytes(10240), b"\xff" * 100_000, random_bytes(50_000)):
        refused(btw, content)
    subprocess.run(["tar", "-cf", btw.top / "plain.tar", "-C", source, "."], check=True)
    assert "this is no export" in refused(btw, (btw.top / "plain.tar").read_bytes())


@pytest.mark.parametrize("keeper", ["rdiff", "chunks"])
def test_a_killed_import_is_done_by_the_next(keeper: str, btw: Installation, other: Installation, source: Path) -> None:
    backed_up(btw, source, keeper)
    (source / "large").write_bytes(random_bytes(8 << 20))
    btw("fs", source, "hosts/t")
    btw("export", "hosts/t@all", "e.tar")
    for number in range(4):
        process = other.start("import", btw.top / "e.tar")
        time.sleep(0.3 + 0.2 * number)
        process.kill()
        process.communicate()
        for row in json.loads(listed(other)):
            other("restore", f"hosts/t@{row['stamp']}", f"out {number} {row['stamp']}")
    other("import", btw.top / "e.tar")
    assert listed(other) == listed(btw)
    assert leftovers(other) == []
    other("restore", "hosts/t", "out")
    assert tree_differences(source, other.top / "out") == ""


@pytest.mark.slow
@pytest.mark.parametrize("keeper", ["rdiff", "chunks"])
def test_an_import_that_died_at_any_rename(keeper: str, btw: Installation, other: Installation, source: Path) -> None:
    """Killed before the n-th file gets its name, and then done again."""
    backed_up(btw, source, keeper)
    btw("export", "hosts/t@all", "e.tar")
    for number in range(1, 40):
        inject = ["-e", "trace=rename", "-e", f"inject=rename:signal=KILL:when={number}"]
        program = [sys.executable, "-m", "btw_backup", "--config-dir", other.config_dir, "import", btw.top / "e.tar"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(other.top)}
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, *program]
        status = subprocess.run(command, check=False, capture_output=True, env=environment).returncode
        for row in json.loads(listed(other)):
            other("restore", f"hosts/t@{row['stamp']}", "out")
            shutil.rmtree(other.top / "out")
        other("import", btw.top / "e.tar")
        assert listed(other) == listed(btw)
        assert leftovers(other) == []
        shutil.rmtree(other.root)
        other.root.mkdir()
        (other.config_dir / "root-id").unlink(missing_ok=True)
        if status == 0:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.slow
def test_memory(btw: Installation, other: Installation, source: Path) -> None:
    with open(source / "large", "wb") as file:
        for _ in range(30):
            file.write(random_bytes(10 << 20))
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    assert peak_memory(btw.start("export", "t", "e.tar")) < 120_000
    assert peak_memory(other.start("import", btw.top / "e.tar")) < 250_000


@pytest.mark.parametrize("keeper", ["chunks", "file"])
def test_streams(keeper: str, btw: Installation, other: Installation) -> None:
    btw("command-init", "--type", keeper, "numbers", "--", "sh", "-c", "seq 300000; cat more")
    for number in range(2):
        (btw.top / "more").write_text(f"{number}\n")
        path = btw.config_dir / "command" / "numbers.py"
        path.write_text(path.read_text().replace("cat more", f"cat {btw.top}/more"))
        btw("command", "numbers", "n")
    btw("export", "n@all", "e.tar")
    other("import", btw.top / "e.tar")
    assert listed(other) == listed(btw)
    assert files_of(other) == files_of(btw)
    assert other("restore", "n@first", "-").out == "".join(f"{n}\n" for n in range(1, 300_001)) + "0\n"
    (rows, others) = (json.loads(btw("runs", "--json").out), json.loads(other("runs", "--json").out))
    assert [(row["kind"], row["outcome"]) for row in rows] == [("command", "kept")] * 2
    assert others == []
