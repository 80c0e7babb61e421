"""An installation as the doctor meets it: sound or not, nothing of it is taken for granted."""

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path

from btw_backup import records
from btw_backup.clock import STAMP
from btw_backup.configuration import config, jobs
from btw_backup.configuration.config import Config
from btw_backup.configuration.jobs import Job
from btw_backup.errors import FatalUserError
from btw_backup.records import Record


class Patient:
    """An installation, as far as its configuration can be read; everything is looked up when it is first wanted."""

    def __init__(self, config_dir: Path, now: datetime) -> None:
        self.config_dir = config_dir
        self.now = now

    @cached_property
    def general(self) -> Config:
        """What is good in the general configuration."""
        return config.examine(self.config_dir / "config.py", config.GENERAL)[0]

    @cached_property
    def root(self) -> Path | None:
        """ROOT_PATH, if it is set and there."""
        root: Path | None = self.general["ROOT_PATH"]
        return root if root and root.is_dir() else None

    @property
    def uses_s3(self) -> bool:
        """Whether a target is in S3."""
        others = self.general["OFFSITE"] or {}
        return "S3_URI_PREFIX" in self.general or any("S3_URI_PREFIX" in entry for entry in others.values())

    @cached_property
    def trees(self) -> list[Job]:
        """The filesystem jobs that are sound."""
        found = []
        for folder in jobs.tree_jobs(self.config_dir):
            try:
                found.append(jobs.tree_job(self.general, self.config_dir, jobs.source_of(folder) or ""))
            except FatalUserError:
                continue  # the check of the configuration says it
        return found

    @cached_property
    def commands(self) -> list[Job]:
        """The commands that are sound."""
        found = []
        for name in jobs.command_names(self.config_dir):
            try:
                found.append(jobs.command_job(self.config_dir, name))
            except FatalUserError:
                continue  # as above; or it is for standard input
        return found

    @cached_property
    def newest(self) -> Mapping[str, tuple[str, Record | None]]:
        """The newest stamp of every dst, with its record if it has one."""
        return dict(_newest(self.root)) if self.root else {}

    @cached_property
    def databases(self) -> list[str]:
        """The databases that are backed up: those that have a file, and those that there are backups of."""
        found = [record for _, record in self.newest.values() if record]
        kept = {record.source for record in found if record.kind == "db"}
        kept |= {jobs.GLOBALS for record in found if record.kind == "globals"}
        return sorted(kept.union(jobs.database_names(self.config_dir)))


def _newest(root: Path) -> Iterator[tuple[str, tuple[str, Record | None]]]:
    for folder, folders, names in os.walk(root):
        stamps = [match[0] for name in (*folders, *names) if (match := STAMP.match(name))]
        stored = Path(folder, records.FOLDER)
        stamps += [path.stem for path in stored.glob("*.json") if STAMP.fullmatch(path.stem)]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not STAMP.match(name))
        if stamps:
            path = stored / f"{max(stamps)}.json"
            yield os.path.relpath(folder, root), (max(stamps), _record(path))


def _record(path: Path) -> Record | None:
    try:
        return records.read(path)
    except (FatalUserError, FileNotFoundError):
        return None
