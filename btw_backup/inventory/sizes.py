"""What room each backup takes: what would be free without it, and what it shares with others.

Memory: that of two `store.tally.Tally`, the sizes of `_KNOWN` chunks, 500 bytes a backup, and the records of one dst.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from btw_backup.errors import Damaged
from btw_backup.inventory import listing
from btw_backup.inventory.removal import size_below
from btw_backup.keepers import Place
from btw_backup.records import DAMAGED, FOLDER, REMOVED, Backup
from btw_backup.store import ENDING
from btw_backup.store.chunks import ChunkStore
from btw_backup.store.tally import SEVERAL, Tally
from btw_backup.store.uses import manifests, names_of

_KNOWN = 200_000
_DST = 1 << 31
"""Who uses a chunk is a number: that of a backup, or from here on of a dst, if several of its backups do."""


@dataclass(frozen=True, slots=True)
class Size:
    """In bytes of files: `own` is what removing it alone, and cleaning up, would free; the rest is `shared`."""

    own: int
    shared: int


class Sizes:
    """The sizes of all backups, by dst and stamp, and of all dsts. `problems` are manifests that cannot be read.

    What was removed counts for nobody: it will be purged before anything that is removed now.
    """

    def __init__(self, root: Path) -> None:
        self.backups: dict[tuple[str, str], Size] = {}
        self.dsts: dict[str, Size] = {}
        self.problems: list[Damaged] = []
        self._store = ChunkStore(root)
        self._lengths: dict[bytes, int] = {}
        self._used: Counter[int] = Counter()
        self._own: Counter[int] = Counter()
        self._files: Counter[int] = Counter()
        self._addresses: list[tuple[str, str]] = []
        places = list(listing.places(root))
        with Tally() as named:
            self._count(root, places, named)
            for name, user in named:
                self._own[user] += self._length(name)
        self._sum_up([place.dst for place in places])

    def _count(self, root: Path, places: Iterable[Place], named: Tally) -> None:
        """Note who names what."""
        seen: set[Path] = set()
        for number, place in enumerate(places, _DST):
            with Tally() as mine:
                seen.update(self._look(place, number, mine))
                for name, user in mine:
                    named.add((name,), number if user == SEVERAL else user)
                    self._used[number] += self._length(name)
        for path in manifests(root):
            if path not in seen and path.parent.name != REMOVED:
                named.add(self._names(path, SEVERAL), SEVERAL)

    def _look(self, place: Place, dst: int, mine: Tally) -> Iterator[Path]:
        """Take in the backups of a dst; their manifests."""
        backups = sorted(listing.backups(place), key=attrgetter("path", "stamp"))
        for path, group in groupby(backups, attrgetter("path")):
            together = list(group)
            numbers = [self._numbered(backup) for backup in together]
            size = size_below(path)
            files = sum(map(_size_of_belongings, together)) + size
            self._files[dst] += files
            if len(together) > 1:  # none of them can be removed alone
                self._used.update(dict.fromkeys(numbers, size))
            else:
                self._files[numbers[0]] = files
            if path.name.endswith(ENDING):
                mine.add(self._names(path, numbers[0]), numbers[0])
                yield path

    def _numbered(self, backup: Backup) -> int:
        self._addresses.append((backup.dst, backup.stamp))
        return len(self._addresses) - 1

    def _names(self, path: Path, user: int) -> Iterator[bytes]:
        """The chunks that a manifest names; their bytes are added to those that `user` uses."""
        try:
            for name in names_of(path):
                self._used[user] += self._length(name)
                yield name
        except FileNotFoundError:
            return  # it was removed while we looked
        except Damaged as error:
            self.problems.append(error)
        except OSError as error:
            self.problems.append(Damaged(f"{path} cannot be read: {error.strerror}"))

    def _length(self, name: bytes) -> int:
        """The bytes of the file of a chunk."""
        known = self._lengths.get(name)
        if known is None:
            if len(self._lengths) >= _KNOWN:
                self._lengths.clear()
            known = self._lengths[name] = size_below(self._store.path(name.hex()))
        return known

    def _sum_up(self, dsts: Iterable[str]) -> None:
        totals: Counter[str] = Counter()
        for number, address in enumerate(self._addresses):
            own = self._own[number]
            totals[address[0]] += own
            self.backups[address] = Size(own + self._files[number], self._used[number] - own)
        for number, dst in enumerate(dsts, _DST):
            own = totals[dst] + self._own[number]
            self.dsts[dst] = Size(own + self._files[number], self._used[number] - own)


def _size_of_belongings(backup: Backup) -> int:
    folder = backup.path.parent / FOLDER
    return sum(size_below(folder / (backup.stamp + ending)) for ending in (".json", DAMAGED))
