"""Mark a backup as not to be trusted: because its disk had a fault, or because of what you know and we do not.

Nothing is built on it from then on: the next run reads everything and makes a new backup, whether or not anything has
changed. list shows the mark; a scrub that proves all of the backup takes it away.

example:
  btw-backup distrust hosts/etc
  btw-backup distrust hosts/etc@2026-11-21..2026-11-23 --reason "the disk had errors"
"""

import argparse

from btw_backup import specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import Command, Context
from btw_backup.inventory import listing


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", metavar="DST[@SPEC]", help="the backups; by default the newest")
    parser.add_argument("--reason", default="somebody said so", help="why; it stands in the mark")


def run(context: Context, args: argparse.Namespace) -> None:
    """Mark what SPEC names."""
    from btw_backup.scrub.judgement import mark  # noqa: PLC0415 - what it needs takes a while to load
    from btw_backup.store.chunks import ChunkStore  # noqa: PLC0415 - as above

    ChunkStore(context.root).refuse_newer()
    dst, spec = specs.address(args.address)
    with context.existing(dst) as place:
        for backup in specs.resolve(listing.backups(place), spec, utc_now()):
            mark(backup, "distrust", [args.reason])
            context.say(f"{backup.address} is not trusted any more")


COMMAND = Command("distrust", "marks a backup as not to be trusted", arguments, run)
