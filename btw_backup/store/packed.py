"""What manifests tell of what was packed into bad chunks: from that they can be put together again (`mending`)."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from btw_backup.errors import Damaged
from btw_backup.store import manifest

_MOST_CONTENTS, _MOST_PACKED = 200_000, 20_000
"""Contents of all bad packs, and of one, that are told: 60 MB."""

Content = tuple[int, int, str]
"""An offset in a pack, a length, a SHA-256."""


def contents(needing: Iterable[tuple[Path, Collection[str]]]) -> dict[str, set[Content]]:
    """What was packed into bad chunks, by the name of the chunk; `needing` are manifests, with the bad ones of each."""
    found: dict[str, set[Content]] = defaultdict(set)
    count = 0
    for path, names in needing:
        for name, content in _in_manifest(path, frozenset(names)):
            if count < _MOST_CONTENTS and len(found[name]) < _MOST_PACKED and content not in found[name]:
                found[name].add(content)
                count += 1
    return found


def _in_manifest(path: Path, names: Collection[str]) -> Iterator[tuple[str, Content]]:
    try:
        with manifest.opened(path) as opened:
            for member, _ in opened:
                if member.sha256 and len(member.extents) == 1 and member.extents[0][0] in names:
                    name, offset, length = member.extents[0]
                    yield name, (offset, length, member.sha256)
    except (Damaged, OSError, ValueError):
        pass  # what is wrong with the manifest itself is said elsewhere
