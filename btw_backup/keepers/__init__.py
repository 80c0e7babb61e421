"""How backups are kept on disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from btw_backup.configuration.jobs import Job
from btw_backup.entries import Entry
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Produced, Source


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a run: the new backup, or None and the stamp at which nothing had changed."""

    backup: Backup | None
    stamp: str
    produced: Produced | None


@dataclass(frozen=True, slots=True)
class Place:
    """A dst: its name as given, its folder below ROOT_PATH, and who shall own what is made there (uid, gid)."""

    dst: str
    folder: Path
    owner: tuple[int, int] | None = None


Owe = Callable[[str, str], None]
"""Called as ``owe("push", "dst/2026-….tbz")`` before a final name appears: notes what every target has to be sent."""

OweRemoval = Callable[[Sequence[str]], None]
"""Called with paths below ROOT_PATH before they are deleted there for good: notes what targets have to remove, too. One
with a slash at its end is a folder with all that is in it."""

Content = Iterable[memoryview]
"""What is stored of a file, without its holes: in pieces, to read before the next entry, or not at all."""

Wanted = Callable[[Entry], bool]
"""Whether an entry is wanted; asked once for each, in their order."""

Report = Callable[[str], None]
"""Is told of damage after which one can read on."""


class Keeper(Protocol):
    """The contract of a keeper. `tests/contract_keeper.py` runs against each."""

    name: str

    def find(self, place: Place) -> Iterator[Backup]:
        """The backups of this keeper in `place`, in any order, without records; nothing half-made."""

    def keep(self, job: Job, source: Source, place: Place, owe: Owe, *, reread: bool) -> Kept:
        """Make a backup if the source changed. The caller holds the place's lock exclusively."""

    def open(self, backup: Backup) -> AbstractContextManager[BinaryIO]:
        """The plain stream of `backup`, to read once. The end of the block raises `Damaged` if what was read to its
        end is not what was stored (by the record's length and digest, or by what the format itself can tell)."""

    def members(
        self, backup: Backup, wanted: Wanted, report: Report, advance: Advance
    ) -> AbstractContextManager[Iterator[tuple[Entry, Content]]]:
        """The entries of a tree that are `wanted`, each folder before what is in it, with their content.

        Reading a content raises `DamagedPart` if one can go on with the next entry. The iterator, and the end of the
        block if the iterator was read to its end, raise `Damaged`. `advance` is told of the bytes that were read.
        """
