"""A run of the chunks keeper: writing a tree with its manifest, and reading what a manifest names."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from btw_backup import files, memory, progress, regular
from btw_backup.entries import Entry
from btw_backup.errors import TRY_ANOTHER, Damaged
from btw_backup.keepers import Content, Report, Wanted
from btw_backup.keepers.chunks_previous import Previous
from btw_backup.keepers.chunks_tree import TreeWriter
from btw_backup.log import debug
from btw_backup.progress import Advance
from btw_backup.records import Backup
from btw_backup.sources import Fingerprint, Produced
from btw_backup.sources.tree import Tree
from btw_backup.store import manifest, uses
from btw_backup.store.chunks import ChunkStore, store_of
from btw_backup.store.entry import entry_of
from btw_backup.store.index import Index
from btw_backup.store.manifest import Header, Member
from btw_backup.store.manifest_writer import ManifestWriter
from btw_backup.store.names import Names
from btw_backup.store.reader import Contents
from btw_backup.store.shares import Share
from btw_backup.store.writer import ChunkWriter


@contextmanager
def members_of(
    backup: Backup, wanted: Wanted, report: Report, advance: Advance, share: Share | None
) -> Iterator[Iterator[tuple[Entry, Content]]]:
    """What `keepers.Keeper.members` is to give, of the tree `backup`, or of a `share` of it."""
    memory.reuse_large_pieces()
    _check_whose(backup)
    store = store_of(backup.path.parent, backup.dst)
    with manifest.opened(backup.path) as opened:
        entries: deque[Entry] = deque()
        members = opened.members(share) if share else (member for member, _ in opened)
        contents = Contents(store, _chosen(members, wanted, report, entries), share.among if share else 1)
        try:
            yield _advancing(contents, entries, advance)
        finally:
            contents.close()
        if opened.end and backup.record and backup.record.sha256 not in ("", opened.sha256):
            raise Damaged(f"{backup.path} is damaged: its SHA-256 is not that of what was stored", TRY_ANOTHER)


def _check_whose(backup: Backup) -> None:
    """Raise `Damaged`, before anything is restored, if the manifest says that it is another backup's."""
    known = backup.record.sha256 if backup.record else ""
    with regular.opened(backup.path) as file:
        names = Names(file.fileno())
    if known and names.found and names.text.hex() != known:
        raise Damaged(f"{backup.path} is damaged: its SHA-256 is not that of what was stored", TRY_ANOTHER)


def write(source: Tree, writer: ChunkWriter, base: Backup | None, temporary: Path, seen: Fingerprint) -> Produced:
    """Store what the tree holds, and write the manifest to `temporary`, onto the disk."""
    header = Header.of(source.kind, source.name, seen.began)
    index = Index(writer.store.folder, writer.journal)
    with ExitStack() as stack:
        out = stack.enter_context(files.create(temporary))
        advance = stack.enter_context(progress.shown(f"reading {source.name}", seen.size))
        previous, wasteful = _previous(base, header, writer, stack)
        lines = ManifestWriter(out, header)
        tree = TreeWriter(writer, index, lines, previous, wasteful)
        tree.write(source, advance)
        sha256, content = lines.end(tree.wasteful(writer.store.length))
        writer.publish()
        index.save()
        os.fsync(out.fileno())
    changed, unread = tree.changed, tree.unread
    left_out = changed.left_out + unread.left_out + source.problems.left_out
    return Produced(
        lines.size, sha256, content, tuple(changed.found), (*source.problems.found, *unread.found), left_out
    )


def is_whole(store: ChunkStore, backup: Backup) -> bool:
    """Whether the store has all chunks of the tree `backup`, so far as their headers tell; they count as used."""
    try:
        return all(map(store.reuse_whole, uses.chunks_of(backup.path)))
    except (Damaged, FileNotFoundError):
        return False


def _previous(
    base: Backup | None, header: Header, writer: ChunkWriter, stack: ExitStack
) -> tuple[Previous | None, frozenset[str]]:
    """The manifest of the last backup of the same tree, if it is fit to be built on, and the packs to avoid."""
    if base is None:
        return None, frozenset()
    try:
        wasteful = frozenset(manifest.end_of(base.path).wasteful)
        opened = stack.enter_context(manifest.opened(base.path))
    except (Damaged, FileNotFoundError) as error:
        debug(f"cannot build on {base.address}: {error}")
        return None, frozenset()
    if opened.header.source != header.source or opened.header.began > header.began:
        return None, wasteful
    previous = stack.enter_context(closing(Previous(opened, base.path, wasteful, writer)))
    return previous, wasteful


def _chosen(members: Iterator[Member], wanted: Wanted, report: Report, entries: deque[Entry]) -> Iterator[Member]:
    """The members that are wanted; each adds its entry to `entries`. What cannot be an entry is reported."""
    for member in members:
        try:
            entry = entry_of(member)
        except ValueError as error:
            report(f"an entry of the manifest is left out: {error}")
            continue
        if wanted(entry):
            entries.append(entry)
            yield member


def _advancing(contents: Contents, entries: deque[Entry], advance: Advance) -> Iterator[tuple[Entry, Content]]:
    for member, content in contents:
        yield entries.popleft(), content
        advance(member.size)
