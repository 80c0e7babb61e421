"""RESTORE.py, which gives backups back without btw-backup: with the Python of the system and zstd, and nothing else."""

import ast
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from btw_backup import files
from btw_backup.store import rescue
from tests import last_line, made_store, torture
from tests.conftest import PATIENCE, REPOSITORY, Ended, Installation, random_bytes, tree_differences

PACKAGED = REPOSITORY / "btw_backup" / "store" / "rescue"
STORES = Path(__file__).parent / "stores"
ISOLATED = ("env", "-i", "/usr/bin/python3", "-I", "-S")


def rescue_from(root: Path, *args: object, script: Path | None = None, status: int | None = 0) -> Ended:
    """Run RESTORE.py where nothing of ours or of an environment can be imported."""
    command = [*ISOLATED, script or root / ".store" / "RESTORE.py", *map(str, args)]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    out, err = ended.stdout.decode(errors="surrogateescape"), ended.stderr.decode()
    assert "Traceback" not in err, err
    assert status is None or ended.returncode == status, err
    return Ended(ended.returncode, out, err)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What a hostile manifest would like to change."""
    top = tmp_path / "outside"
    (top / "folder").mkdir(parents=True)
    (top / "file").write_text("as before")
    return top


def kept(btw: Installation, tree: Path) -> Path:
    """Back `tree` up as t; the ROOT_PATH."""
    btw.tree(tree, "chunks")
    btw("fs", tree, "t")
    return btw.root


def test_the_torture_tree(btw: Installation, tmp_path: Path) -> None:
    torture.build(tmp_path / "tree")
    root = kept(btw, tmp_path / "tree")
    ended = rescue_from(root, "t", tmp_path / "out")
    assert (ended.out, ended.err) == ("", "")
    assert tree_differences(tmp_path / "tree", tmp_path / "out") == ""
    assert (tmp_path / "out" / "nodes" / "socket").is_socket()
    assert (tmp_path / "out" / "holes" / "5 GiB").stat().st_blocks < 2048


def test_large_files_and_many_small_ones(btw: Installation, tmp_path: Path) -> None:
    for number in range(2000):
        path = tmp_path / "tree" / f"{number % 20}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random_bytes(number * 5))
    (tmp_path / "tree" / "large").write_bytes(random_bytes(30 << 20))
    root = kept(btw, tmp_path / "tree")
    rescue_from(root, "t", tmp_path / "out")
    assert tree_differences(tmp_path / "tree", tmp_path / "out") == ""


def test_lists_what_there_is(btw: Installation, source: Path, tmp_path: Path) -> None:
    root = kept(btw, source)
    (stamp,) = (path.stem for path in (root / "t" / ".records").iterdir())
    size = json.loads((root / "t" / ".records" / f"{stamp}.json").read_bytes())["length"]
    assert rescue_from(root).out == f"t@{stamp}\tfs\t{size}\t{source}\n"
    (root / "t" / ".records" / f"{stamp}.damaged").write_text("{}")
    assert rescue_from(root).out.endswith("\tdamaged\n")
    away = tmp_path / "RESTORE.py"
    shutil.copy(root / ".store" / "RESTORE.py", away)
    assert rescue_from(root, script=away, status=1).err.startswith(
        f"RESTORE.py: there is no store in {tmp_path.parent}"
    )
    assert rescue_from(root, "--root", root, script=away).out.startswith(f"t@{stamp}\t")


def test_a_backup_by_its_stamp(btw: Installation, source: Path, tmp_path: Path) -> None:
    root = kept(btw, source)
    (source / "new").touch()
    btw("fs", source, "t")
    stamps = sorted(path.stem for path in (root / "t" / ".records").iterdir())
    rescue_from(root, f"t@{stamps[0]}", tmp_path / "first")
    rescue_from(root, "t", tmp_path / "newest")
    assert [(tmp_path / name / "new").exists() for name in ("first", "newest")] == [False, True]
    assert "names 2 backups" in rescue_from(root, "t@20", tmp_path / "both", status=1).err
    assert "names 0 backups" in rescue_from(root, "nothing", tmp_path / "none", status=1).err
    assert "exists" in rescue_from(root, "t", tmp_path / "first", status=1).err


def test_a_path_with_its_hard_links(btw: Installation, source: Path, tmp_path: Path) -> None:
    (source / "zone").mkdir()
    for name in ("one", "two"):
        os.link(source / "etc" / "hosts", source / "zone" / name)
    root = kept(btw, source)
    rescue_from(root, "--path", "zone", "--path", f"{source}/etc/deep", "t", tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["etc", "etc/deep", "etc/deep/file", "zone", "zone/one", "zone/two"]
    assert (tmp_path / "out/zone/one").read_text() == "127.0.0.1 localhost\n"
    assert (tmp_path / "out/zone/one").samefile(tmp_path / "out/zone/two")
    assert (tmp_path / "out/zone").stat().st_mtime_ns == (source / "zone").stat().st_mtime_ns
    assert "not in this backup: none" in rescue_from(root, "--path", "none", "t", tmp_path / "no", status=1).err


def test_a_stream(tmp_path: Path) -> None:
    root, content = tmp_path / "root", [random_bytes(1 << 20), b"end"]
    extents = [[made_store.chunk(root, piece), 0, len(piece)] for piece in content]
    line = made_store.entry("shop.dump", size=len(b"".join(content)), extents=extents)
    made_store.manifest(root, "db/shop", [line], kind="db")
    script = PACKAGED / "RESTORE.py"
    rescue_from(root, "--root", root, "db/shop", tmp_path / "shop.dump", script=script)
    assert (tmp_path / "shop.dump").read_bytes() == b"".join(content)
    command = [*ISOLATED, script, "--root", root, "db/shop", "-"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"".join(content)
    next((root / ".store" / "chunks").rglob(f"{extents[1][0]}.zst")).unlink()
    rescue_from(root, "--root", root, "db/shop", tmp_path / "again", script=script, status=5)
    assert (tmp_path / "again.damaged").read_bytes() == content[0] + bytes(3)
    assert not (tmp_path / "again").exists()


def test_a_stream_that_lies_in_many_places(btw: Installation, tmp_path: Path) -> None:
    source, content = tmp_path / "source", bytearray(random.Random(1).randbytes(6 << 20))
    btw("command-init", "--type", "chunks", "noise", "--", "cat", source)
    states = []
    for _ in range(3):
        source.write_bytes(content)
        btw("command", "noise", "n")
        states.append(bytes(content))
        del content[::100_000]
    stamps = [row["stamp"] for row in json.loads(btw("list", "n", "--json").out)]
    for stamp, state in zip(stamps, states, strict=True):
        rescue_from(btw.root, f"n@{stamp}", tmp_path / stamp)
        assert (tmp_path / stamp).read_bytes() == state
    assert len(list((btw.root / ".store" / "chunks").rglob("*.zst"))) <= 10


@pytest.mark.parametrize("how", ["flipped", "cut", "missing", "swapped"])
def test_a_damaged_chunk_costs_its_files_only(btw: Installation, source: Path, tmp_path: Path, how: str) -> None:
    (source / "large").write_bytes(random_bytes(20 << 20))  # three pieces at least, however they are cut
    root = kept(btw, source)
    chunks = sorted((root / ".store" / "chunks").rglob("*.zst"), key=lambda path: path.stat().st_size)
    content = bytearray(chunks[-1].read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"flipped": bytes(content), "cut": bytes(content[:-9]), "swapped": chunks[0].read_bytes()}
    chunks[-1].unlink()
    if how in changed:
        chunks[-1].write_bytes(changed[how])
    ended = rescue_from(root, "t", tmp_path / "out", status=5)
    assert f"RESTORE.py: large: the chunk {chunks[-1].stem}" in ended.err
    assert tree_differences(source / "etc", tmp_path / "out" / "etc") == ""
    assert not (tmp_path / "out" / "large").exists()
    left, right = (source / "large").read_bytes(), (tmp_path / "out" / "large.damaged").read_bytes()
    assert len(left) == len(right)
    wrong = [at for at in range(0, len(left), 1 << 16) if left[at : at + (1 << 16)] != right[at : at + (1 << 16)]]
    assert 0 < len(wrong) < len(left) >> 16
    assert all(not any(right[at + 0x8000 : at + 0x8100]) for at in wrong[1:-1]), "what is missing is zeros"


def test_a_damaged_manifest_gives_what_comes_before(btw: Installation, source: Path, tmp_path: Path) -> None:
    root = kept(btw, source)
    (path,) = (root / "t").glob("*.manifest.zst")
    text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    compressed = subprocess.run(["zstd", "-c"], input=text[: text.rindex(b'{"type"')], check=True, capture_output=True)
    path.write_bytes(compressed.stdout)
    assert "is damaged" in rescue_from(root, "t", tmp_path / "out", status=5).err
    assert tree_differences(source, tmp_path / "out") == ""


def test_another_manifest_is_seen(btw: Installation, source: Path, tmp_path: Path) -> None:
    """It is one, but not that of the record."""
    root = kept(btw, source)
    (source / "new").touch()
    btw("fs", source, "t")
    first, second = sorted((root / "t").glob("*.manifest.zst"))
    shutil.copy(first, second)
    assert "is damaged at its end" in rescue_from(root, "t", tmp_path / "out", status=5).err


def test_a_frame_behind_the_manifest_is_skipped(btw: Installation, source: Path, tmp_path: Path) -> None:
    root = kept(btw, source)
    (path,) = (root / "t").glob("*.manifest.zst")
    with open(path, "ab") as file:
        file.write(struct.pack("<II", 0x184D2A50, 5) + b"names")
    assert rescue_from(root, "t", tmp_path / "out").err == ""
    assert tree_differences(source, tmp_path / "out") == ""


def test_a_newer_format_is_refused(btw: Installation, source: Path, tmp_path: Path) -> None:
    root = kept(btw, source)
    (path,) = (root / "t").glob("*.manifest.zst")
    text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    newer = text.replace(b'"format":1', b'"format":2', 1)
    path.write_bytes(subprocess.run(["zstd", "-c"], input=newer, check=True, capture_output=True).stdout)
    assert "another format: 2" in rescue_from(root, "t", tmp_path / "out", status=1).err


def test_hostile_manifests(tmp_path: Path, outside: Path) -> None:
    """All of them: nothing outside is changed, nothing takes long, and what is wrong is said."""
    root = tmp_path / "root"
    before = described(outside)
    for number, (name, lines) in enumerate(made_store.hostile(root, outside)):
        made_store.manifest(root, f"{number}", lines)
        begun = sum(os.times()[2:4])
        target = tmp_path / "targets" / f"{number}"
        target.parent.mkdir(exist_ok=True)
        ended = rescue_from(root, "--root", root, number, target, script=PACKAGED / "RESTORE.py", status=None)
        assert ended.status in (0, 3, 5), (name, ended)
        assert sum(os.times()[2:4]) - begun < 10, name  # computed by our children
        assert described(outside) == before, name
        assert not (tmp_path / "evil").exists(), name
        files.remove(target.parent)  # which pytest cannot: there are a thousand folders, one in the other


HARNESS = """
import contextlib, io, json, sys
from pathlib import Path
from btw_backup import cli, files
from tests import made_store
from tests.test_rescue import described
top = Path(sys.argv[1])
before = described(top / "outside")
for number, (name, lines) in enumerate(made_store.hostile(top / "root", top / "outside")):
    made_store.manifest(top / "root", str(number), lines)
    with contextlib.redirect_stderr(io.StringIO()) as error:
        status = cli.main(["--config-dir", str(top / "cfg"), "restore", str(number), str(top / f"target-{number}")])
    print(json.dumps([name, status, error.getvalue(), described(top / "outside") == before]), flush=True)
    for path in top.glob("*target-*"):
        files.remove(path)  # which pytest cannot: there are a thousand folders, one in the other
