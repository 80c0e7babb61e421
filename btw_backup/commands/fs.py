"""Back up a filesystem tree to DST, a path relative to ROOT_PATH.

fs-init must have been run for SRC. Nothing is kept if nothing has changed since the
last backup; log.txt in DST then gets a line. The exit status is 3 if something could
not be read or changed while it was, and 6 if the backup is kept here but not off-site.

example:
  btw-backup fs-init --type tar /etc etc
  btw-backup fs /etc hosts/etc
"""

import argparse

from btw_backup import running
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.commands.owner import add_owner, owner_of
from btw_backup.configuration import jobs
from btw_backup.sources.ahead import LookAhead
from btw_backup.sources.rules import tree_rules


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    add_owner(parser)
    parser.add_argument("src", help="the source to backup")
    parser.add_argument("dst", help="the final destination directory where to put the backup")
    parser.add_argument("--reread", action="store_true", help="read everything, even if it looks unchanged")
    parser.add_argument("--verify", action="store_true", help="read back what was written, and compare it")
    parser.add_argument("--allow-empty", action="store_true", help="an empty source is no error")


def run(context: Context, args: argparse.Namespace) -> None:
    """Back up one tree."""
    with running.recorded(context.config_dir, "fs", args.src, args.dst) as noted:
        job = jobs.tree_job(context.config, context.config_dir, args.src)
        rules = tree_rules(args.src, job.settings)
        remembers = job.keeper == "chunks"
        ahead = LookAhead(args.src, rules, job.stage if remembers else None)
        from btw_backup import runner  # noqa: PLC0415 - it loads while the child looks
        from btw_backup.sources.tree import Tree  # noqa: PLC0415 - as above

        allow_empty = args.allow_empty or job.settings["ALLOW_EMPTY"]
        tree = Tree(args.src, rules, job.stage, allow_empty=allow_empty, remembers=remembers, ahead=ahead)
        with context.place(args.dst, owner_of(args)) as place:
            options = {"reread": args.reread, "verify": args.verify, "run": noted}
            runner.back_up(context.config, context.config_dir, job, tree, place, wait=context.lock_wait, **options)


COMMAND = Command(
    "fs", "backs up a filesystem hierarchy", arguments, run, lock=EXCLUSIVE, usage="[-h] [-u UID[:GID]] src dst"
)
