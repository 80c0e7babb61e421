"""Puts back from a target what a scrub has marked as damaged here: the file or the repository of a backup, its record.

What comes from there takes the place of what is here in one step, when all backups in it have been proved; what cannot
be proved replaces nothing. What is well here stays, whatever there is at the target.
"""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from btw_backup import files, locks, log, progress, records
from btw_backup.errors import FatalUserError
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.offsite.vault import Vault
from btw_backup.records import DAMAGED, FOLDER, Backup, Record
from btw_backup.scrub.proof import Prover
from btw_backup.store.chunks import ChunkStore

_SHOWN = 10
_IMPOSSIBLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(slots=True)
class Healing:
    """How many files and repositories were replaced, and which stay damaged, with the reason."""

    _vault: Vault
    _root: Path
    _scratch: Path
    _wait: float
    replaced: int = 0
    damaged: dict[str, str] = field(default_factory=dict)

    def heal(self, place: Place) -> None:
        """Replace what is damaged in `place`. No marks, no work."""
        if not any((place.folder / FOLDER).glob(f"*{DAMAGED}")):
            return
        with locks.lock(place.folder, exclusive=True, wait=self._wait):
            found: dict[Path, list[Backup]] = {}
            for backup in listing.each(place):
                found.setdefault(backup.path, []).append(backup)
            for path, backups in found.items():
                if not all(backup.valid for backup in backups):
                    self._heal(path, backups)
                    files.remove(self._scratch)

    def _heal(self, path: Path, backups: Sequence[Backup]) -> None:
        """Replace a file or a repository, and the records of the `backups` in it, as far as they are damaged."""
        own = os.path.relpath(path, self._root)
        fetched = self._fetched_records([backup for backup in backups if backup.doubt])
        is_damaged = bool(self._why(backup for backup in backups if not backup.valid))
        backups = [replace(backup, record=fetched.get(backup.stamp, backup.record)) for backup in backups]
        if is_damaged:
            why = self._fetch(own) or self._why(replace(backup, path=self._scratch / own) for backup in backups)
            if not self._put(own, why):
                return
        for backup in backups:
            if backup.stamp in fetched:
                self._put(self._relative(_record_of(backup)), self._why([backup]))

    def _why(self, backups: Iterable[Backup]) -> str:
        """Why the file or the repository of one of `backups` is not what was stored; "" if all prove to be, which
        without a record is what the format itself can tell."""
        prover = Prover(ChunkStore(self._root), self._wait, locked=True)
        try:
            for backup in backups:
                prover.missing(backup, lambda count: None)  # chunks that are missing are fetched anyway
        except FatalUserError as error:
            return error.message
        return ""

    def _fetched_records(self, backups: Sequence[Backup]) -> dict[str, Record]:
        """By stamp, the records that the target has of `backups`, whose own cannot be read."""
        found: dict[str, Record] = {}
        for backup in backups:
            path = self._relative(_record_of(backup))
            if why := self._fetch(path):
                self.damaged[path] = why
                continue
            try:
                record = records.read(self._scratch / path)
            except FatalUserError as error:
                self.damaged[path] = error.message
                continue
            if (record.keeper, record.full or record.stamp) == (backup.keeper, backup.full):
                found[backup.stamp] = record
            else:
                self.damaged[path] = "there is the record of another backup"
        return found

    def _fetch(self, path: str) -> str:
        """Fetch a file, or all files of a repository, into the scratch folder; why that cannot be done."""
        is_folder = (self._root / path).is_dir()
        paths = [each for each in self._vault.paths() if each.startswith(f"{path}/")] if is_folder else [path]
        with progress.shown(f"{path} from {self._vault.name}", sum(map(self._vault.size, paths))) as advance:
            bad = self._vault.fetch(paths, self._scratch, advance)
        return next(iter(bad.values()), "" if paths else "it is not there")

    def _put(self, path: str, why: str) -> bool:
        """Let what was fetched take the place of what is here, unless `why` says why not; whether it did."""
        if not why:
            try:
                _exchange(self._scratch / path, self._root / path)
                self.replaced += 1
                return True
            except OSError as error:
                if error.errno not in _IMPOSSIBLE:
                    raise
                why = "this filesystem cannot exchange folders; remove it, and import fetches it"
        self.damaged[path] = why
        return False

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._root)


def heal(vault: Vault, root: Path, scratch: Path, below: str, wait: float) -> Healing:
    """Replace what is damaged below `root`, or below the dst `below`. What is fetched lies in `scratch` meanwhile."""
    healing = Healing(vault, root, scratch, wait)
    for place in listing.places(root):
        if not below or f"{place.dst}/".startswith(f"{below}/"):
            healing.heal(place)
    for path, why in list(healing.damaged.items())[:_SHOWN]:
        log.warn(f"{path} is damaged, and cannot be replaced from {vault.name}: {why}")
    return healing


def _record_of(backup: Backup) -> Path:
    return backup.path.parent / FOLDER / f"{backup.stamp}.json"


def _exchange(fetched: Path, final: Path) -> None:
    """Let a file or a folder take the place of another, with the owner and the mode of that, in one step."""
    status = final.lstat()
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    if fetched.is_dir():
        files.change_owner_below(fetched, owner)
        fetched.chmod(mode)
        files.sync_tree(fetched)
        files.exchange(fetched, final)
        return
    with open(os.open(fetched, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    files.publish(fetched, final)
