"""The list of what is swept is complete, and what is said to change nothing changes nothing."""

import pytest

from btw_backup.commands import NAMES
from tests.faults import sabotage
from tests.faults.cases import CASES, READ_ONLY
from tests.faults.conftest import MakeWorld
from tests.faults.killing import steps_of

WORDS = {
    "list": ("list",),
    "find": ("find", "text"),
    "diff": ("diff", "hosts/src@1", "hosts/src@0"),
    "explain": ("explain", "{outside}/src/folder"),
    "config": ("config", "check"),
    "doctor": ("doctor",),
    "offsite": ("offsite", "policy"),
}


def test_every_command_is_swept_or_changes_nothing() -> None:
    swept = {case.command for case in CASES}
    assert swept & READ_ONLY.keys() == {"doctor"}
    assert swept | READ_ONLY.keys() == set(NAMES)


def test_every_patch_of_sabotage_fits() -> None:
    for patch in sabotage.PATCHES:
        text = (sabotage.REPOSITORY / "btw_backup" / patch.file).read_text()
        assert text.count(patch.old) == 1 and patch.old != patch.new, patch.name


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("command", sorted(READ_ONLY.keys() - {"mount"}))
def test_changes_nothing_but_the_log(command: str, world_of: MakeWorld) -> None:
    """mount stays until it is unmounted; tests/test_mount.py has it."""
    world = world_of(next(case for case in CASES if case.name == "rm"))
    if command == "offsite":
        (world.place / "s3cfg").touch(0o600)
        world.configure(f"S3_URI_PREFIX = 's3://bucket/'\nS3CMD_CONFIG = '{world.place}/s3cfg'\n")
    words = [word.format(outside=world.outside) for word in WORDS[command]]
    ended = world.harmed(words, 0, "kill")
    assert ended.status == 0, ended
    changed = {step.path for step in steps_of(world.trace)}
    assert changed <= {str(world.config_dir / "btw-backup.log")}
