"""Backups that are not here any more, from a target: looked at without fetching them, and fetched to be restored.

What a target holds is shown by a scratch folder that looks like ROOT_PATH: with the records, and with empty files in
the place of everything else. What is to be restored is fetched into it, and proved by whoever restores it.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from btw_backup import files, log, places, progress
from btw_backup.configuration.addresses import FIRST, Address
from btw_backup.entries import Entry
from btw_backup.errors import Damaged, FatalUserError, UsageError
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.offsite import Readable, vault
from btw_backup.offsite.folder import Folder
from btw_backup.offsite.s3cmd import S3
from btw_backup.offsite.sealing import Identities
from btw_backup.offsite.vault import CHUNKS, Vault
from btw_backup.records import FOLDER, Backup
from btw_backup.restoring.selection import Selection
from btw_backup.store import chunks, manifest, uses
from btw_backup.store.chunks import FORMAT_FILE, format_text
from btw_backup.store.entry import entry_of

_SHOWN = 10
_READINGS = 3  # a hard link that is wanted leads to its first name, and that may be told late
TIMEOUT = 86400.0
_SCRATCH = f"{files.TEMPORARY}from-"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to take backups from: the addresses of targets, in the order in which to try them, with what opens them; as
    they were at `as_of`, if that is given."""

    addresses: Sequence[Address]
    identities: Identities
    fingerprints: Sequence[str] = ()
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """A target that answered: what it holds, and the scratch folder that looks like ROOT_PATH."""

    vault: Vault
    root: Path

    def show(self, below: str = "") -> None:
        """Make the scratch folder look like ROOT_PATH: all of it, or what is in the dst `below` and further down."""
        known = []
        for path in self.vault.paths():
            if below and not path.startswith(f"{below}/"):
                continue
            if os.path.basename(os.path.dirname(path)) == FOLDER:
                known.append(path)
            else:
                files.make_folder((self.root / path).parent)
                (self.root / path).touch()
        bad = self.vault.fetch(known, self.root, lambda count: None)
        for path, why in bad.items():
            self.vault.problems.append(f"{path}: {why}")

    def fetch(self, backup: Backup, paths: Sequence[str] = (), *, whole: bool = False) -> None:
        """Fetch all that `backup`, of the scratch folder, needs; of a tree in chunks what those `paths` of it need.

        Raises `Damaged` if its own file cannot be had, and if it must be `whole`, for a chunk; else the restore tells
        what is lacking.
        """
        own = os.path.relpath(backup.path, self.root)
        files_of_it = [path for path in self.vault.paths() if path == own or path.startswith(f"{own}/")]
        self._fetch(files_of_it, f"{backup.address} from {self.vault.name}")
        if backup.keeper == "chunks":
            wanted = [*map(_chunk_path, _chunks_of(backup, paths))] if paths else _Chunks(backup.path)
            files.make_folder(self.root / CHUNKS)
            (self.root / chunks.FOLDER / FORMAT_FILE).write_bytes(format_text(chunks.FORMAT))
            self._fetch(wanted, f"{backup.address} from {self.vault.name}", whole=whole)

    def _fetch(self, paths: Iterable[str], what: str, *, whole: bool = True) -> None:
        bad = self._fetched(paths, what)
        for path, why in list(bad.items())[:_SHOWN]:
            log.warn(f"{path}: {why}")
        if bad and whole:
            path, why = next(iter(bad.items()))
            raise Damaged(f"{self.vault.name}: {path}: {why}", "another backup, or another target, may be well")

    def _fetched(self, paths: Iterable[str], what: str) -> dict[str, str]:
        with progress.shown(what, sum(map(self.vault.size, paths))) as advance:
            return self.vault.fetch(paths, self.root, advance)

    def place(self, dst: str) -> Place:
        """The dst `dst` in the scratch folder."""
        return places.place(self.root, dst)

    def backups(self) -> Iterator[Backup]:
        """All backups that the scratch folder shows."""
        for place in listing.places(self.root):
            yield from listing.each(place)

    def check(self) -> None:
        """Raise `Damaged` if it is in doubt whether the target told all that was sent to it."""
        problems = list(dict.fromkeys(self.vault.problems))
        for problem in problems[:_SHOWN]:
            log.warn(f"{self.vault.name}: {problem}")
        if problems:
            hint = "other or newer backups may have been there"
            raise Damaged(f"{self.vault.name} does not hold all that was sent to it, or not as it was", hint)


