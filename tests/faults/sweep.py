"""Runs one case again and again, and fails it at its first, its second, ... its last step.

The steps are those of an undisturbed run, so that nothing has to be changed when the code changes. Where there are too
many, some are chosen: the first and the last on each kind of path, and others by a seed.
"""

import logging
import os
import random
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.faults import audit
from tests.faults.case import Case
from tests.faults.killing import Step, steps_of
from tests.faults.world import World

SEED = int(os.environ.get("BTW_FAULTS_SEED", "1"))
_logger = logging.getLogger("faults")

ALL = 200
"""Steps up to which all are tried, and how many are chosen of more."""

_WRITES = ("write", "pwrite", "sendto")
_SYNCS = ("fsync", "fdatasync", "syncfs")

APPLIES = {
    "torn": lambda step: step.call in _WRITES and step.length > 1,
    "short": lambda step: step.call in _WRITES and step.length > 1,
    "eintr": lambda step: step.call in (*_WRITES, *_SYNCS, "open", "openat", "ftruncate"),
    "full": lambda step: step.call not in _SYNCS and not step.call.startswith(("unlink", "rmdir", "rename", "sendto")),
    "enospc": lambda step: step.call != "sendto",
    "erofs": lambda step: step.call != "sendto",
    "readonly": lambda step: step.call != "sendto",
}
"""The steps at which an act does anything else than another one does; all, if it is not here."""


@dataclass
class Result:
    """What a sweep found: how many steps there are, how many were tried, and what did not hold."""

    case: str
    act: str
    steps: int = 0
    tried: int = 0
    broken: list[str] = field(default_factory=list)

    def breaks(self, what: str) -> None:
        """Note, and tell at once, what did not hold."""
        self.broken.append(what)
        _logger.warning("%s: %s", self.case, what)


def sweep(world: World, case: Case, act: str, most: int, name: str = "") -> Result:
    """Do the harm `act` at each step of `case`, at `most` of them; only at those on files whose name begins with `name`,
    if there is any."""
    world.reset()
    ended = world.harmed(case.words(world), 0, "kill")
    assert ended.status in case.statuses, f"{case.name} without a fault: {ended}"
    case.done(world)
    steps = steps_of(world.trace)
    fitting = [
        step
        for step in steps
        if APPLIES.get(act, lambda step: True)(step) and os.path.basename(step.path).startswith(name)
    ]
    result = Result(case.name, act, len(steps))
    for step in chosen(fitting, most, f"{SEED} {case.name} {act}"):
        result.tried += 1
        try:
            _try(world, case, act, step.number)
        except (AssertionError, subprocess.SubprocessError) as error:
            met = _met(world)
            text = " ".join(str(error).split("\nassert")[0].split())[:600]
            result.breaks(f"{act} at step {step.number}, {met}: {text}")
    return result


def _met(world: World) -> str:
    """The step that was harmed, as far as the trace of the last run tells."""
    lines = world.trace.read_text(errors="backslashreplace").splitlines()
    at = next((number for number, line in enumerate(lines) if line.startswith("# ")), 0)
    fields = (lines[at - 1] if lines else "").split("\t")
    return " ".join(fields[1:4]).replace(str(world.top), "").strip()


def _try(world: World, case: Case, act: str, number: int) -> None:
    world.reset()
    ended = world.harmed(case.words(world), number, act)
    if act.startswith("power"):
        world.start_again()
    audit.after_fault(world, case, ended, died=audit.died(ended, act))
    audit.after_next(world, case)
    if act.startswith("power"):
        audit.second_backup(world)


def chosen(steps: Sequence[Step], most: int, seed: str) -> list[Step]:
    """`most` of the steps, in their order: those at the edges of each kind of path first."""
    if len(steps) <= most:
        return list(steps)
    chance = random.Random(seed)
    edges = list(_edges(steps))
    picked = set(chance.sample(edges, min(len(edges), most // 2)))
    rest = [step for step in steps if step not in picked]
    return sorted(picked | set(chance.sample(rest, most - len(picked))), key=lambda step: step.number)


def _edges(steps: Iterable[Step]) -> Iterable[Step]:
    """The first and the last step on each kind of path."""
    first: dict[str, Step] = {}
    last: dict[str, Step] = {}
    for step in steps:
        kind = kind_of(step.path)
        first.setdefault(kind, step)
        last[kind] = step
    return dict.fromkeys([*first.values(), *last.values()])


def kind_of(path: str) -> str:
    """A path without what differs from run to run: numbers and digests."""
    return re.sub(r"[0-9a-f]{12,}|\d+", "N", re.sub(r"/[0-9a-f]{2}/", "/XX/", path))
