"""The signals that ask us to stop: the first raises `Interrupted` in the main thread, wherever that is; others change
nothing.

Python drops an exception that comes up in what it calls at a fork, or when an object goes. So it is raised again when
it is gone and `cli` has not caught it.
"""

import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from btw_backup.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AGAIN = 0.05
"""Seconds after which one that was dropped is raised again."""


class _Asked:
    """What was asked of us: the `number` of the first signal, how many `hold` it back, and the exception that was
    `raised`, as long as it is there."""

    number = 0
    hold = 0
    raised: weakref.ref[Interrupted] | None = None


def listen() -> None:
    """Be interrupted from now on, by those of the signals that who started us does not have ignored."""
    _Asked.number = _Asked.hold = 0
    _Asked.raised = None
    sys.unraisablehook = _dropped
    signal.signal(signal.SIGALRM, _raise)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def end() -> None:
    """We are at our end: nobody can interrupt us any more."""
    _Asked.hold += 1


@contextmanager
def held() -> Iterator[None]:
    """What comes during the block is raised at its end: for the start of a child or a thread, which somebody has to
    end then. Unlike a mask, no program that is started inherits this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Asked.hold += 1
    try:
        yield
    finally:
        _Asked.hold -= 1
        if _Asked.number:
            _raise()


def _note(number: int, frame: FrameType | None) -> None:
    if not _Asked.number:
        _Asked.number = number
        _raise()


def _raise(number: int = 0, frame: FrameType | None = None) -> None:
    if not _Asked.hold and _Asked.raised is None:
        raise _made()


def _made() -> Interrupted:
    """The exception. No frame that it passes has a name for it, so that it goes when it is dropped."""
    made = Interrupted(_Asked.number)
    _Asked.raised = weakref.ref(made, _gone)
    return made


def _gone(_: object = None) -> None:
    _Asked.raised = None
    if not _Asked.hold:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _dropped(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python drops an exception: of ours nobody need hear."""
    if isinstance(unraisable.exc_value, Interrupted):
        _gone()
    else:
        sys.__unraisablehook__(unraisable)
