"""Reads a target with the layout objects: the chain of its records, proved, and the objects that these name."""

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from btw_backup import files, log
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.offsite import Readable, bucket, index, storekey
from btw_backup.offsite.complaints import MAY_NOT_READ, is_refusal
from btw_backup.offsite.index import File, Record, Ref, State
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


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number and digest of its newest record, when that was made, and what there is then."""

    chain: str
    sequence: int
    digest: str
    made: str
    state: State


class ObjectVault:
    """What `target` holds. Contract: `Vault`. Raises `Damaged` if nothing of it can be proved."""

    def __init__(self, target: Readable, scratch: Path, identities: Identities, pins: Sequence[str]) -> None:
        self.name = target.name
        self.problems: list[str] = []
        self._target = target
        self._folder = scratch / "fetched"
        self._identities = identities
        self.keys = self._store_keys(pins)
        self._foreign: set[_Found] = set()  # of the chain that is read: what is encrypted to other keys
        self._closed: list[str] = []
        self.heads = sorted(self._chains(), key=lambda head: (head.made, head.chain))
        if not self.heads:
            why = [*self.problems, *self._closed][:3]
            raise Damaged(f"{self.name}: none of its records can be believed: {'; '.join(why)}")
        self.state = State()
        for head in self.heads:
            self.state.files.update(head.state.files)
            self.state.chunks.update(head.state.chunks)

    def paths(self) -> Iterable[str]:
        """See `Vault`."""
        return self.state.files

    def chunks(self) -> Iterable[str]:
        """See `Vault`."""
        return [f"{CHUNKS}{name[:2]}/{name}.zst" for name in self.state.chunks]

    def sha256(self, path: str) -> str:
        """See `Vault`."""
        file = self.state.files.get(path)
        return file.sha256 if file else ""

    def size(self, path: str) -> int:
        """See `Vault`."""
        if path.startswith(CHUNKS):
            ref = self.state.chunks.get(check_chunk_path(path))
            return ref.length if ref else 0
        file = self.state.files.get(path)
        return file.size if file else 0

    # The keys and the chain

    def _store_keys(self, pins: Sequence[str]) -> list[bytes]:
        """The store keys that can be opened, those of `pins` alone if there are any."""
        paths = [path for path in self._target.listing(f"{bucket.KEYS}/", recursive=True) if _KEY.fullmatch(path)]
        found, refused, why = {}, [], ""
        for path, content in self._objects({path: path.rpartition("/")[2] for path in paths}).items():
            try:
                text = self._identities.open(content)[: 2 * storekey.LENGTH + 1]
                key = storekey.parsed(text, path)
            except FatalUserError as error:
                why = f"{error.message}" + (f"; {error.hint}" if error.hint else "")
                continue
            mark = storekey.fingerprint(key)
            (refused.append(mark) if pins and mark not in pins else found.update({mark: key}))
        if found:  # what else rotted there is of no use to anybody
            for problem in self.problems:
                log.warn(f"{self.name}: {problem}")
            self.problems.clear()
        if refused:
            self.problems.append(f"a store key with the fingerprint {refused[0]} lies there, and is not the known one")
        if not found and any(map(is_refusal, self.problems)):
            raise FatalUserError(f"{self.name}: the store key cannot be fetched: {self.problems[0]}", MAY_NOT_READ)
        if not found and (refused or not why):
            raise Damaged(f"{self.name}: the store key is not there", "; ".join(self.problems))
        if not found:
            raise FatalUserError(f"{self.name}: {why.partition('; ')[0]}", why.partition("; ")[2])
        if not pins:
            log.warn(
                f"nobody vouches for the store key of {self.name}, {', '.join(found)}",
                "compare that with what keys test printed; it can be given as --fingerprint",
            )
        return list(found.values())

    def _objects(self, wanted: dict[str, str]) -> dict[str, bytes]:
        """The content of small objects, by their paths, of which the digests are known."""
        bad = fetched(self._target, list(wanted), self._folder, lambda path: self._is_other(path, wanted[path]))
        self.problems += [f"{path}: {why}" for path, why in bad.items()]
        contents = {path: (self._folder / path).read_bytes() for path in wanted if path not in bad}
        files.remove(self._folder)
        return contents

    def _is_other(self, path: str, sha256: str) -> str:
        with open(self._folder / path, "rb", buffering=0) as file:
            digest = hashlib.file_digest(file, "sha256")
        return "" if digest.hexdigest() == sha256 else "it is not what was stored"

    def _chains(self) -> Iterable[Head]:
        """The heads of the chains that can be read."""
        listing = self._target.listing(f"{index.FOLDER}/", recursive=True)
        found = [_Found(m[0], m[1], int(m[2], 16), m[3], bool(m[4])) for m in map(_RECORD.fullmatch, listing) if m]
        for chain in sorted({one.chain for one in found}):
            self._foreign, known = set(), len(self.problems)
            records = sorted((one for one in found if one.chain == chain), key=lambda one: one.sequence)
            head = self._head(records)
            if head:
                yield head
            elif self._foreign >= set(records):
                self.problems, self._closed = self.problems[:known], self.problems[known:]
                log.warn(f"{self.name}: {len(records)} records of an earlier time open with none of the keys given")

    def _head(self, found: Sequence[_Found]) -> Head | None:
        """Apply the records of a chain from the newest state on; from an older one if that cannot be read."""
        bases = [number for number, one in enumerate(found) if one.has_state or one.sequence == 1] or [0]
        for start in reversed(bases):
            wanted = found[start:]
            contents = self._objects({one.path: one.sha256 for one in wanted})
            records = [(one, record) for one in wanted if (record := self._record(one, contents.get(one.path)))]
            state = self._base(records[0][1]) if records and records[0][0] is wanted[0] else None
            if state is None and start != bases[0]:
                continue
            if not records:
                return None
            if state is None:
                self.problems.append(f"the beginning of the chain {found[0].chain} cannot be read")
            return self._applied(records, state or State())
        return None

    def _base(self, record: Record) -> State | None:
        """What there was before `record`."""
        if record.sequence == 1:
            return State()
        if record.state is None:
            return None
        target = self._folder.parent / "state"
        why = self._assemble(record.state, target, fetch=True)
        if why:
            self.problems.append(f"the state of the record {record.sequence}: {why}")
            return None
        try:
            return index.parsed_state(target.read_bytes(), f"the state of the record {record.sequence}")
        except Damaged as error:
            self.problems.append(error.message)
            return None

    def _record(self, found: _Found, content: bytes | None) -> Record | None:
        if content is None:
            return None
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

    def _applied(self, records: Sequence[tuple[_Found, Record]], state: State) -> Head:
        """All records, in their order; what is missing between them is a problem."""
        before: _Found | None = None
        for found, record in records:
            if before and (record.sequence != before.sequence + 1 or record.previous != before.sha256):
                self.problems.append(f"the records {before.sequence} and {record.sequence} do not follow one another")
            record.apply(state)
            before = found
        newest, last = records[-1]
        return Head(newest.chain, newest.sequence, newest.sha256, last.made, state)

    # Files and chunks

    def fetch(self, paths: Sequence[str], root: Path, advance: Advance) -> dict[str, str]:
        """See `Vault`."""
        bad = {path: "it is not there" for path in paths if not self._refs(path) and path not in self.state.files}
        for group in batches([(path, self.size(path)) for path in paths if path not in bad]):
            batch = [path for path, _ in group]
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

    def _refs(self, path: str) -> Sequence[Ref]:
        """The objects that a file or a chunk is."""
        if path.startswith(CHUNKS):
            ref = self.state.chunks.get(check_chunk_path(path))
            return [ref] if ref else []
        file = self.state.files.get(path)
        return file.parts if file else []

    def _get(self, refs: Sequence[Ref]) -> dict[str, str]:
        """Fetch objects; those that did not come as they were, and why."""
        names = {ref.path: ref.name for ref in refs}
        return fetched(self._target, list(names), self._folder, lambda path: self._is_other(path, names[path]))

    def _place(self, path: str, root: Path, *, fetch: bool) -> str:
        """Put a file or a chunk, whose objects are here or else are to be fetched, to its place; why it cannot be."""
        temporary = self._folder.parent / "file"
        file = self.state.files.get(path)
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
