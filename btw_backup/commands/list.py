"""List the backups in DST, oldest first; without DST, those in every DST.

A full stands at the beginning of a line, its incrementals under it after one space.

example:
  btw-backup list hosts/etc
  btw-backup list --json
  btw-backup list hosts/etc --fields stamp,size
"""

import argparse
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from btw_backup import listing, places
from btw_backup.commands.command import Command, Context
from btw_backup.errors import NotFound
from btw_backup.records import Backup


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("dst", nargs="?", help="the directory the backups are stored")


def run(context: Context, args: argparse.Namespace) -> None:
    """List one dst, or all."""
    if args.dst is None:
        _list_all(context)
        return
    place = places.place(context.root, args.dst)
    if not place.folder.is_dir():
        raise NotFound(f"there is no {place.dst} in {context.root}", "btw-backup list shows every destination")
    context.show([_row(backup) for backup in listing.backups(place)], _line)


def _list_all(context: Context) -> None:
    rows = [_row(backup) for place in listing.places(context.root) for backup in listing.backups(place)]
    heads = {
        id(rows_of[0]): dst for dst, rows_of in ((dst, list(same)) for dst, same in groupby(rows, itemgetter("dst")))
    }
    context.show(rows, lambda row: (f"{heads[id(row)]}:\n" if id(row) in heads else "") + _line(row))


def _line(row: Mapping[str, Any]) -> str:
    return str(row["name"]) if row["stamp"] == row["full"] else f" {row['name']}"


def _row(backup: Backup) -> dict[str, Any]:
    record = backup.record
    return {
        "dst": backup.dst,
        "stamp": backup.stamp,
        "name": backup.name,
        "full": backup.full,
        "keeper": backup.keeper,
        "kind": backup.kind,
        "source": record and record.source,
        "uid": record and record.uid,
        "size": record and record.length,
        "stored": record.stored if record else None,
        "status": record and record.status,
        "changed": [list(pair) for pair in record.changed] if record else [],
        "unread": [list(pair) for pair in record.unread] if record else [],
        "valid": backup.valid,
        "sha256": record and record.sha256,
    }


COMMAND = Command("list", "lists backups", arguments, run)
