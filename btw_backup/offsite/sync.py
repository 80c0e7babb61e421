"""Where backups go besides this machine, what is noted for it, and the sending of it.

Each target has a journal of its own: ``sync_state`` for the first, ``sync_state.NAME`` for the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from btw_backup import locks, log
from btw_backup.configuration import addresses, config
from btw_backup.configuration.addresses import FIRST, Address
from btw_backup.configuration.config import Config
from btw_backup.errors import FatalUserError, Locked, NotOffsite, ProgramFailed
from btw_backup.keepers import Owe, OweRemoval
from btw_backup.offsite import Retained

if TYPE_CHECKING:
    from btw_backup.offsite import Target
    from btw_backup.offsite.debts import Owed
    from btw_backup.offsite.objects import Objects
    from btw_backup.offsite.state import SyncState

JOURNAL = "sync_state"
LOCK_FOLDER = ".sync"
"""In the configuration directory: its lock lets one run at a time send to the first target, ``.sync.NAME`` to NAME."""

KNOWN = ".offsite"
"""In the configuration directory: what is known of each target, and of what was sent to it."""


def targets(general: Config) -> list[Address]:
    """Where backups go; nowhere if the configuration says ``OFFSITE = {}``. Raises `ImproperlyConfigured`."""
    for problem in config.shortcomings(general):
        raise problem
    return addresses.addresses(general.values)


def journal(config_dir: Path, name: str) -> "SyncState":
    """What the target `name` is still owed."""
    from btw_backup.offsite.state import SyncState  # noqa: PLC0415 - who keeps backups here only need not load it
    from btw_backup.offsite.witness import Witness  # noqa: PLC0415 - as above

    path = config_dir / (JOURNAL if name == FIRST else f"{JOURNAL}.{name}")
    return SyncState(path, witness=Witness(config_dir / KNOWN / f"{name}.journal"))


def journals(config_dir: Path) -> Iterator[tuple[str, "SyncState"]]:
    """The journals that there are, by the names of their targets, whether these are configured any more or not."""
    if (config_dir / JOURNAL).exists():
        yield FIRST, journal(config_dir, FIRST)
    for path in sorted(config_dir.glob(f"{JOURNAL}.*")):
        name = path.name.partition(".")[2]
        if name.isidentifier():
            yield name, journal(config_dir, name)


def owe_all(general: Config, config_dir: Path) -> Owe:
    """What notes a debt for every target. Raises `ImproperlyConfigured` before a backup could be made for nothing."""
    if not (wanted := targets(general)):
        return lambda op, path: None
    from btw_backup.offsite import removals  # noqa: PLC0415 - as above
    from btw_backup.offsite.state import REMOVE  # noqa: PLC0415 - as above

    noted = [(_prepared(config_dir, address), removals.journal(config_dir, address)) for address in wanted]

    def owe(op: str, path: str) -> None:
        for debts, leaving in noted:
            debts.owe(op, path)
            leaving.strike(REMOVE, path)

    return owe


def owe_removal(general: Config, config_dir: Path) -> OweRemoval:
    """What notes for the targets that allow it what is removed here for good. Raises `ImproperlyConfigured`."""
    from btw_backup.offsite import removals  # noqa: PLC0415 - as above

    return removals.owe_removal(targets(general), config_dir)


def send(general: Config, config_dir: Path, *, wait: float, verify: bool = False, remove: bool = False) -> None:
    """Send what is owed, also by other runs, to all targets at once; wait at most `wait` seconds for others that send.

    What another run is writing right now is left to that run. With `verify` each target is compared with all that there
    is when nothing is owed to it any more: what it lacks then, it has lost, which is said. With `remove` what was
    removed here is removed where that is allowed, if nothing is owed. Raises `NotOffsite` if anything remains anywhere.
    """
    jobs = [
        partial(_sent, address, general, config_dir, wait, verify=verify, remove=remove) for address in targets(general)
    ]
    if not jobs:
        return
    from btw_backup.offsite.together import together  # noqa: PLC0415 - as above

    problems = [problem for problem in together(jobs, len(jobs)) if problem]
    for problem in problems[:-1]:
        log.warn(problem.message, problem.hint)
    if problems:
        raise problems[-1]


def scrub(address: Address, general: Config, config_dir: Path, *, percent: float | None, wait: float) -> dict[str, str]:
    """Fetch what a target holds, so many percent of it, and compare: what is not what was sent, and why, is owed anew.

    Raises `Locked` if another run sends there.
    """
    from btw_backup.offsite import sampling, storekey  # noqa: PLC0415 - as above
    from btw_backup.offsite.state import PUSH  # noqa: PLC0415 - as above

    noted = _prepared(config_dir, address)
    with locks.lock(lock_folder(config_dir, address), exclusive=True, wait=wait):
        if address.layout == "mirror":
            known = storekey.private(config_dir / KNOWN)
            target = target_of(address, general, config_dir)
            target.probe()
            state = known / f"{address.name}.scrub"
            bad = sampling.of_mirror(target, general["ROOT_PATH"], known / f"{address.name}.check", state, percent)
            for path in bad:
                noted.owe(PUSH, path)
            return bad
        with _objects(address, general, config_dir, noted) as (sending, target):
            target.probe()
            return sending.scrub(percent)


def debts(config_dir: Path) -> "dict[str, Owed]":
    """What each target is still owed; those that are owed nothing are left out."""
    from btw_backup.offsite.debts import Owed  # noqa: PLC0415 - as above

    pending = {name: each.pending() for name, each in journals(config_dir)}
    return {name: Owed(debt.path for debt in found) for name, found in pending.items() if found}


def target_of(address: Address, general: Config, config_dir: Path, root: Path | None = None) -> "Target":
    """What speaks to the place of `address`, and mirrors the folder `root`, by default ROOT_PATH."""
    mirrored: Path = root or general["ROOT_PATH"]
    if address.s3cmd_config:
        from btw_backup.offsite.s3cmd import S3  # noqa: PLC0415 - as above

        address = _as_before(address, config_dir)
        target = S3(address, mirrored, general["SYNC_TIMEOUT"])
        if not address.object_lock:
            return target
        from btw_backup.offsite.object_lock import Locking  # noqa: PLC0415 - as above
        from btw_backup.offsite.signed import Signed  # noqa: PLC0415 - as above

        return Locking(target, partial(Signed, address), address)
    from btw_backup.offsite.folder import Folder  # noqa: PLC0415 - as above

    return Folder(address.place, mirrored, config_dir / KNOWN / f"{address.name}.id", address.rate)


def _as_before(address: Address, config_dir: Path) -> Address:
    """`address`, which may be spoken to over HTTP if nobody forbids it, and the old script has done it."""
    old = address.allow_http is None and journal(config_dir, address.name).has_paid()
    return replace(address, allow_http=True) if old else address


def _sent(
    address: Address, general: Config, config_dir: Path, wait: float, *, verify: bool, remove: bool
) -> FatalUserError | None:
    """Send what is owed to one target, and remove; what kept something from being sent, or from being removed."""
    try:
        _send(address, general, config_dir, wait, verify=verify)
        if remove and address.allow_removal:
            _remove(address, general, config_dir, wait)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return NotOffsite(f"not all is at {address.place} yet, because of this: {where}{error.strerror or error}")
    except FatalUserError as error:
        return error
    return None


def _send(address: Address, general: Config, config_dir: Path, wait: float, *, verify: bool) -> None:
    from btw_backup.offsite.debts import HINT, owed  # noqa: PLC0415 - as above
    from btw_backup.offsite.state import SYNC  # noqa: PLC0415 - as above

    noted = _prepared(config_dir, address)
    if not noted.pending() and not verify:
        return
    try:
        with locks.lock(lock_folder(config_dir, address), exclusive=True, wait=wait):
            _work_off(address, general, config_dir, noted)
            if verify:
                noted.owe(SYNC, "")
                _work_off(address, general, config_dir, noted, verify=True)
    except Locked as error:
        if debts := noted.pending():
            raise NotOffsite(owed(debts, address.place, error.message), HINT) from error


def _remove(address: Address, general: Config, config_dir: Path, wait: float) -> None:
    """Remove from one target. It has all that is kept here, or nothing is removed."""
    from btw_backup.offsite import removals  # noqa: PLC0415 - as above

    leaving = removals.journal(config_dir, address)
    if not leaving.pending():
        return
    try:
        with locks.lock(lock_folder(config_dir, address), exclusive=True, wait=wait):
            if journal(config_dir, address.name).pending():
                log.debug(f"nothing is removed at {address.place}, because another run sends there")
                return
            _remove_noted(address, general, config_dir, leaving)
            if not leaving.pending():
                leaving.reset()
    except Retained as error:
        log.warn(f"not removed at {address.place} yet: {error.message}", error.hint)
    except (Locked, ProgramFailed) as error:
        if left := [debt.path for debt in leaving.pending()]:
            raise removals.not_removed(left, address.place, error.message) from error


def _remove_noted(address: Address, general: Config, config_dir: Path, leaving: "SyncState") -> None:
    """Remove what is noted, as the layout wants it."""
    if address.layout == "mirror":
        from btw_backup.offsite import mirror_removal  # noqa: PLC0415 - as above

        target = target_of(address, general, config_dir)
        target.probe()
        mirror_removal.remove(target, leaving, general["ROOT_PATH"])
        return
    with _objects(address, general, config_dir, _prepared(config_dir, address)) as (sending, target):
        target.probe()
        sending.remove(target, leaving)


def lock_folder(config_dir: Path, address: Address) -> Path:
    """Whose lock lets one run at a time send to a target."""
    return config_dir / (LOCK_FOLDER if address.name == FIRST else f"{LOCK_FOLDER}.{address.name}")


def _work_off(address: Address, general: Config, config_dir: Path, noted: "SyncState", *, verify: bool = False) -> None:
    """Send what is owed, as the layout wants it."""
    if not noted.pending():
        return
    if address.layout == "mirror":
        from btw_backup.offsite import s3cfg  # noqa: PLC0415 - as above
        from btw_backup.offsite.sending import Sending  # noqa: PLC0415 - as above

        if address.allow_http is None:
            s3cfg.warn_of_http(address.s3cmd_config, address.place)
        Sending(target_of(address, general, config_dir), noted, general["ROOT_PATH"], verify=verify).work_off()
        return
    with _objects(address, general, config_dir, noted) as (sending, _):
        sending.work_off()


@contextmanager
def _objects(
    address: Address, general: Config, config_dir: Path, noted: "SyncState"
) -> Iterator[tuple["Objects", "Target"]]:
    """What sends to a target with the layout objects, and the target."""
    from btw_backup.offsite import objects, storekey  # noqa: PLC0415 - as above

    known = storekey.private(config_dir / KNOWN)
    target = target_of(address, general, config_dir, known / address.name)
    with objects.opened(address, target, noted, known, general["ROOT_PATH"]) as sending:
        yield sending, target


def _prepared(config_dir: Path, address: Address) -> "SyncState":
    """The journal of a target. One that is new, or is somewhere else or laid out otherwise than before, is owed all
    that there is; only the first, which the old script knew, needs ``sync --full`` for that."""
    noted = journal(config_dir, address.name)
    if address.name != FIRST or address.layout != "mirror":
        from btw_backup.offsite import before  # noqa: PLC0415 - as above

        before.compare(config_dir / KNOWN, address, noted)
    return noted
