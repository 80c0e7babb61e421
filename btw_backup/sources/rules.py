"""What of a tree is left out, and which rule says so.

A pattern without a slash is compared with every name at any depth, one with a slash with the whole path below
the source; ``*`` and ``?`` do not match a slash, ``**`` does; a slash at the end means folders only. An absolute path
inside the source is what it says. What is below a folder that is left out is left out with it.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from btw_backup.configuration.config import Config

NOBACKUP_TAG = "NOBACKUP-TAG"
CACHEDIR_TAG = "CACHEDIR.TAG"
CACHEDIR_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The first bytes of a valid tag, from the Cache Directory Tagging Specification (bford.info/cachedir)."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern of EXCLUDE: what it is compared with (the name or the path) and whether it is for folders only."""

    text: str
    expression: re.Pattern[str]
    whole_path: bool
    folders_only: bool

    def matches(self, path: str, name: str, is_folder: bool) -> bool:
        """Whether the entry `name` at `path` is left out."""
        if self.folders_only and not is_folder:
            return False
        return self.expression.fullmatch(path if self.whole_path else name) is not None


@dataclass(frozen=True, slots=True)
class Rules:
    """What to leave out of the tree `source`."""

    patterns: tuple[Pattern, ...]
    one_file_system: bool
    skip_caches: bool

    def excluding(self, path: str, name: str, is_folder: bool) -> Pattern | None:
        """The pattern that leaves out the entry, if any."""
        return next((p for p in self.patterns if p.matches(path, name, is_folder)), None)

    def tag_among(self, folder: int, names: Iterable[str]) -> str | None:
        """The tag among `names` of the open `folder` that leaves out the rest of it, if any."""
        present = set(names) & {NOBACKUP_TAG, CACHEDIR_TAG}
        if NOBACKUP_TAG in present:
            return NOBACKUP_TAG
        return CACHEDIR_TAG if present and self.skip_caches and _is_cache(folder) else None

    def digest_input(self) -> bytes:
        """The rules as bytes: other rules make another fingerprint."""
        words = [p.text for p in self.patterns] + [str(self.one_file_system), str(self.skip_caches)]
        return os.fsencode("\0".join(words))


def tree_rules(source: str, settings: Config) -> Rules:
    """The rules that a job's settings make."""
    return rules_of(
        source, settings["EXCLUDE"], one_file_system=settings["ONE_FILE_SYSTEM"], skip_caches=settings["SKIP_CACHES"]
    )


def rules_of(source: str, exclude: Iterable[str], *, one_file_system: bool, skip_caches: bool) -> Rules:
    """The rules for the tree `source` with the patterns `exclude`."""
    return Rules(tuple(_pattern(source, text) for text in exclude), one_file_system, skip_caches)


def _pattern(source: str, text: str) -> Pattern:
    below = text.removeprefix(source.rstrip("/") + "/") if text != source else text
    bare = below.rstrip("/").removeprefix("/")
    whole = "/" in below.rstrip("/")
    return Pattern(text, re.compile(_expression(bare), re.DOTALL), whole or below != text, below.endswith("/"))


def _expression(pattern: str) -> str:
    """`pattern` as a regular expression; fnmatch knows the classes, but lets ``*`` match a slash."""
    parts = re.split(r"(\*\*/?|\*|\?|\[[!^]?\]?[^]]*\])", pattern)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    known = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    if part.startswith("[") and part.endswith("]"):
        return fnmatch.translate(part.replace("[^", "[!", 1)).removeprefix("(?s:").removesuffix(r")\Z")
    return known.get(part) or re.escape(part)


def _is_cache(folder: int) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(CACHEDIR_TAG, flags, dir_fd=folder)
    except OSError:
        return False
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return regular and os.read(descriptor, len(CACHEDIR_SIGNATURE)) == CACHEDIR_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(descriptor)
