"""Restore a backup: a tree into a new folder, a dump into a new file or database.

DST is as list shows it. SPEC says which backup: a stamp or its beginning, N (0 is the newest), latest, first, or a
time, which means the newest backup not younger: "yesterday", "2h ago", "2026-11-21 13:00". Without @SPEC it is latest.
@UID names a backup in whatever destination.

A tree appears at TARGET when all of it is there and proved. TARGET must not exist, or be an empty folder; --into
restores into a folder with something in it, where nothing is overwritten without --force. With --path only that path
of the tree is restored, to the same path below TARGET. TARGET - writes the plain stream to standard output: the tar
archive of a tree, or the dump.

What is not what was stored is never called TARGET: it goes to TARGET.damaged, with status 5. If the restore of a tree
of type chunks was killed or interrupted, the same command goes on with what it left.

example:
  btw-backup restore www /tmp/www
  btw-backup restore www@yesterday /tmp/www --path etc/hosts --path home/joe
  btw-backup restore www - | tar -tv
  btw-backup restore db/shop --database shop2
"""

import argparse
import os
import sys
from pathlib import Path

from btw_backup import dumps, jobs, listing, overview, restore, specs
from btw_backup.clock import STAMP, utc_now
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.errors import Damaged, UsageError
from btw_backup.keepers import Keeper
from btw_backup.log import warn
from btw_backup.records import FOLDER, Backup


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", metavar="DST[@SPEC]", help="what to restore")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="where to put it; - is standard output")
    parser.add_argument("--path", action="append", default=[], help="restore this path of the tree; can be repeated")
    parser.add_argument("--into", action="store_true", help="restore into a folder that exists")
    parser.add_argument("--force", action="store_true", help="replace files, or the database, that exist")
    parser.add_argument("--database", metavar="NAME", help="restore a dump into the new database NAME")


def run(context: Context, args: argparse.Namespace) -> None:
    """Find the backup, and restore it."""
    if (args.target is None) == (args.database is None):
        raise UsageError("give either a TARGET or --database NAME")
    dst, spec = specs.address(args.address)
    dst = dst or overview.dst_of(context.config, context.config_dir, spec)
    with context.existing(dst) as place:
        backup = specs.one(listing.backups(place), spec, utc_now())
        if backup.stamp != spec and STAMP.fullmatch(spec) and (place.folder / FOLDER / f"{spec}.json").exists():
            hint = "the one before it is " + backup.address
            raise Damaged(f"{place.dst}@{spec} is gone: there is nothing but its record", hint)
        if not backup.valid:
            warn(f"{backup.address} is marked as damaged", "list shows the others")
        _restore(context, args, backup, listing.keeper_of(backup))


def _restore(context: Context, args: argparse.Namespace, backup: Backup, keeper: Keeper) -> None:
    is_tree = backup.kind == "fs"
    if (args.path or args.into) and not (is_tree and args.target not in (None, "-")):
        raise UsageError("--path and --into are for restoring a tree into a folder")
    if args.database is not None:
        source = backup.record.source if backup.record else args.database
        connection = jobs.database_job(context.config_dir, source).settings["CONNECTION"]
        dumps.to_database(keeper, backup, args.database, connection=connection, force=args.force)
    elif args.target == "-":
        _to_standard_output(keeper, backup)
    elif is_tree:
        target = Path(os.path.abspath(args.target))
        restore.tree(keeper, backup, restore.Wish(target, tuple(args.path), args.into, args.force))
    else:
        dumps.to_file(keeper, backup, Path(os.path.abspath(args.target)), force=args.force)


def _to_standard_output(keeper: Keeper, backup: Backup) -> None:
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal", "send it to a file or a program: … - | tar -tv")
    dumps.to_stream(keeper, backup, sys.stdout.buffer)


COMMAND = Command(
    "restore",
    "restores a backup",
    arguments,
    run,
    lock=SHARED,
    usage="[-h] [--path PATH] [--into] [--force] DST[@SPEC] (TARGET | - | --database NAME)",
)
