"""What is known of a bad chunk: ``.store/damaged/<name>.json`` beside the chunk itself, which was set aside.

``contents`` are the (offset, length, SHA-256) of what was packed into it, as manifests tell: from these, and from what
is still good of the chunk, a later run puts it together again.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard

from btw_backup import files, regular
from btw_backup.clock import stamp_of, utc_now
from btw_backup.errors import Damaged, NotFound
from btw_backup.store.chunks import DAMAGED, LARGEST, ChunkStore

FORMAT = 1
_SHOWN = 100
_PIECE = 1 << 14
_DESCRIPTOR, _CHECKSUM_FLAG = 4, 0x04
"""Where in a frame it stands whether it ends with a checksum (RFC 8878, 3.1.1.1.1)."""


def set_aside(store: ChunkStore, name: str, why: str) -> str:
    """Move the bad chunk away, with a report beside it; where it is now, "" if there is nothing of it."""
    folder = store.folder / DAMAGED
    files.make_folder(folder)
    try:
        evidence = store.set_aside(name)
    except NotFound:
        evidence = folder / f"{name}.zst"
        if report(store, name):
            return str(evidence) if evidence.exists() else ""
    _write(store, {"format": FORMAT, "chunk": name, "why": why, **_found(evidence, name), **_who()})
    return str(evidence) if evidence.exists() else ""


def put_back(store: ChunkStore) -> None:
    """Put chunks that were set aside, and are well, where they were: a cable, or a driver, was bad for a moment."""
    for path in sorted((store.folder / DAMAGED).glob("*.zst")):
        with suppress(Damaged):
            if not store.path(path.stem).exists():
                store.read_at(path, path.stem, from_disk=True)
                files.publish(path, store.path(path.stem))


def report(store: ChunkStore, name: str) -> dict[str, Any]:
    """What was written down about the chunk `name`; nothing, if that cannot be read."""
    try:
        found = json.loads(_bytes(store.folder / DAMAGED / f"{name}.json"))
        return found if isinstance(found, dict) and found.get("chunk") == name else {}
    except (ValueError, RecursionError):
        return {}


def add(store: ChunkStore, name: str, more: Mapping[str, object]) -> None:
    """Add to what is written down about the chunk `name`."""
    known = report(store, name)
    more = json.loads(json.dumps(more))  # with lists for tuples, to be compared
    if known and any(known.get(key) != value for key, value in more.items()):
        _write(store, {**known, **more})


def explain_healed(store: ChunkStore) -> None:
    """Where a chunk is whole again, note where what was set aside begins to differ from it, and let go of its parts."""
    for path in sorted((store.folder / DAMAGED).glob("*.part")):
        with suppress(Damaged, FileNotFoundError):
            store.read(path.stem)
            path.unlink()
    for path in sorted((store.folder / DAMAGED).glob("*.json")):
        known = report(store, path.stem)
        if not known or known.get("first_difference") is not None or not path.with_suffix(".zst").exists():
            continue
        try:
            whole = store.read(path.stem)
            frame = regular.read(store.path(path.stem))
        except (Damaged, OSError):
            continue
        bad = _bytes(path.with_suffix(".zst"))
        plain = salvaged(bad)
        known["first_difference"] = first_difference(plain, whole)
        known["first_difference_stored"] = first_difference(bad, frame)
        known["healed"] = stamp_of(utc_now())
        _write(store, known)


def bad_in(store: ChunkStore, name: str, packed: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Where in a bad pack it differs from what was stored: the (offset, length) of the contents that are not right."""
    plain = best_of(store, name)
    bad = [(at, n) for at, n, sha256 in packed if hashlib.sha256(plain[at : at + n]).hexdigest() != sha256]
    return bad[:_SHOWN]


