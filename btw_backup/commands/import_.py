"""Take the backups of an export into this store: DST is that of the export, or another.

Every byte is proved before anything gets a name. Stamps, uids, tags and what is known of the backups stay as they are.
What the store has already is not stored again. A backup that is there is passed over; another one of the same stamp is
never replaced. Nothing is sent off-site by this: sync, or the next run, does.

example:
  btw-backup import /root/etc.tar
  btw-backup import /root/etc.tar old/etc
"""

import argparse
import sys
from typing import BinaryIO

from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.offsite import sync


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("file", metavar="FILE", help="the export; - is standard input")
    parser.add_argument("dst", nargs="?", metavar="DST", help="another destination than that of the export")


def run(context: Context, args: argparse.Namespace) -> None:
    """Read the export, and take what is in it."""
    if args.file == "-":
        _import(context, args, sys.stdin.buffer)
        return
    with open(args.file, "rb", buffering=0) as stream:
        _import(context, args, stream)


def _import(context: Context, args: argparse.Namespace, stream: BinaryIO) -> None:
    from btw_backup.exported import reader  # noqa: PLC0415 - what it needs takes a while to load

    owe = sync.owe_all(context.config, context.config_dir)
    with reader.opened(stream) as incoming:
        dst = args.dst or incoming.header.dst
        with context.place(dst) as place:
            taken = reader.take(incoming, context.root, place, owe)
    known = f"; {taken.known} there already" if taken.known else ""
    context.say(f"{taken.imported} backup{'s' if taken.imported != 1 else ''} imported into {place.dst}{known}")


COMMAND = Command("import", "takes exported backups into the store", arguments, run, lock=EXCLUSIVE)
