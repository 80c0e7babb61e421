"""Make a key, show its public half, or prove that it opens what was sent.

generate FILE makes a new secret key, and prints the public key for ENCRYPT_TO. Carry FILE away from this machine, to
two places: who has it can read everything that was sent, and without it nobody can. It is a key of the program age.
public FILE prints the public key that belongs to it.
test FILE proves with each encrypted target that the key opens what is there, and that the newest record there is the
one that this machine sent last. With --pin it notes the fingerprint of the store key in FILE: a restore with that FILE
then believes nothing that this installation did not make. Do it once now, with FILE on a stick, and every few months.
If this machine may not read what it sent to S3, --s3cmd-config gives credentials that may.

example:
  btw-backup keys generate /mnt/stick/backup.key
  btw-backup keys test --pin /mnt/stick/backup.key
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from btw_backup import runner
from btw_backup.commands.command import Command, Context
from btw_backup.configuration.addresses import Address
from btw_backup.errors import Damaged, FatalUserError, UsageError
from btw_backup.offsite import sync


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("what", choices=("generate", "public", "test"), help="what to do")
    parser.add_argument("file", type=Path, metavar="FILE", help="the file with the secret key")
    parser.add_argument("--s3cmd-config", metavar="FILE", help="with test: credentials that may read what is in S3")
    parser.add_argument("--pin", action="store_true", help="with test: note the fingerprint of the store key in FILE")


def run(context: Context, args: argparse.Namespace) -> None:
    """Do one of the three."""
    from btw_backup.recovering import keypair  # noqa: PLC0415 - most commands need no key

    if (args.pin or args.s3cmd_config) and args.what != "test":
        raise UsageError("--pin and --s3cmd-config belong to keys test")
    if args.what == "generate":
        public = keypair.generate(args.file.absolute())
        context.show_one({"public": public, "file": str(args.file)}, public)
    elif args.what == "public":
        from btw_backup.offsite.sealing import Identities  # noqa: PLC0415 - as above

        context.show([{"public": one} for one in Identities([args.file]).public()], lambda row: str(row["public"]))
    else:
        _test(context, args)


def _test(context: Context, args: argparse.Namespace) -> None:
    problems: list[FatalUserError] = []
    known = [address for address in sync.targets(context.config) if address.encrypt_to]
    found = [replace(address, object_lock=0.0) for address in known]  # it is only read
    if args.s3cmd_config:
        found = [replace(one, s3cmd_config=args.s3cmd_config) if one.s3cmd_config else one for one in found]
    if not found:
        raise FatalUserError("no target is encrypted: there is nothing to prove", "ENCRYPT_TO says to which keys")
    context.show(list(_rows(context, args, found, problems)), lambda row: "{target}: record {sequence} of {made}, "
                 "{backups} backups, store key {fingerprint}: all is well".format(**row))  # fmt: skip
    runner.end(problems)


def _rows(
    context: Context, args: argparse.Namespace, found: list[Address], problems: list[FatalUserError]
) -> Iterator[dict[str, Any]]:
    from btw_backup.offsite import examination  # noqa: PLC0415 - as above
    from btw_backup.recovering import keypair  # noqa: PLC0415 - as above

    for address in found:
        try:
            with tempfile.TemporaryDirectory(prefix=".btw-backup-keys-") as scratch:
                target = sync.target_of(address, context.config, context.config_dir, Path(scratch))
                seen = examination.examine(target, context.config_dir / sync.KNOWN, address, args.file, Path(scratch))
            if args.pin:
                keypair.pin(args.file, seen.fingerprint)
            yield {"target": address.name, **{name: getattr(seen, name) for name in seen.__slots__}}
        except FatalUserError as error:
            kind = Damaged if isinstance(error, Damaged) else FatalUserError
            problems.append(kind(f"{address.name}: {error.message}", error.hint))


COMMAND = Command("keys", "makes and tests the keys of what is sent encrypted", arguments, run)
