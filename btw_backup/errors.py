"""The errors that a user sees: a message, perhaps a hint, and an exit status.

::

    FatalUserError                1   something is wrong; nothing was lost
      UsageError                  2   the command line does not make sense
      ImproperlyConfigured        1   a configuration file is missing, wrong, or writable by others
      ProgramFailed               1   a program that we invoke failed, was killed, or ran out of time
        MissingProgram            1   a program that we invoke is not installed
        TimedOut                  1   a program that we invoked ran out of time and was killed
          TooSlow                 1   it got on too slowly
      NotFound                    1   no such backup, path or destination
      WouldOverwrite              1   something is already where the result should go
      NoCatalogue                 1   the catalogue cannot be used; files are read instead
      Incomplete                  3   done, but something could not be read, or changed while it was
      Locked                      4   another run holds the lock
      Damaged                     5   stored data is not what was stored
        DamagedPart               5   one file of it is not, and the others can be read
      NotOffsite                  6   kept here, but not (all) off-site
    Interrupted          129 130 143   a signal asked us to stop; not an Exception, so that nobody goes on after it

Anything else that escapes is a bug: status 70, with a traceback.
"""

import errno

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}
"""What says that we, or the machine, lack something just now, and nothing about what is stored."""

TRY_ANOTHER = "another backup may be well; list shows them"
"""The hint where a backup is damaged."""


class FatalUserError(Exception):
    """Root of all errors that end a command with one line; ``hint`` says what to do about it."""

    status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FatalUserError):
    """The command line does not make sense."""

    status = 2


class ImproperlyConfigured(FatalUserError):
    """A configuration file is missing, wrong, or writable by others."""


class ProgramFailed(FatalUserError):
    """A program that we invoked failed; ``returncode`` is its status, negative for a signal."""

    def __init__(self, message: str, hint: str = "", returncode: int = 1) -> None:
        super().__init__(message, hint)
        self.returncode = returncode


class MissingProgram(ProgramFailed):
    """A program that we need is not installed."""


class TimedOut(ProgramFailed):
    """A program that we invoked ran out of time and was killed."""


class TooSlow(TimedOut):
    """A program that we invoked got on too slowly and was killed."""


class NotFound(FatalUserError):
    """There is no such backup, path or destination."""


class WouldOverwrite(FatalUserError):
    """Something is already where the result should go."""


class NoCatalogue(FatalUserError):
    """The catalogue is locked, of a newer version, out of reach, or there is no room for it."""


class Incomplete(FatalUserError):
    """Done, but something could not be read, or changed while it was read."""

    status = 3


class Locked(FatalUserError):
    """Another run holds the lock."""

    status = 4


class Damaged(FatalUserError):
    """What is stored is not what was stored."""

    status = 5


class DamagedPart(Damaged):
    """The content of one file is not what was stored; what follows can be read all the same.

    If `length` is not 0, so many bytes of it are missing, and who goes on with its content gets what is behind them.
    """

    def __init__(self, message: str, hint: str = "", length: int = 0) -> None:
        super().__init__(message, hint)
        self.length = length


def unreadable(what: str, error: OSError, hint: str = "") -> FatalUserError:
    """To be raised where `what` is stored and cannot be read: `Damaged`, unless it is we who lack something."""
    message = f"{what} cannot be read: {error.strerror or error}"
    if error.errno in _SHORT:
        return FatalUserError(message, "that says nothing about what is stored; see ulimit -n, and free")
    return Damaged(message, hint)


class NotOffsite(FatalUserError):
    """The backup is kept here, but is not (all) off-site."""

    status = 6


class Interrupted(BaseException):
    """A signal asked us to stop; the status is 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.status = 128 + number


def shortage(error: BaseException) -> str:
    """What the machine had too little of, if that is what `error` says; "" if it is something else. Libraries and the
    interpreter have no class of their own for it."""
    said = str(error)
    if isinstance(error, RuntimeError) and ("can't start new thread" in said or "can't allocate lock" in said):
        return "no thread could be started: there are too many, or not enough memory"
    if isinstance(error, BlockingIOError) and not error.filename:  # of a fork; locks have their own
        return "no process could be started: there are too many, or not enough memory"
    if type(error).__name__ == "ZstdError" and "llocation error" in said:
        return "out of memory, or no thread could be started"
    unloaded = isinstance(error, ImportError) and ("Cannot allocate memory" in said or "failed to map segment" in said)
    return "out of memory" if unloaded or isinstance(error, MemoryError) else ""
