"""The options that name a target to take backups from, for the commands that have them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from btw_backup import specs
from btw_backup.clock import utc_now
from btw_backup.commands.command import Context
from btw_backup.configuration.addresses import Address
from btw_backup.errors import ImproperlyConfigured
from btw_backup.offsite import sync

if TYPE_CHECKING:
    from btw_backup.recovering.recall import Origin


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument(
        "--from",
        dest="origin",
        action="append",
        default=[],
        metavar="TARGET",
        help="take it from there: s3://BUCKET/PATH, a folder, or the name of a target; several are tried in turn",
    )
    parser.add_argument("--s3cmd-config", metavar="FILE", help="how to reach s3://…")
    parser.add_argument("--allow-http", action="store_true", help="even if that is HTTP, to another machine")
    parser.add_argument(
        "--identity", action="append", default=[], type=Path, metavar="KEY", help="the file with the secret key"
    )
    parser.add_argument(
        "--fingerprint", action="append", default=[], metavar="HEX", help="believe only the store key that has this"
    )
    parser.add_argument("--as-of", metavar="TIME", help="read what a versioned bucket held then")


def origin_of(context: Context, args: argparse.Namespace) -> "Origin":
    """What these options say. The configuration is asked for names alone, and may be lost."""
    from btw_backup.offsite.sealing import Identities  # noqa: PLC0415 - as above
    from btw_backup.recovering import keypair, recall  # noqa: PLC0415 - what it needs takes a while to load

    known = configured(context)
    found = [recall.address_of(each, args.s3cmd_config, known, allow_http=args.allow_http) for each in args.origin]
    identities = Identities(args.identity)
    as_of = None if args.as_of is None else specs.moment(args.as_of, utc_now())
    return recall.Origin(found, identities, [*args.fingerprint, *keypair.pins_in(identities.text)], as_of)


def configured(context: Context) -> Sequence[Address]:
    """The targets of the configuration; none if that is lost."""
    try:
        return sync.targets(context.config)
    except ImproperlyConfigured:
        return []
