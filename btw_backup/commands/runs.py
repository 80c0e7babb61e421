"""List the last runs of fs, db and command, oldest first: when each ended, how, and with which exit status; also those
that failed, and those that kept nothing because nothing had changed.

example:
  btw-backup runs
  btw-backup runs hosts/etc -n 5
  btw-backup runs --failed --json
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from btw_backup.commands.command import Command, Context
from btw_backup.inventory import overview
from btw_backup.log import printable

_ALL = 1_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("dst", nargs="?", help="only the runs to this destination")
    parser.add_argument("-n", "--number", type=int, default=20, metavar="N", help="how many, by default 20; 0 for all")
    parser.add_argument("--failed", action="store_true", help="only what ended with another status than 0")


def run(context: Context, args: argparse.Namespace) -> None:
    """List the last runs."""
    dst = args.dst and "/".join(part for part in args.dst.split("/") if part not in ("", "."))
    most = args.number if args.number > 0 else _ALL
    found = overview.runs(context.config, context.config_dir, dst=dst, failed=args.failed, most=most)
    context.show((asdict(one) for one in found), _line)


def _line(row: Mapping[str, Any]) -> str:
    what = f"{row['kind']:<7} {printable(row['source'])} -> {printable(row['dst'])}"
    line = f"{row['finished']}  {row['status']:>3}  {row['outcome']:<9}  {what}"
    return line + (f"\n    {printable(row['message'])}" if row["message"] else "")


COMMAND = Command("runs", "lists the last runs, and how they ended", arguments, run)
