"""Proves what is kept: chunks, manifests, archives, repositories, records; and says which backups need what is bad."""

from collections.abc import Sequence
from dataclasses import dataclass

from btw_backup.errors import Damaged

SHOWN = 10
"""How many backups are named in a message."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not what was stored, and the addresses of the backups that need it.

    `thing` is ``chunk``, ``backup``, ``record``, ``store``, ``folder`` or ``dst``; `evidence` is where the bad chunk is
    now.
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
    """The error that says which backups are concerned by what was found, and which dsts are gone."""
    addresses = sorted({address for one in found for address in one.backups})
    gone = sorted(one.name for one in found if one.thing == "dst")
    if not (addresses or gone):
        return Damaged("something is damaged, but no backup needs it")
    what = "1 backup is damaged" if len(addresses) == 1 else f"{len(addresses)} backups are damaged"
    parts = [f"{what}: {_shown(addresses)}"] if addresses else []
    hint = "make a backup now: it stores anew what the source still has"
    if gone:
        parts.append(f"gone with all backups: {_shown(gone)}")
        hint = f"import --from a target brings it back; if it was removed on purpose: cleanup --forget {gone[0]}"
    return Damaged("; ".join(parts), hint)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
