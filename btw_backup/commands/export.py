"""Write backups of DST, with all that they need, into a single file: a plain tar. import takes it into another store.

SPEC may name several backups (all, A..B); without it, it is the latest. The file unpacks with tar into a folder that
can be a ROOT_PATH. FILE - is standard output.

example:
  btw-backup export hosts/etc /root/etc.tar
  btw-backup export hosts/etc@all - | ssh other btw-backup import -
"""

import argparse
import sys
from pathlib import Path

from btw_backup import files, specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.errors import Incomplete, UsageError, WouldOverwrite
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.records import Backup


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", metavar="DST[@SPEC]", help="what to export")
    parser.add_argument("file", metavar="FILE", help="where to put it; - is standard output")
    parser.add_argument("--force", action="store_true", help="replace a FILE that exists")


def run(context: Context, args: argparse.Namespace) -> None:
    """Find the backups, and write them."""
    dst, spec = specs.address(args.address)
    with context.existing(dst) as place:
        backups = specs.resolve(listing.backups(place), spec, utc_now())
        _refuse_parts(place, backups)
        _export(context, place, backups, args)


def _refuse_parts(place: Place, backups: list[Backup]) -> None:
    """A repository can only be had with all its sessions."""
    chosen = {backup.stamp for backup in backups}
    fulls = {backup.full for backup in backups if backup.path.is_dir()}
    for backup in listing.each(place):
        if backup.full in fulls and backup.stamp not in chosen:
            last = max(b.stamp for b in listing.each(place) if b.full == backup.full)
            message = f"a full and its incrementals can only be exported together, and {backup.stamp} is missing"
            raise UsageError(message, f"export {place.dst}@{backup.full}..{last}")


def _export(context: Context, place: Place, backups: list[Backup], args: argparse.Namespace) -> None:
    from btw_backup.exported import writer  # noqa: PLC0415 - tarfile takes a while to load

    if args.file == "-":
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal", "send it to a file or a program")
        writer.write(sys.stdout.buffer, context.root, place, backups)
        return
    final = Path(args.file).absolute()
    if final.exists() and not args.force:
        raise WouldOverwrite(f"{final} exists", "--force replaces it")
    shortcoming = None
    with files.published(final) as out:
        try:
            writer.write(out, context.root, place, backups)
        except Incomplete as error:  # what there is, is kept
            shortcoming = error
    if shortcoming:
        raise shortcoming


COMMAND = Command("export", "writes backups into a single file", arguments, run, lock=SHARED)
