"""What must hold after a fault, and after the next run in peace. An `AssertionError` says what did not.

I1  every backup that was reported is there, and restores byte for byte and attribute for attribute
I2  nothing is listed as good that restores to something else, and nothing appears that should not
I3  who is not done does not say so: a status that is documented, one line, no traceback
I4  the next run, without help, ends well, and then all is done
I5  it leaves no litter
I6  off-site is what is here, and nothing is owed (in the `done` of the cases that send)
I7  nothing outside ROOT_PATH, the configuration and the target has changed
"""

import os
import re
from pathlib import Path

from btw_backup.files import TEMPORARY
from tests.conftest import Ended
from tests.faults.case import Case
from tests.faults.contents import content_of
from tests.faults.killing import KILLED
from tests.faults.world import NAME_OF_PROGRAM, World

REPORTED = (0, 3, 6)
"""Statuses that say that the backup is kept."""

FAILED = (1, 4, 5, 129, 130, 143)
"""Documented statuses of a run that is not done."""

_VOICE = re.compile(rf"{NAME_OF_PROGRAM}: \S.*|Terminated|usage: .*")


def after_fault(world: World, case: Case, ended: Ended, *, died: bool) -> None:
    """Audit after a run that met a fault; `died`: nobody was left to say how it ended."""
    if not died:
        _voice(case, ended)
    world.last = ended
    is_done = ended.status in (REPORTED if case.keeps or case.keeps_also(world) else case.statuses)
    if not world.is_set_up and case.command == "init":
        assert not is_done or died, "reported as done, and there is no configuration"
        return
    with world.forks.together():
        _backups(world, case, is_done and not died)
        case.partial(world)
        if is_done and not died:
            case.done(world)


def after_next(world: World, case: Case) -> None:
    """Run what a user would run next, in peace, and audit that."""
    words = (case.again or case.words)(world)
    ended = world.harmed(words, 0, "kill") if world.alike else world.run(*words)
    world.last = ended
    assert case.is_fine(world, ended), f"I4: the next run: {ended}"
    assert "Traceback" not in ended.err, f"I4: the next run: {ended.err}"
    with world.forks.together():
        _backups(world, case, True)
        case.done(world)
    _no_litter(world)


def second_backup(world: World) -> None:
    """Back up the tree once more, to another place, and restore that: whatever a crash left is not taken for content."""
    source = world.outside / "src"
    if not any(world.config_dir.glob("src.*")):
        return
    world.well("fs", source, "again")
    row = next(row for row in world.listed() if row["dst"] == "again")
    assert world.restored(row) == content_of(source), "I2: the next backup of the same content holds something else"


def _voice(case: Case, ended: Ended) -> None:
    """I3."""
    assert "Traceback" not in ended.err, f"I3: {ended.err}"
    assert ended.status in (*REPORTED, *FAILED, *case.statuses), f"I3: {ended}"
    strange = [line for line in ended.err.splitlines() if not _VOICE.fullmatch(line)]
    assert not strange, f"I3: said in another voice: {strange[:3]}"
    assert ended.status in (*REPORTED, *case.statuses) or ended.err, "I3: it failed and does not say why"


def _backups(world: World, case: Case, is_done: bool) -> None:
    """I1, I2, I7."""
    _listed_and_restored(world, case, is_done)
    assert content_of(world.outside) == world.saved_outside, "I7: a source has changed"


def _listed_and_restored(world: World, case: Case, is_done: bool) -> None:
    """I1, I2."""
    rows = {f"{row['dst']}@{row['stamp']}": row for row in world.listed()}
    goes, comes = case.goes(world), case.comes(world)
    for address in world.sure.keys() - goes:
        assert address in rows, f"I1: {address} was reported, and is gone"
        assert rows[address]["valid"] is not False, f"I1: {address} was reported, and is marked as damaged"
    kept = case.kept(world)
    new: dict[str, int] = dict.fromkeys(kept, 0)
    for address, row in rows.items():
        if address in world.damaged or row["valid"] is False:
            continue
        content = world.restored(row)
        if address in world.sure:
            assert content == world.sure[address], f"I1: {address} comes back as something else"
        elif address in comes:
            assert content == comes[address], f"I2: {address} comes back as something else"
        else:
            dst = str(row["dst"])
            assert dst in kept, f"I2: {address} appeared"
            assert content == kept[dst], f"I2: {address} appeared, and holds something else"
            new[dst] += 1
    for dst, count in new.items():
        assert count >= case.is_new or not is_done, f"I1: reported as kept, and there is no new backup in {dst}"
        assert count <= case.is_new + case.may_be_twice, f"I2: {count} backups of the same content in {dst}"


def _no_litter(world: World) -> None:
    """I5."""
    left = [
        os.path.relpath(os.path.join(folder, name), world.top)
        for folder, folders, names in os.walk(world.top)
        for name in (*folders, *names)
        if name.startswith(TEMPORARY) or Path(folder).name == "writing"
    ]
    assert not left, f"I5: left over: {left[:3]}"


def died(ended: Ended, act: str) -> bool:
    """Whether a harmed run ended without a chance to say anything."""
    return ended.status == KILLED or (act == "kill1" and ended.status == 128 + 9)
