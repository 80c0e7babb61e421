"""import --take-over: a new machine goes on at a target in the place of one that is gone, and may remove there, too."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from btw_backup.offsite.ledger import Ledger
from tests.conftest import REPOSITORY, Installation, random_bytes, tree_differences
from tests.test_removed_offsite import Place, folder_place, listed, live, stored, three_backups
from tests.test_targets import files_below


WITHOUT_SQLITE = """
import runpy, sys
sys.modules["sqlite3"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Some builds of Python lack it."""


@pytest.fixture
def nas(btw: Installation) -> Place:
    """An encrypted folder that allows removing, with three backups of each kind that differ in how they are sent."""
    return folder_place(btw, "objects")


def machine(btw: Installation, name: str) -> Installation:
    """Another one, with the same configuration and nothing else."""
    other = Installation(btw.top / name)
    for folder in (other.top, other.config_dir, other.root):
        folder.mkdir()
    text = (btw.config_dir / "config.py").read_text().replace(str(btw.root), str(other.root))
    (other.config_dir / "config.py").write_text(text)
    for job in btw.config_dir.glob("*/src"):
        shutil.copytree(job.parent, other.config_dir / job.parent.name, symlinks=True, ignore=lambda *_: ["backup"])
        (other.config_dir / job.parent.name / "backup").mkdir()
    return other


def taken_over(btw: Installation, nas: Place, name: str = "new") -> Installation:
    """The machine that goes on."""
    other = machine(btw, name)
    ended = other("import", "--from", "nas", "--identity", nas.key, "--take-over")
    assert "is taken over: the machine that sent it must not send there any more" in ended.out + ended.err
    nas.btw = other
    return other


def test_what_is_removed_by_the_new_machine_goes(btw: Installation, source: Path, nas: Place) -> None:
    """It goes on with the chain: nothing is sent again, the rest comes back as it was, by this program and without."""
    three_backups(btw, source)
    (btw.top / "big").mkdir()
    (btw.top / "big/file").write_bytes(random_bytes(30 << 20))  # in an archive of several objects
    three_backups(btw, btw.top / "big", "tar", "big")
    before = nas.objects()
    new = taken_over(btw, nas)
    new("sync")
    assert stored(nas.objects()) - stored(before) <= live(new, "nas") - stored(before)
    sent = {path for path in nas.objects() if path not in before}
    assert sum(len(nas.objects()[path]) for path in sent) < 1 << 20  # a record with its state, and the store key
    new("sync", "--verify")
    (source / "own").write_bytes(random_bytes(600_000))
    new("fs", source, "www")
    for address in ("www@first", "big@first"):
        new("rm", address)
    new("cleanup", "--grace", "0")
    gone = stored(before) - stored(nas.objects())
    assert sum(len(before[path]) for path in gone) > 1_200_000  # what was in the first of each alone
    assert live(new, "nas") == stored(nas.objects())
    assert nas.listed() == listed(new)
    assert len(nas.listed()) == 5
    new("keys", "test", nas.key)
    assert new("sync", "--verify").err == ""
    assert tree_differences(source, nas.restored("www")) == ""
    assert tree_differences(btw.top / "big", nas.restored("big")) == ""
    script = ["/usr/bin/python3", nas.folder / "RESTORE.py", "--identity", nas.key, btw.top / "rebuilt"]
    subprocess.run([str(word) for word in script], check=True)
    without = [script[0], "-c", WITHOUT_SQLITE, *script[1:-1], btw.top / "rebuilt-without"]
    subprocess.run([str(word) for word in without], check=True)
    assert files_below(btw.top / "rebuilt") == files_below(btw.top / "rebuilt-without")
    for path in sorted((btw.top / "rebuilt").rglob("*.zst")):
        assert path.read_bytes() == (new.root / path.relative_to(btw.top / "rebuilt")).read_bytes()


def test_the_old_machine_is_not_gone(btw: Installation, source: Path, nas: Place) -> None:
    """It is told so by its next run, and believes nothing to be off-site; from then on nothing is removed any more."""
    three_backups(btw, source)
    new = taken_over(btw, nas)
    new("sync")
    (source / "own").write_bytes(random_bytes(600_000))
    ended = btw("fs", source, "www", status=6)
    assert "another machine has taken over the chain of this one" in ended.err
    assert "another machine has taken over" in btw("sync", status=6).err
    new("rm", "www@first")
    before = nas.objects()
    assert "another machine has taken over" in new("cleanup", "--grace", "0", status=6).err
    assert stored(before) <= stored(nas.objects())
    (btw.config_dir / ".offsite/nas.sqlite").unlink()
    btw("sync")
    new("fs", source, "www")
    out = btw.top / "out"
    new("restore", "--from", nas.folder, "--identity", nas.key, "www", out, status=None)
    assert tree_differences(source, out) == ""


def test_the_old_machine_goes_on_before_the_new_one(btw: Installation, source: Path, nas: Place) -> None:
    """The other way round: the new one finds out before it removes anything."""
    three_backups(btw, source)
    new = taken_over(btw, nas)
    (source / "own").write_bytes(random_bytes(600_000))
    btw("fs", source, "www")
    new("rm", "www@first")
    before = nas.objects()
    new("cleanup", "--grace", "0", status=6)
    assert "another machine has taken over" in new("sync", status=6).err
    assert stored(before) <= stored(nas.objects())
    out = btw.top / "out"
    btw("restore", *nas.options, "www", out, status=5)  # what was said to be off-site is; and that something is wrong
    assert tree_differences(source, out) == ""
    assert nas.folder
    script = ["/usr/bin/python3", nas.folder / "RESTORE.py", "--identity", nas.key, btw.top / "rebuilt"]
    assert subprocess.run([str(word) for word in script], check=False).returncode == 5
    newest = max(btw.root.glob("www/*.manifest.zst"))
    assert (btw.top / "rebuilt" / newest.relative_to(btw.root)).read_bytes() == newest.read_bytes()


def test_what_cannot_be_taken_over(btw: Installation, source: Path, nas: Place) -> None:
    """What has several chains, or is not whole; and who has sent there before. Nothing is known of it then."""
    three_backups(btw, source)
    options = ("import", "--from", "nas", "--identity", nas.key, "--take-over")
    assert "this machine has sent to" in btw(*options, status=1).err
    assert "goes with one --from" in btw(*options, "www", status=2).err
    assert "goes with --from" in btw("import", "--take-over", status=2).err
    assert nas.folder
    part = max(nas.folder.glob("objects/*/*"), key=lambda path: path.stat().st_size)
    kept = part.read_bytes()
    part.unlink()
    broken = machine(btw, "broken")
    broken(*options, status=5)
    assert not (broken.config_dir / ".offsite/nas.sqlite").exists()
    part.write_bytes(kept)
    (btw.config_dir / ".offsite/nas.sqlite").unlink()
    btw("sync", "--full")
    twice = machine(btw, "twice")
    assert "the records of several machines" in twice(*options, status=1).err
    assert not (twice.config_dir / ".offsite/nas.sqlite").exists()
    assert len(json.loads(twice("--json", "list").out)) == 3


def test_what_was_imported_is_told_in_several_records(btw: Installation, source: Path, nas: Place) -> None:
    """Without taking over, in a chain of its own; so that no record takes much memory."""
    (source / "big").write_bytes(random_bytes(20 << 20))
    btw.tree(source, "chunks", "www")
    btw("fs", source, "www")
    new = machine(btw, "new")
    new("import", "--from", "nas", "--identity", nas.key)
    known = Ledger(new.config_dir / ".offsite/nas.sqlite")
    untold = len(known.new_chunks(1000))
    assert untold > 6
    code = (
        "import sys; from btw_backup.offsite import chain; chain.MOST_CHUNKS = 3\n"
        "from btw_backup.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "--config-dir", new.config_dir, "sync"]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    assert known.sequence >= untold / 3
    assert known.new_chunks(1000) == {}
    known.close()
    assert nas.folder
    for old in nas.folder.glob("index/*"):
        if old.name != known_chain(new):
            shutil.rmtree(old)  # all is told anew
    assert tree_differences(source, nas.restored("www")) == ""


def known_chain(btw: Installation) -> str:
    """The name of its chain."""
    ledger = Ledger(btw.config_dir / ".offsite/nas.sqlite")
    try:
        return ledger.chain
    finally:
        ledger.close()
