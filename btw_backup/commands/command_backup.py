"""Keep what a program prints, what a server answers, or what comes on standard input, in DST, a path below ROOT_PATH.

command-init must have been run for NAME; with --stdin that is not needed, and the type is then chunks. A program that
does not end with 0, an answer that is cut, and empty output are errors, and nothing is kept. Nothing is kept either if
it is the same as in the last backup; log.txt in DST then gets a line.

With --stdin nobody can see whether the program before the pipe failed: half of its output is then a backup like any
other. Say "set -o pipefail" to be told, or better, let command start the program itself.

example:
  btw-backup command-init packages -- dpkg --get-selections
  btw-backup command packages hosts/packages
  dpkg --get-selections | btw-backup command packages hosts/packages --stdin
  btw-backup restore hosts/packages -
"""

import argparse

from btw_backup import runner, running
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.commands.owner import add_owner, owner_of
from btw_backup.configuration import jobs
from btw_backup.sources.command import source_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    add_owner(parser)
    parser.add_argument("--stdin", action="store_true", help="keep standard input")
    parser.add_argument("--allow-empty", action="store_true", help="nothing at all is no error")
    parser.add_argument("name", help="the name that was given to command-init")
    parser.add_argument("dst", help="the final destination directory where to put the backup")


def run(context: Context, args: argparse.Namespace) -> None:
    """Back up one command."""
    with running.recorded(context.config_dir, "command", args.name, args.dst) as noted:
        job = jobs.command_job(context.config_dir, args.name, from_stdin=args.stdin)
        source = source_of(job, from_stdin=args.stdin, allow_empty=args.allow_empty)
        source.fingerprint()
        with context.place(args.dst, owner_of(args)) as place:
            runner.back_up(context.config, context.config_dir, job, source, place, wait=context.lock_wait, run=noted)


COMMAND = Command(
    "command",
    "backs up the output of a program, an export over HTTP, or standard input",
    arguments,
    run,
    lock=EXCLUSIVE,
    usage="[-h] [-u UID[:GID]] [--stdin] [--allow-empty] NAME DST",
)
