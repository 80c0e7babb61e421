"""What a program prints, or what comes on standard input, as a source; and which of them a command is."""

import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from btw_backup import process
from btw_backup.configuration.jobs import Job
from btw_backup.errors import FatalUserError, MissingProgram, ProgramFailed, TimedOut, UsageError
from btw_backup.log import debug
from btw_backup.sources import Produced, Source, relay

ENDING = ".out"
"""The ending of the file that such a stream lies in."""

LONGEST = 86400.0
"""Seconds that it may take if TIMEOUT does not say."""

_SHOWN = 3
"""Lines of standard error that are shown of a program that failed."""


class Output:
    """What the program `words` prints; `name` is what the job is called.

    It runs without a shell, in a process group of its own, and dies with us. It has `seconds`.
    """

    kind = "command"

    def __init__(self, name: str, words: Sequence[str], *, seconds: float, allow_empty: bool = False) -> None:
        self.name = name
        self.file_name = name + ENDING
        self._words = words
        self._seconds = seconds
        self._allow_empty = allow_empty

    def fingerprint(self) -> None:
        """None: it has to be run. Raises `MissingProgram`."""
        try:
            process.locate(self._words[0])
        except MissingProgram as error:
            hint = error.hint if "/" not in self._words[0] else "is it mounted, and may it be executed?"
            raise MissingProgram(f"{error.message}, and the command {self.name} needs it", hint) from error

    def produce(self, out: BinaryIO) -> Produced:
        """Run it. Raises `ProgramFailed` unless it ends with 0, and `FatalUserError` if it printed nothing."""
        length = 0
        with process.started(self._words, on_line=_note) as child, process.time_limit(child, self._seconds):
            for block in relay.through_pipe(child, out):
                length += len(block)
            self._judge(child)
        if not length and not self._allow_empty:
            raise FatalUserError(f"{child.name} printed nothing", "ALLOW_EMPTY = True says that this is right")
        return Produced(length, "", "")

    def _judge(self, child: process.Child) -> None:
        """Wait for its end."""
        try:
            child.finish(shown=_SHOWN)
        except ProgramFailed as error:
            message = f"the command {self.name} failed: {error.message}"
            raise ProgramFailed(message, returncode=error.returncode) from error

    def content_of(self, stream: BinaryIO) -> str:
        """The bytes are the content; contract: `sources.Source.content_of`."""
        return relay.digest_of(stream)

    def programs(self) -> Mapping[str, str]:
        """None of ours."""
        return {}


def _note(line: bytes) -> None:
    debug(f"it says: {line.decode('utf-8', 'backslashreplace')}")


class Input:
    """What comes on standard input, to its end; `name` is what the job is called. It has `seconds`."""

    kind = "command"

    def __init__(self, name: str, *, seconds: float, allow_empty: bool = False) -> None:
        self.name = name
        self.file_name = name + ENDING
        self._seconds = seconds
        self._allow_empty = allow_empty

    def fingerprint(self) -> None:
        """None: it has to be read. Raises `UsageError` if it is a terminal, or closed."""
        if sys.stdin is None:  # then the descriptor 0 is anything that was opened since
            raise UsageError("standard input is closed")
        if os.isatty(0):
            raise UsageError("standard input is a terminal", "send something into it: PROGRAM | … --stdin")

    def produce(self, out: BinaryIO) -> Produced:
        """Read it. Raises `FatalUserError` if there is nothing; who wrote it may have failed, which nobody can see."""
        length = 0
        deadline = time.monotonic() + self._seconds

        def wait() -> None:
            if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimedOut(f"standard input did not end within {self._seconds:g} s")

        for block in relay.pieces(0, wait):
            out.write(block)
            length += len(block)
        if not length and not self._allow_empty:
            raise FatalUserError("standard input is empty", "--allow-empty keeps it all the same")
        return Produced(length, "", "")

    def content_of(self, stream: BinaryIO) -> str:
        """The bytes are the content; contract: `sources.Source.content_of`."""
        return relay.digest_of(stream)

    def programs(self) -> Mapping[str, str]:
        """Nobody knows."""
        return {}


def source_of(job: Job, *, from_stdin: bool = False, allow_empty: bool = False) -> Source:
    """The source of the command `job`: its program, its URL, or standard input."""
    settings = job.settings
    seconds = LONGEST if settings["TIMEOUT"] is None else settings["TIMEOUT"]
    allow_empty = allow_empty or settings["ALLOW_EMPTY"]
    if from_stdin:
        return Input(job.name, seconds=seconds, allow_empty=allow_empty)
    if settings["URL"]:
        from btw_backup.sources.http import Export  # noqa: PLC0415 - ssl takes a while to load

        return Export(job.name, settings["URL"], settings["TOKEN_FILE"], seconds=seconds, allow_empty=allow_empty)
    return Output(job.name, settings["COMMAND"], seconds=seconds, allow_empty=allow_empty)
