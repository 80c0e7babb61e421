"""The folder from which rdiff-backup takes the one file that it is to store."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from btw_backup import files
from btw_backup.configuration.jobs import Job
from btw_backup.keepers import Place
from btw_backup.sources import Produced, Source


@dataclass(frozen=True, slots=True)
class Stage:
    """What a source produced, as the only `file` in its `folder`."""

    folder: Path
    file: Path
    produced: Produced

    def open(self) -> BinaryIO:
        """The plain stream."""
        return open(self.file, "rb")


@contextmanager
def staged(job: Job, place: Place, source: Source) -> Iterator[Stage]:
    """Let `source` write its file into a folder of its own, and remove that folder in the end.

    The folder belongs to the dst, whose lock we hold: databases share `job.stage`, and may be backed up at once.
    """
    folder = job.stage / hashlib.sha256(os.fsencode(place.dst)).hexdigest()[:16]
    files.remove(folder)
    files.remove(job.stage / source.file_name)  # where the old script may have left it
    files.make_folder(job.stage)
    folder.mkdir(0o700)
    try:
        file = folder / source.file_name
        with files.create(file) as out:
            produced = source.produce(out)
        yield Stage(folder, file, produced)
    finally:
        files.remove(folder)
