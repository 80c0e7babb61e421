"""A scrub from its beginning to its end: all that is in its scope, or the part of it that is due."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from btw_backup import files, marks, progress, regular
from btw_backup.errors import Damaged
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.scrub import Found, Scope, known, ledger
from btw_backup.scrub.judgement import judged, mark
from btw_backup.scrub.ledger import Position
from btw_backup.scrub.proof import Prover, chunks_needed, size_of, unsound, why_damaged
from btw_backup.scrub.survey import survey
from btw_backup.store import evidence, rescue
from btw_backup.store.chunks import FORMAT, ChunkStore, format_text

Named = Iterable[tuple[str, int]]


@dataclass(slots=True)
class _Round:
    """What one scrub has seen up to now. `suspects` are chunks that are bad or missing, with the reason."""

    store: ChunkStore
    scope: Scope
    wait: float
    advance: Advance = lambda count: None
    found: list[Found] = field(default_factory=list)
    suspects: dict[str, str] = field(default_factory=dict)

    def prove_backups(self, due: Iterable[tuple[Backup, int]]) -> Backup | None:
        """Prove the backups' own files; the last one."""
        prover = Prover(self.store, self.wait)
        backup = None
        for backup, _ in due:
            why, missing = why_damaged(prover, backup, self.advance)
            if why:
                mark(backup, "scrub", [why])
                self.found.append(Found("backup", backup.address, why, (backup.address,)))
            self.suspects.update(dict.fromkeys(missing, "missing"))
        return backup

    def prove_chunks(self, due: Named) -> str:
        """Prove chunks; the last one."""
        last = ""

        def noted() -> Named:
            nonlocal last
            for name, length in due:
                last = name
                yield name, length

        self.suspects.update(unsound(self.store, noted(), self.advance))
        return last


def scrub(root: Path, scope: Scope, *, wait: float) -> list[Found]:
    """Prove what is in `scope`; what was found bad is set aside and marked by then, also by a run that is interrupted.

    It takes no lock that a run could wait for, except that of a dst while a repository of rdiff-backup in it is read,
    and that of the store against a sweep. Memory: 3 KB a backup, and 100 bytes a chunk of the largest one, or of all
    that are in `scope` if that is not everything.
    """
    store = ChunkStore(root)
    with store.locked(exclusive=False, wait=wait), files.unless_read_only(root):
        evidence.put_back(store)
    seen = survey(root, scope)
    this = _Round(store, scope, wait, found=list(seen.found))
    for trouble in seen.found:
        _mark_all(seen.backups, trouble)
    try:
        ended = _go_round(this, seen.backups, ledger.read(root, scope.name))
    finally:
        this.found += judged(root, this.suspects, "scrub", wait)
    if scope.percent is not None:
        with files.unless_read_only(root):
            ledger.write(root, scope.name, ended)
    with files.unless_read_only(root):
        _end(this, seen.backups)
    return this.found


def _go_round(this: _Round, backups: list[Backup], start: Position) -> Position:
    """Prove what is due, from where the last round ended; where this one does."""
    percent = this.scope.percent
    sizes = [(backup, size_of(backup)) for backup in _in_turn(backups, start.backup)]
    lengths = _lengths(this.store, backups) if this.scope.dst else None
    total_sizes = sum(size for _, size in sizes)
    total_lengths = sum(length for _, length in (this.store.listed() if lengths is None else lengths.items()))
    total = int((total_sizes + total_lengths) * (percent or 100) / 100)
    with progress.shown("scrub", total) as this.advance:
        backup = this.prove_backups(ledger.part(sizes, percent, total_sizes))
        chunks = this.store.listed(start.chunk) if lengths is None else _after(lengths, start.chunk)
        chunk = this.prove_chunks(ledger.part(chunks, percent, total_lengths))
    return Position(chunk, _key(backup) if backup else "", start.path)


def _lengths(store: ChunkStore, backups: list[Backup]) -> dict[str, int]:
    """The chunks that `backups` need and that are there, by name, with the lengths of their files."""
    found: dict[str, int] = {}
    for backup in backups:
        if backup.keeper == "chunks":
            try:
                for name in chunks_needed(backup):
                    if name not in found and (path := store.path(name)).exists():
                        found[name] = path.lstat().st_size
            except Damaged:
                continue  # is said when it is proved
    return dict(sorted(found.items()))


def _after(lengths: dict[str, int], position: str) -> Named:
    yield from ((name, length) for name, length in lengths.items() if name > position)
    if position:
        yield from ((name, length) for name, length in lengths.items() if name <= position)


def _key(backup: Backup) -> str:
    """What backups are ordered by: so that new ones come between old ones, and no old one has to wait for them all."""
    return hashlib.sha256(backup.address.encode("utf-8", "surrogateescape")).hexdigest()


def _in_turn(backups: list[Backup], position: str) -> list[Backup]:
    ordered = sorted(backups, key=_key)
    return [b for b in ordered if _key(b) > position] + [b for b in ordered if _key(b) <= position]


def _mark_all(backups: list[Backup], found: Found) -> None:
    for backup in backups:
        if backup.address in found.backups:
            mark(backup, "scrub", [found.why])


def _end(this: _Round, backups: list[Backup]) -> None:
    """After a scrub of everything: take away the marks of what is good again, and mend what every store holds."""
    concerned = {address for found in this.found for address in found.backups}
    if this.scope.percent is None:
        for backup in backups:
            if not backup.valid and backup.address not in concerned:
                marks.remove(backup)
        if not this.scope.dst:
            _prove_format(this)
            if this.store.chunks.is_dir() and any(backup.keeper == "chunks" for backup in backups):
                _prove_rescue(this)
    if not this.scope.dst:
        _prove_known(this, {backup.dst for backup in backups})
    evidence.explain_healed(this.store)


def _prove_format(this: _Round) -> None:
    """Look at format.json. All chunks were read just now, so that it is certain which format they have."""
    path = this.store.folder / "format.json"
    if not this.store.chunks.is_dir():
        return
    try:
        why = "" if regular.read(path) in (format_text(FORMAT), b'{"format": 1}\n') else "it is not what was written"
        if why:
            this.store.open()
    except FileNotFoundError:
        why = "it is missing"
    except Damaged as error:
        why = error.message
    if why:
        end = "it could not be written anew"
        with files.unless_read_only(this.store.folder):
            files.write_whole(path, format_text(FORMAT))
            end = "it was written anew"
        this.found.append(Found("store", str(path), f"{why}; {end}"))


def _prove_known(this: _Round, dsts: set[str]) -> None:
    """Look at what tells that a dst is gone, and add those that are there."""
    root = this.store.folder.parent
    try:
        known.read(root)
    except Damaged as error:
        known.begin_anew(root, dsts)
        this.found.append(Found("store", str(root / known.NAME), f"{error.message}; it was written anew"))
    known.note(root, dsts)


def _prove_rescue(this: _Round) -> None:
    """Look at what is needed when this program is gone."""
    folder = this.store.folder
    for name in rescue.NAMES:
        if why := rescue.why_spoilt(folder, name):
            end = "it was written anew"
            try:
                rescue.renew(folder, name)
            except OSError as error:
                end = f"it could not be written anew: {error.strerror}"
            this.found.append(Found("store", str(folder / name), f"{why}; {end}"))
