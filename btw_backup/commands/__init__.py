"""The subcommands, listed by hand in the order of the help."""

from importlib import import_module

from btw_backup.commands.command import Command

NAMES = (
    "init",
    "fs-init",
    "fs",
    "db",
    "command-init",
    "command",
    "list",
    "runs",
    "find",
    "diff",
    "explain",
    "restore",
    "export",
    "import",
    "mount",
    "rm",
    "undelete",
    "cleanup",
    "scrub",
    "distrust",
    "sync",
    "sync-state",
    "keys",
    "offsite",
    "lock",
    "catalogue",
    "config",
    "doctor",
)

_MODULES = {"command": "command_backup", "import": "import_"}
"""The modules of those that cannot have the name of the command."""


def command(name: str) -> Command:
    """The subcommand `name`: only what is used is loaded."""
    found: Command = import_module(f"{__name__}.{_MODULES.get(name, name.replace('-', '_'))}").COMMAND
    return found
