"""Bring the catalogue up to date with the files, and count what it holds.

The catalogue is an index: catalogue.sqlite in the configuration directory, or the PostgreSQL that CATALOG names. It
can be deleted at any time. Whoever needs it fills it again, from the records and from the journal of the runs;
--rebuild does so from nothing.

example:
  btw-backup catalogue
  btw-backup catalogue --rebuild
"""

import argparse

from btw_backup.commands.command import Command, Context
from btw_backup.inventory import overview


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("--rebuild", action="store_true", help="forget everything first, and read all records")


def run(context: Context, args: argparse.Namespace) -> None:
    """Update or rebuild, and count."""
    found = overview.summary(context.config, context.config_dir, rebuild=args.rebuild)
    context.show_one(found, "\n".join(f"{name:<14}  {value}" for name, value in found.items() if value != ""))


COMMAND = Command("catalogue", "brings the index over all backups and runs up to date", arguments, run)
