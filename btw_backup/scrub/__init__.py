"""Proves what is kept: chunks, manifests, archives, repositories, records; and says which backups need what is bad."""

from collections.abc import Sequence
from dataclasses import dataclass

from btw_backup.errors import Damaged

SHOWN = 10
"""How many backups are named in a message."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not what was stored, and the addresses of the backups that need it.

    `thing` is ``chunk``, ``backup``, ``record``, ``store`` or ``folder``; `evidence` is where the bad chunk is now.
    """

    thing: str
    name: str
    why: str
    backups: tuple[str, ...] = ()
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be proved: all; or `dst` and what is below it; or what `spec` names in it. Of that, `percent`."""

    dst: str = ""
    spec: str = "all"
    percent: float | None = None

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return self.dst and f"{self.dst}@{self.spec}"


def error_of(found: Sequence[Found]) -> Damaged:
    """The error that says which backups are concerned by what was found."""
    addresses = sorted({address for one in found for address in one.backups})
    if not addresses:
        return Damaged("something is damaged, but no backup needs it")
    shown = ", ".join(addresses[:SHOWN]) + (f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else "")
    what = "1 backup is damaged" if len(addresses) == 1 else f"{len(addresses)} backups are damaged"
    return Damaged(f"{what}: {shown}", "make a backup now: it stores anew what the source still has")
