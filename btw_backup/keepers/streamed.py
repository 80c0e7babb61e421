"""The members of a tree whose keeper has it as a stream, a tar archive."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from btw_backup.entries import Entry
from btw_backup.keepers import Content, Report, Wanted, archive
from btw_backup.progress import Advance
from btw_backup.stream import read_ahead


@contextmanager
def members_of(
    opened: AbstractContextManager[BinaryIO], wanted: Wanted, report: Report, advance: Advance
) -> Iterator[Iterator[tuple[Entry, Content]]]:
    """What `keepers.Keeper.members` is to give, of the archive that is to be `opened`."""
    with opened as stream, read_ahead(stream, advance) as ahead:
        yield ((entry, content) for entry, content in archive.members(ahead, report) if wanted(entry))
