"""Find in which backups a path is: of each content the first backup that has it; with --all, every backup.

PATTERN is as in EXCLUDE. Without a slash it is compared with names, at any depth; with one, with the whole path below
the source. * and ? match all but a slash, ** also that, [a-z] a character; a slash at the end means folders.
Upper and lower case differ, unless -i is given. An absolute path inside the source is understood.

Without DST all destinations are searched; without @SPEC all backups. Those of type chunks take less than a second
each; of the others the archive is read to its end. What is in a dump is not looked at.

example:
  btw-backup find hosts
  btw-backup find 'etc/**/*.conf' hosts/etc
  btw-backup find -i '*.JPG' www@2026-11-01..2026-11-21 --json
"""

import argparse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from btw_backup import log, specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.errors import Damaged, NotFound
from btw_backup.inventory import listing, occurrences
from btw_backup.inventory.occurrences import Occurrence
from btw_backup.log import printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("pattern", metavar="PATTERN", help="a name, a path, or a pattern of either")
    parser.add_argument("address", nargs="?", metavar="DST[@SPEC]", help="where to look")
    parser.add_argument("--all", action="store_true", help="show every backup that has it")
    parser.add_argument("-i", "--ignore-case", action="store_true", help="upper and lower case are the same")


def run(context: Context, args: argparse.Namespace) -> None:
    """Search, and show what was found."""
    damaged: list[str] = []
    found = _found(context, args, damaged)
    numbers = count()
    wanted = found if args.all else occurrences.distinct(found)
    context.show((_row(one) for one, _ in zip(wanted, numbers, strict=False)), _line)
    if damaged:
        raise Damaged(f"{len(damaged)} backups could not be searched to their end: {', '.join(damaged[:3])}")
    if next(numbers) == 0:
        raise NotFound(f"nothing is called {args.pattern} there")


def _found(context: Context, args: argparse.Namespace, damaged: list[str]) -> Iterator[Occurrence]:
    dst, at, spec = (args.address or "").rpartition("@")
    dsts = [dst if at else args.address] if args.address else [place.dst for place in listing.places(context.root)]
    for one in dsts:
        with context.existing(one) as place:
            backups = listing.backups(place)
            for backup in specs.resolve(backups, spec, utc_now()) if at else backups:
                try:
                    yield from occurrences.occurrences(backup, args.pattern, ignore_case=args.ignore_case)
                except Damaged as error:
                    log.warn(error.message)
                    damaged.append(backup.address)


def _row(one: Occurrence) -> dict[str, Any]:
    return {
        "dst": one.backup.dst,
        "stamp": one.backup.stamp,
        "path": one.path,
        "kind": one.kind,
        "size": one.size,
        "mtime": _moment(one.mtime),
    }


def _moment(nanoseconds: int) -> str:
    """A time as text; "" for one that no calendar has."""
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""


def _line(row: Mapping[str, Any]) -> str:
    size = row["size"] if row["kind"] == "file" else row["kind"]
    return f"{row['dst']}@{row['stamp']}  {size:>12}  {row['mtime']:19}  {printable(row['path'])}"


COMMAND = Command("find", "finds in which backups a path is", arguments, run, lock=SHARED)
