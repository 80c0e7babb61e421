"""ROOT_PATH and the dsts in it: names that stay inside, an id that tells a mounted disk from an empty mount point."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from btw_backup import files, locks, log, regular
from btw_backup.errors import FatalUserError, Locked

if TYPE_CHECKING:
    from btw_backup.keepers import Place

ID_FILE = ".btw-backup-id"
"""In ROOT_PATH, with a copy in the configuration directory as ``root-id``."""

ID_COPY = "root-id"

LOCK_WAIT = 10.0
"""How many seconds two first runs at once wait for each other."""


def place(root: Path, dst: str, owner: tuple[int, int] | None = None) -> "Place":
    """The place of `dst`, a path relative to ROOT_PATH that stays inside it. Raises `FatalUserError`."""
    from btw_backup.keepers import Place  # noqa: PLC0415 - it loads much, and a look at a tree begins before

    if os.path.isabs(dst):
        raise FatalUserError(f"the destination must be relative to ROOT_PATH: {dst}")
    parts = [part for part in dst.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(part.startswith(".") for part in parts) or "\0" in dst or "\n" in dst:
        raise FatalUserError(f"not a usable destination: {dst!r}", "a name below ROOT_PATH, such as www or hosts/www")
    return Place("/".join(parts), root.joinpath(*parts), owner)


def create(root: Path, place: "Place") -> None:
    """Make the folder of `place`, owned by its owner if it is new; refuse one that a link leads out of ROOT_PATH."""
    folder = root
    for part in place.folder.relative_to(root).parts:
        folder = folder / part
        if folder.is_symlink() and not folder.resolve().is_relative_to(root.resolve()):
            raise FatalUserError(f"{folder} is a link that leads out of ROOT_PATH")
        if not folder.is_dir():
            files.make_folder(folder)
            files.change_owner(folder, place.owner)


def check_identity(root: Path, config_dir: Path) -> None:
    """Refuse a ROOT_PATH that is not the one of before: an unmounted disk, or another one.

    The id is written at the first run, with the host where that was. Raises `FatalUserError`; `Locked` for a ROOT_PATH
    that this configuration does not know and another host does: their clocks may differ, and their locks not be seen.
    """
    if has_identity(root, config_dir):
        return
    with locks.lock(config_dir, exclusive=True, wait=LOCK_WAIT):
        if not has_identity(root, config_dir):  # another first run was faster
            import uuid  # noqa: PLC0415 - once in the life of an installation

            identity = _content(root / ID_FILE) or f"{uuid.uuid4()}\n{_host()}\n".encode()
            _refuse_other_host(root, config_dir, identity)
            files.write_whole(root / ID_FILE, identity)
            files.write_whole(config_dir / ID_COPY, identity)


def _refuse_other_host(root: Path, config_dir: Path, identity: bytes) -> None:
    owner = identity.decode(errors="replace").splitlines()[1:2]  # none in what earlier versions wrote
    if owner and owner[0] != _host():
        raise Locked(
            f"{root} belongs to an installation on {log.printable(owner[0].rpartition(' ')[0])}",
            f"if that one is gone, or both are to use it: cp {root / ID_FILE} {config_dir / ID_COPY}",
        )


def _host() -> str:
    """The name of this machine, and what stands for its id, which nobody has to know."""
    machine = (_content(Path("/etc/machine-id")) or b"").strip()
    name = os.uname().nodename
    return f"{name} {hashlib.sha256(b'btw-backup ' + machine + os.fsencode(name)).hexdigest()[:16]}"


def has_identity(root: Path, config_dir: Path) -> bool:
    """Whether ROOT_PATH is the one of before; False if there was none before. Raises `FatalUserError` for another."""
    if not root.is_dir():
        raise FatalUserError(f"ROOT_PATH {root} is not a folder", "is its disk mounted? if it is new: mkdir it")
    copy = config_dir / ID_COPY
    known, found = _content(copy), _content(root / ID_FILE)
    if known is not None and found != known:
        raise FatalUserError(
            f"{root} is not the ROOT_PATH of this configuration" + ("" if found else f": it has no {ID_FILE}"),
            f"is its disk mounted? if you moved the backups on purpose, remove {copy}",
        )
    return known is not None


def _content(path: Path) -> bytes | None:
    try:
        return regular.read(path, links=True)
    except FileNotFoundError:
        return None
