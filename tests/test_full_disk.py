"""A disk without room: what was kept stays, and what is there to make room makes it."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Installation, random_bytes, tree_differences

LEAST = 4096


@pytest.fixture(params=["blocks", "inodes"])
def full(btw: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """ROOT_PATH is a small disk of its own, which lacks that once `fill` was called."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(40 << 20)
    few = ["-N", "128"] if request.param == "inodes" else []
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *few, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, btw.root], check=True)
    try:
        yield request.param
    finally:
        subprocess.run(["umount", btw.root], check=True)


def fill(root: Path, what: str) -> None:
    folder = root / "others"
    folder.mkdir()
    with suppress(OSError):
        for number in range(10_000):
            size = 0 if what == "inodes" else (4 << 20) if number < 12 else LEAST
            (folder / str(number)).write_bytes(bytes(size) if size == LEAST else random_bytes(size))
    subprocess.run(["sync", "-f", root], check=True)
    with suppress(OSError):
        for number in range(10_000):
            (folder / f"more{number}").write_bytes(b"" if what == "inodes" else bytes(LEAST))


@pytest.mark.parametrize("keeper", ["tar", "chunks", "rdiff"])
def test_f18_f19_rm_and_cleanup_make_room(
    btw: Installation, source: Path, tmp_path: Path, full: str, keeper: str
) -> None:
    (source / "large").write_bytes(random_bytes(2_000_000))
    btw.tree(source, keeper)
    for number in range(3):
        (source / "number").write_text(str(number))
        btw("fs", source, "D")
    fill(btw.root, full)
    (source / "large").write_bytes(random_bytes(3_000_000))
    assert btw("fs", source, "D", status=1).err.count("\n") <= 2
    btw("scrub")
    if keeper == "rdiff":
        btw("rm", "--force", "D@all")
    else:
        btw("rm", "--force", "D@first")
    btw("cleanup", "--grace", "0")
    subprocess.run(["rm", "-r", btw.root / "others"], check=True)
    btw("fs", source, "D")
    btw("restore", "D", tmp_path / "out")
    assert tree_differences(source, tmp_path / "out") == ""
    btw("scrub")
