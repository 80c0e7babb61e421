"""In which backups a path is, and with which content.

Memory grows with how many different contents are found, not with the backups.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from btw_backup import progress
from btw_backup.entries import Entry, Kind
from btw_backup.errors import DamagedPart
from btw_backup.inventory import listing
from btw_backup.keepers import Content
from btw_backup.log import debug
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources.rules import Pattern, rules_of

_LITERALS = re.compile(r"\*+/?|\?|\[[!^]?\]?[^]]*\]")
"""What in a pattern does not stand for itself."""

Matches = Callable[[str, bool], bool]
"""Whether one wants the path; the second says whether it is a folder."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A path in a backup. `content` is the same number if and only if the content is the same, within this process."""

    backup: Backup
    path: str
    kind: str
    size: int
    mtime: int
    content: int
    target: str = ""


def distinct(found: Iterable[Occurrence]) -> Iterator[Occurrence]:
    """The first occurrence of each content under each path of a dst."""
    seen: set[int] = set()
    for one in found:
        key = hash((one.backup.dst, one.path, one.content))
        if key not in seen:
            seen.add(key)
            yield one


def occurrences(backup: Backup, text: str, *, ignore_case: bool) -> Iterator[Occurrence]:
    """What in `backup` the pattern `text` matches. Raises `Damaged`.

    It means what it means in EXCLUDE: without a slash it is compared with names, with one with whole paths. The dumps
    and streams of types other than chunks hold no paths.
    """
    if backup.kind != "fs" and backup.keeper != "chunks":
        return
    pattern = _pattern(text, backup.record.source if backup.record else "", ignore_case)
    links = []

    def matches(path: str, is_folder: bool) -> bool:
        return path != "" and pattern.matches(path, path.rpartition("/")[2], is_folder)

    with progress.shown(f"search {backup.address}", backup.record.length if backup.record else None) as advance:
        for one in _read(backup, matches, b"" if ignore_case else _literal(text), advance):
            if one.kind == Kind.HARD_LINK.value:
                links.append(one)
            else:
                yield one
        yield from _as_files(backup, links)


def _pattern(text: str, source: str, ignore_case: bool) -> Pattern:
    (pattern,) = rules_of(source, [text], one_file_system=False, skip_caches=False).patterns
    if not ignore_case:
        return pattern
    return replace(pattern, expression=re.compile(pattern.expression.pattern, pattern.expression.flags | re.IGNORECASE))


def _literal(text: str) -> bytes:
    """The longest piece that every path has in it that the pattern `text` matches, as it stands in a manifest."""
    name = text.rstrip("/").rpartition("/")[2]  # what is before may be the source
    longest = max(_LITERALS.split(name), key=len)
    try:
        return json.dumps(longest, ensure_ascii=False)[1:-1].encode()
    except UnicodeEncodeError:  # it is no UTF-8, and the paths are in base64
        return b""


def _as_files(backup: Backup, links: list[Occurrence]) -> Iterator[Occurrence]:
    """Hard links, each as the file that it is a further name of; for this the backup is read again."""
    targets = {link.target for link in links}
    if targets:
        found = {one.path: one for one in _read(backup, lambda path, _: path in targets, b"", lambda count: None)}
        yield from (replace(found[link.target], path=link.path) for link in links if link.target in found)


def _read(backup: Backup, matches: Matches, literal: bytes, advance: Advance) -> Iterator[Occurrence]:
    if backup.keeper == "chunks":
        yield from _in_manifest(backup, matches, literal)
        return

    def wanted(entry: Entry) -> bool:
        return matches(os.fsdecode(entry.path), entry.kind is Kind.FOLDER)

    with listing.keeper_of(backup).members(backup, wanted, debug, advance) as members:
        for entry, content in members:
            yield _occurrence(backup, entry, content)


def _occurrence(backup: Backup, entry: Entry, content: Content) -> Occurrence:
    """An entry of an archive; its content is read, for its digest."""
    digest = hashlib.sha256()
    try:
        for piece in content:
            digest.update(piece)
    except DamagedPart as error:
        debug(error.message)
        digest.update(os.fsencode(backup.address))
    path, target, kind = os.fsdecode(entry.path), os.fsdecode(entry.target), entry.kind.value
    known = hash((kind, entry.size, target, entry.device, entry.extents, digest.digest()))
    return Occurrence(backup, path, kind, entry.size, entry.mtime, known, target)


def _in_manifest(backup: Backup, matches: Matches, literal: bytes) -> Iterator[Occurrence]:
    """Only lines that have `literal` in them, or whose path is in base64, are understood at all."""
    from btw_backup.store import lines, manifest  # noqa: PLC0415 - takes 0.1 s to load

    with manifest.opened(backup.path) as opened:
        for line in opened.lines():
            if literal not in line and b'"raw_path":' not in line:
                continue
            member = lines.member_in(line)
            path, kind = member.key, member.kind
            if matches(path, kind == "folder"):
                target = lines.target_of(member)
                content = member.pieces
                known = hash((kind, member.size, target, member.device, member.parts, content))
                yield Occurrence(backup, path, kind, member.size, member.mtime, known, target)