"""


def test_hostile_manifests_and_our_own_restore(btw: Installation, tmp_path: Path, outside: Path) -> None:
    """In one process, as each would cost a second."""
    command = [sys.executable, "-c", HARNESS, tmp_path]
    ended = subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lines) >= 100
    assert [line for line in lines if line[1] not in (0, 3, 5) or not line[3] or "Traceback" in line[2]] == []


def test_a_chunk_without_an_end(tmp_path: Path) -> None:
    """13 GB of zeros in 400 KB: not more is taken than a chunk may have."""
    root = tmp_path / "root"
    made_store.chunk(root, b"fine")
    line = made_store.entry("x", size=1, extents=[[made_store.bomb(root), 0, 1]])
    made_store.manifest(root, "t", [made_store.entry("", "folder"), line])
    ended = rescue_from(root, "--root", root, "t", tmp_path / "out", script=PACKAGED / "RESTORE.py", status=5)
    assert "is damaged" in ended.err
    assert (tmp_path / "out" / "x.damaged").read_bytes() == b"\0"


def test_without_root(btw: Installation, source: Path, tmp_path: Path) -> None:
    """All that may be made is, nobody's programs run as root, and the rest is said."""
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o4755)
    os.mknod(source / "null", 0o020666, os.makedev(1, 3))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", kept(btw, source), copy], check=True)
    subprocess.run(["chown", "-R", "nobody", copy], check=True)
    with tempfile.TemporaryDirectory() as place:  # where nobody may enter
        os.chown(place, 65534, 65534)
        subprocess.run(["mv", copy, f"{place}/root"], check=True)
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *ISOLATED]
        script = [f"{place}/root/.store/RESTORE.py", "t", f"{place}/out"]
        ended = subprocess.run([*command, *script], check=False, capture_output=True, text=True)
        assert ended.returncode == 3
        assert "null: it could not be made" in ended.stderr
        assert "program: its owner could not be set" in ended.stderr
        assert Path(place, "out/program").stat().st_mode & 0o7777 == 0o755
        assert Path(place, "out/etc/deep/file").read_bytes() == (source / "etc/deep/file").read_bytes()


