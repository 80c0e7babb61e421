"""Remove backups, of any type. It takes two steps: undelete brings back what rm removed, until cleanup frees its room.

SPEC must be said, and may name several: a stamp, first, A..B (see restore). A backup that is younger than PROTECT_YOUNG
and the last good one of a DST are removed with --force only. Of type rdiff, a full and its incrementals go together.
Copies that are off-site stay there; at targets with ALLOW_REMOVAL = True cleanup removes them, too.

example:
  btw-backup rm www@first
  btw-backup rm www@2026-01-01..2026-02-01 db/shop@first
  btw-backup list --removed
  btw-backup cleanup
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from btw_backup import runner
from btw_backup.clock import utc_now
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.errors import FatalUserError, UsageError
from btw_backup.inventory import listing, removable, removal
from btw_backup.records import Backup
from btw_backup.store.chunks import ChunkStore


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", nargs="+", metavar="DST@SPEC", help="what to remove")
    parser.add_argument("--force", action="store_true", help="remove also a young backup, and the last good one")


def run(context: Context, args: argparse.Namespace) -> None:
    """Remove in one dst after the other."""
    ChunkStore(context.root).refuse_newer()
    removed: list[Backup] = []
    problems: list[FatalUserError] = []
    for dst, specs in _specs_by_dst(args.address).items():
        try:
            removed.extend(_remove(context, dst, specs, force=args.force))
        except FatalUserError as error:
            problems.append(error)
    if removed and not context.quiet:
        context.show([{"dst": backup.dst, "stamp": backup.stamp} for backup in removed], _line)
        hours = timedelta(seconds=context.config["GRACE"]) / timedelta(hours=1)
        context.say(f"undelete brings back what was removed; after {hours:g} h cleanup frees its room")
    runner.end(problems)


def _remove(context: Context, dst: str, specs: Sequence[str], *, force: bool) -> list[Backup]:
    with (
        context.existing(dst) as place,
        ChunkStore(context.root).locked(exclusive=False, wait=context.lock_wait),
    ):
        backups = listing.backups(place)
        chosen = removable.chosen_of(backups, specs, utc_now())
        removable.check_whole(backups, chosen)
        if not force:
            removable.check(backups, chosen, utc_now(), timedelta(seconds=context.config["PROTECT_YOUNG"]))
        removal.remove(place, chosen)
        return chosen


def _specs_by_dst(addresses: Sequence[str]) -> Mapping[str, list[str]]:
    """The SPECs by their DST. Raises `UsageError` for an address without one."""
    found: dict[str, list[str]] = {}
    for address in addresses:
        dst, at, spec = address.rpartition("@")
        if not (dst and at and spec):
            raise UsageError(f"{address} does not say which backup", f"for example {dst or spec}@first")
        found.setdefault(dst, []).append(spec)
    return found


def _line(row: Mapping[str, Any]) -> str:
    return f"removed {row['dst']}@{row['stamp']}"


COMMAND = Command("rm", "removes backups", arguments, run, lock=EXCLUSIVE)
