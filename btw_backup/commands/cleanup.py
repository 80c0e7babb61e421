"""Free the room of what was removed: backups that rm removed longer ago than the grace period, and chunks of the store
that no backup needs any more.

At targets that say ALLOW_REMOVAL = True the same is removed, when all that is kept is there; what cannot be now is
removed by the next cleanup or sync.

It may be interrupted at any moment, and run while backups are made: those wait only while chunks are being removed.

If a manifest cannot be read no chunk is removed, because nobody knows which ones it needs: status 5. The same if it is
lost, and only the record says that there was one: import --from a target brings it back. The same if a DST that had
backups at the last cleanup is not there at all: is its disk mounted? If it is gone on purpose: --forget DST, or for a
single backup --forget DST@STAMP; scrub does not miss it any more, either.

If the clock is suddenly more than a month ahead, what was removed is kept for another GRACE, which is said; --grace 0
frees it all the same.

example:
  btw-backup cleanup --dry-run
  btw-backup cleanup
  btw-backup cleanup --grace 0
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

from btw_backup import places, runner
from btw_backup.clock import utc_now
from btw_backup.commands.command import EXCLUSIVE, Command, Context, duration
from btw_backup.errors import FatalUserError
from btw_backup.inventory import elapsed, listing, lost, removal
from btw_backup.inventory.removal import Purged
from btw_backup.keepers import Place
from btw_backup.log import size_text
from btw_backup.offsite import sync
from btw_backup.scrub import known
from btw_backup.store.chunks import ChunkStore


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("--forget", action="append", default=[], metavar="DST[@STAMP]", help="it is gone on purpose")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--grace", type=duration, metavar="DURATION", help="instead of the setting GRACE")


def run(context: Context, args: argparse.Namespace) -> None:
    """Purge every dst, then collect what is left over; a dst that is busy does not stop the rest."""
    ChunkStore(context.root).refuse_newer()
    places.check_identity(context.root, context.config_dir)
    grace = float(context.config["GRACE"]) if args.grace is None else args.grace
    now, span = utc_now(), timedelta(seconds=grace)
    problems: list[FatalUserError] = []
    found = list(listing.places(context.root, with_removed=True))
    if elapsed.is_in_doubt(found, context.config_dir, now, span, dry_run=args.dry_run):
        span = timedelta.max
    if args.forget and not args.dry_run:
        problems += _forget(context, args.forget, now, span)
    purged = list(_purge(context, found, now, span, dry_run=args.dry_run, problems=problems))
    check_lost = partial(lost.check, context.root, now, span, args.forget if args.dry_run else ())
    try:
        chunks, size = _collect(context, args, grace=grace, now=now, purged=purged, check_lost=check_lost)
    except FatalUserError as error:
        problems.append(error)
        chunks = size = 0
    if not args.dry_run:
        known.forget(context.root, args.forget)
        problems += _removed_offsite(context)
    size += sum(each.size for each in purged)
    backups = sum(each.backups for each in purged)
    row = {"dry_run": args.dry_run, "backups": backups, "chunks": chunks, "size": size}
    verb = "would free" if args.dry_run else "freed"
    context.show_one(row, f"{verb} {size_text(size)}: {_count(backups, 'backup')}, {_count(chunks, 'chunk')}")
    runner.end(problems)


def _forget(context: Context, forgotten: Sequence[str], now: datetime, span: timedelta) -> list[FatalUserError]:
    """Remove the records of what was lost, and is `forgotten`; what kept us from that."""
    problems: list[FatalUserError] = []
    for dst in dict.fromkeys(
        place.dst for place, stamp in lost.each(context.root, now, span) if lost.is_among(place, stamp, forgotten)
    ):
        try:
            with _locked(context, dst) as place:
                stamps = [stamp for stamp in lost.stamps(place, now, span) if lost.is_among(place, stamp, forgotten)]
                removal.forget(place, stamps)
        except FatalUserError as error:
            problems.append(error)
    return problems


@contextmanager
def _locked(context: Context, dst: str) -> Iterator[Place]:
    """The dst under its lock and, shared, that of the store."""
    with context.place(dst) as place, ChunkStore(context.root).locked(exclusive=False, wait=context.lock_wait):
        yield place


def _purge(
    context: Context,
    found: Sequence[Place],
    now: datetime,
    span: timedelta,
    *,
    dry_run: bool,
    problems: list[FatalUserError],
) -> Iterator[Purged]:
    owe_removal = sync.owe_removal(context.config, context.config_dir)
    for each in found:
        try:
            if not removal.is_due(each, now, span):
                continue
            if dry_run:
                yield removal.foreseen(each, now, span)
                continue
            with _locked(context, each.dst) as place:
                yield removal.purge(place, now, span, owe_removal)
        except FatalUserError as error:
            problems.append(error)


def _collect(
    context: Context,
    args: argparse.Namespace,
    *,
    grace: float,
    now: datetime,
    purged: Sequence[Purged],
    check_lost: Callable[[], None],
) -> tuple[int, int]:
    """Remove chunks; how many, and their bytes."""
    from btw_backup.store import collect  # noqa: PLC0415 - what it needs takes long to load

    root, moment, forgotten = context.root, now.timestamp(), args.forget
    if args.dry_run:
        doomed = frozenset(path for each in purged for path in each.paths)
        swept = collect.foreseen(
            root, grace=grace, now=moment, forgotten=forgotten, doomed=doomed, check_lost=check_lost
        )
    else:
        owe = sync.owe_all(context.config, context.config_dir)
        swept = collect.collect(
            root,
            lambda path: owe("push", path),
            sync.owe_removal(context.config, context.config_dir),
            grace=grace,
            now=moment,
            forgotten=forgotten,
            wait=context.lock_wait,
            check_lost=check_lost,
        )
    return swept.chunks, swept.size


def _removed_offsite(context: Context) -> list[FatalUserError]:
    """Remove the same where targets allow it; what kept it from that."""
    if not any(address.allow_removal for address in sync.targets(context.config)):
        return []
    try:
        sync.send(context.config, context.config_dir, wait=context.lock_wait, remove=True)
    except FatalUserError as error:
        return [error]
    return []


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


COMMAND = Command("cleanup", "frees the room of what was removed", arguments, run, lock=EXCLUSIVE)
