"""The dsts that had backups, so that a scrub can tell that one is gone: ``ROOT_PATH/.btw-backup-dsts``, sealed JSON.

Every run that ends well notes its dst, and a scrub all that it meets; so whoever has no such file is told of nothing.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from btw_backup import files, locks, records, regular, sealed
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.log import debug
from btw_backup.records import FOLDER

NAME = ".btw-backup-dsts"
FORMAT = 1

_WAIT = 10.0
"""Seconds that two who note something wait for each other."""


_HERE, _GONE = "here", "gone"
"""What is noted of a dst; of one that is gone it is as if it had never been there."""


def read(root: Path) -> set[str]:
    """The dsts that should be there. Raises `Damaged` if they cannot be read."""
    return {dst for dst, state in _read(root).items() if state == _HERE}


def note(root: Path, dsts: Collection[str]) -> None:
    """From now on `dsts` are known. What cannot be noted now is by the next run; a damaged list is left to scrub."""
    _change(root, lambda known: dict.fromkeys(dsts, _HERE))


def forget(root: Path, dsts: Collection[str]) -> None:
    """`dsts` are gone on purpose, and so are those that have nothing left after all was removed from them."""
    _change(root, lambda known: {d: _GONE for d in known if d in dsts or _is_emptied(Place(d, root / d))})


def begin_anew(root: Path, dsts: Collection[str]) -> None:
    """Know of `dsts`, and of no other."""
    _write(root, dict.fromkeys(dsts, _HERE))


def _read(root: Path) -> dict[str, str]:
    try:
        found = sealed.value_in(regular.read(root / NAME))
        return dict(found["dsts"]) if found["format"] == FORMAT else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"{root / NAME} cannot be read: {error}") from error


def _write(root: Path, known: Mapping[str, str]) -> None:
    files.write_whole(root / NAME, sealed.text_of({"format": FORMAT, "dsts": dict(sorted(known.items()))}))


def _change(root: Path, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> None:
    try:
        known = _read(root)
        if {**known, **change(known)} != known:
            with locks.lock(root, exclusive=True, wait=_WAIT):
                known = _read(root)
                _write(root, {**known, **change(known)})
    except (FatalUserError, OSError) as error:
        debug(f"cannot note in {root / NAME} which destinations there are: {error}")


def _is_emptied(place: Place) -> bool:
    """Whether it is there, with the folder of the records that were removed, and nothing else of any backup."""
    return (place.folder / FOLDER).is_dir() and not any(
        True for things in (records.stamps(place.folder), listing.found(place), listing.removed(place)) for _ in things
    )
