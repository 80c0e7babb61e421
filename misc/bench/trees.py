"""Trees to back up: real files of this machine, chosen and changed by a seed, so that each run has the same."""

import os
import random
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

REAL = Path("/usr")
INCOMPRESSIBLE = 0.05
"""The part of the bytes that no compressor makes smaller: what real trees hold of pictures and archives."""


def make(tree: Path, files: int, size: int) -> None:
    """Fill `tree` with `files` files of together about `size` bytes: copies, with their names, modes and times.

    Where /usr has too few, a file is taken again, with a first line that makes it another.
    """
    chance = random.Random(20261121)
    found = sorted(real_files(), key=lambda file: (file[0].parent, file[0]))
    noisy = max(1, files // 50)
    budget = int(size * (1 - INCOMPRESSIBLE))
    taken = 0
    round_, order = 0, list[tuple[Path, int]]()
    for done in range(files - noisy):
        if not order:
            round_, order = round_ + 1, by_whole_folders(found, chance)
        # What is taken grows evenly, give or take a twentieth: one huge file at the end would miss the size.
        path, length = order.pop()
        while order and taken + length > budget * done // (files - noisy) + size // 20:
            path, length = order.pop()
        take(path, tree / (f"again-{round_}" if round_ > 1 else ".") / path.relative_to(REAL), round_)
        taken += length
    for number in range(noisy):
        target = tree / "noise" / f"{number % 20}" / f"{number}.bin"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(chance.randbytes(max(0, size - taken) // noisy))


def by_whole_folders(found: list[tuple[Path, int]], chance: random.Random) -> list[tuple[Path, int]]:
    """`found` in a random order of their folders: single files by chance would make a tree of nearly empty folders."""
    folders = [list(files) for _, files in groupby(found, lambda file: file[0].parent)]
    return [file for files in chance.sample(folders, len(folders)) for file in files]


def real_files() -> Iterator[tuple[Path, int]]:
    """The regular files of this machine that are worth copying, with their sizes."""
    for folder, folders, names in os.walk(REAL):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path, path.stat().st_size


def take(path: Path, target: Path, round_: int) -> None:
    """Copy `path` to `target`, as something new from the second time on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if round_ == 1:
        shutil.copyfile(path, target)
    else:
        target.write_bytes(f"copy {round_}\n".encode() + path.read_bytes())
    shutil.copystat(path, target)


def make_many(tree: Path, files: int) -> None:
    """Fill `tree` with `files` files of some hundred bytes, a thousand to a folder."""
    chance = random.Random(20261121)
    for number in range(files):
        if number % 1000 == 0:
            folder = tree / f"{number // 100000}" / f"{number // 1000}"
            folder.mkdir(parents=True)
        with open(f"{folder}/{number}-{chance.getrandbits(40):x}.txt", "wb") as file:
            file.write(b"%d\n" % number * chance.randrange(1, 60))


def change(tree: Path, seed: int) -> None:
    """Change 1 % of the files: 6 of 10 edited, 2 added, 2 deleted; and one folder gets another name."""
    chance = random.Random(seed)
    paths = sorted(Path(folder, name) for folder, _, names in os.walk(tree) for name in names)
    chosen = chance.sample(paths, max(10, len(paths) // 100))
    part = len(chosen) // 5
    for path in chosen[:part]:
        path.unlink()
    for path in chosen[part : 2 * part]:
        shutil.copyfile(path, path.with_name(f"added-{seed}-{path.name[:200]}"))
    for path in chosen[2 * part :]:
        edit(path, chance)
    folder = chance.choice(sorted({path.parent for path in paths if path.exists()} - {tree}))
    folder.rename(folder.with_name(f"{folder.name[:200]}.renamed-{seed}"))


def edit(path: Path, chance: random.Random) -> None:
    """Overwrite a few bytes somewhere, and append some."""
    content = path.read_bytes()
    where = chance.randrange(len(content) + 1)
    path.write_bytes(content[:where] + chance.randbytes(20) + content[where + 20 :] + b"# edited\n")
