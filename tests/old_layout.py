"""Installations as the old script left them: DESIGN.md section 4, made by the programs that it used.

Nothing here imports the package: what is written is what the facts say, not what our code thinks of them.
"""

import base64
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

HASHES = {"/a/b": "tZj__w"}
"""The hash in the name of a working directory, of paths where it is known from the old script."""


def utc(stamp: str) -> int:
    """A stamp in seconds since 1970."""
    return int(datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())


def murmur3(data: bytes) -> int:
    """Murmur3, x86, 32 bit, seed 0, unsigned; from its public description, to be independent of the package mmh3."""

    def rotated(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & 0xFFFFFFFF

    def mixed(block: bytes) -> int:
        return rotated(int.from_bytes(block, "little") * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF

    result = 0
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        result = (rotated(result ^ mixed(data[at : at + 4]), 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    if data[whole:]:
        result ^= mixed(data[whole:])
    result ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        result = (result ^ result >> shift) * factor & 0xFFFFFFFF
    return result ^ result >> 16


def hash_of(source: str) -> str:
    """The hash in the name of the working directory of `source`."""
    digits = f"{murmur3(source.encode()):x}"
    return base64.urlsafe_b64encode(bytes.fromhex("0" * (len(digits) % 2) + digits)).decode().rstrip("=")


@dataclass
class OldInstallation:
    """A configuration directory and a ROOT_PATH; `program` is its rdiff-backup, `zone` that of the machine."""

    config_dir: Path
    root: Path
    program: str = "rdiff-backup"
    zone: str = "UTC0"

    def working_directory(self, source: Path, name: str, type_: str) -> Path:
        """What fs-init made for `source`."""
        folder = self.config_dir / f"{name}.{hash_of(str(source))}"
        folder.mkdir(mode=0o700)
        (folder / "config.py").write_text(f'TYPE="{type_}"\n')
        (folder / "src").symlink_to(source)
        (folder / "backup").mkdir(mode=0o700)
        return folder

    def tar(self, source: Path, dst: str, stamp: str) -> Path:
        """A full of type tar: ``<stamp>.tbz``."""
        folder = self._dst(dst)
        plain = folder / "making.tar"
        self._archive(source, plain)
        path = folder / f"{stamp}.tbz"
        with open(path, "xb") as out:
            subprocess.run(["bzip2", "-c", str(plain)], stdout=out, check=True)
        plain.unlink()
        return path

    def rdiff_tree(self, source: Path, dst: str, stamp: str, *, full: str = "", late: int = 0) -> Path:
        """A session of type rdiff of a tree: into a new repository, or into that of `full`."""
        stage = self._stage()
        self._archive(source, stage / "backup.tar")
        return self._session(stage, dst, stamp, full, late)

    def rdiff_file(self, name: str, content: bytes, dst: str, stamp: str, *, full: str = "", late: int = 0) -> Path:
        """A session with a database's ``<db>.dump`` or the server's ``global.sql.bz2``."""
        stage = self._stage()
        (stage / name).write_bytes(content)
        return self._session(stage, dst, stamp, full, late)

    def note(self, dst: str, stamp: str, words: str) -> None:
        """The line in log.txt of a run that kept nothing."""
        with open(self._dst(dst) / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"{stamp}: no change in the data to be backed up: {words}\n")

    def journal(self, *lines: str) -> Path:
        """The sync state, a line each."""
        path = self.config_dir / "sync_state"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def _dst(self, dst: str) -> Path:
        folder = self.root / dst
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _stage(self) -> Path:
        stage = self.config_dir / "stage-of-the-old-script"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
        return stage

    def _archive(self, source: Path, path: Path) -> None:
        subprocess.run(["tar", "-cpf", str(path), "-C", str(source), "."], check=True)

    def _session(self, stage: Path, dst: str, stamp: str, full: str, late: int) -> Path:
        """Its time is `late` seconds after the stamp, which was taken before rdiff-backup was started."""
        repository = self._dst(dst) / (full or stamp)
        [file] = stage.iterdir()
        os.utime(file, (utc(stamp), utc(stamp)))
        command = [self.program, "--current-time", str(utc(stamp) + late), str(stage), str(repository)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TZ": self.zone})
        shutil.rmtree(stage)
        return repository
