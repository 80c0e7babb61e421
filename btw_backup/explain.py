"""Why a path is in a backup, or why it is not: the rule, its file and its line.

Goes down to the path as the walker does, with the same rules.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from btw_backup import regular
from btw_backup.configuration.jobs import Job
from btw_backup.sources.rules import Rules, tree_rules
from btw_backup.sources.walk import FOLDER_FLAGS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of `path` in the job `job`; `rule` with `file` and `line` leaves it out, `kept` says it is taken."""

    job: str
    path: str
    kept: bool
    rule: str
    file: str = ""
    line: int = 0

    def row(self) -> dict[str, Any]:
        """The fields, and a line of text."""
        where = f" ({self.file}" + (f" line {self.line})" if self.line else ")") if self.file else ""
        verb = "backed up" if self.kept else "left out"
        return {**asdict(self), "text": f"{self.path}: {verb} by {self.job}: {self.rule}{where}"}


def explain(found: Iterable[Job], path: str) -> list[Verdict]:
    """The verdict of every job whose tree holds the absolute `path`."""
    return [_judge(job, path) for job in found if _inside(path, job.source)]


def _inside(path: str, source: str) -> bool:
    return path == source or path.startswith(source.rstrip("/") + "/")


def _judge(job: Job, path: str) -> Verdict:
    rules = tree_rules(job.source, job.settings)
    below = path[len(job.source) :].strip("/")
    for reason, file, pattern in _obstacles(job, rules, below):
        line = _line_of(pattern, job.settings.path) if pattern else 0
        return Verdict(job.name, path, False, reason, file, line)
    return Verdict(job.name, path, True, "no rule leaves it out")


def _obstacles(job: Job, rules: Rules, below: str) -> Iterator[tuple[str, str, str]]:
    """What stands between the top of the tree and the path, outermost first: reason, file, pattern."""
    folder = os.open(job.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(folder).st_dev
        prefix = ""
        for name in below.split("/") if below else []:
            where = os.path.join(job.source, prefix)
            path = os.path.join(prefix, name)
            tag = rules.tag_among(folder, os.listdir(folder))
            if tag and name != tag:
                yield f"the tag in {where}", os.path.join(where, tag), ""
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                yield "there is no such path", "", ""
                return
            is_folder = stat.S_ISDIR(status.st_mode)
            pattern = rules.excluding(path, name, is_folder)
            if pattern:
                yield f"the pattern {pattern.text} of EXCLUDE", str(job.settings.path), pattern.text
            if status.st_dev != device and rules.one_file_system and (path != below or not is_folder):
                yield (
                    f"{path} is on another filesystem, and ONE_FILE_SYSTEM is set",
                    str(job.settings.path),
                    "ONE_FILE_SYSTEM",
                )
            if path != below:
                if not is_folder:
                    yield f"{path} is not a folder", "", ""
                    return
                inner = os.open(name, FOLDER_FLAGS, dir_fd=folder)
                os.close(folder)
                folder, prefix = inner, path
    finally:
        os.close(folder)


def _line_of(text: str, path: Path) -> int:
    lines = regular.read(path, links=True).decode(errors="replace").splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 0)
