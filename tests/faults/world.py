"""A small installation that can be set back to how it was, as often as it takes: a folder, or a disk of its own."""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Ended
from tests.faults import killing
from tests.faults.contents import Content, content_of
from tests.faults.forks import Forks
from tests.s3 import Bucket, free_port
from tests.servers import Postgres

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
SMALLEST = {"ext4": 48 << 20, "xfs": 300 << 20}
"""Bytes of the smallest disks; their files are sparse."""

NAME_OF_PROGRAM = "btw_backup"

READING = ("list", "restore", "public")
"""Commands that change nothing but their target, one word of them; keys has others."""


@dataclass
class World:
    """An installation in `place`: ``top`` holds its configuration, ROOT_PATH and targets, and is what faults strike;
    ``outside`` holds its sources, and must stay as it is.

    `sure` has the content of every backup that was reported, by its address. On a disk of its own, if it has a
    `filesystem`.
    """

    place: Path
    forks: Forks
    filesystem: str = ""
    env: dict[str, str] = field(default_factory=dict)
    sure: dict[str, Content] = field(default_factory=dict)
    removed: dict[str, Content] = field(default_factory=dict)
    """What was removed and can be brought back."""

    coming: dict[str, Content] = field(default_factory=dict)
    """What an import is to bring."""

    dumped: dict[str, Content] = field(default_factory=dict)
    """What is in databases, since `sql` has last changed any."""

    damaged: set[str] = field(default_factory=set)
    """Backups that somebody damaged."""

    alike: bool = False
    """Whether every command gets the same process number, as in a container."""

    last: Ended = field(default_factory=lambda: Ended(0, "", ""))
    """How the last harmed command ended."""

    elsewhere: Callable[["World"], None] = lambda world: None
    """Sets back what is not below ``top``."""

    postgres: Postgres | None = None
    bucket: Bucket | None = None
    prefix: str = ""
    """Where in the bucket backups go; another place each time, unless there is an `object_lock`."""

    object_lock: str = ""

    def __post_init__(self) -> None:
        for folder in (self.top, self.outside, self.place / "scratch"):
            folder.mkdir(parents=True)
        if self.filesystem:
            self._make_disk()
        self._make_folders()
        if self.postgres:
            self.env |= self.postgres.env

    def _make_folders(self) -> None:
        for folder in ("cfg", "root", "out"):
            (self.top / folder).mkdir(0o700, exist_ok=True)
        self.configure()

    @property
    def top(self) -> Path:
        """What faults strike."""
        return self.place / "top"

    @property
    def outside(self) -> Path:
        """Where the sources are."""
        return self.place / "outside"

    @property
    def root(self) -> Path:
        """ROOT_PATH."""
        return self.top / "root"

    @property
    def config_dir(self) -> Path:
        """The configuration directory."""
        return self.top / "cfg"

    def configure(self, text: str = "OFFSITE = {}\n") -> None:
        """Write the general configuration; it may write config.py anew only before the world is saved."""
        (self.config_dir / "config.py").write_text(f"ROOT_PATH = {str(self.root)!r}\nLOCK_WAIT = '10s'\n{text}")

    # Commands

    def words(self, *words: object) -> list[str]:
        """The words of a command line, behind the program."""
        return ["--config-dir", str(self.config_dir), *map(str, words)]

    def run(self, *words: object) -> Ended:
        """Run a command in peace."""
        reads = any(word in READING for word in words[:2])
        return self.forks(*self.words(*words), env=self._environment, cwd=self.place, reads=reads)

    def well(self, *words: object) -> Ended:
        """As `run`; it has to end with 0."""
        ended = self.run(*words)
        assert ended.status == 0, f"{' '.join(map(str, words))}: {ended}"
        return ended

    def harmed(self, words: Sequence[object], number: int, act: str, data: Path | None = None) -> Ended:
        """Run a command that meets a fault."""
        struck = [self.top, *([self.postgres.folder] if self.postgres else [])]
        tracer = killing.tracer(struck, self.trace, number=number, act=act, data=data)
        around = {"env": self._environment, "cwd": self.place}
        if not self.alike:
            return killing.of_fork(tracer, self.forks, self.words(*words), self.trace, **around)
        command = ["unshare", "--pid", "--fork", "--kill-child", "--", sys.executable, "-m", NAME_OF_PROGRAM]
        return killing.of_process(tracer, [*command, *self.words(*words)], self.trace, **around)

    @property
    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.place), **self.env}

    @property
    def trace(self) -> Path:
        """Where the steps of the last harmed command are."""
        return self.place / "trace"

    # What is kept

    @property
    def is_set_up(self) -> bool:
        """Whether there is a configuration."""
        return (self.config_dir / "config.py").exists()

    def listed(self) -> list[dict[str, object]]:
        """All backups, as list shows them."""
        ended = self.well("--json", "list")
        rows: list[dict[str, object]] = json.loads(ended.out or "[]")
        return rows

    def restored(self, row: Mapping[str, object]) -> Content:
        """What comes back of a backup, somewhere else."""
        target = self.place / "scratch" / "restored"
        for left in target.parent.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        ended = self.run("restore", f"{row['dst']}@{row['stamp']}", target)
        assert ended.status == 0, f"listed but cannot be restored: {row['dst']}@{row['stamp']}: {ended}"
        return content_of(target)

    def learn(self, dst: str, content: Content) -> str:
        """Note that the newest backup of `dst` has that content; its address."""
        newest = [row for row in self.listed() if row["dst"] == dst][-1]
        address = f"{dst}@{newest['stamp']}"
        assert address not in self.sure, f"no new backup in {dst}"
        self.sure[address] = content
        return address

    # Servers

    def sql(self, database: str, statement: str) -> None:
        """Change what is in the PostgreSQL server."""
        assert self.postgres is not None
        self.dumped.clear()
        self.postgres.sql(statement, database)

    def dump(self, database: str | None) -> bytes:
        """All that is in a database; None for the roles and tablespaces."""
        assert self.postgres is not None
        if database is None:
            return self.postgres.run("pg_dumpall", "-g", "--restrict-key=x").encode()
        folder = self.place / "dumped"
        subprocess.run(
            [self.postgres.programs / "pg_dump", "-Fc", "-f", folder, "-d", database],
            env={**os.environ, **self.postgres.env},
            check=True,
        )
        return folder.read_bytes()

    def go_offsite(self, *, working: bool) -> None:
        """Send backups to an empty place in the bucket, or to nowhere although they should go there."""
        assert self.bucket is not None
        if not self.object_lock or not self.prefix:
            self.prefix = uuid.uuid4().hex
        path = self.bucket.s3cmd_config(self.top / "s3cmd.conf", 0 if working else free_port())
        lock = f"OBJECT_LOCK = {self.object_lock!r}\n" if self.object_lock else ""
        place = f"s3://{self.bucket.name}/{self.prefix}/"
        self.configure(f"S3_URI_PREFIX = {place!r}\nS3CMD_CONFIG = {str(path)!r}\n{lock}")

    def objects(self) -> dict[str, bytes]:
        """What is off-site."""
        assert self.bucket is not None
        return self.bucket.objects(f"{self.prefix}/")

    # Setting back

    def save(self) -> None:
        """Remember how everything below ``top`` is."""
        self.saved_sure = dict(self.sure)
        self.saved_outside = content_of(self.outside)
        self.saved_rows = [f"{row['dst']}@{row['stamp']}" for row in self.listed()] if self.is_set_up else []
        target = self.top / "out" / "restored"
        self.saved_target = content_of(target) if target.is_dir() else {}
        if self.filesystem:
            self._unmount()
            self._copy_disk(self._image, self.place / "saved")
            self._mount()
        else:
            subprocess.run(["cp", "-a", self.top, self.place / "saved"], check=True)

    def reset(self) -> None:
        """Make everything below ``top``, and on servers, what it was when it was saved."""
        self._set_back()
        self.elsewhere(self)
        if self.bucket:
            self.go_offsite(working=True)

    def _set_back(self) -> None:
        self.sure = dict(self.saved_sure)
        if self.filesystem:
            self._unmount()
            self._copy_disk(self.place / "saved", self._image)
            self._mount()
        else:
            empty(self.top)
            subprocess.run(["cp", "-a", f"{self.place / 'saved'}/.", self.top], check=True)

    # The disk

    @property
    def _image(self) -> Path:
        return self.place / "disk"

    def _make_disk(self) -> None:
        with open(self._image, "wb") as file:
            file.truncate(SMALLEST[self.filesystem])
        quiet = ["-qF"] if self.filesystem == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{self.filesystem}", *quiet, self._image], check=True, capture_output=True)
        self._mount()

    def _copy_disk(self, one: Path, other: Path) -> None:
        subprocess.run(["cp", "--sparse=always", one, other], check=True)

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.top], check=True)

    @property
    def _is_mounted(self) -> bool:
        """As the kernel says; an XFS that was shut down says nothing of its root, not even to lstat."""
        return f" {self.top} " in Path("/proc/self/mounts").read_text()

    def _unmount(self) -> None:
        """What was killed holds the filesystem for another moment; and who left our mounts for some of its own, as other
        tests do, has a copy of ours."""
        patience = time.monotonic() + 300
        while time.monotonic() < patience:
            if self._is_mounted:
                subprocess.run(["umount", self.top], check=False, stderr=subprocess.DEVNULL)
            elif not subprocess.run(["losetup", "-j", self._image], check=True, capture_output=True).stdout:
                return
            time.sleep(0.02)
        raise AssertionError(f"something still uses {self.top}")

    def start_again(self) -> None:
        """Come back after a power cut."""
        self._unmount()
        self._mount()

    def power_off(self, flag: int) -> None:
        """Cut the power: 2 loses what was not synced, 1 keeps names without their content."""
        descriptor = os.open(self.top, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", flag))
        os.close(descriptor)
        self.start_again()

    def close(self) -> None:
        """Leave nothing mounted."""
        if self.filesystem and self._is_mounted:
            subprocess.run(["umount", "-l", self.top], check=True)


def empty(folder: Path) -> None:
    """Remove all that is in `folder`."""
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
