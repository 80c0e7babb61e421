"""The option -u UID[:GID]: who shall own what a backup creates."""

import argparse
import grp
import pwd

KEEP = -1
"""For chown(2): leave it as it is."""


def add_owner(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "-u",
        "--uid",
        type=_owner,
        metavar="UID[:GID]",
        help="sets the owner, and with :GID the group, of the files that are created; names or numbers, as for chown",
    )


def owner_of(args: argparse.Namespace) -> tuple[int, int] | None:
    """The (uid, gid) that was asked for, if any; -1 leaves the group as it is."""
    owner: tuple[int, int] | None = args.uid
    return owner


def _owner(text: str) -> tuple[int, int]:
    user, colon, group = text.partition(":")
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        if not colon:
            return uid, KEEP
        if not group:  # "root:" is the user's login group, as for chown
            return uid, pwd.getpwuid(uid).pw_gid
        return uid, int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"there is no such user or group: {text}") from None
