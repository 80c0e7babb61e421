"""Damages a store again and again, and sees what scrub, restore and the next backups make of it; in one process.

``python -m tests.damage_cases TOP SEED COUNT [PART OF]`` makes two trees below TOP, backs them up, and for COUNT cases
(0: all, or every OF-th from PART on) damages a copy of that ROOT_PATH. It prints a JSON line a case, with what was not
as it should be. The oracle is a restore of every backup before and after. With a COUNT of -1 the store is a tiny one,
of which every bit is flipped, one after the other, and scrubbed and restored.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from btw_backup import cli
from btw_backup.scrub import survey
from btw_backup.store.uses import chunks_of
from tests.damage import Damage, all_damages, files_below

WITHOUT_DATA = (".fingerprint.json", ".idx", ".lock", "log.txt", ".scrub.json")
OTHERS = (*WITHOUT_DATA, ".btw-backup-id", "RESTORE.py", "README.txt")
"""Not flipped bit by bit: the last two have their own test, the others change nothing."""


class Cases:
    """The installation below `top`, and the contents that its backups have to have."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "root"
        self.expected: dict[str, dict[str, bytes]] = {}

    def run(self, *words: object) -> tuple[int, str]:
        """Run a command; its status, and what it answered."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(["--config-dir", str(self.top / "cfg"), *map(str, words)])
        if status == 70:
            raise AssertionError(err.getvalue())
        return status, out.getvalue()

    def configure(self) -> None:
        """The configuration."""
        (self.top / "cfg").mkdir(parents=True)
        self.root.mkdir()
        (self.top / "cfg" / "config.py").write_text(f"ROOT_PATH = {str(self.root)!r}\nOFFSITE = {{}}\n")

    def build_tiny(self) -> None:
        """One backup of a tree of two files."""
        self.configure()
        (self.top / "t").mkdir()
        (self.top / "t" / "text").write_bytes(b"text\n" * 20)
        (self.top / "t" / "other").write_bytes(random.Random(3).randbytes(100))
        self.run("fs-init", "--type", "chunks", self.top / "t", "t")
        self.back_up("t")
        shutil.copytree(self.root, self.top / "whole", symlinks=True)

    def build(self) -> None:
        """Two trees that share content; two backups of one, and one of the other."""
        chance = random.Random(3)
        self.configure()
        for name in ("t", "u"):
            tree = self.top / name
            (tree / "folder").mkdir(parents=True)
            for number in range(8):
                (tree / "folder" / f"{number}").write_bytes(chance.randbytes(3000 * number))
            (tree / "shared").write_bytes(b"the same in both trees" * 500)
            (tree / "large").write_bytes(random.Random(5).randbytes(3 << 20) + name.encode() * 400_000)
            self.run("fs-init", "--type", "chunks", tree, name)
        time.sleep(2.1)  # what is as young as a backup is not believed to be unchanged
        self.back_up("t", "u")
        (self.top / "t" / "folder" / "3").write_bytes(b"changed" * 1000)
        (self.top / "t" / "new").write_bytes(chance.randbytes(700_000))
        time.sleep(2.1)
        self.back_up("t")
        shutil.copytree(self.root, self.top / "whole", symlinks=True)

    def back_up(self, *names: str) -> None:
        """Back up trees, all of which have to come out well."""
        for name in names:
            status, _ = self.run("fs", self.top / name, name)
            assert status == 0, f"the backup of {name} ended with {status}"
            newest = max(self.listed(name))
            self.expected[newest] = contents(self.top / name)

    def listed(self, dst: str) -> dict[str, bool]:
        """The addresses of the backups, and whether they are valid."""
        rows = json.loads(self.run("--json", "list", dst)[1] or "[]")
        return {f"{row['dst']}@{row['stamp']}": row["valid"] for row in rows}

    def restored(self, address: str) -> tuple[bool, list[str]]:
        """Whether the backup comes back as it was; and what is wrong with what comes back."""
        for left in self.top.glob("out*"):
            shutil.rmtree(left)
        status, _ = self.run("restore", address, self.top / "out")
        expected = self.expected[address]
        target = self.top / "out" if status == 0 else self.top / "out.damaged"
        found = contents(target) if target.is_dir() else {}
        wrong = [
            name for name, content in found.items() if not name.endswith(".damaged") and content != expected.get(name)
        ]
        wrong += [name for name in found if name.endswith(".damaged") and not _fits(found[name], expected[name[:-8]])]
        if status == 0:
            wrong += [f"{name} is missing" for name in expected.keys() - found.keys()]
        return status == 0, wrong

    def examine(self, damage: Damage, heal: bool = True) -> list[str]:
        """Damage a copy; what is not as it should be."""
        shutil.rmtree(self.root)
        shutil.copytree(self.top / "whole", self.root, symlinks=True)
        damage.inflict(self.root)
        before = {address: self.restored(address) for address in self.expected}
        faults = [f"{address}: restored wrongly: {wrong}" for address, (_, wrong) in before.items() if wrong]
        spoilt = {address for address, (well, _) in before.items() if not well}
        status, out = self.run("--json", "scrub")
        found = json.loads(out or "[]")
        named = {address for one in found for address in one["backups"]}
        own = {address for address in self.expected if self.is_of(damage.path + damage.other, address)}
        if not spoilt <= named <= spoilt | own or (
            named and "chunks/" in damage.path and not damage.other and named != own
        ):
            faults.append(f"scrub named {sorted(named)}, and {sorted(spoilt)} are damaged")
        if status != (5 if found else 0):
            faults.append(f"scrub ended with {status}")
        harmless = all(path.endswith(WITHOUT_DATA) for path in (damage.path, damage.other) if path)
        if bool(found) == harmless:
            faults.append(f"scrub found {found}")
        return faults + (self.healed(damage) if heal else [])

    def is_of(self, paths: str, address: str) -> bool:
        """Whether damage at `paths` concerns the backup, whether or not what is bad can still be read."""
        dst, _, stamp = address.partition("@")
        manifest = self.top / "whole" / dst / f"{stamp}.manifest.zst"
        return stamp in paths or any(name in paths for name in chunks_of(manifest))

    def healed(self, damage: Damage) -> list[str]:
        """What the next backups of the same trees do not heal."""
        faults = []
        known = dict(self.expected)
        self.back_up("t", "u")
        newest = {max(address for address in self.expected if address.startswith(name)) for name in ("t@", "u@")}
        of_chunk = "chunks/" in damage.path and ("chunks/" in damage.other or not damage.other)
        old = min(known)  # of which something is in the source no more
        for address in newest | (known.keys() - {old} if of_chunk else set()):
            well, wrong = self.restored(address)
            if not well or wrong:
                faults.append(f"{address} was not healed: {wrong}")
        if of_chunk:
            whole = {address: self.restored(address)[0] for address in known}
            _, out = self.run("--json", "scrub")
            named = {address for one in json.loads(out or "[]") for address in one["backups"]}
            spoilt = {address for address, well in whole.items() if not well}
            if named != spoilt:
                faults.append(f"the second scrub named {sorted(named)}: {whole}")
            valid = {**self.listed("t"), **self.listed("u")}
            if {address for address, is_valid in valid.items() if not is_valid} != named:
                faults.append(f"list says {valid}")
        self.expected = known
        return faults


def contents(top: Path) -> dict[str, bytes]:
    """All files below `top`."""
    return {os.path.relpath(path, top): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def _fits(found: bytes, expected: bytes) -> bool:
    """Whether all bytes of a damaged file are right, or missing: then they are zeros."""
    return len(found) <= len(expected) and all(a in (b, 0) for a, b in zip(found, expected, strict=False))


def chosen_of(top: Path, seed: int, count: int) -> list[Damage]:
    """What is to be done to the copies of what is in `top`."""
    if count < 0:
        sizes = {path: (top / path).stat().st_size for path in files_below(top) if not path.endswith(OTHERS)}
        return [Damage(path, "flip", at, bit=bit) for path in sizes for at in range(sizes[path]) for bit in range(8)]
    chosen = [damage for damage in all_damages(top, 12 if count == 0 else 5) if is_any(damage, top)]
    return random.Random(seed).sample(chosen, count) if count else chosen


def is_any(damage: Damage, top: Path) -> bool:
    """Whether it changes anything; and not the file that is there to refuse another disk, and does so."""
    if ".btw-backup-id" in (damage.path, damage.other):
        return False
    return not damage.other or (top / damage.path).read_bytes() != (top / damage.other).read_bytes()


def main(top: Path, seed: int, count: int, part: int = 0, of: int = 1) -> None:
    """Run the cases."""
    survey._PAUSE = 0.0  # no run is about to set right what scrub finds half there
    cases = Cases(top)
    if count < 0:
        cases.build_tiny()
    else:
        cases.build()
    for number, damage in list(enumerate(chosen_of(top / "whole", seed, count)))[part::of]:
        try:
            faults = cases.examine(damage, heal=count >= 0)
        except AssertionError as error:
            faults = [f"{error!r}"]
        print(json.dumps({"number": number, "damage": str(damage), "faults": faults}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
