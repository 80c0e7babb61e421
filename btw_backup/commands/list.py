"""List the backups in DST, oldest first; without DST, those in every DST.

A full stands at the beginning of a line, its incrementals under it after one space.

With --sizes: how large what was backed up is, how much its run added to the disk, how much rm of this backup alone and
cleanup would free ("own"), and how much it shares with others. The last line of a DST is for all of it together.
With --removed: what rm removed, and undelete can bring back.

example:
  btw-backup list hosts/etc
  btw-backup list hosts/etc --sizes
  btw-backup list --json
  btw-backup list hosts/etc --fields stamp,size
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from btw_backup import places, runner
from btw_backup.clock import stamp_of
from btw_backup.commands.command import Command, Context
from btw_backup.errors import UsageError
from btw_backup.inventory import listing, removal
from btw_backup.keepers import Place
from btw_backup.log import size_text
from btw_backup.records import Backup

if TYPE_CHECKING:
    from btw_backup.inventory.sizes import Size, Sizes

Row = Mapping[str, Any]
_TITLE = "".join(f"{name:>12}" for name in ("size", "added", "own", "shared")) + "\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("dst", nargs="?", help="the directory the backups are stored")
    parser.add_argument("--sizes", action="store_true", help="show what room each backup takes")
    parser.add_argument("--removed", action="store_true", help="list what rm removed")


def run(context: Context, args: argparse.Namespace) -> None:
    """List one dst, or all."""
    if args.sizes and args.removed:
        raise UsageError("--sizes is for what is not removed")
    if args.dst is None:
        found = list(listing.places(context.root, with_removed=args.removed))
        if not found:
            places.has_identity(context.root, context.config_dir)  # an empty mount point has nothing, either
    else:
        with context.existing(args.dst) as place:
            found = [place]
    if args.sizes:
        _show_sizes(context, found, with_heads=args.dst is None)
        return
    look = _removed_rows if args.removed else _rows
    line = _line_with_removal if args.removed else _line
    _show(context, (row for place in found for row in look(context, place)), line, with_heads=args.dst is None)


def _show(
    context: Context, rows: Iterable[Row], line: Callable[[Row], str], *, title: str = "", with_heads: bool
) -> None:
    """The rows below the `title`, those of every dst under its name."""
    shown = None

    def headed(row: Row) -> str:
        nonlocal shown, title
        head = f"{row['dst']}:\n" if with_heads and row["dst"] != shown else ""
        above, title, shown = title, "", row["dst"]
        return above + head + line(row)

    context.show(rows, headed)


def _rows(context: Context, place: Place) -> Iterator[Row]:
    """The backups, each with the targets that do not have it yet."""
    for backup in listing.each(place):
        path = os.path.relpath(backup.path, context.root) if context.debts else ""
        yield {**_row(backup), "owed_to": [name for name, owed in context.debts.items() if owed.touches(path)]}


def _removed_rows(context: Context, place: Place) -> Iterator[Row]:
    for backup in listing.removed(place):
        yield {**_row(backup), "removed": stamp_of(removal.removed_at(backup))}


def _line_with_removal(row: Row) -> str:
    return f"{_line(row)}  removed {row['removed']}"


def _show_sizes(context: Context, found: Sequence[Place], *, with_heads: bool) -> None:
    from btw_backup.inventory.sizes import Sizes  # noqa: PLC0415 - what it needs takes long to load

    sizes = Sizes(context.root)
    rows = (row for place in found for row in _rows_with_sizes(context, place, sizes))
    _show(context, rows, _line_with_size, title=_TITLE, with_heads=with_heads)
    runner.end([*sizes.problems])


def _rows_with_sizes(context: Context, place: Place, sizes: "Sizes") -> Iterator[Row]:
    """The backups, and a last row for the dst, which is no backup: its stamp is null."""
    row: Row = {}
    size = stored = 0
    for row in _rows(context, place):
        yield {**row, **_both(sizes.backups.get((row["dst"], row["stamp"])))}
        size, stored = size + (row["size"] or 0), stored + (row["stored"] or 0)
    if row:
        total = {**dict.fromkeys(row), "dst": place.dst, "name": "total", "size": size, "stored": stored}
        yield {**total, **_both(sizes.dsts.get(place.dst))}


def _both(size: "Size | None") -> Row:
    return {"own": size and size.own, "shared": size and size.shared}


def _line_with_size(row: Row) -> str:
    numbers = (row[name] for name in ("size", "stored", "own", "shared"))
    shown = "".join(f"{'-' if number is None else size_text(number):>12}" for number in numbers)
    return f"{shown}  {_line(row)}"


def _line(row: Row) -> str:
    line = str(row["name"]) if row["stamp"] == row["full"] else f" {row['name']}"
    line += "  (not valid)" if row["valid"] is False else ""
    return f"{line}  (not at {', '.join(row['owed_to'])} yet)" if row.get("owed_to") else line


def _row(backup: Backup) -> Row:
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
