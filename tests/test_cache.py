"""What a backup leaves of the machine to others: the kernel's memory, the processor, the disk."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btw_backup.sources import cache
from tests.conftest import REPOSITORY, Installation, random_bytes

MEGABYTE = 1 << 20


def forget(*paths: Path) -> None:
    """Have the kernel forget what it holds of files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def held(*paths: Path) -> int:
    """The bytes that the kernel holds of files."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *paths]
    return sum(map(int, subprocess.run(command, check=True, capture_output=True).stdout.split()))


def size_of(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that the kernel holds, as long as nobody takes of its cache meanwhile: as large as what the tests look at,
    and not used as late as that, so that the kernel takes of it first."""
    path = tmp_path / "canary"
    path.write_bytes(bytes(50 * MEGABYTE))
    forget(path)  # so that it is read from the disk, as the others
    return path


def undisturbed(canary: Path, attempt: Callable[[int], Callable[[], None]]) -> None:
    """Make an attempt, and the checks that it gives, unless somebody took of the cache; then make another."""
    for number in range(10):
        canary.read_bytes()
        check = attempt(number)
        if held(canary) == size_of(canary):
            check()
            return
    pytest.skip("somebody takes of the cache again and again")


@pytest.mark.parametrize("type_", ["chunks", "tar", "rdiff"])
def test_c15_the_cache_stays_as_it_was(btw: Installation, tmp_path: Path, canary: Path, type_: str) -> None:
    top = tmp_path / "tree"
    small = [top / f"{number:04}" for number in range(400)]
    large = [top / f"large {number}" for number in range(4)]
    top.mkdir()
    for path in small:
        path.write_bytes(random_bytes(20_000))
    for path in large:
        path.write_bytes(random_bytes(20 * MEGABYTE))
    used, unused = small[::2] + large[::2], small[1::2] + large[1::2]
    btw.tree(top, type_)

    def attempt(number: int) -> Callable[[], None]:
        forget(*small, *large)
        for path in used:
            path.read_bytes()
        before = held(*used), held(*unused)
        btw("fs", top, f"t{number}")
        after = held(*used), held(*unused)

        def check() -> None:
            assert before[0] >= size_of(*used)
            assert after[0] >= 0.95 * before[0]  # the kernel takes a page back now and then
            assert before[1] == 0
            assert after[1] < 0.1 * size_of(*unused)

        return check

    undisturbed(canary, attempt)


def test_c15_a_large_file_that_is_held_in_part(btw: Installation, tmp_path: Path, canary: Path) -> None:
    large = tmp_path / "tree" / "large"
    large.parent.mkdir()
    large.write_bytes(random_bytes(200 * MEGABYTE))
    btw.tree(large.parent, "chunks")

    def attempt(number: int) -> Callable[[], None]:
        forget(large)
        with open(large, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for offset in (1, 70, 150):
                os.pread(file.fileno(), 4 * MEGABYTE, offset * MEGABYTE)
        before = held(large)
        btw("fs", large.parent, f"t{number}")
        after = held(large)

        def check() -> None:
            assert before > 11 * MEGABYTE
            assert before - MEGABYTE < after < before + 5 * MEGABYTE

        return check

    undisturbed(canary, attempt)


def test_c15_a_file_that_was_just_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"content" * 1000)
        assert cache.is_held(file.fileno())
        cache.Passage(file.fileno(), 7000).end()
        assert held(path) >= 7000


@pytest.mark.parametrize(("type_", "programs_of"), [("tar", {"tar"}), ("rdiff", {"tar", "rdiff-backup"})])
def test_c15_nice_and_ionice_hold_for_all_children(
    btw: Installation, source: Path, tmp_path: Path, type_: str, programs_of: set[str]
) -> None:
    """As the manual has it in the crontab; what is in the place of the programs says how it was started."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("tar", "rdiff-backup"):
        script = f'#!/bin/sh\necho "{name} $(nice) $(ionice -p $$)" >>{tmp_path}/said\nexec /usr/bin/{name} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    btw.tree(source, type_)
    process = btw.start("--version")
    process.wait()
    command = [*process.args[:-1], "fs", str(source), "t"]  # type: ignore[index]
    overrides = {"BTW_TAR": str(programs / "tar"), "BTW_RDIFF_BACKUP": str(programs / "rdiff-backup")}
    environment = {**os.environ, **overrides, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(["nice", "-n", "19", "ionice", "-c", "3", *command], check=True, env=environment, cwd=tmp_path)
    said = (tmp_path / "said").read_text().splitlines()
    assert {line.split()[0] for line in said} == programs_of
    assert all(line.endswith(" 19 idle") for line in said)


def keeps_nothing(folder: Path) -> bool:
    """Whether the kernel can write past its memory there (RWF_DONTCACHE, Linux 6.14)."""
    with open(folder / "probe", "wb") as file:
        try:
            os.pwritev(file.fileno(), [b"x"], 0, 0x80)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("type_", ["chunks", "tar"])
def test_c15_neither_backups_nor_what_is_restored_stay(btw: Installation, tmp_path: Path, type_: str) -> None:
    if not keeps_nothing(tmp_path):
        pytest.skip("this kernel keeps what is written")
    large = tmp_path / "tree" / "large"
    large.parent.mkdir()
    large.write_bytes(os.urandom(100 * MEGABYTE))
    btw.tree(large.parent, type_)
    btw("fs", large.parent, "t")
    stored = [path for path in btw.root.rglob("*") if path.is_file()]
    assert size_of(*stored) > 100 * MEGABYTE
    assert held(*stored) < 20 * MEGABYTE
    btw("restore", "t", tmp_path / "out")
    restored = tmp_path / "out" / "large"
    assert held(restored) < 20 * MEGABYTE
    assert subprocess.run(["cmp", large, restored], check=False).returncode == 0
