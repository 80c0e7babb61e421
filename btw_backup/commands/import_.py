"""Take the backups of an export into this store: DST is that of the export, or another.

Every byte is proved before anything gets a name. Stamps, uids, tags and what is known of the backups stay as they are.
What the store has already is not stored again. A backup that is there is passed over; another one of the same stamp is
never replaced. Nothing is sent off-site by this: sync, or the next run, does.

With --from it rebuilds ROOT_PATH from a target instead: all that was sent there, or what is in DST and below. What is
here already stays; so chunks that scrub set aside, and files that were deleted here, are healed by it, too. What scrub
has marked as damaged here is replaced, once what is there is proved. If it was interrupted, give the same command
again. With --take-over this machine goes on at the target, which is one of its configuration, in the place of the one
that sent all that, which is gone for good: what is there is as if it had sent it itself, and what rm and cleanup remove
here can be removed there, too, if ALLOW_REMOVAL says so. With --from and --as-of TIME it is what a bucket that keeps
versions held then.

example:
  btw-backup import /root/etc.tar
  btw-backup import --from s3://bucket/backups --s3cmd-config /root/.s3cfg --identity /mnt/stick/backup.key
  btw-backup import /root/etc.tar old/etc
"""

import argparse
import sys
from typing import BinaryIO

from btw_backup import places
from btw_backup.commands import origin
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.errors import Damaged, FatalUserError, UsageError, WouldOverwrite
from btw_backup.offsite import sync


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="the export; - is standard input")
    parser.add_argument("dst", nargs="?", metavar="DST", help="another destination than that of the export")
    origin.arguments(parser)
    parser.add_argument("--take-over", action="store_true", help="go on there in the place of a machine that is gone")


def run(context: Context, args: argparse.Namespace) -> None:
    """Read the export, and take what is in it; or rebuild ROOT_PATH from a target."""
    if args.origin:
        _rebuild(context, args)
        return
    if args.take_over:
        raise UsageError("--take-over goes with --from")
    if args.as_of:
        raise UsageError("--as-of goes with --from")
    if args.file is None:
        raise UsageError("what is to be imported? give a FILE, or --from TARGET")
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


def _rebuild(context: Context, args: argparse.Namespace) -> None:
    from btw_backup.recovering import healing, recall, recovery  # noqa: PLC0415 - as above

    if args.dst is not None:
        raise UsageError("--from takes one DST at most, and keeps its name")
    if args.take_over and (args.file or len(args.origin) > 1):
        raise UsageError("--take-over goes with one --from, and without DST: all of it is needed")
    if args.take_over and args.as_of:
        raise UsageError("--take-over goes without --as-of: what is there now is gone on with")
    places.check_identity(context.root, context.config_dir)
    below = places.place(context.root, args.file).dst if args.file else ""
    with recall.opened(origin.origin_of(context, args), context.root) as recalled:
        known, place = context.config_dir / sync.KNOWN, recalled.vault.name.rstrip("/")
        found = [address for address in origin.configured(context) if address.place.rstrip("/") == place]
        if args.take_over and not found:
            raise FatalUserError(f"{place} is no target of this configuration: nothing is sent there")
        healed = healing.heal(recalled.vault, context.root, recalled.root, below, context.lock_wait)
        rebuilt = recovery.rebuild(recalled.vault, context.root, below)
        for address in () if args.take_over or args.as_of else found:
            recovery.adopt(recalled.vault, known, address)
        were = "was" if healed.replaced == 1 else "were"
        replaced = f"; {healed.replaced} {were} damaged, and {were} replaced" if healed.replaced else ""
        context.say(
            f"{rebuilt.fetched} files fetched from {recalled.vault.name}; {rebuilt.known} there already{replaced}"
        )
        recalled.vault.problems += [f"{path}: {why}" for path, why in rebuilt.lost.items()]
        recalled.check()
        if healed.damaged:
            count = f"{len(healed.damaged)} thing{'s stay' if len(healed.damaged) != 1 else ' stays'}"
            raise Damaged(f"{count} damaged here: {place} has nothing better", "another target may have it as it was")
        if rebuilt.others:
            number = f"{rebuilt.others} file{'s' if rebuilt.others != 1 else ''}"
            hint = "scrub marks what is damaged here; then it is replaced"
            raise WouldOverwrite(f"not overwritten: {number} in {context.root}, other than what is there", hint)
        if args.take_over:
            recovery.succeed(recalled.vault, known, found[0], context.root)
            context.say(f"{place} is taken over: the machine that sent it must not send there any more")


COMMAND = Command("import", "takes exported backups into the store", arguments, run, lock=EXCLUSIVE)
