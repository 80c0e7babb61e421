"""Write a first configuration, and make the folder that is to hold the backups.

It works as it stands: backups are kept on this machine only, until config.py says where else.
What is to be done next is printed, as commands to copy. Nothing is overwritten.

example:
  btw-backup init
  btw-backup init --root /mnt/backups
"""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from btw_backup import files, log, places
from btw_backup.commands.command import Command, Context
from btw_backup.configuration import config, example
from btw_backup.errors import WouldOverwrite

NEXT = """
A first backup, from nothing to a restored tree:

  {command} fs-init --type tar {source} {name}
  {command} fs {source} {name}
  {command} list {name}
  {command} restore {name} {target}

A PostgreSQL database needs no fs-init: "{command} db NAME postgresql/NAME".
Then let cron do it every night; "crontab -e" takes a line such as:

  30 1 * * * {absolute} -q fs {source} {name}

The settings are in {config}; "{command} config example --all" shows every one.
Backups stay on this machine only until that file names a place elsewhere.
"{command} doctor" tells what is missing."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    where = "/var/backups/btw-backup for root, ~/btw-backups for others"
    parser.add_argument(
        "--root", type=_absolute, metavar="PATH", help=f"the folder for the backups; by default {where}"
    )


def run(context: Context, args: argparse.Namespace) -> None:
    """Write the configuration, make both folders, and say what to do next."""
    path = context.config_dir / "config.py"
    root = args.root or default_root()
    if path.exists() or path.is_symlink():
        raise WouldOverwrite(f"there is already a configuration: {path}", "btw-backup config show shows what it says")
    files.make_folder(context.config_dir)
    config.refuse_changeable(context.config_dir)
    files.make_folder(root)
    places.check_identity(root, context.config_dir)
    files.write_whole(path, example.general(root).encode())
    steps = NEXT.format(**_words(context, path))
    context.show_one({"config": str(path), "root": str(root)}, f"{_made(path)}\n{_made(root)}\n{steps}")


def default_root() -> Path:
    """Where backups go if nobody says: with the system's for root, in the home directory for others."""
    return Path("/var/backups/btw-backup") if os.geteuid() == 0 else Path.home() / "btw-backups"


def _made(path: Path) -> str:
    return f"{log.PROG}: created {log.printable(str(path))}"


def _words(context: Context, path: Path) -> dict[str, str]:
    """What stands for the names in `NEXT`, so that every line can be copied into a shell."""
    source = next((f for f in _small_folders() if f.is_dir()), Path("/etc"))
    options = (
        [] if context.config_dir == Path("~/.btw-backup").expanduser() else ["--config-dir", str(context.config_dir)]
    )
    short, absolute = _invocation()
    return {
        "command": shlex.join([*short, *options]),
        "absolute": shlex.join([*absolute, *options]),
        "source": shlex.quote(str(source)),
        "name": shlex.quote(source.name.lstrip(".").lower()),
        "target": shlex.quote(str(Path.cwd() / f"restored-{source.name.lstrip('.').lower()}")),
        "config": shlex.quote(str(path)),
    }


def _small_folders() -> list[Path]:
    """Good first sources: what the user may read, and does not hold the backups themselves."""
    return [Path("/etc")] if os.geteuid() == 0 else [Path.home() / name for name in ("Documents", ".config", ".ssh")]


def _invocation() -> tuple[list[str], list[str]]:
    """How we were called, as short as a shell finds it, and for a crontab."""
    if sys.argv[0].endswith("__main__.py"):
        command = [sys.executable, "-m", "btw_backup"]
        return command, command
    absolute = os.path.abspath(shutil.which(sys.argv[0]) or sys.argv[0])
    found = shutil.which(os.path.basename(absolute))
    short = os.path.basename(absolute) if found and os.path.samefile(found, absolute) else absolute
    return [short], [absolute]


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


COMMAND = Command("init", "writes a first configuration", arguments, run, usage="[-h] [--root PATH]")
