"""Send to off-site storage what is still owed to it.

Every backup is sent when it is made. This command sends what could not be sent then, because the server
was away or the run was interrupted. With --full it compares all of ROOT_PATH with what is off-site and
sends what is missing there or differs, for instance after S3_URI_PREFIX was changed; it reads every backup
once. All targets are sent to at once, and one that is away does not hold up the others. Nothing is removed
off-site because it is missing here; what rm removed and cleanup freed is removed at the targets that say
ALLOW_REMOVAL = True, when nothing is owed to them any more. With --verify it sends what is owed, compares
everything, and names what a target has lost, or has otherwise than it was sent; that is sent anew. scrub
--target reads it back, too.
The exit status is 6 if something is still owed, or could not be removed.

example:
  btw-backup sync
"""

import argparse

from btw_backup import places
from btw_backup.commands.command import Command, Context
from btw_backup.errors import FatalUserError
from btw_backup.offsite import removals, sync
from btw_backup.offsite.state import SYNC


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("--verify", action="store_true", help="as --full, and say what was sent and is lost there")
    parser.add_argument("--full", action="store_true", help="compare everything, not only what is known to be owed")


def run(context: Context, args: argparse.Namespace) -> None:
    """Send what is owed."""
    places.check_identity(context.root, context.config_dir)
    found = sync.targets(context.config)
    if args.full:
        sync.owe_all(context.config, context.config_dir)(SYNC, "")
    problem: FatalUserError | None = None
    try:
        sync.send(context.config, context.config_dir, wait=context.lock_wait, verify=args.verify, remove=True)
    except FatalUserError as error:
        problem = error
    rows = [
        {
            "target": address.name,
            "place": address.place,
            "layout": address.layout,
            "encryption": address.encryption,
            "owed": len(sync.journal(context.config_dir, address.name).pending()),
            "allow_removal": address.allow_removal,
            "to_remove": len(removals.journal(context.config_dir, address).pending()),
        }
        for address in found
    ]
    text = "" if found else "OFFSITE = {}: backups stay on this machine only"
    context.show_one({"targets": rows, "owed": sum(row["owed"] for row in rows)}, text)
    if problem:
        raise problem


COMMAND = Command("sync", "syncs ROOT_PATH with offsite storage", arguments, run)