def first_difference(one: bytes, other: bytes) -> int | None:
    """Where two texts begin to differ; None if they do not."""
    if one == other:
        return None
    low, high = 0, min(len(one), len(other))
    while low < high:  # the longest common beginning, by halves
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def salvaged(frame: bytes) -> bytes:
    """The plain content of a frame as far as it can be unpacked, proved by nothing.

    Its own checksum is not asked for: of a pack with one bad byte all files but one are right.
    """
    out = bytearray()
    if len(frame) > _DESCRIPTOR:
        frame = frame[:_DESCRIPTOR] + bytes((frame[_DESCRIPTOR] & ~_CHECKSUM_FLAG,)) + frame[_DESCRIPTOR + 1 :]
    reader = zstandard.ZstdDecompressor(max_window_size=LARGEST).stream_reader(frame, read_size=_PIECE)
    try:
        while len(out) <= LARGEST and (piece := reader.read(_PIECE)):
            out += piece
    except (zstandard.ZstdError, MemoryError):
        pass  # what came before may be well
    return bytes(out)


def part_of(store: ChunkStore, name: str) -> Path:
    """Where what is known again of the pack `name` lies, if it does."""
    return store.folder / DAMAGED / f"{name}.part"


def best_of(store: ChunkStore, name: str) -> bytes:
    """What there is of the chunk `name`, which is bad, or was set aside; proved by nothing."""
    if known := _bytes(part_of(store, name)):
        return known
    return salvaged(_bytes(store.folder / DAMAGED / f"{name}.zst") or _bytes(store.path(name)))


def part(store: ChunkStore, name: str, offset: int, length: int, sha256: str) -> bytes | None:
    """The content with that digest which was packed into the lost chunk `name`; None if it is not known again."""
    try:
        with regular.opened(part_of(store, name)) as file:
            content = os.pread(file.fileno(), length, offset) if 0 <= offset <= offset + length <= LARGEST else b""
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def set_aside_since(store: ChunkStore, moment: float) -> set[str]:
    """The chunks that were set aside, or found to be missing, since `moment`."""
    try:
        with os.scandir(store.folder / DAMAGED) as entries:
            reports = [entry for entry in entries if entry.name.endswith(".json")]
            return {entry.name.removesuffix(".json") for entry in reports if entry.stat().st_mtime >= moment - 2}
    except FileNotFoundError:
        return set()


def unjudged(store: ChunkStore) -> list[str]:
    """The chunks that were set aside, and are not there again, of which nobody has looked which backups need them."""
    found = []
    for path in sorted((store.folder / DAMAGED).glob("*.json")):
        with suppress(Damaged):  # it is called like no chunk
            known = {} if store.path(path.stem).exists() else report(store, path.stem)
            if known and "backups" not in known:
                found.append(path.stem)
    return found


def _found(evidence: Path, name: str) -> dict[str, object]:
    """Both hashes, and the lengths of what lies there."""
    frame = _bytes(evidence)
    plain = salvaged(frame)
    there = evidence.exists()
    return {
        "expected_sha256": name,
        "found_sha256": hashlib.sha256(plain).hexdigest() if there else None,
        "found_length": len(plain) if there else None,
        "stored_sha256": hashlib.sha256(frame).hexdigest() if there else None,
        "stored_length": evidence.lstat().st_size if there else None,
        "first_difference": None,
    }


def _bytes(path: Path) -> bytes:
    """What lies there, as far as a chunk can be long; b"" if it cannot be read."""
    try:
        with regular.opened(path) as file:
            return file.read(LARGEST + (1 << 20))
    except OSError:
        return b""


def _who() -> dict[str, object]:
    return {
        "found": stamp_of(utc_now()),
        "by": {"host": os.uname().nodename, "pid": os.getpid(), "command": sys.argv},
    }


def _write(store: ChunkStore, known: Mapping[str, object]) -> None:
    path = store.folder / DAMAGED / f"{known['chunk']}.json"
    files.write_whole(path, json.dumps(known, indent=1).encode() + b"\n")