def test_a_full_disk(btw: Installation, tmp_path: Path, tmpfs: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "large").write_bytes(random_bytes(70 << 20))
    root = kept(btw, tmp_path / "tree")
    ended = rescue_from(root, "t", tmpfs / "out", status=1)
    assert ended.err == "RESTORE.py: cannot write large: No space left on device\n"


def test_put_into_the_store_once_and_when_older(btw: Installation, source: Path) -> None:
    root = kept(btw, source)
    there = [root / ".store" / name for name in rescue.NAMES]
    assert [path.read_bytes() for path in there] == [(PACKAGED / path.name).read_bytes() for path in there]
    journal = (btw.config_dir / "sync_state").read_text() if (btw.config_dir / "sync_state").exists() else ""
    before = [path.stat().st_ino for path in there]
    (source / "one").touch()
    btw("fs", source, "t")
    assert [path.stat().st_ino for path in there] == before, journal
    make_version(there[1], 0)
    btw("scrub")
    assert "VERSION = 0\n" in there[1].read_text(), "an older one is no damage"
    (source / "two").touch()
    btw("fs", source, "t")
    assert there[1].read_bytes() == (PACKAGED / "RESTORE.py").read_bytes()
    make_version(there[1], 99999)
    (source / "three").touch()
    btw("fs", source, "t")
    btw("scrub")
    assert "VERSION = 99999\n" in there[1].read_text(), "a newer one stays"


