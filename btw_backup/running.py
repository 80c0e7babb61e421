"""A run while it goes on, and the line of the journal that it leaves however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btw_backup.catalogue import journal
from btw_backup.catalogue.journal import Run
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import shortage

if TYPE_CHECKING:
    from btw_backup.keepers import Kept


@dataclass(slots=True)
class Running:
    """A run that has not ended; `kept` is what became of it, if it is one that keeps."""

    kept: "Kept | None" = None


@contextmanager
def recorded(config_dir: Path, kind: str, source: str, dst: str) -> Iterator[Running]:
    """Note in the journal how the block, a run, ends: well, with an error, or by a signal."""
    running, started = Running(), stamp_of(utc_now())
    status, message = 0, ""
    try:
        yield running
    except BaseException as error:
        status = int(getattr(error, "status", 1 if isinstance(error, OSError) or shortage(error) else 70))
        message = shortage(error) or str(error)
        raise
    finally:
        backup = running.kept.backup if running.kept else None
        journal.append(
            config_dir,
            Run(
                id=os.urandom(8).hex(),
                kind=kind,
                source=source,
                dst="/".join(part for part in dst.split("/") if part not in ("", ".")),
                started=started,
                finished=stamp_of(utc_now()),
                status=status,
                outcome="kept" if backup else "unchanged" if running.kept else "failed" if status else "done",
                stamp=backup.stamp if backup else "",
                stored=backup.record.stored if backup and backup.record else 0,
                message=message,
            ),
        )
