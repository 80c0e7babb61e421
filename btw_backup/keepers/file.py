"""The file keeper: a stream as one compressed file a backup, ``<stamp>.<file name>.zst``; plain zstd restores it.

The names of those files end in what `KINDS` lists, so that none is that of an archive or a manifest.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import BinaryIO, NoReturn, cast

from btw_backup import files, records
from btw_backup.clock import STAMP
from btw_backup.configuration.jobs import Job
from btw_backup.entries import Entry
from btw_backup.errors import FatalUserError
from btw_backup.keepers import Content, Kept, Owe, Place, Report, Wanted, unchanged
from btw_backup.keepers.compression import opened, written
from btw_backup.keepers.recording import Run
from btw_backup.keepers.verified import plain
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Produced, Source
from btw_backup.stream import Digesting

KINDS = {".dump": "db", ".sql": "globals", ".out": "command"}
"""The endings of the names that sources give their streams, and which source each is of."""

COMPRESSION = "zstd"
"""Its level 3 takes what cannot be compressed as it is, at a cost of 3 bytes in 128 KiB."""

_NAME = re.compile(rf"({STAMP.pattern})\..+(\.(?:dump|sql|out))\.zst")


class File:
    """Keeps compressed files. Contract: `keepers.Keeper`."""

    name = "file"

    def find(self, place: Place) -> Iterator[Backup]:
        """The files in `place`."""
        for path in place.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and path.is_file() and not path.is_symlink():
                yield Backup(place.dst, match[1], self.name, KINDS[match[2]], path, path.name, match[1])

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Contract: `keepers.Keeper.keep`. The file is written once, in one pass, and renamed in at the end."""
        if not source.file_name.endswith(tuple(KINDS)):
            raise FatalUserError(f"{source.name} is a tree, and a file keeps streams", "the type tar keeps trees")
        run = Run(self.name, source, place, owe)
        latest = records.recorded(unchanged.latest_of(place, self.find(place)), place.folder)
        source.fingerprint()
        ending = f".{source.file_name}.zst"
        temporary = files.temporary_name(place.folder, "file.zst")
        try:
            produced, stored = written(temporary, COMPRESSION, lambda out: _produce(source, out))
            if unchanged.same_as(source, latest, produced, lambda: self.open(latest), lambda: opened(temporary)):  # type: ignore[arg-type]
                return run.unchanged(produced)
            return run.publish(temporary, ending, produced, stored=stored, programs=source.programs())
        finally:
            temporary.unlink(missing_ok=True)

    def open(self, backup: Backup) -> AbstractContextManager[BinaryIO]:
        """The plain stream. Contract: `keepers.Keeper.open`."""
        return plain(backup)

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """A stream has none."""
        return _no_members(backup)


def _produce(source: Source, out: BinaryIO) -> Produced:
    """Have `source` write its stream to `out`, and fill in what only the bytes tell."""
    through = Digesting(out)
    produced = source.produce(cast(BinaryIO, through))
    sha256 = through.sha256.hexdigest()
    return replace(produced, length=through.length, sha256=sha256, content=produced.content or sha256)


def _no_members(backup: Backup) -> NoReturn:
    raise FatalUserError(f"{backup.address} is no tree", "restore it to a file")