def each(origin: Origin) -> Iterator[tuple[Origin, bool]]:
    """`origin` with one address at a time, and whether it is the last."""
    for number, address in enumerate(origin.addresses, 1):
        yield replace(origin, addresses=[address]), number == len(origin.addresses)


@contextmanager
def opened(origin: Origin, beside: Path) -> Iterator[Recalled]:
    """The first target that answers. The scratch folder lies in `beside`, and is gone at the end."""
    with _scratch(beside) as scratch:
        root = scratch / "root"
        root.mkdir()
        yield Recalled(_answering(origin, scratch), root)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A new folder in `beside`, locked; those that dead runs left there go."""
    for name in os.listdir(beside):
        if name.startswith(_SCRATCH):
            files.remove_if_dead(beside / name)
    descriptor = None
    while descriptor is None:
        path = beside / f"{_SCRATCH}{secrets.token_hex(8)}"
        descriptor = files.locked_folder(path)
    try:
        yield path
    finally:
        files.remove(path)
        os.close(descriptor)


def _answering(origin: Origin, scratch: Path) -> Vault:
    for address in origin.addresses[:-1]:
        try:
            return _vault(address, origin, scratch)
        except FatalUserError as error:
            log.warn(f"{address.place} cannot be used: {error.message}", "the next target is asked")
    return _vault(origin.addresses[-1], origin, scratch)


def _vault(address: Address, origin: Origin, scratch: Path) -> Vault:
    return vault.opened(_readable(address, origin, scratch), scratch, origin.identities, origin.fingerprints)


def _readable(address: Address, origin: Origin, scratch: Path) -> Readable:
    """What reads the place of `address`, as it is or as it was."""
    if origin.as_of is None:
        return S3(address, scratch, TIMEOUT) if address.s3cmd_config else Folder(address.place, scratch)
    if not address.s3cmd_config:
        raise UsageError(f"{address.place} is a folder, and has no older versions", "--as-of is for buckets that have")
    from btw_backup.offsite.past import Past  # noqa: PLC0415 - few look back
    from btw_backup.offsite.signed import Signed  # noqa: PLC0415 - as above

    return Past(Signed(address), origin.as_of)


def address_of(text: str, s3cmd_config: str | None, known: Sequence[Address], *, allow_http: bool = False) -> Address:
    """The address that somebody gives: ``s3://…``, the path of a folder, or the name of one of the targets `known`."""
    if text.startswith("s3://"):
        configured = next((one for one in known if one.place.rstrip("/") == text.rstrip("/")), None)
        config = s3cmd_config or (configured.s3cmd_config if configured else "")
        if not config:
            raise UsageError(f"how to reach {text}?", "--s3cmd-config FILE tells it")
        allow_http = allow_http or bool(configured and configured.allow_http)
        return Address(FIRST, text.rstrip("/") + "/", config, allow_http=allow_http)
    if "/" in text:
        return Address("folder", os.path.abspath(text))
    found = next((one for one in known if one.name == text), None)
    if found is None:
        names = ", ".join(one.name for one in known)
        raise UsageError(f"there is no target {text}", f"the targets are {names}" if names else "give s3://… or a path")
    return replace(found, allow_http=True) if allow_http else found


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The paths of the chunks that the backup in the file `manifest` needs, as often as somebody asks."""

    manifest: Path

    def __iter__(self) -> Iterator[str]:
        return map(_chunk_path, uses.chunks_of(self.manifest))


def _chunks_of(backup: Backup, paths: Sequence[str]) -> list[str]:
    """The chunks that `paths` of a tree need: those of first names that are not among these, too."""
    selection = Selection(backup, paths)
    names: dict[str, None] = {}
    takes: Callable[[Entry], bool] = selection.takes
    for _ in range(_READINGS):
        with manifest.opened(backup.path) as opened:
            for member, _ in opened:
                if takes(entry := entry_of(member)):
                    names.update(dict.fromkeys(name for name, _, _ in member.extents))
                    selection.waiting_for(entry)
        if not selection.postponed:
            break
        takes = selection.awaits
    return list(names)


def _chunk_path(name: str) -> str:
    return f"{CHUNKS}{name[:2]}/{name}.zst"
