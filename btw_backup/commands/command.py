"""What a subcommand is, and what it gets to work with."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btw_backup import files, locks, log, places
from btw_backup.clock import seconds_of
from btw_backup.configuration import config
from btw_backup.configuration.config import Config
from btw_backup.errors import NotFound, UsageError
from btw_backup.log import printable

if TYPE_CHECKING:
    from btw_backup.keepers import Place
    from btw_backup.offsite.debts import Owed

SHARED, EXCLUSIVE = False, True


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: `arguments` fills its parser, `run` translates arguments, calls one thing below, prints.

    `lock` is the lock that `Context.place` takes on a dst; None takes none. `usage` overrides the usage line where
    installations know it by heart.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[["Context", argparse.Namespace], None]
    lock: bool | None = None
    usage: str | None = None


class Context:
    """The configuration, the locks, and the way to answer, for one run of a command."""

    def __init__(self, command: Command, args: argparse.Namespace) -> None:
        self.command = command
        self.config_dir: Path = args.config_dir
        self.quiet: bool = args.quiet
        self._json: bool = args.json
        self._machine: bool = args.machine
        self._fields: str | None = args.fields
        self._lock_wait: float | None = args.lock_wait

    @cached_property
    def config(self) -> Config:
        """The general configuration."""
        return config.load(self.config_dir / "config.py", config.GENERAL)

    @cached_property
    def root(self) -> Path:
        """ROOT_PATH."""
        root: Path = self.config.required("ROOT_PATH")
        return root

    @cached_property
    def debts(self) -> "dict[str, Owed]":
        """What each target is still owed."""
        from btw_backup.offsite import sync  # noqa: PLC0415 - few commands ask

        return sync.debts(self.config_dir)

    @property
    def lock_wait(self) -> float:
        """How many seconds to wait for a lock: ``--lock-wait``, else LOCK_WAIT."""
        return float(self.config["LOCK_WAIT"]) if self._lock_wait is None else self._lock_wait

    @contextmanager
    def place(self, dst: str, owner: tuple[int, int] | None = None) -> "Iterator[Place]":
        """The dst `dst` under the lock that the command declares. Leftovers of dead runs are swept by a writer."""
        from btw_backup.records import FOLDER, NEXT  # noqa: PLC0415 - as in places.place

        place = places.place(self.root, dst, owner)
        if self.command.lock is None:
            yield place
            return
        if self.command.lock is EXCLUSIVE:
            places.check_identity(self.root, self.config_dir)
            places.create(self.root, place)
        with locks.lock(place.folder, exclusive=self.command.lock, wait=self.lock_wait):
            if self.command.lock is EXCLUSIVE:
                files.sweep(place.folder)
                if (place.folder / FOLDER).is_dir():
                    files.sweep_dead(place.folder / FOLDER)
                if (place.folder / FOLDER / NEXT).exists():
                    from btw_backup.inventory import listing  # noqa: PLC0415 - hardly ever needed

                    listing.settle(place)
            yield place

    @contextmanager
    def existing(self, dst: str) -> "Iterator[Place]":
        """As `place`, of a dst that is there: nobody makes it by asking for it. Raises `NotFound`."""
        if not places.place(self.root, dst).folder.is_dir():
            places.has_identity(self.root, self.config_dir)  # an empty mount point has nothing, either
            raise NotFound(f"there is no {dst} in {self.root}", "btw-backup list shows every destination")
        with self.place(dst) as place:
            yield place

    def answer(self, text: str) -> None:
        """Lines on standard output; nothing in them can reach a terminal as a command to it."""
        sys.stdout.write("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")) + "\n")

    def say(self, message: str) -> None:
        """``prog: message`` on standard output, unless --quiet or for a program: what was done, where expected."""
        if not (self.quiet or self._json or self._machine or self._fields):
            self.answer(f"{log.PROG}: {printable(message)}")

    def show(self, rows: Iterable[Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str]) -> None:
        """A table: as `text` lines, or with --json as an array of objects, a line each, or with -m tab-separated.

        Each row is shown before the next is taken.
        """
        if self._fields:
            rows = map(self._chosen, rows)
        if self._json:
            self._show_json(rows)
            return
        bare = self._machine or self._fields
        for row in rows:
            self.answer("\t".join(_cell(value) for value in row.values()) if bare else text(row))

    def _show_json(self, rows: Iterable[Mapping[str, Any]]) -> None:
        before = "["
        for row in rows:
            self.answer(before)
            sys.stdout.write(json.dumps(row, ensure_ascii=True, default=str))
            before = ","
        self.answer("[]" if before == "[" else "\n]")

    def show_one(self, row: Mapping[str, Any], text: str) -> None:
        """A single answer: `text`, or with --json an object, or with -m its values."""
        if self._json:
            self.answer(json.dumps(row, indent=1, ensure_ascii=True, default=str))
        elif self._machine:
            self.answer("\t".join(_cell(value) for value in row.values()))
        elif text and not self.quiet:
            self.answer(text)

    def _chosen(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        names = (self._fields or "").split(",")
        unknown = [name for name in names if name not in row]
        if unknown:
            raise UsageError(f"there is no field {unknown[0]}", "the fields are " + ", ".join(row))
        return {name: row[name] for name in names}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) else json.dumps(value, default=str)


def duration(text: str) -> float:
    """For an option: a number of seconds, or as pytimeparse has it."""
    seconds = float(text) if text.isdecimal() else seconds_of(text)
    if seconds is None or not 0 <= seconds < 1e10:
        raise argparse.ArgumentTypeError(f"not a duration: {text}")
    return seconds
