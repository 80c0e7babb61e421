"""Renew the locks of what is kept at targets in S3, which nobody can delete or change there until they end.

extend locks all that the backups at a target need from now on for OBJECT_LOCK, whatever was left of their locks: what a
backup uses may have been sent long before it. Run it at least once in half of that time, such as weekly for 30 days. It
needs a request or two for each object, and goes on where it ended if it was interrupted. What was removed there is not
locked anew, nor what somebody wrote over what was sent: the version of before is.

Without TARGET it is done at all targets that have OBJECT_LOCK. What could not be locked, or is not there any more, is
status 6.

example:
  btw-backup lock extend
  btw-backup --json lock extend archive
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from btw_backup import places, runner
from btw_backup.clock import utc_now
from btw_backup.commands.command import Command, Context
from btw_backup.configuration.addresses import Address
from btw_backup.errors import FatalUserError, NotFound, UsageError
from btw_backup.offsite import sync

if TYPE_CHECKING:
    from btw_backup.offsite.lock_extension import Extended


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("what", choices=("extend",), help="what to do")
    parser.add_argument("target", nargs="*", metavar="TARGET", help="the name of a target; by default all with locks")


def run(context: Context, args: argparse.Namespace) -> None:
    """Renew the locks at one target after the other; one that cannot be reached does not stop the rest."""
    places.check_identity(context.root, context.config_dir)
    problems: list[FatalUserError] = []
    rows = [asdict(each) for each in _extended(context, _chosen(sync.targets(context.config), args.target), problems)]
    lines = "\n".join(f"{row['target']}: {row['objects']} objects are locked until {row['until']}" for row in rows)
    context.show_one({"targets": rows}, lines if sys.stdout.isatty() else "")
    runner.end(problems)


def _extended(context: Context, found: list[Address], problems: list[FatalUserError]) -> "Iterator[Extended]":
    from btw_backup.offsite import lock_extension  # noqa: PLC0415 - what it needs takes a while to load

    for address in found:
        try:
            yield lock_extension.extend(address, context.config, context.config_dir, utc_now(), context.lock_wait)
        except FatalUserError as error:
            problems.append(error)


def _chosen(targets: list[Address], names: list[str]) -> list[Address]:
    """Those called `names`, or all that have locks."""
    known = {address.name: address for address in targets}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no target {name}", "the targets are " + ", ".join(known))
        if not known[name].object_lock:
            raise UsageError(f"nothing is locked at the target {name}", "OBJECT_LOCK says how long; only S3 can")
    found = [known[name] for name in dict.fromkeys(names)] or [one for one in targets if one.object_lock]
    if not found:
        raise NotFound("no target has OBJECT_LOCK, so there are no locks", 'OBJECT_LOCK = "30 days", for S3')
    return found


COMMAND = Command("lock", "renews the locks of what is off-site", arguments, run)
