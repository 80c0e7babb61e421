"""What of ROOT_PATH goes off-site, in parts that one listing of the target covers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from btw_backup.clock import STAMP
from btw_backup.files import TEMPORARY
from btw_backup.locks import LOCK_NAME
from btw_backup.log import debug
from btw_backup.records import NEXT, REMOVED
from btw_backup.store import rescue
from btw_backup.store.chunks import FOLDER, FORMAT_FILE

LARGEST = 50000
"""The most files in a part: s3cmd needs about 2 KB of memory for each object that it lists."""

_STAYS_HERE = (LOCK_NAME, ".btw-backup-id", ".btw-backup-dsts", ".fingerprint", ".scrub.json", NEXT, TEMPORARY, REMOVED)
"""Beginnings of names that mean nothing on another machine."""


@dataclass(frozen=True, slots=True)
class Part:
    """Files below ROOT_PATH whose paths begin with `prefix`; all of them, at whatever depth, if `recursive`."""

    prefix: str
    recursive: bool
    paths: Sequence[str]


_OF_THE_STORE = ("chunks", FORMAT_FILE, *rescue.NAMES)
"""What of the store goes off-site: the rest is made anew where it is wanted, or is evidence of damage."""

OnError = Callable[[str, OSError], None]
"""Called with a folder that cannot be read; the others are gone through all the same."""


def parts_of(root: str, folder: str, on_error: OnError) -> Iterator[Part]:
    """The parts that make up `folder` ("" or with a slash at its end)."""
    paths = list(islice(files_below(root, folder, on_error), LARGEST + 1))
    if len(paths) <= LARGEST:
        yield Part(folder, True, paths)
        return
    del paths
    here, folders = _content(root, folder, on_error)
    yield Part(folder, False, here)
    for each in folders:
        yield from parts_of(root, each, on_error)


def parts_with(paths: Sequence[str]) -> list[Part]:
    """The parts that hold just these files."""
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    return [Part(_common_beginning(group), False, group) for group in by_folder.values()]


def _common_beginning(paths: Sequence[str]) -> str:
    """The characters with which all of `paths` begin."""
    first, last = min(paths), max(paths)
    differs = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differs, len(first))]


def files_below(root: str, folder: str, on_error: OnError) -> Iterator[str]:
    """The files of `folder` that go off-site, relative to `root`."""
    here, folders = _content(root, folder, on_error)
    yield from here
    for each in folders:
        yield from files_below(root, each, on_error)


def files_in_order(root: str, folder: str = "") -> Iterator[tuple[str, int]]:
    """The same of all folders that can be read, with their sizes, in the order in which S3 lists them."""
    here, folders = _content(root, folder, lambda folder, error: debug(f"{folder}: {error.strerror}"))
    for path in sorted([*here, *folders]):
        if path.endswith("/"):
            yield from files_in_order(root, path)
        else:
            with suppress(FileNotFoundError):
                yield path, os.lstat(os.path.join(root, path)).st_size


def stays_here(name: str) -> bool:
    """Whether a file or folder of this name is never sent."""
    return name.startswith(_STAYS_HERE)


def repository_of(path: str) -> str:
    """The folder that belongs together, of which `path` is a part: that of a stamp; "" for any other file."""
    for depth, part in enumerate(parts := path.split("/")[:-1]):
        if STAMP.fullmatch(part):
            return "/".join(parts[: depth + 1])
    return ""


def _content(root: str, folder: str, on_error: OnError) -> tuple[list[str], list[str]]:
    """The files and the folders that lie directly in `folder`."""
    here: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                _sort_in(entry, folder, here, folders)
    except FileNotFoundError:
        pass  # it was removed while we looked: nothing is owed of it
    except OSError as error:
        on_error(folder, error)
    return here, folders


def _sort_in(entry: os.DirEntry[str], folder: str, here: list[str], folders: list[str]) -> None:
    if stays_here(entry.name) or (folder == f"{FOLDER}/" and entry.name not in _OF_THE_STORE):
        return
    if entry.is_dir(follow_symlinks=False):
        folders.append(f"{folder}{entry.name}/")
    elif entry.is_file(follow_symlinks=False):
        here.append(folder + entry.name)
    else:
        debug(f"not sent, because it is no file: {folder}{entry.name}")
