"""Changes files under whoever reads them, so that it can be seen afterwards whether what was read ever was so.

Every file says in each of its lines which version it is of. It is replaced as a whole, grows, shrinks, or is written
anew from front to back: so a file whose versions do not go down from line to line, or that has zeros, was never so.
"""

import ctypes
import os
import random
import stat
import threading
import time
from pathlib import Path
from typing import Self

LARGE = 16 << 20
"""Bytes of a file that takes so long to be read that it is overtaken while it is."""

LINE = 64
LINES = 3000
FILES = 12
RATE = 100
RENAME_EXCHANGE = 2
STYLES = ("replaced", "growing", "shrinking", "rewritten")


class Mutator:
    """Changes the files that it made in `top`, a hundred times a second, while the block lasts."""

    def __init__(self, top: Path, seed: int) -> None:
        self._top = top
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self.changes = 0
        for style in STYLES:
            for number in range(FILES):
                (top / f"{style} {number}").write_bytes(text(0))
        (top / "overtaken").write_bytes(line(0) * (LARGE // LINE))
        (top / "still").write_bytes(text(7))
        (top / "swapped").write_bytes(text(0))
        (top / "comes and goes").mkdir()
        (top / "swapped folder").mkdir()
        for number in range(FILES):
            (top / "swapped folder" / f"file {number}").write_bytes(text(0))
        self.errors: list[BaseException] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stop.is_set():
                self._change(self.changes + 1)
                self.changes += 1
                time.sleep(max(0.0, self.changes / RATE - (time.monotonic() - began)))
        except BaseException as error:
            self.errors.append(error)

    def _change(self, version: int) -> None:
        if version % 10 == 0:
            self._overtake(version)
        style = self._chance.choice((*STYLES, "swapped", "swapped folder", "comes and goes"))
        path = self._top / f"{style} {self._chance.randrange(FILES)}"
        if style == "swapped":
            self._swap()
        elif style == "swapped folder":
            self._swap_folder()
        elif style == "comes and goes":
            self._come_or_go(version)
        elif style == "replaced":
            self._replace(path, version)
        elif style == "growing":
            with open(path, "ab") as file:
                file.write(line(0) * 50)
        elif style == "shrinking":
            size = path.stat().st_size
            os.truncate(path, size // 2 // LINE * LINE)
            if size < 20 * LINE:
                self._replace(path, 0)
        else:
            self._rewrite(path, version)

    def _replace(self, path: Path, version: int) -> None:
        beside = path.with_name("beside")
        beside.write_bytes(text(version))
        os.rename(beside, path)

    def _rewrite(self, path: Path, version: int) -> None:
        with open(path, "r+b", buffering=0) as file:
            for _ in range(LINES // 100):
                file.write(line(version) * 100)

    def _overtake(self, version: int) -> None:
        """Write the large file anew, faster than anybody reads it."""
        with open(self._top / "overtaken", "r+b", buffering=0) as file:
            for _ in range(16):
                file.write(line(version) * (LARGE // LINE // 16))

    def _swap(self) -> None:
        """A file, a link to a secret, a pipe, a folder and a device in the place of one another."""
        other = self._top.with_name("other")
        if not os.path.lexists(other):
            kind = self._chance.choice(("link", "fifo", "folder", "device"))
            if kind == "link":
                other.symlink_to(self._top.with_name("secret"))
            elif kind == "fifo":
                os.mkfifo(other)
            elif kind == "device":
                os.mknod(other, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # zeros without end
            else:
                other.mkdir()
        path = self._top / "swapped"
        _exchange(other, path)
        if not (other.is_file() and not other.is_symlink()) and path.is_file() and not path.is_symlink():
            other.rmdir() if other.is_dir() and not other.is_symlink() else other.unlink()

    def _swap_folder(self) -> None:
        """A folder, and a link to one outside with secrets under the same names, in the place of one another, and most
        often back again at once."""
        outside, other = self._top.with_name("outside"), self._top.with_name("other folder")
        if not outside.exists():
            outside.mkdir()
            for number in range(FILES):
                (outside / f"file {number}").write_text("secret")
            other.symlink_to(outside)
        for _ in range(self._chance.randint(1, 20)):
            _exchange(other, self._top / "swapped folder")
            time.sleep(self._chance.random() / 2000)

    def _come_or_go(self, version: int) -> None:
        path = self._top / "comes and goes" / f"{self._chance.randrange(5)}"
        if path.exists():
            path.unlink()
        else:
            path.write_bytes(text(version))


def _exchange(one: Path, other: Path) -> None:
    here = -100
    ctypes.CDLL(None).renameat2(here, os.fsencode(one), here, os.fsencode(other), RENAME_EXCHANGE)


def line(version: int) -> bytes:
    """A line of a file of that version."""
    return b"%063d\n" % version


def text(version: int) -> bytes:
    """A whole file of that version."""
    return line(version) * LINES


def never_was(content: bytes) -> str:
    """Why a file with this content was never in the tree; "" if it may have been."""
    if len(content) % LINE:
        return "it is cut amid a line"
    lines = [content[at : at + LINE] for at in range(0, len(content), LINE)]
    try:
        versions = [int(one) for one in lines]
    except ValueError:
        return "it holds what nobody wrote"
    rises = sum(later > earlier for earlier, later in zip(versions, versions[1:], strict=False))
    return "an old part stands before a new one" if rises else ""
