"""Has the program tar write the archive of a tree that was walked."""

import os
from typing import BinaryIO

from btw_backup import process, progress
from btw_backup.sources import Produced, guarded, relay
from btw_backup.sources.complaints import Complaints
from btw_backup.sources.feeder import feeding
from btw_backup.sources.steady import Steady
from btw_backup.sources.walk import Problems

OPTIONS = (
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
    "--sparse",
    "--acls",
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
    "--no-recursion",
    "--quoting-style=escape",
    "--blocking-factor=128",
    "--null",
    "--verbatim-files-from",
    r"--transform=s,/\.$,,rSH",
)
"""The options of tar: no atime, ctime or process number, so that archives of equal trees are equal, but for what
`Steady` leaves out. The last one gives the folders that the feeder calls ``folder/.`` their names."""


def write(source: str, names: BinaryIO, size: int, out: BinaryIO, problems: Problems) -> Produced:
    """Write the archive of `names` below `source`, of about `size` bytes, to `out`.

    `problems` are what the walk could not look at.
    """
    complaints = Complaints()
    length = 0
    own = out if relay.is_file(out) else None
    with (
        progress.shown(f"reading {source}", size) as advance,
        guarded.opened(source) as tree,
        process.started(
            ["tar", "--create", "--file=-", f"--directory={tree.path}", *OPTIONS, "--files-from=-"],
            stdin=process.PIPE,
            stdout=own,
            kept=[tree.top],
            on_line=complaints.add,
        ) as tar,
        feeding(tar, names, tree.top) as feeder,
    ):
        digest = Steady(tar.process.pid)
        for block in relay.behind(tar, out) if own else relay.through_pipe(tar, out):
            feeder.delivered(len(block))
            digest.update(block)
            length += len(block)
            advance(len(block))
        complaints.judge(tar)
        feeder.check()
        for path in tree.replaced(names):
            complaints.changed.add(os.fsdecode(path), "was replaced while it was read")
    unread = (*problems.found, *complaints.unread.found)
    left_out = problems.left_out + complaints.unread.left_out + complaints.changed.left_out
    sha256, content = digest.end()
    return Produced(length, sha256, content, tuple(complaints.changed.found), unread, left_out)
