"""The walker and the rules: what is seen, what is left out, and that nothing is opened that should not be."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from btw_backup.errors import FatalUserError
from btw_backup.sources.rules import rules_of
from btw_backup.sources.walk import Problems, walk


def seen(top: Path, *exclude: str, one_file_system: bool = True, skip_caches: bool = True) -> list[str]:
    problems = Problems()
    rules = rules_of(str(top), exclude, one_file_system=one_file_system, skip_caches=skip_caches)
    found = [path for path, *_ in walk(str(top), rules, problems)]
    assert not problems, problems.found
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in ("a/b/c.txt", "a/b/d.pyc", "a/cache/x", "cache/y", "z"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    return tmp_path


def test_sees_folders_before_what_they_hold_and_names_sorted(tree: Path) -> None:
    assert seen(tree) == ["", "a", "a/b", "a/b/c.txt", "a/b/d.pyc", "a/cache", "a/cache/x", "cache", "cache/y", "z"]


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("*.pyc", {"a/b/d.pyc"}),
        ("cache", {"a/cache", "a/cache/x", "cache", "cache/y"}),
        ("cache/", {"a/cache", "a/cache/x", "cache", "cache/y"}),
        ("/cache", {"cache", "cache/y"}),
        ("a/*", {"a/b", "a/b/c.txt", "a/b/d.pyc", "a/cache", "a/cache/x"}),
        ("a/*.pyc", set()),
        ("a/**.pyc", {"a/b/d.pyc"}),
        ("**/x", {"a/cache/x"}),
        ("**/z", {"z"}),
        ("z/", set()),
        ("?", {"a", "a/b", "a/b/c.txt", "a/b/d.pyc", "a/cache", "a/cache/x", "cache/y", "z"}),
        ("[c-d].*", {"a/b/c.txt", "a/b/d.pyc"}),
        ("[!c].*", {"a/b/d.pyc"}),
        ("[", set()),
    ],
)
def test_patterns(tree: Path, pattern: str, gone: set[str]) -> None:
    assert set(seen(tree)) - set(seen(tree, pattern)) == gone


def test_an_absolute_pattern_inside_the_source(tree: Path) -> None:
    assert set(seen(tree)) - set(seen(tree, f"{tree}/a/cache")) == {"a/cache", "a/cache/x"}


def test_nobackup_tag_keeps_the_folder_and_the_tag(tree: Path) -> None:
    (tree / "a" / "NOBACKUP-TAG").touch()
    assert seen(tree) == ["", "a", "a/NOBACKUP-TAG", "cache", "cache/y", "z"]


def test_cachedir_tag_counts_only_with_its_signature(tree: Path) -> None:
    (tree / "cache" / "CACHEDIR.TAG").write_text("no signature")
    assert "cache/y" in seen(tree)
    (tree / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# mine")
    assert "cache/y" not in seen(tree) and "cache/CACHEDIR.TAG" in seen(tree)
    assert "cache/y" in seen(tree, skip_caches=False)


def test_a_tag_that_is_a_fifo_does_not_block(tree: Path) -> None:
    os.mkfifo(tree / "cache" / "CACHEDIR.TAG")
    assert "cache/y" in seen(tree)


def test_special_files_are_seen_and_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    (tree / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
    assert {"fifo", "device", "loop", "socket"} <= set(seen(tree))


def test_stays_on_its_filesystem(tree: Path, tmpfs: Path) -> None:
    (tmpfs / "inner").touch()
    (tree / "mounted").mkdir()
    os.system(f"mount --bind {tmpfs} {tree}/mounted")
    try:
        assert "mounted" in seen(tree) and "mounted/inner" not in seen(tree)
        assert "mounted/inner" in seen(tree, one_file_system=False)
    finally:
        os.system(f"umount {tree}/mounted")


def test_an_unreadable_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FatalUserError, match="cannot read the source"):
        seen(tmp_path / "missing")


def test_never_leaves_the_tree_while_folders_become_links(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").touch()
    (tree / "swap").mkdir()
    (tree / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(tree / "swap", tree / "kept")
            os.rename(tree / "link", tree / "swap")
            os.rename(tree / "swap", tree / "link")
            os.rename(tree / "kept", tree / "swap")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        rules = rules_of(str(tree), (), one_file_system=True, skip_caches=True)
        for _ in range(3000):
            assert not [path for path, *_ in walk(str(tree), rules, Problems()) if "secret" in path]
    finally:
        stop.set()
        thread.join()


def test_a_deep_tree(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 10, dir_fd=folder)
        inner = os.open("d" * 10, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert len(seen(tmp_path)) == 1501
    os.system(f"rm -rf {tmp_path}/dddddddddd")
