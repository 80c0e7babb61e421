"""Damages one file below a folder, in a way that follows from a seed; for tests of whatever finds damage.

``python -m tests.damage FOLDER SEED`` damages any file, and says which and how.
"""

import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

HOWS = ("flip", "cut", "remove", "swap")


@dataclass(frozen=True)
class Damage:
    """What is done to a file: in the byte `at` a `bit` is flipped (-1: one that follows from `at`), it is cut there,
    removed, or swapped with `other`."""

    path: str
    how: str
    at: int = 0
    other: str = ""
    bit: int = -1

    def inflict(self, top: Path) -> None:
        """Do it to the file below `top`."""
        path = top / self.path
        if self.how == "remove":
            path.unlink()
        elif self.how == "cut":
            os.truncate(path, self.at)
        elif self.how == "swap":
            mine, others = path.read_bytes(), (top / self.other).read_bytes()
            path.write_bytes(others)
            (top / self.other).write_bytes(mine)
        else:
            content = bytearray(path.read_bytes())
            content[self.at] ^= 1 << (self.at % 8 if self.bit < 0 else self.bit)
            path.write_bytes(content)


def files_below(top: Path) -> list[str]:
    """All files below `top`, in the order of their names."""
    return sorted(os.path.relpath(path, top) for path in top.rglob("*") if path.is_file() and not path.is_symlink())


def all_damages(top: Path, places: int = 5) -> list[Damage]:
    """Every file below `top`: flipped in so many places from its first to its last byte, cut, removed, swapped with the
    next file of its kind and with one of another."""
    found = []
    paths = files_below(top)
    for number, path in enumerate(paths):
        size = (top / path).stat().st_size
        spots = sorted({size * n // places for n in range(places)} | {size - 1}) if size else []
        found += [Damage(path, "flip", at) for at in spots]
        found += [Damage(path, "cut", at) for at in sorted({0, size // 2, max(0, size - 1)}) if at < size]
        found.append(Damage(path, "remove"))
        kin = [p for p in paths if p != path and p.rpartition(".")[2] == path.rpartition(".")[2]]
        found += [Damage(path, "swap", other=other) for other in kin[:1]]
        found.append(Damage(path, "swap", other=paths[(number + 1) % len(paths)]))
    return found


def damage(top: Path, seed: int) -> Damage:
    """Damage any file below `top`, as `seed` has it."""
    chosen = random.Random(seed).choice(all_damages(top))
    chosen.inflict(top)
    return chosen


if __name__ == "__main__":
    print(damage(Path(sys.argv[1]), int(sys.argv[2])))
