"""Say whether PATH would be in the next backup of its tree, and which rule says so.

example:
  btw-backup explain /srv/www/cache/page.html
"""

import argparse
import os

from btw_backup import explain
from btw_backup.commands.command import Command, Context
from btw_backup.configuration import jobs
from btw_backup.errors import NotFound


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("path", help="a path in a tree that fs-init was run for")


def run(context: Context, args: argparse.Namespace) -> None:
    """Explain one path for every tree that holds it."""
    path = os.path.abspath(args.path)
    verdicts = explain.explain(jobs.all_tree_jobs(context.config, context.config_dir), path)
    if not verdicts:
        raise NotFound(f"no job backs up a tree that holds {path}", "btw-backup fs-init makes one")
    context.show([verdict.row() for verdict in verdicts], lambda row: str(row["text"]))


COMMAND = Command("explain", "tells whether a path is backed up, and why", arguments, run)
