"""The programs that we invoke: argument lists, a fixed PATH, a clean environment, and an error that names them.

The only import of subprocess. Children die with us (PR_SET_PDEATHSIG, through
setpriv of util-linux), so that none writes on after its lock is gone.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from btw_backup import interrupts
from btw_backup.errors import MissingProgram, ProgramFailed, TimedOut, TooSlow
from btw_backup.log import debug, printable

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {
    "tar": "tar",
    "rdiff-backup": "rdiff-backup",
    "s3cmd": "s3cmd",
    "pg_dump": "postgresql-client",
    "pg_dumpall": "postgresql-client",
    "pg_restore": "postgresql-client",
    "psql": "postgresql-client",
    "createdb": "postgresql-client",
    "setpriv": "util-linux",
    "ps": "procps",
}
"""Debian's package of each program, for the hint."""

PIPE = subprocess.PIPE
"""For `stdin`: a pipe that the caller writes to."""

_LIMIT: ContextVar[float | None] = ContextVar("_LIMIT", default=None)

_INHERITED = ("HOME", "TZ", "USER", "LOGNAME", "TMPDIR")
_KEPT_LINES = 20


def locate(program: str) -> str:
    """The absolute path of `program`: ``BTW_PG_DUMP=/x`` in the environment, else a fixed PATH, else the folder of
    our own Python (for a virtual environment). Raises `MissingProgram`."""
    override = os.environ.get("BTW_" + program.upper().replace("-", "_"))
    if override:
        if os.path.isabs(override) and os.access(override, os.X_OK):
            return override
        raise MissingProgram(
            f"BTW_{program.upper().replace('-', '_')} is not an absolute path of a program: {override}"
        )
    found = shutil.which(program, path=SEARCH_PATH) or shutil.which(program, path=str(Path(sys.prefix) / "bin"))
    if found is None:
        package = PACKAGES.get(program, program)
        raise MissingProgram(f"the program {program} is not installed", f"apt-get install {package}")
    return found


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child gets to see: a fixed PATH, the C locale, a few harmless names, and `extra`."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "PATH": SEARCH_PATH, "LC_ALL": "C", **(extra or {})}


@dataclass(slots=True)
class Child:
    """A running program. Its standard error is read by a thread: each line goes to `on_line`, the last are kept."""

    name: str
    process: subprocess.Popen[bytes]
    last_lines: list[str]
    reader: threading.Thread

    @property
    def stdout(self) -> BinaryIO:
        """The reading end of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]

    def has_ended(self) -> bool:
        """Whether it has ended; does not wait."""
        return self.process.poll() is not None

    def take_stdin(self) -> int:
        """The writing end of its standard input, from now on the caller's to close."""
        assert self.process.stdin is not None
        descriptor = os.dup(self.process.stdin.fileno())
        self.process.stdin.close()
        return descriptor

    def finish(self, accepted: Sequence[int] = (0,), shown: int = 1) -> int:
        """Wait for the end; its status if `accepted`, else `ProgramFailed` with the last lines of standard error, as
        many as are to be `shown`."""
        status = self.process.wait()
        self.reader.join()
        debug(f"{self.name} [{self.process.pid}] ended with {status}")
        if status not in accepted:
            raise ProgramFailed(self._complaint(status, shown), returncode=status)
        return status

    def kill(self) -> None:
        """End it now, with whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.reader.ident is not None:  # else no thread was to be had
            self.reader.join()

    def left(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Its block is left: let go of its pipes, and kill it if that is by an `error`."""
        try:
            if error is not None:
                self.kill()
        finally:
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()

    def _complaint(self, status: int, shown: int) -> str:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        last = [line for line in self.last_lines if line.strip()][-shown:]
        return f"{self.name} {how}" + (f": {'; '.join(last)}" if last else "")


@contextmanager
def started(
    command: Sequence[str | bytes],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    kept: Sequence[int] = (),
    on_line: Callable[[bytes], bool | None] | None = None,
) -> Iterator[Child]:
    """Run `command` (its first word is located) while the block lasts; leaving the block by an error kills it.

    `stdout` None gives a pipe to read; the program gets our descriptors `kept`, too; `on_line` gets every line of
    standard error without its end, and kills the program by answering True. Call from the main thread: the kernel kills
    a child when the thread that started it ends.
    """
    path = locate(os.fsdecode(command[0]))
    debug("$ " + " ".join(printable(word) for word in command))
    with ExitStack() as stack:
        with interrupts.held():  # until it is known whom to kill
            process = subprocess.Popen(
                [locate("setpriv"), "--pdeathsig", "KILL", "--", path, *command[1:]],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=subprocess.PIPE,
                env=environment(env),
                cwd=cwd,
                pass_fds=kept,
                start_new_session=True,
            )
            last_lines: list[str] = []
            reader = threading.Thread(target=_drain, args=(process, last_lines, on_line), daemon=True)
            child = Child(os.path.basename(os.fsdecode(command[0])), process, last_lines, reader)
            stack.push(child.left)
            reader.start()
        stack.enter_context(time_limit(child, _LIMIT.get()))
        yield child


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Each program that this thread starts during the block has `seconds`; None: as long as it likes."""
    before = _LIMIT.set(seconds)
    try:
        yield
    finally:
        _LIMIT.reset(before)


def _drain(
    process: subprocess.Popen[bytes], last_lines: list[str], on_line: Callable[[bytes], bool | None] | None
) -> None:
    assert process.stderr is not None
    with process.stderr as stream:
        for raw in iter(lambda: stream.readline(65536), b""):
            line = raw.rstrip(b"\n")
            if on_line is not None and on_line(line):
                process.kill()
            last_lines.append(printable(line))
            del last_lines[:-_KEPT_LINES]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a program has to get on: what `done` tells grows by `least` in `seconds`."""

    done: Callable[[], int]
    least: int
    seconds: float


def run(
    command: Sequence[str | bytes],
    *,
    accepted: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: int | IO[bytes] | None = None,
    timeout: float | None = None,
    pace: Pace | None = None,
    on_line: Callable[[bytes], bool | None] | None = None,
) -> bytes:
    """Run `command` to its end and give back what it printed. Raises `ProgramFailed`, `MissingProgram`."""
    with (
        started(command, env=env, cwd=cwd, stdin=stdin, on_line=on_line) as child,
        time_limit(child, timeout),
        _pace_kept(child, pace),
    ):
        output = child.stdout.read()
        child.finish(accepted)
        return output


@contextmanager
def time_limit(child: Child, seconds: float | None) -> Iterator[None]:
    """Kill `child` after `seconds`, and then say so instead of what its death caused."""
    if seconds is None:
        yield
        return
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        child.kill()

    watchdog = threading.Timer(seconds, expire)
    watchdog.start()
    try:
        yield
    except ProgramFailed:
        if expired.is_set():
            raise TimedOut(f"{child.name} did not end within {seconds:g} s and was killed") from None
        raise
    finally:
        watchdog.cancel()


@contextmanager
def _pace_kept(child: Child, pace: Pace | None) -> Iterator[None]:
    """Kill `child` when it gets on more slowly than that, and then say so."""
    if pace is None:
        yield
        return
    ended, was_slow = threading.Event(), threading.Event()

    def watch() -> None:
        before = pace.done()
        while not ended.wait(pace.seconds):
            now = pace.done()
            if now - before < pace.least:
                was_slow.set()
                child.kill()
                return
            before = now

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except ProgramFailed:
        if was_slow.is_set():
            raise TooSlow(f"{child.name} got next to nothing within {pace.seconds:g} s and was killed") from None
        raise
    finally:
        ended.set()
