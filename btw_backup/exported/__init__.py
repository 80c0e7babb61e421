"""An export: backups of one dst in a single plain tar, that unpacks into a usable ROOT_PATH.

::

  .export/header.json                  what it is: format, dst, stamps
  <dst>/.records/<stamp>.json          the records, and the marks of what is damaged, byte by byte
  <dst>/<stamp>…                       manifests, archives, files, repositories
  .store/chunks/ab/abcdef….zst         the chunks that the manifests name, each once
  .store/format.json RESTORE.py …      what makes a store of them
  .export/SHA256SUMS                   of all but the chunks, whose names tell; ``sha256sum -c`` reads it
"""

import msgspec

FORMAT = 1
HEADER = ".export/header.json"
SUMS = ".export/SHA256SUMS"


class Header(msgspec.Struct, frozen=True):
    """What the first file of an export says."""

    format: int
    program: str
    dst: str
    stamps: tuple[str, ...]
    chunks: bool


def sum_line(digest: str, path: str) -> str:
    """A line as of ``sha256sum``, which has a backslash in front of a line with an escaped name."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n")
    return ("\\" if escaped != path else "") + f"{digest}  {escaped}\n"
