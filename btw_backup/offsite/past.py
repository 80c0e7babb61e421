"""Reads a versioned bucket as it was at some time: before somebody overwrote or deleted what was there."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from btw_backup import files
from btw_backup.errors import ProgramFailed
from btw_backup.offsite import Listing, Stored
from btw_backup.offsite.signed import AT_ONCE, Signed, Version
from btw_backup.offsite.together import together


class Past:
    """What `signed` had at `moment`, by the clock of the server. Contract: `Readable`."""

    def __init__(self, signed: Signed, moment: datetime) -> None:
        self.name = signed.name
        self._signed = signed
        self._moment = moment
        self._known: dict[str, Version] = {}

    def probe(self) -> None:
        """See `Readable`."""
        next(self._signed.versions(), None)

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """See `Readable`."""
        found = self._versions(prefix)
        self._known.update(found)
        below = {path: version for path, version in found.items() if recursive or "/" not in path[len(prefix) :]}
        return {path: Stored(version.size, version.checksum) for path, version in below.items()}

    def _versions(self, prefix: str) -> dict[str, Version]:
        """The versions that were the newest ones, of all objects that were there."""
        found = {}
        for path, versions in groupby(self._signed.versions(prefix), lambda one: one.path):
            newest = next((one for one in versions if one.made <= self._moment), None)
            if newest and not newest.is_marker:
                found[path] = newest
        return found

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """See `Readable`."""
        known = {path: self._known[path] for path in paths if path in self._known}
        for prefix in {_folder(path) for path in paths if path not in known}:
            known.update(self._versions(prefix))
        jobs = [partial(self._fetch, path, known.get(path), folder) for path in paths]
        return next(filter(None, together(jobs, AT_ONCE)), "")

    def _fetch(self, path: str, version: Version | None, folder: Path) -> str:
        if version is None:
            return f"{path} was not there at that time"
        files.make_folder((folder / path).parent)
        (folder / path).unlink(missing_ok=True)
        try:
            self._signed.fetch(path, version.identity, folder / path)
        except ProgramFailed as error:
            return error.message
        return ""


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]
