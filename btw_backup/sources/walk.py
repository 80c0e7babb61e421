"""Walks a tree by directory descriptor: follows no link, opens nothing but folders, stays on its filesystem.

Memory: the names of the folders that are open at the moment, from the top down to the current one.
"""

import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from btw_backup.errors import FatalUserError
from btw_backup.sources.rules import Rules

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a folder is opened: never through a link."""

Seen = tuple[str, os.stat_result, int, str]
"""The path below the top ("" for the top itself), its status, the descriptor of its folder, its name there."""


@dataclass(slots=True)
class Problems:
    """What could not be read: the first thousand paths with the reason, and how many more."""

    found: list[tuple[str, str]] = field(default_factory=list)
    left_out: int = 0

    def add(self, path: str, reason: str) -> None:
        """Note one path."""
        if len(self.found) < 1000:
            self.found.append((path, reason))
        else:
            self.left_out += 1

    def __bool__(self) -> bool:
        return bool(self.found)


def walk(source: str, rules: Rules, problems: Problems) -> Iterator[Seen]:
    """Every entry of the tree that `rules` do not leave out, folders before what they hold, names sorted.

    Paths and names are text with surrogate escapes. Raises `FatalUserError` if `source` is no folder that can be read;
    anything below it that cannot be read goes to `problems`.
    """
    _allow_many_open_files()
    try:
        top = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FatalUserError(f"cannot read the source {source}: {error.strerror}", "is it mounted?") from error
    try:
        status = os.fstat(top)
        yield "", status, top, "."
        yield from _below(top, "", status.st_dev, rules, problems)
    finally:
        os.close(top)


def _below(folder: int, prefix: str, device: int, rules: Rules, problems: Problems) -> Iterator[Seen]:
    """The entries below an open folder. A loop with its own stack: a deep tree must not end in recursion."""
    stack = [(folder, prefix, iter(_names(folder, prefix, rules, problems)))]
    check = rules.patterns
    try:
        while stack:
            folder, prefix, names = stack[-1]
            for name in names:
                path = prefix + name
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError as error:
                    problems.add(path, f"vanished or unreadable: {error.strerror}")
                    continue
                is_folder = stat.S_ISDIR(status.st_mode)
                if check and rules.excluding(path, name, is_folder):
                    continue
                if status.st_dev != device and rules.one_file_system and not is_folder:
                    continue
                yield path, status, folder, name
                if is_folder and (status.st_dev == device or not rules.one_file_system):
                    inner = opened(folder, name, path, status, problems)
                    if inner is not None:
                        stack.append((inner, path + "/", iter(_names(inner, path + "/", rules, problems))))
                        break
            else:
                stack.pop()
                if stack:
                    os.close(folder)
    finally:
        for descriptor, _, _ in stack[1:]:
            os.close(descriptor)


def opened(folder: int, name: str, path: str, status: os.stat_result, problems: Problems) -> int | None:
    """The descriptor of the folder `name`, certainly the one that was looked at; else None, and a problem."""
    try:
        try:
            descriptor = os.open(name, FOLDER_FLAGS | os.O_NOATIME, dir_fd=folder)
        except PermissionError:  # O_NOATIME is for the owner and root
            descriptor = os.open(name, FOLDER_FLAGS, dir_fd=folder)
    except OSError as error:
        problems.add(path, f"cannot be listed: {error.strerror}")
        return None
    now = os.fstat(descriptor)
    if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
        os.close(descriptor)
        problems.add(path, "was replaced while it was read")
        return None
    return descriptor


def _names(folder: int, prefix: str, rules: Rules, problems: Problems) -> list[str]:
    try:
        return names_of(folder, rules)
    except OSError as error:
        problems.add(prefix.rstrip("/"), f"cannot be listed: {error.strerror}")
        return []


def names_of(folder: int, rules: Rules) -> list[str]:
    """The names in the open `folder` in the order of the walk; of one with a tag only that."""
    names = os.listdir(folder)
    if tag := tagged(folder, names, rules):
        return [tag]
    names.sort()
    return names


def tagged(folder: int, names: list[str], rules: Rules) -> str | None:
    """The tag among the `names` of the open `folder` that leaves out the rest of it, if any."""
    return rules.tag_among(folder, names) if "NOBACKUP-TAG" in names or "CACHEDIR.TAG" in names else None


def _allow_many_open_files() -> None:
    """One descriptor a level is open: take what the hard limit gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
