"""Make the working directory of a filesystem backup, <name>.<hash> in the configuration directory.

It holds config.py with the settings of this backup, and src, a link to the source. NAME is a
mnemonic of yours; the hash is that of the source's path. After this, fs can back SRC up.

tar keeps each backup as a compressed archive of its own; rdiff keeps a full and then what changes; chunks keeps each
piece of content once, for all trees together, and every backup is complete.

example:
  btw-backup fs-init --type tar /etc etc
"""

import argparse

from btw_backup import log
from btw_backup.commands.command import Command, Context
from btw_backup.configuration import example, jobs


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument(
        "--type", required=True, choices=("rdiff", "tar", "chunks"), help="how the backups are to be kept"
    )
    parser.add_argument("src", help="the source of the backups, an absolute path")
    parser.add_argument("name", help="the mnemonic name of this backup")


def run(context: Context, args: argparse.Namespace) -> None:
    """Make one working directory."""
    context.config.required("ROOT_PATH")
    made = jobs.make_working_directory(context.config_dir, args.src, args.name, example.tree(args.type))
    context.show_one({"created": str(made)}, f"{log.PROG}: created {log.printable(str(made))}")


COMMAND = Command(
    "fs-init",
    "initializes the working directory for backups",
    arguments,
    run,
    usage="[-h] --type {rdiff,tar,chunks} src name",
)
