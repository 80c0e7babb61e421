"""Several runs at once, locks that nobody holds, and a backup that sleeps while a day goes by."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import Installation
from tests.faults.contents import change_source, content_of, make_source
from tests.faults.killing import other_clock

KEEPERS = ("tar", "rdiff", "chunks")


def restored(btw: Installation, address: str) -> object:
    """What comes back."""
    target = Path(tempfile.mkdtemp(dir=btw.top)) / "restored"
    btw("restore", address, target)
    return content_of(target)


def rows(btw: Installation, *words: str) -> list[dict[str, object]]:
    """What list shows."""
    found: list[dict[str, object]] = json.loads(btw("--json", "list", *words).out or "[]")
    return found


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("wait", ["0", "60"])
def test_f45_the_same_job_twice(btw: Installation, tmp_path: Path, keeper: str, wait: str) -> None:
    """The second waits, or says who is at it; both are right."""
    make_source(tmp_path / "src", 1)
    btw.tree(tmp_path / "src", keeper, "src")
    for number in range(3):
        runs = [btw.start("--lock-wait", wait, "fs", tmp_path / "src", "d") for _ in range(2)]
        ended = [(run.communicate(timeout=120)[1].decode(), run.returncode) for run in runs]
        statuses = sorted(status for _, status in ended)
        assert statuses in ([0, 0], [0, 4]), ended
        assert wait == "0" or statuses == [0, 0]
        assert all("is locked by" in said for said, status in ended if status == 4), ended
        found = rows(btw, "d")
        assert len(found) == number + 1
        assert restored(btw, f"d@{found[-1]['stamp']}") == content_of(tmp_path / "src")
        change_source(tmp_path / "src", number + 2)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_f46_eight_jobs(btw: Installation, tmp_path: Path, keeper: str) -> None:
    """All of them come out, and what they share is there once if they share a store."""
    names = [f"t{number}" for number in range(8)]
    for number, name in enumerate(names):
        make_source(tmp_path / name, 1)
        (tmp_path / name / "own").write_bytes(os.urandom(20_000) + name.encode())
        btw.tree(tmp_path / name, keeper, name)
    for _ in range(2):
        runs = [btw.start("fs", tmp_path / name, f"hosts/{name}") for name in names]
        assert [(run.communicate(timeout=240), run.returncode)[1] for run in runs] == [0] * 8
        for name in names:
            newest = rows(btw, f"hosts/{name}")[-1]["stamp"]
            assert restored(btw, f"hosts/{name}@{newest}") == content_of(tmp_path / name)
            change_source(tmp_path / name, 5)
    stored = sum(path.stat().st_size for path in btw.root.glob(".store/chunks/*/*"))
    alone = (tmp_path / "t0" / "large").stat().st_size
    assert stored < 8 * alone, "what is the same was stored again"
    assert btw("scrub").status == 0


@pytest.mark.parametrize("keeper", KEEPERS)
def test_f47_locks_of_nobody(btw: Installation, tmp_path: Path, keeper: str) -> None:
    """What is written in the file of a lock does not matter, nor that it is gone: the kernel knows who holds it."""
    make_source(tmp_path / "src", 1)
    btw.tree(tmp_path / "src", keeper, "src")
    btw("fs", tmp_path / "src", "d")
    names = (".lock", "lock.yml")
    locks = [path for top in (btw.root, btw.config_dir) for path in top.rglob("*") if path.name in names]
    assert locks
    for planted in (b"1 2020-01-01T00:00:00 btw-backup fs /\n", b"\0\xff" * 300, b""):
        for path in locks:
            path.write_bytes(planted)
        change_source(tmp_path / "src", 2 + len(planted))
        btw("--lock-wait", "0", "fs", tmp_path / "src", "d")
    for path in locks:
        path.unlink()
    btw("--lock-wait", "0", "fs", tmp_path / "src", "d", "--reread")
    assert restored(btw, "d") == content_of(tmp_path / "src")


@pytest.mark.parametrize("holder", ["scrub", "restore"])
def test_f47_whoever_dies_holds_nothing(btw: Installation, tmp_path: Path, holder: str) -> None:
    """A reader that is killed while it is stopped, with its lock: who comes next need not wait for anything."""
    make_source(tmp_path / "src", 1)
    (tmp_path / "src" / "much").write_bytes(os.urandom(12_000_000))
    btw.tree(tmp_path / "src", "chunks", "src")
    btw("fs", tmp_path / "src", "d")
    words = ("scrub",) if holder == "scrub" else ("restore", "d", tmp_path / "out")
    run = btw.start(*words, start_new_session=True)
    time.sleep(0.3)
    os.killpg(run.pid, signal.SIGSTOP)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    btw("--lock-wait", "0", "rm", "--force", "d@0")
    btw("--lock-wait", "0", "cleanup", "--grace", "0")
    btw("--lock-wait", "0", "fs", tmp_path / "src", "d")
    assert restored(btw, "d") == content_of(tmp_path / "src")


def _stopped(btw: Installation, tmp_path: Path, moment: float) -> subprocess.Popen[bytes]:
    """A backup that was stopped, with all its children, some time after it began to write."""
    before = set(btw.root.rglob("*"))
    run = btw.start("fs", tmp_path / "src", "d", start_new_session=True)
    while set(btw.root.rglob("*")) == before and run.poll() is None:
        time.sleep(0.002)
    time.sleep(moment)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGSTOP)
    return run


def _continue(run: subprocess.Popen[bytes]) -> None:
    """Go on, unless it was done before it could be stopped."""
    if run.returncode is None:
        os.killpg(run.pid, signal.SIGCONT)


def _stopped_import(btw: Installation, tmp_path: Path, moment: float) -> subprocess.Popen[bytes]:
    """An import of two backups, stopped some time after it began to write."""
    btw("export", "other@all", tmp_path / "exported")
    btw("rm", "--force", "other@0")
    before = set(btw.root.rglob("*"))
    run = btw.start("import", tmp_path / "exported", "imported", start_new_session=True)
    while set(btw.root.rglob("*")) == before and run.poll() is None:
        time.sleep(0.002)
    time.sleep(moment)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGSTOP)
    return run


@pytest.mark.parametrize("moment", [0.0, 0.1])
def test_f56_a_day_goes_by_while_an_import_sleeps(btw: Installation, tmp_path: Path, moment: float) -> None:
    """As with a backup: what it found there already, and nobody else needs any more, is not taken from it."""
    make_source(tmp_path / "src", 1)
    (tmp_path / "src" / "much").write_bytes(os.urandom(12_000_000))
    btw.tree(tmp_path / "src", "chunks", "src")
    btw("fs", tmp_path / "src", "other")
    run = _stopped_import(btw, tmp_path, moment)
    cleanup = btw("--lock-wait", "1", "cleanup", "--grace", "24h", status=None, env=other_clock(25 * 3600))
    assert cleanup.status in (0, 4), cleanup
    _continue(run)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert restored(btw, "imported") == content_of(tmp_path / "src")
    assert btw("scrub").status == 0


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.2])
def test_f56_a_day_goes_by_while_a_backup_sleeps(btw: Installation, tmp_path: Path, moment: float) -> None:
    """Neither a cleanup, whose clock is 25 hours ahead, nor the end of the sleep takes anything that is needed."""
    make_source(tmp_path / "src", 1)
    btw.tree(tmp_path / "src", "chunks", "src")
    btw("fs", tmp_path / "src", "d")
    first = content_of(tmp_path / "src")
    change_source(tmp_path / "src", 2)
    (tmp_path / "src" / "much").write_bytes(os.urandom(12_000_000))
    btw("fs", tmp_path / "src", "other")
    btw("rm", "--force", "other@0")
    run = _stopped(btw, tmp_path, moment)
    cleanup = btw("--lock-wait", "1", "cleanup", "--grace", "24h", status=None, env=other_clock(25 * 3600))
    assert cleanup.status in (0, 4), cleanup
    _continue(run)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    found = rows(btw, "d")
    assert len(found) == 2
    assert restored(btw, f"d@{found[0]['stamp']}") == first
    assert restored(btw, f"d@{found[1]['stamp']}") == content_of(tmp_path / "src")
    assert btw("scrub").status == 0


@pytest.mark.parametrize("moment", [0.0, 0.1])
def test_f53_f58_others_run_while_a_backup_sleeps(btw: Installation, tmp_path: Path, moment: float) -> None:
    """Removing its base, backing up the same, scrubbing: each waits, says who is at it, or is done; nothing has holes."""
    make_source(tmp_path / "src", 1)
    btw.tree(tmp_path / "src", "chunks", "src")
    btw("fs", tmp_path / "src", "d")
    change_source(tmp_path / "src", 2)
    (tmp_path / "src" / "much").write_bytes(os.urandom(12_000_000))
    run = _stopped(btw, tmp_path, moment)
    for words in (("rm", "--force", "d@0"), ("fs", tmp_path / "src", "d"), ("fs", tmp_path / "src", "e"), ("scrub",)):
        ended = btw("--lock-wait", "1", *words, status=None)
        assert ended.status in (0, 4), ended
    _continue(run)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    for row in rows(btw):
        restored(btw, f"{row['dst']}@{row['stamp']}")
    assert restored(btw, "d@latest") == content_of(tmp_path / "src")
    assert btw("scrub").status == 0


def test_f50_a_restore_while_its_backup_is_removed(btw: Installation, tmp_path: Path) -> None:
    """The reader finishes right, or says that something is missing; it never makes anything up."""
    make_source(tmp_path / "src", 1)
    (tmp_path / "src" / "much").write_bytes(os.urandom(12_000_000))
    wanted = content_of(tmp_path / "src")
    btw.tree(tmp_path / "src", "chunks", "src")
    for number in range(3):
        btw("fs", tmp_path / "src", "d", "--reread")
        reader = btw.start("restore", "d", tmp_path / f"out{number}")
        time.sleep(0.1 * number)
        removing = btw("rm", "--force", "d@0", status=None)
        cleaning = btw("cleanup", "--grace", "0", status=None)
        assert removing.status in (0, 4) and cleaning.status in (0, 4), (removing, cleaning)
        _, said = reader.communicate(timeout=120)
        assert reader.returncode in (0, 1, 4, 5) and b"Traceback" not in said, said
        if reader.returncode == 0:
            assert content_of(tmp_path / f"out{number}") == wanted
        else:
            assert not (tmp_path / f"out{number}").exists() and said
        (tmp_path / "src" / "new").write_text(f"{number}")
        wanted = content_of(tmp_path / "src")
