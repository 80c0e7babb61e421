"""Say what a target should allow this machine to do, and nothing else.

policy prints, for a target in S3, the policy in JSON (of AWS's kind, which most servers understand) for the user whose
key s3cmd has here: to list, and to write. It cannot delete, read, or change how long anything is kept: so whoever
breaks into this machine cannot either. Versioning, which has to be switched on in the bucket by somebody else, keeps
what is overwritten. With --read also to read, for scrub --target and for restores with this key.

At a target with ALLOW_REMOVAL = True it can delete as well: in a mirror what is in it, with the layout objects the
objects, but not the records of them. What is deleted there goes for good only when a rule of the bucket says so
(NoncurrentVersionExpiration), if there is versioning; give it as many days as you need to notice a thief.

At a target with OBJECT_LOCK it can lock, for not much longer than that, and can neither shorten nor lift a lock.

A target with the layout mirror that gets backups of type rdiff needs to overwrite, and to delete what rdiff-backup
replaces: that is in it.

lifecycle prints the rules by which the provider of a versioned bucket tidies up: older versions go after
--keep-versions days, and uploads that nobody finished after a week. Nothing current ever goes by its age. Who owns the
bucket puts both in force; this machine must not be able to change them.

example:
  btw-backup offsite policy
  btw-backup offsite lifecycle --keep-versions 90
  btw-backup offsite policy archive --read
"""

import argparse

from btw_backup.commands.command import Command, Context
from btw_backup.configuration.addresses import Address
from btw_backup.errors import NotFound, UsageError
from btw_backup.offsite import lifecycle, policy, sync


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("what", choices=("policy", "lifecycle"), help="what to print")
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="the name of the target; by default the first in S3"
    )
    parser.add_argument("--read", action="store_true", help="policy: allow to read, too")
    parser.add_argument(
        "--keep-versions", type=_days, default=90, metavar="DAYS", help="lifecycle: how long what was replaced stays"
    )


def run(context: Context, args: argparse.Namespace) -> None:
    """Print the policy, or the rules."""
    address = _chosen(sync.targets(context.config), args.target)
    if args.what == "policy":
        context.answer(policy.text_of(address, read=args.read))
    else:
        context.answer(lifecycle.text_of(address, keep_days=args.keep_versions))


def _days(text: str) -> int:
    days = int(text)
    if days < 1:
        raise ValueError(text)
    return days


def _chosen(found: list[Address], name: str | None) -> Address:
    """The target `name`, or the first one in S3."""
    in_s3 = [address for address in found if address.s3cmd_config]
    if name is None:
        if not in_s3:
            raise NotFound("no target is in S3", "a folder has owners and permissions instead")
        return in_s3[0]
    chosen = next((address for address in found if address.name == name), None)
    if chosen is None:
        raise NotFound(f"there is no target {name}", "the targets are " + ", ".join(address.name for address in found))
    if not chosen.s3cmd_config:
        raise UsageError(f"the target {name} is a folder", "it has owners and permissions instead")
    return chosen


COMMAND = Command("offsite", "prints the policy that a target should have", arguments, run)
