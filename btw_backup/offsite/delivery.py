"""Brings objects to a target: sealed, staged on this disk, sent in batches, and proved by a listing of each batch."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from btw_backup import files, log
from btw_backup.errors import ProgramFailed
from btw_backup.log import debug
from btw_backup.offsite import Listing, Stored, Target
from btw_backup.offsite.doomed import CHUNK
from btw_backup.offsite.index import Ref
from btw_backup.offsite.ledger import Ledger
from btw_backup.offsite.together import begun

BATCH_FILES, SMALL_BATCH, LARGE_BATCH = 500, 128 << 20, 512 << 20
"""The most files and bytes of a batch. Each costs five starts of s3cmd, 0.35 s of a processor each: as much as it takes
to send 80 MB. So batches are large where there is room to stage two of them."""

_ATTEMPTS = 2
_CHECK = "check"
_SHA256 = "sha256:"  # a checksum of our own, of what a target has none for

Lost = Mapping[Ref, str]
"""Objects that did not arrive, and why."""


class Delivery:
    """Sends what is staged in `stage`, the folder that `target` mirrors, and notes in `ledger` what arrived."""

    def __init__(self, target: Target, ledger: Ledger, stage: Path, seal: Callable[[bytes], bytes]) -> None:
        self._target = target
        self._ledger = ledger
        self._stage = stage
        self._batch_bytes = max(SMALL_BATCH, min(LARGE_BATCH, shutil.disk_usage(stage).free // 8))
        self.seal = seal
        self.name = target.name
        self._batch: list[Ref] = []
        self._under_way: tuple[list[Ref], Callable[[], tuple[Mapping[str, str], Listing]]] | None = None
        self._lost: dict[Ref, str] = {}
        self._lost_chunks: dict[str, str] = {}

    def stage(self, identity: bytes, content: bytes) -> Ref:
        """Have `content` sent, with others. Raises what the sending of an earlier batch raised."""
        sealed = self.seal(content)
        batch = self._batch[0].batch if self._batch else self._ledger.next_batch()
        ref = Ref(batch, hashlib.sha256(sealed).hexdigest(), len(content), len(sealed))
        path = self._stage / ref.path
        with self._staging():
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            with files.create(path) as out:
                files.write_all(out.fileno(), sealed)
        self._ledger.stage(identity, ref)
        self._batch.append(ref)
        if len(self._batch) >= BATCH_FILES or sum(one.stored for one in self._batch) >= self._batch_bytes:
            self._send_batch()
        return ref

    def deliver(self) -> tuple[Lost, Mapping[str, str]]:
        """Send what is left, and give back all that did not arrive since it was asked last: objects, and chunks by
        their names."""
        self._send_batch()
        self._settle()
        lost, chunks = self._lost, self._lost_chunks
        self._lost, self._lost_chunks = {}, {}
        return lost, chunks

    def resume(self) -> None:
        """Send what a run that died had staged, as far as it is what it should be; forget the rest, and remove what of
        it is half sent: nothing is sent under its name any more."""
        staged = self._ledger.staged()
        for batch, refs in groupby(sorted(staged), lambda ref: ref.batch):
            whole = [ref for ref in refs if self._is_whole(ref)]
            debug(f"batch {batch} was not finished: {len(whole)} objects are still here")
            self._batch = whole
            self._send_batch()
        self._settle()
        if lost := self._ledger.staged():
            self.sweep()
            self._ledger.drop(lost)
        pending = self._ledger.pending()
        self._empty_stage(keep=pending.path if pending else "")

    def _is_whole(self, ref: Ref) -> bool:
        try:
            return hashlib.sha256((self._stage / ref.path).read_bytes()).hexdigest() == ref.name
        except OSError:
            return False

    def _empty_stage(self, keep: str) -> None:
        """Remove what is staged and nobody wants any more."""
        for folder, _, names in os.walk(self._stage):
            for name in names:
                path = Path(folder, name)
                if path != self._stage / keep and name != ".lock":
                    path.unlink()

    def _send_batch(self) -> None:
        """Begin to send the batch, when the one before has ended: meanwhile the next one is staged."""
        self._settle()
        if self._batch:
            self._ledger.save()
            batch, self._batch = self._batch, []
            paths, prefix = [ref.path for ref in batch], os.path.dirname(batch[0].path) + "/"
            self._under_way = batch, begun(lambda: self._sent(paths, prefix))

    def _settle(self) -> None:
        """Wait for the batch that is under way, and note what of it arrived."""
        if self._under_way is None:
            return
        batch, ended = self._under_way
        self._under_way = None
        doubts, there = ended()
        self._ledger.proved([(ref, there[ref.path].checksum) for ref in batch if ref.path not in doubts])
        self._lose({ref: doubts[ref.path] for ref in batch if ref.path in doubts})
        for ref in batch:
            (self._stage / ref.path).unlink(missing_ok=True)

    def _lose(self, lost: Lost) -> None:
        """Forget what did not arrive: it is sent under another name the next time, as this one may be taken."""
        for ref, identity in self._ledger.identities(list(lost)):
            if identity[:1] == CHUNK:
                self._lost_chunks[identity[1:].hex()] = lost[ref]
        self._ledger.drop(list(lost))
        self._lost.update(lost)

    def _sent(self, paths: Sequence[str], prefix: str) -> tuple[Mapping[str, str], Listing]:
        """Send files of the stage: what of them is in doubt afterwards, and what is there."""
        doubts: Mapping[str, str] = dict.fromkeys(paths, "")
        there: Listing = {}
        for _ in range(_ATTEMPTS):
            complaint = self._target.send(list(doubts))
            there = self._target.listing(prefix, recursive=False)
            doubts = self._target.unproved(list(doubts), there)
            if not doubts:
                break
            doubts = {path: f"{why} ({complaint})" if complaint else why for path, why in doubts.items()}
        return doubts, there

    def write(self, path: str, content: bytes) -> None:
        """Put a file that is to be sent for itself into the stage, onto the disk."""
        with self._staging():
            files.make_folder((self._stage / path).parent)
            files.write_whole(self._stage / path, content)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """What cannot be staged is not what cannot be read: a full disk, most likely."""
        try:
            yield
        except OSError as error:
            raise ProgramFailed(f"nothing can be staged in {self._stage}: {error.strerror}", "make room") from error

    def deliver_one(self, path: str, beside: str = "") -> list[str]:
        """Send the staged file `path`; what else is there whose path begins with `beside`, as that of `path` does.
        Raises `ProgramFailed` if it does not arrive."""
        doubts, there = self._sent([path], beside or path)
        if doubts:
            raise ProgramFailed(f"{path}: {doubts[path]}")
        stored = there[path]
        self._ledger.note_single(path, Stored(stored.size, stored.checksum or self._checksum(path)))
        (self._stage / path).unlink(missing_ok=True)
        return [other for other in there if beside and other != path]

    def _checksum(self, path: str) -> str:
        """Our own of a staged file; what a run that died has sent is not staged any more, but noted."""
        try:
            return _SHA256 + hashlib.sha256((self._stage / path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known = self._ledger.singles().get(path)
            return known.checksum if known else ""

    def sweep(self) -> None:
        """Remove from the target what died runs left there half sent."""
        self._target.sweep(self._target.leftovers())

    def verify(self) -> None:
        """Look whether all that was proved is still there as it was. What is not is forgotten, so that it is sent anew
        as soon as anybody looks at it, and so are the files that need it."""
        bad: list[Ref] = []
        for _, group in groupby(self._ledger.all_proved(), lambda one: one[0].neighbours):
            known = dict(group)
            doubtful = self._look(known)
            if doubtful:
                doubtful = self._look({ref: known[ref] for ref in doubtful})  # a listing may be stale
            bad += doubtful
        things = [*self.forget(bad), *self._verify_singles()]
        if things:
            first = f"{things[0]} and {len(things) - 1} more" if len(things) > 1 else things[0]
            log.warn(f"{self.name} does not have any more what it had: {first}", "it is sent anew")

    def _verify_singles(self) -> list[str]:
        """The same for what was delivered for itself: those that are not as they were are forgotten, and given back."""
        known = self._ledger.singles()
        for _ in range(_ATTEMPTS):  # a listing may be stale
            prefixes = {os.path.dirname(path) for path in known}
            listings = {one: self._target.listing(f"{one}/" if one else "", recursive=False) for one in prefixes}
            there = {path: listings[os.path.dirname(path)].get(path) for path in known}
            known = {path: stored for path, stored in known.items() if not self._is_there(path, stored, there[path])}
        self._ledger.forget_singles(known)
        return list(known)

    def _is_there(self, path: str, known: Stored, there: Stored | None) -> bool:
        """Whether a file is as it was; where a listing tells sizes alone, it is read."""
        if not known.checksum.startswith(_SHA256):
            return _is_the_same(known, there)
        if there is None or there.size != known.size:
            return False
        folder = self._stage / _CHECK
        files.make_folder(folder)
        try:
            self._target.fetch([path], folder)
            return _SHA256 + hashlib.sha256((folder / path).read_bytes()).hexdigest() == known.checksum
        except FileNotFoundError:
            return False
        finally:
            files.remove(folder)

    def forget(self, bad: Sequence[Ref]) -> list[str]:
        """Forget objects that are not there any more as they were; the files that need them, and chunks, which are
        sent anew as soon as anybody looks at them."""
        if not bad:
            return []
        chunks = [identity[1:].hex() for _, identity in self._ledger.identities(bad) if identity[:1] == CHUNK]
        paths = self._ledger.files_with({(ref.batch, ref.name) for ref in bad})
        self._ledger.doubt(paths)
        self._ledger.drop(bad)
        return [*paths, *(f"chunk {name}" for name in chunks)]

    def _look(self, known: Mapping[Ref, str]) -> list[Ref]:
        """Those of the objects, of neighbouring batches, that are not there as they were."""
        listing = self._target.listing(next(iter(known)).neighbours, recursive=True)
        bad = [ref for ref, checksum in known.items() if not _is_as_it_was(ref, checksum, listing.get(ref.path))]
        unread = [ref for ref, checksum in known.items() if not checksum and ref not in bad]
        return [*bad, *self.read_back(unread)]

    def read_back(self, refs: Sequence[Ref]) -> dict[Ref, str]:
        """Fetch these objects, and compare each with its name: those that are not what they were, and why."""
        bad = {}
        for start in range(0, len(refs), BATCH_FILES):
            batch = refs[start : start + BATCH_FILES]
            folder = self._stage / _CHECK
            files.make_folder(folder)
            complaint = self._target.fetch([ref.path for ref in batch], folder)
            for ref in batch:
                try:
                    content = (folder / ref.path).read_bytes()
                except OSError:
                    bad[ref] = complaint or "it could not be fetched"
                    continue
                if hashlib.sha256(content).hexdigest() != ref.name:
                    bad[ref] = "its content there is another"
            files.remove(folder)
        return bad


def _is_as_it_was(ref: Ref, checksum: str, stored: Stored | None) -> bool:
    return _is_the_same(Stored(ref.stored, checksum), stored)


def _is_the_same(known: Stored, there: Stored | None) -> bool:
    return there is not None and there.size == known.size and known.checksum in ("", there.checksum)
