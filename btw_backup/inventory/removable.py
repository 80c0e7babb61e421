"""Which backups a command means to remove or to bring back, and which of them should not be removed unasked."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from btw_backup import specs
from btw_backup.clock import STAMP, moment_of
from btw_backup.errors import FatalUserError, NotFound
from btw_backup.records import Backup


def check(backups: Sequence[Backup], chosen: Sequence[Backup], now: datetime, young: timedelta) -> None:
    """Raise `FatalUserError` if `chosen`, of all `backups` of a dst, should not be removed unasked.

    That are those younger than `young`, and the last that is good: whole, or if none is, at least not damaged.
    """
    for backup in chosen:
        if now - moment_of(backup.stamp) < young:
            hours = f"{young / timedelta(hours=1):g} h"
            raise FatalUserError(f"{backup.address} is younger than {hours}", "--force removes it all the same")
    going = {backup.stamp for backup in chosen}
    for is_good in (_is_whole, _is_valid):
        good = [backup.stamp for backup in backups if is_good(backup)]
        if good and going.issuperset(good):
            raise FatalUserError(
                f"{chosen[0].dst}@{good[-1]} is the last good backup there", "--force removes it all the same"
            )


def _is_valid(backup: Backup) -> bool:
    return backup.valid


def _is_whole(backup: Backup) -> bool:
    return backup.valid and not (backup.record and backup.record.status)


def chosen_of(backups: Sequence[Backup], wanted: Iterable[str], now: datetime) -> list[Backup]:
    """The backups that any of `wanted` names, oldest first. A stamp means just that one: to take it for a time, and so
    for the backup before it, would remove twice what was asked to go once. Raises `NotFound`."""
    stamps = {backup.stamp for backup in backups}
    named: set[int] = set()
    for spec in wanted:
        if STAMP.fullmatch(spec) and spec not in stamps:
            raise NotFound(f"there is no backup {spec}")
        named.update(id(backup) for backup in specs.resolve(backups, spec, now))
    return [backup for backup in backups if id(backup) in named]


def check_whole(backups: Sequence[Backup], chosen: Sequence[Backup]) -> None:
    """Raise `FatalUserError` if `chosen` has some of several backups that can be removed together only."""
    together: dict[Path, list[str]] = {}
    for backup in backups:
        together.setdefault(backup.path, []).append(backup.stamp)
    going = {backup.stamp for backup in chosen}
    for backup in chosen:
        needed = together[backup.path]
        if not going.issuperset(needed):
            raise FatalUserError(
                f"{backup.address} cannot be removed alone: rdiff-backup keeps {len(needed)} backups in one",
                f"{backup.dst}@{needed[0]}..{needed[-1]} are these",
            )