def make_version(script: Path, version: int) -> None:
    """Make it what another version would have put there."""
    text = re.sub(r"^VERSION = \d+$", f"VERSION = {version}", script.read_text(), flags=re.MULTILINE)
    above = text[: text.rindex("\n", 0, -1) + 1]
    script.write_text(f"{above}# SHA-256 of all above: {hash_of(above.encode())}\n")


def test_the_last_line_is_the_sha256_of_all_above() -> None:
    for name in rescue.NAMES:
        content = (PACKAGED / name).read_bytes()
        assert content == last_line.renewed(name), "run python -m tests.last_line"
        above = content[: content.rindex(b"\n", 0, -1) + 1]
        assert hash_of(above) in content[len(above) :].decode()


@pytest.mark.parametrize("name", rescue.NAMES)
def test_what_is_damaged_or_lost_is_said_and_mended(btw: Installation, source: Path, name: str) -> None:
    root = kept(btw, source)
    path = root / ".store" / name
    whole = path.read_bytes()
    other = next(path.with_name(other) for other in rescue.NAMES if other != name).read_bytes()
    for content in (whole[:-1], whole + b"\n", whole.replace(b"zstd", b"zsTd", 1), other, b"", None):
        for mend in (("scrub",), ("fs", source, "t")):
            path.unlink() if content is None else path.write_bytes(content)
            if mend[0] == "scrub":
                ended = btw("scrub", status=5)
                why = "it is missing" if content is None else "it is not what was written"
                assert ended.out == f"store {path}: {why}; it was written anew; it concerns no backup\n"
            else:
                (source / "one").write_text(f"{content!r}")
                btw(*mend)
            assert path.read_bytes() == whole
    btw("scrub")
    path.unlink()
    path.mkdir()
    assert "it cannot be read: Is a directory; it could not be written anew" in btw("scrub", status=5).out


