"""What was removed here for good, and is to be removed at the targets that allow it.

Nothing is ever removed off-site unless the target says ``ALLOW_REMOVAL = True``. What is removed there then was removed
here by command: ``rm`` named the backup, its grace was over, and ``cleanup`` freed it. Before ``cleanup`` deletes
anything here, it notes the names of just that, of backups, their records and chunks: whoever dies between forgets
nothing, and until then nothing has gone anywhere, so ``undelete`` works as ever. That something is missing here says
nothing: an unmounted ROOT_PATH, a deleted folder, a lost catalogue, ledger or journal remove nothing.

What is noted stands in ``<config-dir>/removals.NAME.PLACE``, in lines as those of the sync state, ``+remove PATH``. It
is a file of its own, because who knows only ``push`` and ``sync`` must not take it for damage, nor for anything else;
PLACE is a digest of where the target is and of its layout, because what is to be removed in one place is not to be
removed in another that gets its name. It is worked off by ``cleanup`` and ``sync``, never by a run that makes backups,
and only when nothing is owed to the target: it has all that is kept here before anything goes. What is here again
(imported, undeleted) is struck off, and so is what is owed anew: a chunk that a new backup needs.

What becomes of it at a mirror is in `mirror_removal`, with the layout objects in `object_removal`. In both cases the
record goes first, what needs most next, chunks last; only a listing proves that something is gone. Where other
manifests, or other chains of records, than ours show that somebody else has backups there, or that we had before we
lost them or what we knew of them, nothing is removed that these might need.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from btw_backup.clock import STAMP
from btw_backup.configuration.addresses import Address
from btw_backup.errors import NotOffsite
from btw_backup.keepers import OweRemoval
from btw_backup.log import debug, warn
from btw_backup.offsite import Target
from btw_backup.offsite.complaints import is_refusal
from btw_backup.offsite.state import REMOVE, Debt, SyncState
from btw_backup.records import DAMAGED, FOLDER, REMOVED
from btw_backup.store import chunk_in

JOURNAL = "removals"
HINT = "btw-backup sync tries again"
DENIED = (
    "its credentials lack the right s3:DeleteObject, which btw-backup offsite policy prints with ALLOW_REMOVAL = True; "
    "if nothing is to be removed there: ALLOW_REMOVAL = False"
)

_NAME = re.compile(rf"{JOURNAL}\.(\w+)\.[0-9a-f]{{8}}")


def journal(config_dir: Path, address: Address) -> SyncState:
    """What is to be removed at a target."""
    place = hashlib.sha256(f"{address.place}\n{address.layout}".encode()).hexdigest()[:8]
    return SyncState(config_dir / f"{JOURNAL}.{address.name}.{place}", (REMOVE,))


def journals(config_dir: Path) -> Iterator[tuple[str, SyncState]]:
    """The journals that there are, by the names of their targets, whether these are configured any more or not."""
    for path in sorted(config_dir.glob(f"{JOURNAL}.*")):
        if found := _NAME.fullmatch(path.name):
            yield found[1], SyncState(path, (REMOVE,))


def owe_removal(wanted: Iterable[Address], config_dir: Path) -> OweRemoval:
    """What notes for every target that allows it what is removed here."""
    noted = [journal(config_dir, address) for address in wanted if address.allow_removal]

    def owe(paths: Sequence[str]) -> None:
        for each in noted:
            each.owe_all(REMOVE, paths)

    return owe


def due(noted: SyncState, root: str) -> list[Debt]:
    """What is to be removed now. What is here again is struck off; what is here still, out of sight, waits."""
    found, back = [], []
    for debt in noted.pending():
        path = debt.path.rstrip("/")
        if not _can_be_removed(debt.path):
            warn(f"{debt.path!r} is nothing that cleanup removes: it stays at the target")
            back.append(debt)
        elif os.path.lexists(f"{root}/{path}"):
            debug(f"not removed off-site, because it is here again: {debt.path}")
            back.append(debt)
        elif chunk_in(path) or not os.path.lexists(_out_of_sight(root, path)):
            found.append(debt)
    noted.done_all(back)
    return found


def refuse_foreign(manifests: Iterable[tuple[str, int]], chunks: Sequence[Debt], root: str, place: str) -> None:
    """Raise `NotOffsite` if one of the `manifests` that are at a target, with their sizes, is not here: then nobody
    here knows whether it needs any of `chunks`, which cleanup freed by what it found here."""
    for path, size in manifests:
        if not _is_known(root, path, size):
            why = f"{path} is there, which is not here, and may need them"
            hint = "import --from brings it back; if it is gone on purpose, remove it there; machines need a path each"
            raise not_removed([debt.path for debt in chunks], place, why, hint)


def _is_known(root: str, path: str, size: int) -> bool:
    """Whether the backup with the path `path`, of so many bytes, is here, or was removed and can be brought back."""
    for here in (f"{root}/{path}", _out_of_sight(root, path)):
        with suppress(OSError):
            return os.lstat(here).st_size == size
    return False


def removed(target: Target, prefix: str, paths: Iterable[str], *, recursive: bool) -> tuple[list[str], str]:
    """Remove what of `paths`, which all begin with `prefix`, is there: what is left of it, and why."""
    there = target.listing(prefix, recursive=recursive)
    doomed = [path for path in paths if path in there]
    if not doomed:
        return [], ""
    complaint = target.remove(doomed)
    there = target.listing(prefix, recursive=recursive)
    return [path for path in doomed if path in there], complaint or "it is still there"


def not_removed(left: Sequence[str], place: str, why: str, hint: str = "") -> NotOffsite:
    """The error that says that `left`, which are not none, are still at `place`."""
    others = f" and {len(left) - 1} other path{'s' if len(left) > 2 else ''}" if len(left) > 1 else ""
    hint = hint or (DENIED if is_refusal(why) or "AccessDenied" in why else HINT)
    return NotOffsite(f"not removed at {place} yet: {left[0]}{others}, because {why}", hint)


def _out_of_sight(root: str, path: str) -> str:
    """Where `path`, of a backup or a record, is between rm and cleanup."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) == FOLDER:
        folder = os.path.dirname(folder)
    return f"{root}/{folder}/{REMOVED}/{name}"


def _can_be_removed(path: str) -> bool:
    """Whether `path` is a chunk, a backup, or the record or the mark of one: a damaged journal must cost no folder."""
    folder, name = os.path.split(path.rstrip("/"))
    if chunk_in(path):
        return True
    stamp = STAMP.match(name)
    if not stamp or not folder or folder.startswith("."):
        return False
    if os.path.basename(folder) == FOLDER:
        return name in (f"{stamp[0]}.json", f"{stamp[0]}{DAMAGED}") and "/" in folder
    return name == stamp[0] or name[stamp.end()] == "."
