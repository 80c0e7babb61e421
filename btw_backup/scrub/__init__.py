"""Proves what is kept: chunks, manifests, archives, repositories, records; and says which backups need what is bad."""

from dataclasses import dataclass


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
