"""The last lines of RESTORE.py and README.txt, the SHA-256 of all above: ``python -m tests.last_line`` renews them."""

import hashlib
import re
from pathlib import Path

from btw_backup.store import rescue

FOLDER = Path(rescue.__file__).parent


def renewed(name: str) -> bytes:
    """What is in the file `name`, with the last line that it has to have."""
    content = (FOLDER / name).read_bytes()
    above = re.sub(rb"(?m)^(# )?SHA-256 of all above: .*\n", b"", content)
    comment = "# " if name.endswith(".py") else ""
    return above + f"{comment}SHA-256 of all above: {hashlib.sha256(above).hexdigest()}\n".encode()


if __name__ == "__main__":
    for each in rescue.NAMES:
        (FOLDER / each).write_bytes(renewed(each))
