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

With --from the backup is taken from a target, and neither ROOT_PATH nor a configuration is needed: a target of this
configuration by its name, the path of a folder, or s3://BUCKET/PATH with --s3cmd-config. --identity is the file with
the secret key, if what was sent is encrypted. --from TARGET --list shows what is there. Beside TARGET there must be
room for the compressed backup, too.

With --as-of TIME a bucket that keeps versions is read as it was then, by the clock of its server: what was overwritten
or deleted since is there again. TIME is as in SPEC, in UTC.

example:
  btw-backup restore www /tmp/www
  btw-backup restore www@yesterday /tmp/www --path etc/hosts --path home/joe
  btw-backup restore www - | tar -tv
  btw-backup restore db/shop --database shop2
  btw-backup restore --from s3://bucket/backups --s3cmd-config s3cfg --identity backup.key www /tmp/www
  btw-backup restore --from s3://bucket/backups --s3cmd-config s3cfg --as-of "2026-11-20 13:00" www /tmp/www
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from btw_backup import specs
from btw_backup.clock import STAMP, utc_now
from btw_backup.commands import origin
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.configuration import jobs
from btw_backup.errors import Damaged, FatalUserError, NotFound, UsageError
from btw_backup.inventory import listing, overview
from btw_backup.keepers import Keeper, Place
from btw_backup.log import warn
from btw_backup.records import FOLDER, Backup
from btw_backup.restoring import dumps, restore

if TYPE_CHECKING:
    from btw_backup.recovering.recall import Recalled


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", nargs="?", metavar="DST[@SPEC]", help="what to restore")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="where to put it; - is standard output")
    parser.add_argument("--path", action="append", default=[], help="restore this path of the tree; can be repeated")
    parser.add_argument("--into", action="store_true", help="restore into a folder that exists")
    parser.add_argument("--force", action="store_true", help="replace files, or the database, that exist")
    origin.arguments(parser)
    parser.add_argument("--list", action="store_true", help="with --from: list what is there")
    parser.add_argument("--database", metavar="NAME", help="restore a dump into the new database NAME")


def run(context: Context, args: argparse.Namespace) -> None:
    """Find the backup, and restore it."""
    if args.list or args.origin or args.as_of:
        _from_elsewhere(context, args)
        return
    if args.address is None:
        raise UsageError("what is to be restored? DST[@SPEC] is missing", "btw-backup list shows what there is")
    if (args.target is None) == (args.database is None):
        raise UsageError("give either a TARGET or --database NAME")
    dst, spec = specs.address(args.address)
    dst = dst or overview.dst_of(context.config, context.config_dir, spec)
    with context.existing(dst) as place:
        backup = _found(place, spec)
        _restore(context, args, backup, listing.keeper_of(backup))


def _from_elsewhere(context: Context, args: argparse.Namespace) -> None:
    """Restore from a target, without anything that is here."""
    if args.as_of and not args.origin:
        raise UsageError("--as-of goes with --from")
    if not args.origin or (args.list and (args.address or args.target or args.database)):
        raise UsageError("--list goes with --from, and alone")
    if not args.list and (args.address is None or (args.target is None) == (args.database is None)):
        raise UsageError("give DST[@SPEC], and either a TARGET or --database NAME")
    from btw_backup.recovering import recall  # noqa: PLC0415 - what it needs takes a while to load

    in_folder = args.target not in (None, "-")
    beside = Path(os.path.abspath(args.target)).parent if in_folder else Path(tempfile.gettempdir())
    if not beside.is_dir():
        raise NotFound(f"there is no folder {beside}", f"mkdir -p {beside}")
    for one, is_last in recall.each(origin.origin_of(context, args)):
        ready = False
        try:
            with recall.opened(one, beside) as recalled:
                backup = None if args.list else _fetched(recalled, args, whole=not is_last)
                ready = True
                _give_back(context, args, recalled, backup)
            return
        except FatalUserError as error:
            if ready or is_last:
                raise
            warn(f"{one.addresses[0].place} cannot be used: {error.message}", "the next target is asked")


def _fetched(recalled: "Recalled", args: argparse.Namespace, *, whole: bool) -> Backup:
    """The backup that is wanted, fetched; if it must be `whole`, nothing of it may be lacking."""
    dst, spec = specs.address(args.address)
    if not dst:
        raise UsageError("a uid is not enough here", "give DST[@SPEC]")
    recalled.show(recalled.place(dst).dst)
    backup = _found(recalled.place(dst), spec)
    if whole:
        recalled.check()
    recalled.fetch(backup, args.path, whole=whole)
    return backup


def _give_back(context: Context, args: argparse.Namespace, recalled: "Recalled", backup: Backup | None) -> None:
    if backup:
        _restore(context, args, backup, listing.keeper_of(backup))
    else:
        recalled.show()
        rows = map(_row, recalled.backups())
        context.show(rows, lambda row: f"{row['dst']}@{row['stamp']}  {row['keeper']}")
    recalled.check()


def _row(backup: Backup) -> dict[str, object]:
    record = backup.record
    known = {name: record and getattr(record, name) for name in ("source", "uid", "length", "sha256")}
    return {"dst": backup.dst, "stamp": backup.stamp, "keeper": backup.keeper, "kind": backup.kind, **known}


def _found(place: Place, spec: str) -> Backup:
    """The backup that `spec` names, with a word about it if it is doubtful."""
    backup = specs.one(listing.backups(place), spec, utc_now())
    if backup.stamp != spec and STAMP.fullmatch(spec) and (place.folder / FOLDER / f"{spec}.json").exists():
        hint = "the one before it is " + backup.address
        raise Damaged(f"{place.dst}@{spec} is gone: there is nothing but its record", hint)
    if not (backup.valid or backup.doubt):
        warn(f"{backup.address} is marked as damaged", "list shows the others")
    return backup


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
    usage="[-h] [--path PATH] [--into] [--force] [--from TARGET [--s3cmd-config FILE] [--identity KEY] [--as-of TIME]]"
    " DST[@SPEC] (TARGET | - | --database NAME) | --from TARGET --list",
)
