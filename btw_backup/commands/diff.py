"""Tell what differs between two backups of a tree: what was added (+), removed (-), or changed since the first.

M is a change of content, m one of the owner, mode, times or attributes alone. Two backups of type chunks are compared
by their manifests, at once; any others are read whole.

example:
  btw-backup diff www@1 www@0
  btw-backup diff www@yesterday www@latest
"""

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from btw_backup import specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.inventory import difference, listing
from btw_backup.log import printable
from btw_backup.records import Backup


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("one", metavar="DST@A", help="the backup to compare with")
    parser.add_argument("other", metavar="DST@B", help="the backup that is compared")


def run(context: Context, args: argparse.Namespace) -> None:
    """Compare, and tell each difference as it is found."""
    with ExitStack() as stack:
        one, other = (_found(context, address, stack) for address in (args.one, args.other))
        rows = ({"change": change, "path": path} for change, path in difference.differences(one, other))
        context.show(rows, _line)


def _found(context: Context, address: str, stack: ExitStack) -> Backup:
    dst, spec = specs.address(address)
    place = stack.enter_context(context.existing(dst))
    return specs.one(listing.backups(place), spec, utc_now())


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['change']} {printable(row['path'] or '.')}"


COMMAND = Command("diff", "tells what differs between two backups of a tree", arguments, run, lock=SHARED)
