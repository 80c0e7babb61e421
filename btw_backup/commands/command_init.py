"""Make the file of a command, command/NAME.py in the configuration directory. After this, command can keep its output.

The program is started without a shell, with these arguments; a pipeline goes into a small script that begins with
"set -o pipefail". With --url it is what a server answers; the bearer token is in a file that nobody else may read.

chunks keeps each piece of content once; file keeps each backup as one compressed file, which "zstd -d" restores.

example:
  btw-backup command-init packages -- dpkg --get-selections
  btw-backup command-init --type file --url https://wiki.example.org/export --token-file /root/wiki-token wiki
"""

import argparse
import os
from pathlib import Path

from btw_backup import log
from btw_backup.commands.command import Command, Context
from btw_backup.configuration import config, example, jobs
from btw_backup.errors import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    types = config.TYPES[config.COMMAND]
    parser.add_argument(
        "--type", choices=types, default=types[0], help=f"how the backups are kept; {types[0]} if unsaid"
    )
    parser.add_argument("--url", help="what to fetch, in place of a program")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the file with the bearer token for --url")
    parser.add_argument("name", help="the name of this command")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGS…", help="what to run")


def run(context: Context, args: argparse.Namespace) -> None:
    """Make one file, if it makes sense."""
    context.config.required("ROOT_PATH")
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if words and words == args.words and words[0].startswith("-"):
        raise UsageError(
            f"{words[0]} stands behind the name", "options come before the name, and -- before the program"
        )
    if bool(words) == bool(args.url):
        raise UsageError("give either -- PROGRAM ARGS…, or --url URL before the name")
    if args.token_file and not args.url:
        raise UsageError("--token-file belongs to --url")
    if words and "/" in words[0]:
        words = [os.path.abspath(words[0]), *words[1:]]
    token_file = args.token_file and args.token_file.expanduser().absolute()
    content = example.command(args.type, words, args.url or "", token_file)
    made = jobs.make_command(context.config_dir, args.name, content)
    context.show_one({"created": str(made)}, f"{log.PROG}: created {log.printable(str(made))}")


COMMAND = Command(
    "command-init",
    "makes the file of a command",
    arguments,
    run,
    usage="[-h] [--type {chunks,file}] [--url URL [--token-file FILE]] NAME [-- PROGRAM ARGS…]",
)
