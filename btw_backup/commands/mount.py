"""Show backups of the type chunks as a filesystem, read-only, until `umount DIR`.

With @SPEC the tree of that backup appears in DIR; without, every backup of DST, in a folder named by its stamp, and
"latest", a link to the newest. A stream (a dump, the output of a command) is a folder with one file. Backups that are
made later are not shown.

Owners, permissions, ACLs and times are those of the backup, and the kernel heeds them; devices and set-id programs
have no effect. Reading what is damaged is an input/output error, and all else can be read. What is mounted is not kept
from being removed: a removed backup can be read until its chunks are cleaned up, which is after a day at the earliest.

Needs the Debian package fuse3.

example:
  btw-backup mount www /mnt && ls /mnt/latest && umount /mnt
  btw-backup mount www@yesterday /mnt
"""

import argparse
import os
from pathlib import Path

from btw_backup import log, specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import SHARED, Command, Context
from btw_backup.errors import FatalUserError, NotFound
from btw_backup.inventory import listing
from btw_backup.keepers import Place
from btw_backup.records import Backup


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("address", metavar="DST[@SPEC]", help="what to show")
    parser.add_argument("folder", metavar="DIR", help="an empty folder, in which it appears")
    parser.add_argument("--foreground", action="store_true", help="stay until it is unmounted")


def run(context: Context, args: argparse.Namespace) -> None:
    """Open the backups, then mount them."""
    from btw_backup.mounting import mount  # noqa: PLC0415 - what it needs takes 0.1 s to load

    dst, at, spec = args.address.rpartition("@")
    with context.existing(dst if at else args.address) as place:
        found = _in_chunks(listing.backups(place), place)
        backup = specs.one(found, spec or "latest", utc_now()) if at else None
        view = mount.view_of(context.root, found, backup)
    name = backup.address if backup else place.dst
    mount.mount(view, Path(os.path.abspath(args.folder)), f"btw-backup:{name}", foreground=args.foreground)


def _in_chunks(backups: list[Backup], place: Place) -> list[Backup]:
    """Those of the type chunks."""
    found = [backup for backup in backups if backup.keeper == "chunks"]
    others = sorted({backup.keeper for backup in backups} - {"chunks"})
    if others and not found:
        hint = "restore it to a folder, or paths of it with --path"
        raise FatalUserError(f"{place.dst} is of type {' and '.join(others)}: only chunks can be mounted", hint)
    if not found:
        raise NotFound(f"there are no backups in {place.dst}")
    if others:
        log.warn(f"{len(backups) - len(found)} backups of type {' and '.join(others)} are not shown")
    return found


COMMAND = Command("mount", "shows backups as a filesystem", arguments, run, lock=SHARED)
