"""The subcommands, listed by hand in the order of the help."""

from importlib import import_module
from importlib.util import find_spec

from btw_backup.commands.command import Command

# WHILE WE BUILD: those that exist already. The lead replaces this by plain imports.
_NAMES = "init fs_init fs db list explain restore sync sync_state config doctor".split()


def _found(name: str) -> list[Command]:
    try:
        return [import_module(f"btw_backup.commands.{name}").COMMAND] if find_spec(f"btw_backup.commands.{name}") else []
    except (ModuleNotFoundError, ImportError):
        return []


COMMANDS: tuple[Command, ...] = tuple(command for name in _NAMES for command in _found(name))
