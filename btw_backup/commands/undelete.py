"""Bring back backups that rm removed, as long as cleanup has not freed their room.

SPEC is as for restore, among what list --removed shows. Without @SPEC it is the newest of these. What was damaged
meanwhile comes back, too, but is marked, and named with the status 5.

example:
  btw-backup list --removed www
  btw-backup undelete www@2026-11-21T01:23:45
  btw-backup undelete www@all
"""

import argparse
from collections.abc import Mapping
from typing import Any

from btw_backup import specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.errors import NotFound
from btw_backup.inventory import listing, removable, removal
from btw_backup.offsite import sync
from btw_backup.scrub import error_of
from btw_backup.store.chunks import ChunkStore


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", metavar="DST[@SPEC]", help="what to bring back")


def run(context: Context, args: argparse.Namespace) -> None:
    """Bring back, and note that it must be off-site."""
    from btw_backup.scrub.verification import prove_brought_back  # noqa: PLC0415 - what it needs takes time to load

    ChunkStore(context.root).refuse_newer()
    dst, spec = specs.address(args.address)
    owe = sync.owe_all(context.config, context.config_dir)
    with (
        context.existing(dst) as place,
        ChunkStore(context.root).locked(exclusive=False, wait=context.lock_wait),
    ):
        removed = list(listing.removed(place))
        if not removed:
            raise NotFound(f"nothing was removed from {place.dst}", "btw-backup list --removed shows what was")
        chosen = removable.chosen_of(removed, [spec], utc_now())
        removable.check_whole(removed, chosen)
        removal.bring_back(place, chosen, owe)
        stamps = {backup.stamp for backup in chosen}
        here = [backup for backup in listing.backups(place) if backup.stamp in stamps]
        found = prove_brought_back(here, wait=context.lock_wait)
    if not context.quiet:
        context.show([{"dst": backup.dst, "stamp": backup.stamp} for backup in chosen], _line)
    if found:
        raise error_of(found)


def _line(row: Mapping[str, Any]) -> str:
    return f"brought back {row['dst']}@{row['stamp']}"


COMMAND = Command("undelete", "brings back what rm removed", arguments, run, lock=EXCLUSIVE)
