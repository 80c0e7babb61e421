"""Prove that what is kept is what was stored: everything, or what is in DST and below, or what SPEC names there.

Each chunk of the store is read once, however many backups share it; each manifest, archive and repository is read and
compared with its record. All is read from the disk. Backups and restores can run at the same time.

Whatever is bad is named, with the backups that need it. A bad chunk is set aside, with a report beside it; the backups
are marked, which list shows, and nothing is built on them. The next backup of the same content stores it anew; then a
scrub takes the marks away.

With -p a part is proved, and the next time the part that follows: seven times -p 15 is everything. Of the store that is
so many percent of the bytes; an archive, a manifest and a repository are each read as a whole. What comes in between is
seen in the next round. Marks are taken away by a scrub without -p.

With --source the newest backup of each tree is compared with the tree itself, and what differs is listed: rotten, with
the status 3, if size and times of the file say that nobody wrote to it; changed or gone, if somebody did, which is
no alarm; and what the disk cannot read is unreadable, with the status 3, too. With -p so many percent of the bytes are
compared, and next time what follows.

With --target what a target holds is fetched and compared with what was sent there; of encrypted targets no key is
needed for that. With -p so many percent of the bytes, and next time what follows. What is bad is named, with the
status 5, and owed anew: sync sends it.

example:
  btw-backup scrub
  btw-backup scrub -p 15
  btw-backup scrub hosts/etc@latest --json
  btw-backup scrub --source hosts/etc
  btw-backup scrub --target nas -p 5
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from btw_backup import places, runner, running, specs
from btw_backup.commands.command import Command, Context
from btw_backup.errors import Damaged, Incomplete, UsageError
from btw_backup.log import printable, warn
from btw_backup.offsite import sync
from btw_backup.scrub import SHOWN, Scope, error_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", nargs="?", metavar="DST[@SPEC]", help="what to prove; by default everything")
    parser.add_argument("-p", "--percent", type=_percent, help="prove this part of it, and next time what follows")
    parser.add_argument("--target", metavar="NAME", help="fetch and prove what is at that target")
    parser.add_argument("--source", action="store_true", help="compare the newest backup of each tree with the tree")


def run(context: Context, args: argparse.Namespace) -> None:
    """Prove, and show what is bad."""
    if args.target and (args.address or args.source):
        raise UsageError("--target goes neither with DST nor with --source")
    scope = _scope(args)
    with running.recorded(context.config_dir, "scrub", "", args.address or ""):
        _prove(context, args, scope)


def _prove(context: Context, args: argparse.Namespace, scope: Scope) -> None:
    from btw_backup.health import privacy  # noqa: PLC0415 - as below
    from btw_backup.scrub.round import scrub  # noqa: PLC0415 - what it needs takes 0.1 s to load

    places.has_identity(context.root, context.config_dir)  # an empty mount point is silent, too
    if args.target:
        _prove_target(context, args)
        return
    if args.source:
        _compare(context, scope)
        return
    why, hint = privacy.why_loose(context.root)
    if why:
        warn(why, hint)
    found = scrub(context.root, scope, wait=context.lock_wait)
    context.show([asdict(one) for one in found], _line)
    if found:
        raise error_of(found)


def _prove_target(context: Context, args: argparse.Namespace) -> None:
    found = {address.name: address for address in sync.targets(context.config)}
    if args.target not in found:
        raise UsageError(f"there is no target {args.target}", "the targets are " + ", ".join(found))
    address = found[args.target]
    bad = sync.scrub(address, context.config, context.config_dir, percent=args.percent, wait=context.lock_wait)
    rows = [{"target": args.target, "path": path, "why": why} for path, why in bad.items()]
    context.show(rows, lambda row: printable(f"{row['path']}: {row['why']}"))
    if bad:
        count = f"{len(bad)} thing{'s are' if len(bad) != 1 else ' is'}"
        raise Damaged(f"{count} not at {address.place} as sent", "btw-backup sync sends them anew")


def _compare(context: Context, scope: Scope) -> None:
    from btw_backup.scrub.source import ALARMING, compare  # noqa: PLC0415 - as above

    found, damaged, problems = compare(context.root, scope)
    context.show([asdict(one) for one in found], _difference)
    for line in damaged[:SHOWN]:
        warn(line)
    if damaged:
        problems.append(Damaged(f"{len(damaged)} parts of backups are damaged", "scrub shows which backups need them"))
    alarming = sum(one.what in ALARMING for one in found)
    if alarming:
        what = "1 file differs" if alarming == 1 else f"{alarming} files differ"
        why = f"{what} from the backup, although nobody wrote to it since"
        problems.append(Incomplete(why, "restore it; is the disk well?"))
    runner.end(problems)


def _difference(row: Mapping[str, Any]) -> str:
    where = "" if row["offset"] is None else f" from byte {row['offset']} on"
    return printable(f"{row['what']:<10} {row['address']} {row['path']}{where}")


def _scope(args: argparse.Namespace) -> Scope:
    if args.address is None:
        return Scope(percent=args.percent)
    _, at, spec = args.address.rpartition("@")
    if not at:
        return Scope(args.address.strip("/"), percent=args.percent)
    if not spec:
        raise UsageError("there is nothing behind the @", "give a SPEC, or no @")
    return Scope(specs.address(args.address)[0].strip("/"), spec, args.percent)


def _percent(text: str) -> float:
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = 0.0
    if not 0 < number <= 100:
        raise argparse.ArgumentTypeError(f"not a part in percent: {text}")
    return number


def _line(row: Mapping[str, Any]) -> str:
    needed = ", ".join(row["backups"]) or "no backup"
    whose = "" if row["thing"] in ("backup", "folder", "dst") else f"; it concerns {needed}"
    aside = f"; it was set aside: {row['evidence']}" if row["evidence"] else ""
    what = "" if row["name"] in row["why"] else f"{row['thing']} {row['name']}: "
    return printable(f"{what}{row['why']}{whose}{aside}")


COMMAND = Command("scrub", "proves that what is kept is what was stored", arguments, run)
