"""The chunk store, ``ROOT_PATH/.store/``: each piece of content once, named by the SHA-256 of its plain bytes."""

import re

ENDING = ".manifest.zst"
"""The ending of the name of a manifest."""

_CHUNK = re.compile(r"\.store/chunks/([0-9a-f]{2})/(\1[0-9a-f]{62})\.zst")


def chunk_in(path: str) -> str:
    """The name of the chunk whose path below ROOT_PATH is `path`; "" if that is something else."""
    found = _CHUNK.fullmatch(path)
    return found[2] if found else ""
