"""Sends to a target with the layout objects: everything is written once, and nothing is ever changed there.

::

  objects/<batch>/<name>           a chunk, or a part of a file of at most 14 MiB; the name is the SHA-256 of the object
  index/<chain>/<number>-<name>    what is new since the record before; see `index`
  keys/<name>                      the store key
  RESTORE.py, README.txt           how to get all of it back without this program

With ENCRYPT_TO all but the last two is encrypted, for each object anew: so its name tells nothing of the content, and
everybody can compare an object with its name, without any key. A batch is what one listing proves.

What is to be sent is staged in the configuration directory, and is sent, proved and forgotten batch by batch. A record
is sent when all that it names is proved. Whatever dies in between is finished by the next run: no record is made twice.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from btw_backup import files, log, progress, regular
from btw_backup.clock import stamp_of, utc_now
from btw_backup.configuration.addresses import Address
from btw_backup.errors import Damaged, NotOffsite
from btw_backup.offsite import Target, bucket, sampling, sealing, storekey, superseded
from btw_backup.offsite.chain import MOST_CHUNKS, PART_SIZE, Chain
from btw_backup.offsite.debts import HINT, Debts, as_folder, touches
from btw_backup.offsite.delivery import Delivery
from btw_backup.offsite.doomed import CHUNK, PART
from btw_backup.offsite.index import File, Ref
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.object_removal import ObjectRemoval
from btw_backup.offsite.parts import files_below, repository_of
from btw_backup.offsite.state import SYNC, Debt, SyncState
from btw_backup.store import chunks
from btw_backup.store.chunks import ChunkStore

PATIENCE = 600.0
"""Seconds after which what was sent so far is told, though there is more to send; after `MOST_CHUNKS` it is, too."""

_CHUNKS = f"{chunks.FOLDER}/chunks/"


class Objects:
    """One go at everything that is owed to a target. Made by `opened`."""

    def __init__(self, debts: Debts, ledger: Ledger, delivery: Delivery, recipients: Sequence[str], key: bytes) -> None:
        self._debts = debts
        self._chain = Chain(ledger, delivery, key)
        self._ledger = ledger
        self._delivery = delivery
        self._recipients = recipients
        self._key = key
        self._store = ChunkStore(Path(debts.root))
        self._files: dict[str, tuple[str, File]] = {}
        self._began = time.monotonic()
        self._doubts: dict[str, str] = {}
        self._last = ""
        self._untold = 0
        self._begun = False

    def work_off(self) -> None:
        """Go on until nothing is left that was not tried. Raises `NotOffsite`."""
        self._debts.work_off(self._pay)

    def remove(self, target: Target, noted: SyncState) -> None:
        """Remove what `noted` says is to be removed from `target`. Raises `NotOffsite`, `ProgramFailed`."""
        if not self._begun:
            self._finish_what_was_begun()
        ObjectRemoval(target, self._ledger, self._chain, self._debts.root).work_off(noted)

    def scrub(self, percent: float | None) -> sampling.Bad:
        """Fetch objects, and compare: those that are not what they were. All is owed anew then, before it is forgotten
        what is there: who dies in between has not lost what was found."""
        bad = sampling.of_objects(self._delivery, self._ledger, percent)
        if bad:
            self._debts.owe_all()
        self._delivery.forget(list(bad))
        return {ref.path: why for ref, why in bad.items()}

    def _pay(self, debts: Sequence[Debt]) -> None:
        """Send what is owed, tell it, and strike off what arrived."""
        if not self._begun:
            self._finish_what_was_begun()
        self._doubts = {}
        if any(debt.op == SYNC and not debt.path for debt in debts):
            self._delivery.sweep()
            self._verify()
        with progress.shown(f"to {self._delivery.name}", sum(map(self._size_of, debts))) as advance:
            for path in self._paths(debts):
                self._take(path)
                advance(self._size(path))
        self._tell(debts)
        for debt in debts:
            if self._debts.kind(debt):
                self._debts.settle(debt, self._doubts)

    def _verify(self) -> None:
        """Look whether all that was sent is there."""
        self._delivery.verify()
        bucket.furnish(self._delivery, self._ledger, self._recipients, self._key)

    def _finish_what_was_begun(self) -> None:
        """Send what an interrupted run had staged, and its record; and what everybody has to find at the target."""
        self._begun = True
        self._delivery.resume()
        self._chain.finish()
        bucket.furnish(self._delivery, self._ledger, self._recipients, self._key)

    def _paths(self, debts: Sequence[Debt]) -> Iterator[str]:
        """The files that are owed, each once: chunks before what needs them."""
        folders = sorted({as_folder(debt.path) for debt in debts if os.path.isdir(self._debts.here(debt.path))})
        outer = [one for one in folders if not any(one != other and one.startswith(other) for other in folders)]
        single: list[str] = []
        for debt in debts:
            kind = self._debts.kind(debt)
            if not kind or not (os.path.isdir(self._debts.here(debt.path)) or self._is_file(debt.path)):
                self._debts.look_after_missing(debt, kind)
            elif not any(debt.path.startswith(folder) for folder in outer) and self._is_file(debt.path):
                single.append(debt.path)
        yield from sorted(set(single), key=lambda path: (not path.startswith(_CHUNKS), path))
        for folder in outer:
            yield from files_below(self._debts.root, folder, self._unreadable)

    def _is_file(self, path: str) -> bool:
        return os.path.isfile(here := self._debts.here(path)) and not os.path.islink(here)

    def _unreadable(self, folder: str, error: OSError) -> None:
        self._doubts[folder] = f"it cannot be read here: {error.strerror}"

    def _size_of(self, debt: Debt) -> int:
        return self._size(debt.path) if debt.path and not debt.path.endswith("/") else 0

    def _size(self, path: str) -> int:
        with suppress(OSError):
            return os.lstat(self._debts.here(path)).st_size
        return 0

    def _take(self, path: str) -> None:
        """Stage what is new of a file."""
        folder = repository_of(path)
        is_chunk = path.startswith(_CHUNKS)
        is_due = time.monotonic() - self._began > PATIENCE or self._untold >= MOST_CHUNKS
        if is_due and (is_chunk or self._last != folder):
            self._tell()  # between repositories: half of one is worth nothing
        self._last = folder
        try:
            if is_chunk:
                self._take_chunk(path)
            else:
                self._take_file(path)
        except FileNotFoundError:
            pass  # it was removed meanwhile: nothing is owed of it
        except OSError as error:
            self._doubts[path] = f"it cannot be read here: {error.strerror}"
        except Damaged as error:
            self._doubts[path] = f"it is damaged here: {error.message}"

    def _take_chunk(self, path: str) -> None:
        name = os.path.basename(path).removesuffix(".zst")
        if self._store.path(name) != Path(self._debts.here(path)):
            raise Damaged("it is no chunk")
        if self._ledger.object(identity := CHUNK + bytes.fromhex(name)) is None:
            self._delivery.stage(identity, self._store.frame(name))
            self._untold += 1

    def _take_file(self, path: str) -> None:
        with regular.opened(self._debts.here(path)) as file:
            state = state_of(file)
            known = self._ledger.file(path)
            if known and known[0] == state:
                return
            digest, size, parts = hashlib.sha256(), 0, []
            while content := _piece(file):
                digest.update(content)
                size += len(content)
                parts.append(self._part(content))
            if state_of(file) != state:
                self._doubts[path] = "it changed while it was sent"
                return
            mtime = os.fstat(file.fileno()).st_mtime_ns
        self._files[path] = state, File(size, digest.hexdigest(), mtime, tuple(parts))

    def _part(self, content: bytes) -> Ref:
        identity = PART + hashlib.sha256(content).digest()
        return self._ledger.object(identity) or self._delivery.stage(identity, content)

    def _tell(self, debts: Sequence[Debt] = ()) -> None:
        """Have all that was staged sent, and send a record of what arrived, and of what was replaced in `debts`."""
        lost, chunks = self._delivery.deliver()
        found, self._files = self._files, {}
        self._began, self._untold = time.monotonic(), 0
        for path in [path for path, (_, file) in found.items() if any(part in lost for part in file.parts)]:
            self._doubts[path] = next(lost[part] for part in found.pop(path)[1].parts if part in lost)
        self._doubts.update({f"{_CHUNKS}{name[:2]}/{name}.zst": why for name, why in chunks.items()})
        removed = [path for debt in debts if debt.op == SYNC for path in self._superseded(as_folder(debt.path), found)]
        self._chain.tell(found, removed)

    def _superseded(self, folder: str, found: Collection[str]) -> list[str]:
        """What rdiff-backup replaced in `folder`, and its successor is there. The objects stay."""
        if any(touches(path, folder) for path in self._doubts):
            return []
        known = self._ledger.paths_below(folder, superseded.FOLDER)
        here = {path for path in known if os.path.lexists(self._debts.here(path))}
        return superseded.superseded(known, here | {path for path in found if path.startswith(folder)})


@contextmanager
def opened(address: Address, target: Target, journal: SyncState, known: Path, root: Path) -> Iterator[Objects]:
    """What sends to the target of `address`, which mirrors the stage of that; `known` is the folder of what is known of
    targets."""
    key = storekey.store_key(known)
    ledger = open_ledger(known / f"{address.name}.sqlite", journal)
    try:
        stage = storekey.private(known / address.name)
        delivery = Delivery(target, ledger, stage, sealing.sealing(address.encrypt_to))
        yield Objects(Debts(target, journal, root), ledger, delivery, address.encrypt_to, key)
    except sqlite3.Error as error:
        raise NotOffsite(f"{known / address.name}.sqlite: {error}", HINT) from error
    finally:
        ledger.close()


def open_ledger(path: Path, journal: SyncState) -> Ledger:
    """The ledger in the file `path`. If it cannot be read, all that there is is owed anew."""
    try:
        return Ledger(path)
    except Damaged as error:
        aside = path.with_name(f"{path.name}.damaged-{stamp_of(utc_now())}")
        log.warn(error.message, f"it is now {aside.name}, and everything is sent anew")
        journal.owe(SYNC, "")
        files.publish(path, aside)
        return Ledger(path)


def state_of(file: BinaryIO) -> str:
    """What an open file looks like; any change of it changes that."""
    status = os.fstat(file.fileno())
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _piece(file: BinaryIO) -> bytes:
    """As much as goes into one object."""
    content = b""
    while len(content) < PART_SIZE and (piece := file.read(PART_SIZE - len(content))):
        content += piece
    return content