def test_any_flipped_byte_shows(tmp_path: Path) -> None:
    for name in rescue.NAMES:
        whole = (PACKAGED / name).read_bytes()
        (tmp_path / name).write_bytes(whole)
        assert rescue.why_spoilt(tmp_path, name) == ""
        for at in (*range(0, len(whole) - 200, 37), *range(len(whole) - 200, len(whole))):
            (tmp_path / name).write_bytes(whole[:at] + bytes((whole[at] ^ 1 << at % 8,)) + whole[at + 1 :])
            assert rescue.why_spoilt(tmp_path, name) == "it is not what was written"


def test_no_backup_fails_because_of_it(btw: Installation, source: Path) -> None:
    (btw.root / ".store" / "RESTORE.py").mkdir(parents=True)
    (btw.root / ".store" / "README.txt").mkdir()
    btw.tree(source, "chunks")
    ended = btw("fs", source, "t")
    assert (ended.out, ended.err) == ("", "")
    assert len(list((btw.root / "t").glob("*.manifest.zst"))) == 1


def test_runs_with_python_3_6() -> None:
    """As far as that can be told here: the syntax is that of 3.6, and nothing is imported but its standard library."""
    tree = ast.parse((PACKAGED / "RESTORE.py").read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    known = "argparse base64 collections concurrent.futures contextlib errno functools hashlib itertools json os re"
    assert imported <= {*known.split(), "shutil", "stat", "subprocess", "sys", "threading", "time", "typing"}


def test_a_store_of_format_1(btw: Installation, tmp_path: Path) -> None:
    """Made by the first code that wrote that format. As long as it is promised to be readable, it is, both ways."""
    subprocess.run(["tar", "-C", btw.root, "-xf", STORES / "format-1.tar"], check=True)
    known = (STORES / "format-1.txt").read_text()
    btw("restore", "hosts/www", "ours")
    assert described(tmp_path / "ours") == known
    rescue_from(btw.root, "--root", btw.root, "hosts/www", tmp_path / "theirs", script=PACKAGED / "RESTORE.py")
    assert described(tmp_path / "theirs") == known


def test_a_store_that_was_moved(btw: Installation, source: Path, tmp_path: Path) -> None:
    kept(btw, source)
    listed = btw("list", "--json").out
    subprocess.run(["cp", "-a", btw.root, tmp_path / "elsewhere"], check=True)
    shutil.rmtree(btw.root)
    btw.configure(f"ROOT_PATH = {str(tmp_path / 'elsewhere')!r}\nOFFSITE = {{}}\n")
    assert btw("list", "--json").out == listed
    btw("restore", "t", "out")
    assert tree_differences(source, tmp_path / "out") == ""
    rescue_from(tmp_path / "elsewhere", "t", tmp_path / "theirs")
    assert tree_differences(source, tmp_path / "theirs") == ""
    (source / "new").write_text("new")
    btw("fs", source, "t")
    assert len(list((tmp_path / "elsewhere" / "t").glob("*.manifest.zst"))) == 2


def described(top: Path) -> str:
    """What is in a tree: all that a store keeps of it, a line each."""
    lines = []
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        }
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        digest = content if isinstance(content, str) else f"{len(content)} {hash_of(content)}"
        columns = (
            ascii(str(path.relative_to(top))),
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
        )
        links = 0 if path.is_dir() else status.st_nlink
        lines.append(" ".join(map(str, (*columns, links, status.st_rdev, attributes, digest))) + "\n")
    return "".join(lines)


def hash_of(content: bytes) -> str:
    return subprocess.run(["sha256sum"], input=content, check=True, capture_output=True).stdout.split()[0].decode()
