"""A case of the sweeps: what is run, in which installation, and what it has to come to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.conftest import Ended
from tests.faults.contents import Content
from tests.faults.world import World


def _nothing(world: World) -> None:
    """There is nothing more to be said."""


@dataclass(frozen=True)
class Case:
    """A command to be harmed.

    `words` gives its command line. If it makes a backup, that is in `dst` and has the content that `keeps` gives, unless
    it is none: `is_new` False. `comes` and `goes` give the addresses that may appear, with their content, and vanish.
    `partial` checks what must hold however it ended, `done` what must hold when it was reported as done. `again` gives
    the command line that a user would try next; `is_fine` tells whether that ended as it should. `needs` names a server.
    """

    name: str
    command: str
    build: Callable[[World], None]
    words: Callable[[World], Sequence[object]]
    dst: str = ""
    keeps: Callable[[World], Content] | None = None
    keeps_also: Callable[[World], Mapping[str, Content]] = lambda world: {}
    """What it backs up to other places than `dst`, by these."""

    is_new: bool = True
    comes: Callable[[World], Mapping[str, Content]] = lambda world: {}
    goes: Callable[[World], set[str]] = lambda world: set()
    partial: Callable[[World], None] = _nothing
    done: Callable[[World], None] = _nothing
    again: Callable[[World], Sequence[object]] | None = None
    is_fine: Callable[[World, Ended], bool] = lambda world, ended: ended.status == 0
    may_be_twice: bool = False
    """Whether a run after one that died may keep the same again: it cannot know what a stream without a record holds."""

    needs: str = ""
    statuses: tuple[int, ...] = (0,)
    """Those with which it ends if nothing goes wrong."""

    set_back: Callable[[World], None] = _nothing
    """Makes what is neither in ROOT_PATH nor in the configuration what it was before the first run."""

    def kept(self, world: World) -> dict[str, Content]:
        """What a backup of each place has to hold."""
        return {**({self.dst: self.keeps(world)} if self.keeps else {}), **self.keeps_also(world)}
