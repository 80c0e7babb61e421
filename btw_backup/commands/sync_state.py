"""Show, or empty, the journal of what is still owed to off-site storage.

The journal is the file sync_state in the configuration directory, for the target NAME it is
sync_state.NAME. It grows by a line for each thing that is noted or done; --reset empties it, and refuses
to while anything is owed. What is still to be removed there stands in files of its own, removals.NAME.PLACE.

example:
  btw-backup sync-state --list
"""

import argparse
from collections.abc import Mapping
from typing import Any

from btw_backup.commands.command import Command, Context
from btw_backup.configuration.addresses import FIRST
from btw_backup.errors import FatalUserError
from btw_backup.log import printable
from btw_backup.offsite import removals, sync
from btw_backup.offsite.state import PUSH, SYNC


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--list", action="store_true", help="list what must be synced, pushed or removed")
    which.add_argument("--reset", action="store_true", help="empty the journal; only if nothing must be")


def run(context: Context, args: argparse.Namespace) -> None:
    """Show or empty the journal."""
    found = list(sync.journals(context.config_dir))
    if args.reset:
        found += removals.journals(context.config_dir)
        if any(journal.pending() for _, journal in found):
            raise FatalUserError("cannot reset: some files must be synced or pushed")
        for _, journal in found:
            journal.reset()
        context.show_one({"reset": True}, "The state was reset")
        return
    rows = [
        {"op": op, "path": debt.path, "target": name}
        for name, journal in found
        for debts in [journal.pending()]
        for op in (SYNC, PUSH)
        for debt in debts
        if debt.op == op
    ]
    leaving = [(name, debt) for name, journal in removals.journals(context.config_dir) for debt in journal.pending()]
    rows += [{"op": debt.op, "path": debt.path, "target": name} for name, debt in leaving]
    context.show(rows, _line)


def _line(row: Mapping[str, Any]) -> str:
    line = f"Must {row['op']}: {printable(row['path'])}"
    return line if row["target"] == FIRST else f"{line} (to {row['target']})"


COMMAND = Command("sync-state", "manipulates the sync state", arguments, run)
