"""diff between backups of a tree, whatever keeps them, and the sizes of what is no chunk."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Installation, peak_memory, random_bytes

EXPECTED = [
    "m .",
    "m etc",
    "m etc/deep",
    "M etc/deep/file",
    "- etc/gone",
    "m etc/hosts",
    "+ etc/new",
    "+ etc/new/inside",
    "M link",
    "M same size",
    r"m weird\nname \xff",
]
"""What `change` does, in the order of a walk. A folder's time changes with what is in it."""


def prepare(top: Path) -> None:
    (top / "etc" / "gone").write_text("gone")
    (top / "same size").write_text("before")
    (top / "untouched").write_bytes(bytes(700_000))
    (top / os.fsdecode(b"weird\nname \xff")).touch()
    os.utime(top / "etc" / "deep", (1, 1))
    os.utime(top / "same size", (1, 1))


def change(top: Path) -> None:
    (top / "etc" / "gone").unlink()
    (top / "etc" / "deep" / "file").write_bytes(random_bytes(600_000))
    os.utime(top / "etc" / "deep", (2, 2))
    (top / "etc" / "hosts").chmod(0o640)
    (top / "etc" / "new").mkdir()
    (top / "etc" / "new" / "inside").touch()
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")
    (top / "same size").write_text("AFTER!")
    os.utime(top / "same size", (1, 1))
    os.setxattr(top / os.fsdecode(b"weird\nname \xff"), "user.x", b"1")


@pytest.mark.parametrize("type_", ["chunks", "tar", "rdiff"])
def test_diff(btw: Installation, source: Path, type_: str) -> None:
    prepare(source)
    btw.tree(source, type_)
    btw("fs", source, "t")
    change(source)
    btw("fs", source, "t")
    ended = btw("diff", "t@1", "t@0")
    assert ended.out.splitlines() == EXPECTED
    assert ended.err == ""
    back = {"+": "-", "-": "+"}
    rows = json.loads(btw("diff", "t@0", "t@1", "--json").out)
    turned = [f"{back.get(row['change'], row['change'])} " for row in rows]
    assert turned == [line[:2] for line in EXPECTED]
    assert rows[-1]["path"] == os.fsdecode(b"weird\nname \xff")
    assert btw("diff", "t@0", "t").out == ""


def test_diff_of_different_keepers(btw: Installation, source: Path) -> None:
    """Also what is large, and in other pieces."""
    (source / "large").write_bytes(random_bytes(3 << 20))
    (source / "large too").write_bytes(random_bytes(3 << 20))
    btw.tree(source, "chunks")
    btw("fs", source, "c")
    copy = source.with_name("copy")
    subprocess.run(["cp", "-a", source, copy], check=True)
    btw.tree(copy, "tar", "copy")
    (copy / "large").write_bytes(random_bytes(3 << 20))
    btw("fs", copy, "t")
    assert btw("diff", "c", "t").out == "M large\n"


def test_a_folder_sorts_before_what_is_in_it(btw: Installation, tmp_path: Path) -> None:
    """``a.txt`` is not between ``a`` and ``a/b``."""
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a.txt").touch()
    (top / "a-b").touch()
    btw.tree(top, "chunks")
    btw("fs", top, "t")
    (top / "a" / "c").touch()
    (top / "a-b").unlink()
    btw("fs", top, "t")
    assert btw("diff", "t@1", "t@0").out.splitlines() == ["m .", "m a", "+ a/c", "- a-b"]


def test_damage_and_what_is_no_tree(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "t")
    (source / "new").touch()
    btw("fs", source, "t")
    path = sorted((btw.root / "t").glob("*.zst"))[0]
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path} is damaged" in btw("diff", "t@1", "t@0", status=5).err
    assert "there is no nix" in btw("diff", "nix@1", "t@0", status=1).err
    assert not (btw.root / "nix").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree(btw: Installation, tmp_path: Path) -> None:
    top = tmp_path / "tree"
    for number in range(15_000):
        path = top / f"{number // 500}" / f"{'x' * 100}{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for type_, limit in (("chunks", 70_000), ("tar", 90_000)):
        btw.tree(top, type_, type_)
        btw("fs", top, type_)
        (top / type_).touch()
        btw("fs", top, type_)
        process = btw.start("diff", f"{type_}@1", f"{type_}@0", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert peak_memory(process) < limit
        shutil.rmtree(next(btw.config_dir.glob(f"{type_}.*")))


def test_sizes_of_archives_and_repositories(btw: Installation, source: Path) -> None:
    btw.tree(source, "tar")
    btw("fs", source, "t")
    other = source.with_name("other")
    subprocess.run(["cp", "-a", source, other], check=True)
    btw.tree(other, "rdiff", "other")
    for number in range(2):
        (other / "version").write_text(f"{number}")
        btw("fs", other, "r")
    rows = json.loads(btw("list", "--sizes", "--json").out)
    full, increment, total_of_r, archive, total_of_t = rows
    assert (full["own"], increment["own"]) == (0, 0), "neither can be removed alone"
    assert full["shared"] == increment["shared"]
    files = [path for path in (btw.root / "r").rglob("*") if path.is_file() and not path.name.startswith((".l", ".f"))]
    assert total_of_r["own"] == sum(path.stat().st_size for path in files)
    assert archive["own"] == total_of_t["own"] == sum(path.stat().st_size for path in (btw.root / "t").rglob("2*"))
    for words in (("r@all", "t@all"), ("r@all",)):
        before = total_of_r["own"] + (total_of_t["own"] if len(words) > 1 else 0)
        btw("rm", "--force", *words)
        assert json.loads(btw("cleanup", "--grace", "0", "--dry-run", "--json").out)["size"] == before
        if len(words) > 1:
            btw("undelete", "r@all")
            btw("cleanup", "--grace", "0")
    assert json.loads(btw("cleanup", "--grace", "0", "--json").out)["size"] == total_of_r["own"]
    assert [path.name for path in btw.root.rglob("2*")] == []


def test_a_table_has_a_title(btw: Installation, source: Path) -> None:
    btw.tree(source, "chunks")
    btw("fs", source, "hosts/t")
    lines = btw("list", "--sizes").out.splitlines()
    assert lines[0].split() == ["size", "added", "own", "shared"]
    assert lines[1] == "hosts/t:"
    assert lines[-1].endswith("  total")
    assert len(lines) == 4
    assert "--sizes is for" in btw("list", "--sizes", "--removed", status=2).err
