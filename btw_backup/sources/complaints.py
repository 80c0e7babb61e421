"""What tar says on standard error, sorted into what changed, what could not be read, and what is fatal.

The messages are GNU tar 1.34's under LC_ALL=C with --quoting-style=escape (src/misc.c, create.c, xattrs.c).
"""

import os
import re

from btw_backup.errors import ProgramFailed
from btw_backup.process import Child, locate
from btw_backup.sources.walk import Problems

_CHANGED = re.compile(
    rb"(?P<path>.*): (?P<what>file changed as we read it|File removed before we read it|"
    rb"File shrank by \d+ bytes?; padding with zeros|"
    rb"Warning: Cannot \w*(?:xattr|filecon|acl)\w*: (?:No such file or directory|Not a directory))"
)
_UNREAD = re.compile(
    rb"(?P<path>.*)(?<!: Warning): (?P<what>(?:Warning: )?(?:"
    rb"Cannot (?:stat|open|read|readlink|close|seek|savedir|get)\b.*|"
    rb"Cannot \w*(?:xattr|filecon|acl)\w*: (?!Operation not supported$).*|Read error at byte .*|"
    rb".*[Ff]ile name is too long.*; not dumped|Unknown file type; file ignored|socket ignored|door ignored))"
)
_HARMLESS = re.compile(
    rb"Exiting with failure status due to previous errors|Removing leading .*|.*: file is unchanged.*|"
    rb".*: Warning: Cannot \w*(?:xattr|filecon|acl)\w*: Operation not supported"
)
_ESCAPE = re.compile(rb"\\([abfnrtv\\]|[0-7]{3})")
_LETTERS = dict(zip(b"abfnrtv\\", b"\a\b\f\n\r\t\v\\", strict=True))


class Complaints:
    """Collects tar's lines. `changed` and `unread` hold the paths; anything else that it says is fatal."""

    def __init__(self) -> None:
        self.changed = Problems()
        self.unread = Problems()
        self._fatal = b""
        self._prefix = os.fsencode(locate("tar")) + b": "

    def add(self, line: bytes) -> None:
        """Sort one line."""
        text = line.removeprefix(self._prefix)
        if match := _CHANGED.fullmatch(text):
            self.changed.add(_path(match["path"]), _reason(match["what"]))
        elif match := _UNREAD.fullmatch(text):
            self.unread.add(_path(match["path"]), _reason(match["what"]))
        elif text and not _HARMLESS.fullmatch(text):
            self._fatal = self._fatal or text

    def judge(self, tar: Child) -> None:
        """Wait for tar's end. Status 1, and 2 if all that it complained of are single files, is an archive."""
        status = tar.finish(accepted=(0, 1, 2))
        if (self._fatal and status == 2) or (status == 2 and not (self.changed or self.unread)):
            reason = self._fatal.decode("utf-8", "backslashreplace") or "it does not say why"
            raise ProgramFailed(f"tar exited with status {status}: {reason}", returncode=status)


def _reason(said: bytes) -> str:
    """What tar said, so that it means something to whoever reads it."""
    text = said.decode("ascii", "replace").replace("; padding", ", and was padded")
    return text.replace("Too many levels of symbolic links", "it, or a folder above it, has become a link")


def _path(quoted: bytes) -> str:
    """The path that tar quoted, as text with surrogate escapes, below the source."""
    plain = _ESCAPE.sub(lambda m: bytes([_LETTERS[ord(m[1])]]) if len(m[1]) == 1 else bytes([int(m[1], 8)]), quoted)
    return os.fsdecode(re.sub(rb"/\./?$", b"", plain.removeprefix(b"./")))
