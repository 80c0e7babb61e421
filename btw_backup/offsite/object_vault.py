"""Reads a target with the layout objects: the chain of its records, proved, and the objects that these name."""

import hashlib
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files, log
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.offsite import Readable, bucket, index, trusted
from btw_backup.offsite.contents import Contents, Head
from btw_backup.offsite.index import File, Record, Ref
from btw_backup.offsite.sealing import Identities
from btw_backup.offsite.vault import AT_ONCE, CHUNKS, batches, check_chunk_path, fetched, put
from btw_backup.progress import Advance
from btw_backup.store.chunks import ChunkStore

_KEY = re.compile(rf"{bucket.KEYS}/([0-9a-f]{{64}})")
_RECORD = re.compile(rf"{index.FOLDER}/([0-9a-f]{{16}})/([0-9a-f]{{8}})-([0-9a-f]{{64}})({re.escape(index.STATE)})?")
_PARTS = 8  # of a large file that are fetched at once


@dataclass(frozen=True, slots=True)
class _Found:
    """A record as the listing tells of it."""

    path: str
    chain: str
    sequence: int
    sha256: str
    has_state: bool
    size: int


class ObjectVault:
    """What `target` holds. Contract: `Vault`. Raises `Damaged` if nothing of it can be proved."""

    def __init__(self, target: Readable, scratch: Path, identities: Identities, pins: Sequence[str]) -> None:
        self.name = target.name
        self.problems: list[str] = []
        self._target = target
        self._folder = scratch / "fetched"
        self._records = scratch / "records"
        self._identities = identities
        keys = [path for path in target.listing(f"{bucket.KEYS}/", recursive=True) if _KEY.fullmatch(path)]
        objects = self._objects({path: path.rpartition("/")[2] for path in keys})
        self.keys = trusted.store_keys(self.name, objects, identities, pins, self.problems)
        self._foreign: set[_Found] = set()  # of the chain that is read: what is encrypted to other keys
        self.closed: list[str] = []  # problems of chains that open with none of the keys
        with Contents.room_for(scratch):
            self.heads = sorted(self._chains(), key=lambda head: (head.made, head.chain))
            for head in self.heads[1:]:
                self.heads[0].contents.take(head.contents)
        if not self.heads:
            why = [*self.problems, *self.closed][:3]
            raise Damaged(f"{self.name}: none of its records can be believed: {'; '.join(why)}")
        self.contents = self.heads[0].contents

    def paths(self) -> Iterable[str]:
        """See `Vault`."""
        return self.contents.paths()

    def chunks(self) -> Iterable[str]:
        """See `Vault`."""
        return (f"{CHUNKS}{name[:2]}/{name}.zst" for name, _ in self.contents.chunks())

    def sha256(self, path: str) -> str:
        """See `Vault`."""
        file = self.contents.file(path)
        return file.sha256 if file else ""

    def size(self, path: str) -> int:
        """See `Vault`."""
        if path.startswith(CHUNKS):
            ref = self.contents.chunk(check_chunk_path(path))
            return ref.length if ref else 0
        return self.contents.size(path) or 0

    # The keys and the chain

    def _objects(self, wanted: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """The paths and contents of small objects, of which the digests are known; without those that are lost."""
        folder = self._records
        bad = fetched(self._target, list(wanted), folder, lambda path: _is_other(folder / path, wanted[path]))
        self.problems += [f"{path}: {why}" for path, why in bad.items()]
        yield from ((path, (folder / path).read_bytes()) for path in wanted if path not in bad)
        files.remove(folder)

    def _chains(self) -> Iterable[Head]:
        """The heads of the chains that can be read."""
        listing = self._target.listing(f"{index.FOLDER}/", recursive=True)
        matches = [(m, stored.size) for path, stored in listing.items() if (m := _RECORD.fullmatch(path))]
        found = [_Found(m[0], m[1], int(m[2], 16), m[3], bool(m[4]), size) for m, size in matches]
        for chain in sorted({one.chain for one in found}):
            self._foreign, known = set(), len(self.problems)
            mine = (one for one in found if one.chain == chain)
            records = sorted(mine, key=lambda one: (one.sequence, not one.has_state))
            head = self._head(records)
            if head:
                yield head
            elif self._foreign >= set(records):
                self.problems, self.closed = self.problems[:known], self.problems[known:]
                log.warn(f"{self.name}: {len(records)} records of an earlier time open with none of the keys given")

    def _head(self, found: Sequence[_Found]) -> Head | None:
        """Apply the records of a chain from the newest state on; from an older one if that cannot be read. Of two with
        one number, which two machines sent, neither is left out."""
        numbers = [0, *(one.sequence for one in found)]
        bases = [n for n, one in enumerate(found) if (one.has_state or one.sequence == 1) and numbers[n] < one.sequence]
        bases = bases or [0]
        for start in reversed(bases):
            records = self._records_of(found[start:])
            first = next(records, None)
            contents = Contents(self._folder.parent / f"{found[0].chain}.sqlite")
            is_based = first is not None and first[0] is found[start] and self._base(first[1], contents)
            if first and (is_based or start == bases[0]):
                if not is_based:
                    contents.clear()
                    self.problems.append(f"the beginning of the chain {found[0].chain} cannot be read")
                return self._applied(itertools.chain([first], records), contents)
            contents.close()
        return None

    def _base(self, record: Record, contents: Contents) -> bool:
        """Fill `contents` with what there was before `record`; False if that cannot be read."""
        if record.sequence == 1:
            return True
        if record.state is None:
            return False
        target = self._folder.parent / "state"
        why = self._assemble(record.state, target, fetch=True)
        if why:
            self.problems.append(f"the state of the record {record.sequence}: {why}")
            return False
        try:
            contents.load(target, f"the state of the record {record.sequence}")
        except Damaged as error:
            self.problems.append(error.message)
            return False
        return True

    def _records_of(self, found: Sequence[_Found]) -> Iterator[tuple[_Found, Record]]:
        """Those of the records that can be read, a few at a time."""
        for group in batches([(one, one.size) for one in found]):
            known = {one.path: one for one, _ in group}
            for path, content in self._objects({path: one.sha256 for path, one in known.items()}):
                if record := self._record(known[path], content):
                    yield known[path], record

    def _record(self, found: _Found, content: bytes) -> Record | None:
        try:
            text = self._identities.open(content)
        except FatalUserError as error:
            self.problems.append(f"{found.path}: {error.message}")
            if not isinstance(error, Damaged):
                self._foreign.add(found)
            return None
        for key in self.keys:
            try:
                record = index.parsed(text, key, found.path)
            except FatalUserError as error:
                problem = error.message
                continue
            if (record.chain, record.sequence) == (found.chain, found.sequence):
                return record
            problem = f"{found.path} is another record, with the number {record.sequence}"
        self.problems.append(problem)
        return None

    def _applied(self, records: Iterable[tuple[_Found, Record]], contents: Contents) -> Head:
        """All records, which are not none, in their order; what is missing between them is a problem."""
        before: _Found | None = None
        made = ""
        for found, record in records:
            if before and (record.sequence != before.sequence + 1 or record.previous != before.sha256):
                self.problems.append(f"the records {before.sequence} and {record.sequence} do not follow one another")
            contents.apply(record)
            before, made = found, record.made
        assert before is not None
        return Head(before.chain, before.sequence, before.sha256, made, contents)

    # Files and chunks

    def fetch(self, paths: Iterable[str], root: Path, advance: Advance) -> dict[str, str]:
        """See `Vault`."""
        bad: dict[str, str] = {}
        for group in batches((path, self.size(path)) for path in paths):
            bad.update({path: "it is not there" for path, size in group if not size and not self._is_known(path)})
            batch = [path for path, _ in group if path not in bad]
            if not batch:
                continue
            many = len(batch) > 1 or self.size(batch[0]) <= AT_ONCE
            lost = self._get([ref for path in batch for ref in self._refs(path)]) if many else {}
            for path in batch:
                why = next((lost[ref.path] for ref in self._refs(path) if ref.path in lost), "")
                why = why or self._place(path, root, fetch=not many)
                if why:
                    bad[path] = why
                advance(self.size(path))
            files.remove(self._folder)
        return bad

    def _is_known(self, path: str) -> bool:
        return bool(self._refs(path)) or self.contents.size(path) is not None

    def _refs(self, path: str) -> Sequence[Ref]:
        """The objects that a file or a chunk is."""
        if path.startswith(CHUNKS):
            ref = self.contents.chunk(check_chunk_path(path))
            return [ref] if ref else []
        file = self.contents.file(path)
        return file.parts if file else []

    def _get(self, refs: Sequence[Ref]) -> dict[str, str]:
        """Fetch objects; those that did not come as they were, and why."""
        names = {ref.path: ref.name for ref in refs}
        return fetched(
            self._target, list(names), self._folder, lambda path: _is_other(self._folder / path, names[path])
        )

    def _place(self, path: str, root: Path, *, fetch: bool) -> str:
        """Put a file or a chunk, whose objects are here or else are to be fetched, to its place; why it cannot be."""
        temporary = self._folder.parent / "file"
        file = None if path.startswith(CHUNKS) else self.contents.file(path)
        if file:
            why = self._assemble(file, temporary, fetch=fetch)
            if not why:
                put(temporary, root / path, file.mtime)
            return why
        [ref], name = self._refs(path), check_chunk_path(path)
        try:
            frame = self._plain(ref)
            if hashlib.sha256(ChunkStore(root).plain(name, frame)).hexdigest() != name:
                return "it is another chunk"
        except FatalUserError as error:
            return error.message
        temporary.write_bytes(frame)
        put(temporary, root / path, time.time_ns())
        return ""

    def _plain(self, ref: Ref) -> bytes:
        """What an object that was fetched, and is what it is called, holds."""
        content = self._identities.open((self._folder / ref.path).read_bytes())
        if len(content) < ref.length:
            raise Damaged("it is shorter than it was")
        return content[: ref.length]

    def _assemble(self, file: File, target: Path, *, fetch: bool) -> str:
        """Write what `file` is to `target`; what is wrong with it, "" if it is what was stored. With `fetch` its
        objects are fetched, a few at a time."""
        digest, size = hashlib.sha256(), 0
        with open(target, "wb") as out:
            for start in range(0, len(file.parts), _PARTS):
                parts = file.parts[start : start + _PARTS]
                if fetch and (lost := self._get(parts)):
                    return next(iter(lost.values()))
                try:
                    for ref in parts:
                        content = self._plain(ref)
                        digest.update(content)
                        size += len(content)
                        out.write(content)
                except FatalUserError as error:
                    return error.message
                if fetch:
                    files.remove(self._folder)
        return "" if (size, digest.hexdigest()) == (file.size, file.sha256) else "it is not what was stored"


def _is_other(path: Path, sha256: str) -> str:
    with open(path, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
    return "" if digest.hexdigest() == sha256 else "it is not what was stored"
