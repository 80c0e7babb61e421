"""Where backups go besides this machine, what is noted for it, and the sending of it."""

from pathlib import Path

from btw_backup import config, locks
from btw_backup.config import Config
from btw_backup.errors import ImproperlyConfigured, Locked, NotOffsite
from btw_backup.keepers import Owe
from btw_backup.offsite import Target

JOURNAL = "sync_state"
LOCK_FOLDER = ".sync"
"""In the configuration directory: its lock lets one run send at a time."""


def targets(general: Config) -> list[Target]:
    """Where backups go; nowhere if the configuration says ``OFFSITE = {}``. Raises `ImproperlyConfigured`."""
    for problem in config.shortcomings(general):
        raise problem
    if general["OFFSITE"]:
        raise ImproperlyConfigured(
            "OFFSITE cannot name targets yet: there can be one, of S3_URI_PREFIX and S3CMD_CONFIG", "say OFFSITE = {}"
        )
    if "S3_URI_PREFIX" not in general:
        return []
    from btw_backup.offsite.s3cmd import S3  # noqa: PLC0415 - who keeps backups here only need not load it

    prefix, s3cmd_config = general["S3_URI_PREFIX"], general["S3CMD_CONFIG"]
    return [S3(prefix, s3cmd_config, general["ROOT_PATH"], general["SYNC_TIMEOUT"])]


def owe_all(general: Config, config_dir: Path) -> Owe:
    """What notes a debt for every target. Raises `ImproperlyConfigured` before a backup could be made for nothing."""
    if not (wanted := targets(general)):
        return lambda op, path: None
    from btw_backup.offsite.state import SyncState  # noqa: PLC0415 - as above

    journals = [SyncState(config_dir / JOURNAL) for _ in wanted]

    def owe(op: str, path: str) -> None:
        for journal in journals:
            journal.owe(op, path)

    return owe


def send(general: Config, config_dir: Path, *, wait: float) -> None:
    """Send what is owed, also by other runs; wait at most `wait` seconds for another that sends.

    What another run is writing right now is left to that run. Raises `NotOffsite` if anything else remains.
    """
    for target in targets(general):
        _send(target, general["ROOT_PATH"], config_dir, wait)


def _send(target: Target, root: Path, config_dir: Path, wait: float) -> None:
    from btw_backup.offsite.sending import HINT, Sending, owed  # noqa: PLC0415 - as above
    from btw_backup.offsite.state import SyncState  # noqa: PLC0415 - as above

    journal = SyncState(config_dir / JOURNAL)
    if not journal.pending():
        return
    try:
        with locks.lock(config_dir / LOCK_FOLDER, exclusive=True, wait=wait):
            Sending(target, journal, root).work_off()
    except Locked as error:
        if debts := journal.pending():
            raise NotOffsite(owed(debts, target, error.message), HINT) from error
