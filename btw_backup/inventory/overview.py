"""The catalogue, brought up to date with the files before it is asked; where it cannot be used, the files are read.

SQLAlchemy takes 0.2 s to load, so that nothing here does before somebody asks. No backup run needs it.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from btw_backup import log, regular
from btw_backup.catalogue import journal
from btw_backup.catalogue.journal import Run
from btw_backup.configuration.config import Config
from btw_backup.errors import NoCatalogue, NotFound, UsageError
from btw_backup.inventory import listing
from btw_backup.places import ID_COPY, ID_FILE
from btw_backup.store.chunks import DAMAGED, FOLDER

if TYPE_CHECKING:
    from btw_backup.catalogue.index import Catalogue

Answer = TypeVar("Answer")


def runs(general: Config, config_dir: Path, *, dst: str | None, failed: bool, most: int) -> list[Run]:
    """The last `most` runs, oldest first; with `dst` only those, with `failed` only those of another status than 0."""

    def ask(catalogue: "Catalogue") -> list[Run]:
        catalogue.take_runs(config_dir)
        return catalogue.runs(dst=dst, failed=failed, most=most)

    try:
        return _asked(general, config_dir, ask)
    except NoCatalogue as error:
        log.warn(error.message, error.hint)
    wanted = (run for run in journal.read(config_dir) if dst in (None, run.dst) and (run.status or not failed))
    return list(deque(wanted, most))


def dst_of(general: Config, config_dir: Path, uid: str) -> str:
    """The dst of the backup whose uid begins with `uid`. Raises `NotFound`; `UsageError` if there are several."""
    if not re.fullmatch("[0-9a-f]{6,}", uid):
        raise UsageError(f"@{uid} names no backup", "DST@SPEC, or @ and at least six letters of a uid, does")
    dsts = {dst for dst, _ in _places_of(general, config_dir, uid)}
    if not dsts:
        raise NotFound(f"there is no backup of the uid {uid}", "btw-backup list --json shows the uids")
    if len(dsts) > 1:
        raise UsageError(f"@{uid} is the beginning of uids in {len(dsts)} destinations", "give more of it")
    return dsts.pop()


def _places_of(general: Config, config_dir: Path, uid: str) -> list[tuple[str, str]]:
    """The (dst, stamp) of every backup whose uid begins with `uid`, in whatever dst."""
    root = general.required("ROOT_PATH")

    def ask(catalogue: "Catalogue") -> list[tuple[str, str]]:
        _take_backups(catalogue, root)
        return catalogue.backups_of(uid)

    try:
        return _asked(general, config_dir, ask)
    except NoCatalogue as error:
        log.warn(error.message, error.hint)
    found = (backup for place in listing.places(root) for backup in listing.each(place))
    return [(b.dst, b.stamp) for b in found if b.record and b.record.uid.startswith(uid)]


def summary(general: Config, config_dir: Path, *, rebuild: bool) -> Mapping[str, int | str]:
    """How much the catalogue holds, after all of it was brought up to date. Raises `NoCatalogue`."""
    root = general.required("ROOT_PATH")

    def ask(catalogue: "Catalogue") -> Mapping[str, int | str]:
        if rebuild:
            catalogue.clear()
        _take_backups(catalogue, root)
        catalogue.take_runs(config_dir)
        catalogue.take_damage(root / FOLDER / DAMAGED)
        return {**catalogue.counts(), "last scrub": catalogue.last_scrub()}

    return _asked(general, config_dir, ask)


def probe(general: Config, config_dir: Path) -> None:
    """Make sure that the catalogue can be used. Raises `NoCatalogue`."""
    _asked(general, config_dir, lambda catalogue: catalogue.counts())


def _take_backups(catalogue: "Catalogue", root: Path) -> None:
    """Bring the backups up to date. Memory: the names of the backups of one dst at a time, and of all dsts."""
    dsts = []
    for place in listing.places(root):
        catalogue.take_backups(place.dst, place.folder, listing.found(place))
        dsts.append(place.dst)
    catalogue.forget_other_dsts(dsts)


def _asked(general: Config, config_dir: Path, question: Callable[["Catalogue"], Answer]) -> Answer:
    from btw_backup.catalogue import database  # noqa: PLC0415 - see above
    from btw_backup.catalogue.index import Catalogue  # noqa: PLC0415 - idem

    installation = _installation(general, config_dir)
    return database.ask(
        config_dir, general["CATALOG"], lambda connection: question(Catalogue(connection, installation))
    )


def _installation(general: Config, config_dir: Path) -> str:
    """What tells this installation from others in the same database: the id of its ROOT_PATH, or its path."""
    root: Path = general.required("ROOT_PATH")
    if not general["CATALOG"]:
        return "here"
    for path in (root / ID_FILE, config_dir / ID_COPY):
        try:
            if identity := regular.read(path, links=True)[:100].decode("ascii", "replace").strip():
                return identity
        except OSError:
            continue
    return str(root)
