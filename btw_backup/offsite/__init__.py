"""What leaves the machine, and what is still owed to each target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from btw_backup.errors import ProgramFailed


class Unreachable(ProgramFailed):
    """A target does not answer, or answers nothing but errors; there is no use in trying anything else with it now."""


class Refused(ProgramFailed):
    """The credentials of this machine lack a right, or what was asked for is locked."""


class Retained(ProgramFailed):
    """A target does not remove something yet, because it is locked until a date: as it should be."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a target's listing says of one object: its size, and a checksum that only the target understands."""

    size: int
    checksum: str


Listing = Mapping[str, Stored]
"""Objects by their path, relative to the target and to the folder that it mirrors."""


class Readable(Protocol):
    """The contract of what backups can be read from: what of `Target` that needs."""

    name: str

    def probe(self) -> None:
        """See `Target`."""

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """See `Target`."""

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """See `Target`."""


class Target(Protocol):
    """The contract of a target, which mirrors a folder path by path: ROOT_PATH, or the objects that are to be sent.
    `name` is for messages.

    No method believes what the target answers to a write: only `listing` tells what is there, and only `unproved`
    whether it is what is here. All raise `ProgramFailed`; `Unreachable` if there is no use in trying anything else.
    """

    name: str

    def probe(self) -> None:
        """Find out in seconds whether the target answers. Raises `Unreachable`."""

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """The objects whose path begins with `prefix`; unless `recursive`, only down to the next slash."""

    def folders(self) -> Sequence[str]:
        """The folders that lie at the top, each with a slash at its end."""

    def send(self, paths: Sequence[str]) -> str:
        """Copy these files; some may not arrive. The first complaint, which may explain why, or ""."""

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """Copy these objects to the same paths below `folder`, which nobody else writes to. What arrives is proved by
        nothing: whoever asks does that. The first complaint, which may explain what is missing, or ""."""

    def unproved(self, paths: Sequence[str], listing: Listing) -> Mapping[str, str]:
        """Those of `paths` whose file is not proved by `listing` to be there with the same content, and why. A file
        that is gone here is none of them."""

    def leftovers(self) -> Sequence[str]:
        """What runs of ours that died left there half sent, which nobody needs: parts of an object, or a file without
        its name. Who holds the lock of the target may `sweep` them."""

    def sweep(self, leftovers: Sequence[str]) -> None:
        """Remove some of what `leftovers` gave."""

    def remove(self, paths: Sequence[str]) -> str:
        """Remove these objects, and none that is not named. The first complaint, or ""."""
