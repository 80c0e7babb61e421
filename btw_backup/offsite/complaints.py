"""What s3cmd complains of while it runs, and when to stop it.

s3cmd 2.3.0 tries each object six times, 45 seconds in all, and cannot be told otherwise. It is stopped at the first
complaint that says that the server is gone, and for anything else when it wants to wait longer than `PATIENT` seconds.
"""

import re

from btw_backup.errors import MissingProgram, ProgramFailed, TimedOut
from btw_backup.log import debug, printable
from btw_backup.offsite import Unreachable

PATIENT = 6
"""The longest wait between two attempts; s3cmd waits 3 seconds, then 6, 9, 12 and 15."""

_RETRY = re.compile(rb"Retrying failed request: \S+ \((.*)\)")
_WAITING = re.compile(rb"Waiting (\d+) sec")
_GONE = re.compile(
    rb"timed out|onnection refused|etwork is unreachable|o route to host|ame or service not known|"
    rb"emporary failure in name resolution|o address associated|ertificate verify failed|CERTIFICATE_VERIFY_FAILED"
)
HINTS = {
    "AccessDenied": "its credentials lack a right; btw-backup offsite policy prints what is needed",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "NoSuchBucket": "somebody has to make the bucket first",
    "InvalidAccessKeyId": "is the key in the configuration of s3cmd still the right one?",
    "SignatureDoesNotMatch": "is the key in the configuration of s3cmd still the right one?",
}
"""What to do about what a server says."""

MAY_NOT_READ = "credentials that may read are needed: --s3cmd-config"

_LABEL = re.compile(r"^(?:ERROR: )?(?:\[Errno -?\d+\] )?")


def is_refusal(complaint: str) -> bool:
    """Whether it says that the credentials lack a right."""
    return "403 (" in complaint and "RequestTimeTooSkewed" not in complaint


class Complaints:
    """The standard error of one run of s3cmd."""

    def __init__(self, longest_wait: int) -> None:
        self._longest_wait = longest_wait
        self._reason = ""
        self._gave_up = False

    def take(self, line: bytes) -> bool:
        """Take in one line; True if there is no use in waiting for more."""
        debug("s3cmd: " + printable(line))
        if retry := _RETRY.search(line):
            self._reason = _LABEL.sub("", printable(retry[1]))
            self._gave_up = self._gave_up or _GONE.search(line) is not None
        elif waiting := _WAITING.search(line):
            self._gave_up = self._gave_up or int(waiting[1]) > self._longest_wait
        elif _GONE.search(line):
            self._reason, self._gave_up = _LABEL.sub("", printable(line)), True
        return self._gave_up

    def explained(self, error: ProgramFailed) -> ProgramFailed:
        """`error` in the words of what s3cmd complained of; `Unreachable` if it was stopped, by us or by its limit."""
        if isinstance(error, MissingProgram):
            return error
        message = f"s3cmd: {self._reason}" if self._gave_up and self._reason else error.message
        hint = error.hint or next((hint for what, hint in HINTS.items() if what in message), "")
        kind = Unreachable if self._gave_up or isinstance(error, TimedOut) else ProgramFailed
        return kind(message, hint, error.returncode)
