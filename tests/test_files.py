"""Temporary files and folders that several runs make and sweep at once."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from btw_backup import files

MANY = 1000


def folder(path: Path) -> int:
    while True:
        descriptor = files.locked_folder(path)
        if descriptor is not None:
            return descriptor


def file(path: Path) -> int:
    with files.create(path) as made:
        return os.dup(made.fileno())  # has the lock, too


@pytest.mark.parametrize("make", [folder, file])
def test_what_is_being_made_is_not_taken_for_what_a_dead_run_left(tmp_path: Path, make: Callable[[Path], int]) -> None:
    """Between the making and the locking of it another run may remove it, or be about to."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            for path in tmp_path.iterdir():
                files.remove_if_dead(path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(MANY):
            path = tmp_path / f"{number % 3}"
            descriptor = make(path)
            os.rename(path, tmp_path.parent / "taken")
            os.close(descriptor)
            files.remove(tmp_path.parent / "taken")
    finally:
        done.set()
        sweeper.join()
