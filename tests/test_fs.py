"""Backing up trees through the command, with the tar keeper unless a test says otherwise."""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, REPOSITORY, Installation, random_bytes, tree_differences


def archives(btw: Installation, dst: str = "D") -> list[Path]:
    return sorted(path for path in (btw.root / dst).iterdir() if path.name[:1].isdigit())


def record_of(archive: Path) -> dict[str, object]:
    record = json.loads((archive.parent / ".records" / f"{archive.name[:19]}.json").read_text())
    assert isinstance(record, dict)
    return record


def litter(btw: Installation) -> list[str]:
    return [str(path) for path in (*btw.root.rglob("*"), *btw.config_dir.rglob("*")) if path.name.startswith(".tmp-")]


def settle() -> None:
    """Let what was just written become older than a look believes."""
    time.sleep(2.1)


@pytest.mark.parametrize(
    ("compression", "ending", "option"),
    [
        ("zstd", ".tar.zst", "--zstd"),
        ("bzip2", ".tbz", "--bzip2"),
        ("gzip", ".tgz", "--gzip"),
        ("xz", ".txz", "--xz"),
        ("none", ".tar", "--format=posix"),
    ],
)
def test_A06_plain_tar_restores(btw: Installation, source: Path, compression: str, ending: str, option: str) -> None:
    btw.tree(source, extra=f"COMPRESSION = {compression!r}\n")
    btw("fs", source, "D")
    [archive] = archives(btw)
    assert archive.name[19:] == ending
    out = btw.top / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, option, "-xpf", archive], check=True)
    assert tree_differences(source, out) == ""
    btw("restore", "D", btw.top / "ours")
    assert tree_differences(source, btw.top / "ours") == ""


def test_general_compression_is_the_default_of_trees(btw: Installation, source: Path) -> None:
    btw.configure(COMPRESSION="gzip")
    btw.tree(source)
    btw("fs", source, "D")
    assert archives(btw)[0].name.endswith(".tgz")


def test_A02_quiet_says_nothing(btw: Installation, source: Path) -> None:
    btw.tree(source)
    ended = btw("-q", "fs", source, "D")
    assert ended.out == ended.err == ""
    ended = btw("fs", source, "D", "-q")
    assert ended.out == ended.err == ""


def test_A10_unchanged_is_noted_and_changed_is_kept(btw: Installation, source: Path) -> None:
    btw.tree(source)
    for _ in range(3):
        ended = btw("fs", source, "D")
        assert ended.out == ended.err == ""
    assert len(archives(btw)) == 1
    notes = (btw.root / "D" / "log.txt").read_text().splitlines()
    assert len(notes) == 2
    assert all(note[19:] == ": no change in the data to be backed up: dropping backup" for note in notes)
    (source / "etc" / "hosts").write_text("127.0.0.1 changed!!\n")
    btw("fs", source, "D")
    assert len(archives(btw)) == 2


def test_unchanged_is_seen_without_reading(btw: Installation, source: Path) -> None:
    btw.tree(source)
    settle()
    btw("fs", source, "D")
    os.utime(source / "etc" / "deep" / "file", (1, 1))  # both stamps; relatime would set the atime of a read now
    settle()
    btw("fs", source, "D")
    btw("fs", source, "D")
    log = (btw.config_dir / "btw-backup.log").read_text()
    runs = log.split("started: ")[1:]
    assert "tar --create" in runs[-2] and "tar --create" not in runs[-1]
    btw("fs", source, "D", "--reread")
    assert "tar --create" in (btw.config_dir / "btw-backup.log").read_text().split("started: ")[-1]
    assert len(archives(btw)) == 2


def test_F71_same_size_and_mtime_is_noticed(btw: Installation, source: Path) -> None:
    btw.tree(source)
    path = source / "etc" / "hosts"
    for content in (b"aaaa", b"bbbb", b"cccc"):
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        btw("fs", source, "D")
    assert len(archives(btw)) == 3
    btw("restore", "D@first", btw.top / "first")
    assert (btw.top / "first" / "etc" / "hosts").read_bytes() == b"aaaa"


def test_X5_a_changing_file_is_kept_listed_and_recorded(btw: Installation, source: Path) -> None:
    btw.tree(source)
    busy = source / "busy"
    busy.touch()
    stop = threading.Event()

    def write() -> None:
        with open(busy, "wb", buffering=0) as file:
            while not stop.is_set():
                file.write(os.urandom(1 << 16))
                if file.tell() == 64 << 20:
                    file.seek(0)

    with open(source / "large", "wb") as file:
        file.write(random_bytes(64 << 20))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        while busy.stat().st_size < 64 << 20:  # so that to read it takes a while
            time.sleep(0.01)
        ended = btw("fs", source, "D", status=3)
    finally:
        stop.set()
        thread.join()
    assert "busy: file " in ended.err.lower() and "could not be read whole" in ended.err
    [archive] = archives(btw)
    record = record_of(archive)
    assert record["status"] == 3 and [path for path, _ in record["changed"]] == ["busy"]  # type: ignore[attr-defined]
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "large").read_bytes() == (source / "large").read_bytes()


def test_F62_vanishing_files_cost_no_neighbour(btw: Installation, source: Path) -> None:
    btw.tree(source)
    crowd = source / "crowd"
    crowd.mkdir()
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = crowd / str(number % 50)
            path.unlink(missing_ok=True) if number % 2 else path.write_bytes(b"x" * 5000)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(5):
            ended = btw("fs", source, "D", status=None)
            assert ended.status in (0, 3), ended
    finally:
        stop.set()
        thread.join()
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "etc" / "hosts").read_text() == (source / "etc" / "hosts").read_text()


def test_F64_unreadable_is_named_and_the_rest_kept(btw: Installation, source: Path) -> None:
    """Root may read everything, but not what a dead FUSE mount stands before."""
    stale = source / "etc" / "stale"
    stale.mkdir()
    mount_stale(stale)
    btw.tree(source, extra="ONE_FILE_SYSTEM = False\n")
    try:
        ended = btw("fs", source, "D", status=3)
    finally:
        subprocess.run(["umount", "-l", stale], check=True)
    assert "etc/stale: " in ended.err
    [archive] = archives(btw)
    assert [path for path, _ in record_of(archive)["unread"]] == ["etc/stale"]  # type: ignore[attr-defined]
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "etc" / "hosts").exists()


def mount_stale(folder: Path) -> None:
    """A FUSE mount whose server is gone: every look at it fails with ENOTCONN."""
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "stale", folder]
    subprocess.run(command, check=True, pass_fds=(descriptor,))
    os.close(descriptor)


def test_B18_missing_empty_and_shrunk(btw: Installation, source: Path) -> None:
    btw.tree(source)
    for number in range(20):
        (source / str(number)).touch()
    btw("fs", source, "D")
    source.rename(btw.top / "away")
    ended = btw("fs", source, "D", status=1)
    assert "cannot read the source" in ended.err and "mounted" in ended.err
    source.mkdir()
    ended = btw("fs", source, "D", status=1)
    assert "is empty" in ended.err and "--allow-empty" in ended.err
    assert len(archives(btw)) == 1 and not litter(btw)
    assert "shrunk" in btw("fs", source, "D", "--allow-empty", status=3).err
    assert len(archives(btw)) == 2


def test_X6_A19_owner_of_what_is_made(btw: Installation, source: Path) -> None:
    btw.tree(source)
    for number, (text, owner) in enumerate(
        [("nobody", (65534, 0)), ("65534:65534", (65534, 65534)), ("root", (0, 0)), ("daemon:bin", (1, 2))]
    ):
        btw("fs", "-u", text, source, f"D{number}")
        for path in (*(btw.root / f"D{number}").rglob("*"), btw.root / f"D{number}"):
            if path.name not in (".lock", ".fingerprint.json"):
                assert (path.stat().st_uid, path.stat().st_gid) == owner, path
    assert "no such user" in btw("fs", "-u", "nosuchuser", source, "D", status=2).err


@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a hard link", "a FIFO", "a folder"])
def test_t14_the_owner_of_a_dst_plants_something(btw: Installation, source: Path, kind: str) -> None:
    """With ``-u`` the dst belongs to somebody who must not make root write elsewhere, or wait."""
    btw.tree(source)
    btw("fs", "-u", "nobody", source, "D")
    precious, log = btw.top / "precious", btw.root / "D" / "log.txt"
    if kind != "a dangling link":
        precious.write_text("precious")
    if kind.endswith("hard link"):
        log.hardlink_to(precious)
    elif kind.endswith("link"):
        log.symlink_to(precious)
    elif kind == "a FIFO":
        os.mkfifo(log)
    else:
        log.mkdir()
    time.sleep(2.1)  # else it is read again, and a line is only one of those
    err = btw("fs", "-u", "nobody", source, "D", status=1).err
    assert str(log) in err and err.count("\n") <= 2
    if kind == "a dangling link":
        assert not precious.exists()
    else:
        assert (precious.read_text(), precious.stat().st_uid) == ("precious", 0)


def test_t14_the_records_are_a_link(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", "-u", "nobody", source, "D")
    elsewhere = btw.top / "elsewhere"
    elsewhere.mkdir()
    (btw.root / "D" / ".records").rename(btw.root / "D" / "kept")
    (btw.root / "D" / ".records").symlink_to(elsewhere)
    (source / "new").write_text("new")
    assert "is a link" in btw("fs", "-u", "nobody", source, "D", status=1).err
    assert list(elsewhere.iterdir()) == []


def test_X6_A20_dst_stays_inside(btw: Installation, source: Path) -> None:
    btw.tree(source)
    for dst in ("/abs", "../elsewhere", "a/../../b", ".", "", ".hidden"):
        assert btw("fs", source, dst, status=1).err.count("\n") <= 2
    (btw.top / "elsewhere").mkdir()
    (btw.root / "linked").symlink_to(btw.top / "elsewhere")
    assert "leads out of ROOT_PATH" in btw("fs", source, "linked/D", status=1).err
    assert list((btw.top / "elsewhere").iterdir()) == []
    btw("fs", source, "new/and/deep")
    assert len(archives(btw, "new/and/deep")) == 1


def test_A21_nothing_is_open_to_others(btw: Installation, source: Path) -> None:
    os.umask(0)
    try:
        btw.tree(source)
        btw("fs", source, "D")
        btw("fs", source, "D")
    finally:
        os.umask(0o022)
    open_ones = [p for p in btw.root.rglob("*") if not p.is_symlink() and stat.S_IMODE(p.stat().st_mode) & 0o077]
    open_ones += [p for p in btw.config_dir.rglob("*") if p.name != "config.py" and not p.is_symlink()]
    assert [p for p in open_ones if stat.S_IMODE(p.stat().st_mode) & 0o077] == []


def test_X4_A25_two_at_once(btw: Installation, source: Path) -> None:
    btw.tree(source)
    runs = [btw.start("fs", source, "D") for _ in range(3)]
    for run in runs:
        _, err = run.communicate(timeout=PATIENCE)
        assert (run.returncode, err) == (0, b"")
    notes = (btw.root / "D" / "log.txt").read_text().splitlines()
    assert len(archives(btw)) + len(notes) == 3


def test_two_versions_in_one_second_have_two_stamps(btw: Installation, source: Path) -> None:
    btw.tree(source)
    for number in range(3):
        (source / "n").write_text(str(number))
        btw("fs", source, "D")
    assert len({archive.name for archive in archives(btw)}) == 3


def test_X4_F04_locked_by_another(btw: Installation, source: Path) -> None:
    btw.tree(source)
    os.mkfifo(btw.top / "fifo")
    btw("fs", source, "D")
    (source / "large").write_bytes(random_bytes(30 << 20))
    with open(btw.root / "D" / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        assert "is locked by" in btw("--lock-wait", "0", "fs", source, "D", status=4).err
        assert "--lock-wait" in btw("fs", source, "D", "--lock-wait", "1s", status=4).err
        assert time.monotonic() - began < PATIENCE
    btw("--lock-wait", "0", "fs", source, "D")


def test_F47_a_lock_file_without_a_holder_is_only_text(btw: Installation, source: Path) -> None:
    btw.tree(source)
    (btw.root / "D").mkdir()
    (btw.root / "D" / ".lock").write_text("1 2020-01-01T00:00:00 btw-backup fs\n")
    btw("--lock-wait", "0", "fs", source, "D")


@pytest.mark.parametrize("offset", ["-1y", "+1y", "-10y", "-1h"])
def test_F06_clock_jumps(btw: Installation, source: Path, offset: str) -> None:
    btw.tree(source)
    btw("fs", source, "D")
    first = archives(btw)
    (source / "new").write_text("new")
    library = {"LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "FAKETIME": offset}
    began = time.monotonic()
    said = btw("fs", source, "D", env=library).err
    if offset.startswith("-"):
        newest = first[0].name.partition(".")[0]
        wanted = (
            f"the clock is behind the newest backup, D@{newest}: this one gets the stamp {archives(btw)[1].name[:19]}\n"
        )
        assert wanted in said and len(said.splitlines()) == 2, said
    else:
        assert said == ""
    (source / "newer").write_text("newer")
    assert (btw("fs", source, "D").err == "") == offset.startswith("-")
    assert time.monotonic() - began < PATIENCE
    assert len(archives(btw)) == 3 and archives(btw)[0] == first[0]
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "newer").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_F07_signals_end_cleanly(btw: Installation, source: Path, number: int, status: int) -> None:
    btw.tree(source)
    (source / "large").write_bytes(random_bytes(200 << 20))
    run = btw.start("fs", source, "D")
    while not list(btw.root.glob("D/.tmp-*archive*")):  # it stands still while we look, so that it is not at its end
        assert run.poll() is None
        run.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        run.send_signal(signal.SIGSTOP)
    run.send_signal(number)
    run.send_signal(signal.SIGCONT)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == status and b"interrupted" in err and err.count(b"\n") == 1
    assert not litter(btw) and archives(btw) == []
    btw("fs", source, "D")
    assert len(archives(btw)) == 1


def test_F01_killed_at_many_moments(btw: Installation, source: Path) -> None:
    btw.tree(source)
    (source / "large").write_bytes(random_bytes(20 << 20))
    btw("fs", source, "D")
    [first] = archives(btw)
    for moment in range(25):
        (source / "n").write_text(str(moment))
        run = btw.start("fs", source, "D")
        time.sleep(0.02 * moment)
        run.kill()
        run.communicate()
        for archive in archives(btw):
            subprocess.run(["zstd", "-qt", archive], check=True)
    btw("--lock-wait", "0", "fs", source, "D")
    assert not litter(btw)
    assert first in archives(btw)
    btw("restore", "D", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


def test_C11_change_of_type_keeps_all(btw: Installation, source: Path) -> None:
    folder = btw.tree(source, "tar")
    btw("fs", source, "D")
    (folder / "config.py").write_text('TYPE = "rdiff"\n')
    btw("fs", source, "D")
    (source / "n").write_text("1")
    btw("fs", source, "D")
    (folder / "config.py").write_text('TYPE = "tar"\n')
    (source / "n").unlink()
    btw("fs", source, "D")
    assert len(btw("list", "D", "--fields", "stamp").out.splitlines()) == 4
    for number in range(4):
        btw("restore", f"D@{number}", btw.top / str(number))
    assert not (btw.top / "0" / "n").exists() and (btw.top / "1" / "n").exists()


def test_A22_nobackup_is_one_rule_for_both_types(btw: Installation, source: Path) -> None:
    (source / "etc" / "deep" / "NOBACKUP-TAG").touch()
    found = []
    for type_ in ("tar", "rdiff"):
        copy = btw.top / f"copy-{type_}"
        subprocess.run(["cp", "-a", source, copy], check=True)
        btw.tree(copy, type_, name=type_)
        btw("fs", copy, type_)
        btw("restore", type_, btw.top / f"out-{type_}")
        out = btw.top / f"out-{type_}"
        found.append(sorted(str(path.relative_to(out)) for path in out.rglob("*")))
    assert found[0] == found[1] == ["etc", "etc/deep", "etc/deep/NOBACKUP-TAG", "etc/hosts", "link"]


def test_K10_the_log_has_every_command_line(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", source, "D")
    log = btw.config_dir / "btw-backup.log"
    assert "$ tar --create" in log.read_text() and stat.S_IMODE(log.stat().st_mode) == 0o600
    log.rename(log.with_suffix(".1"))
    btw("fs", source, "D")
    assert "started: " in log.read_text()


def test_K11_json_progress(btw: Installation, source: Path) -> None:
    btw.tree(source)
    (source / "large").write_bytes(bytes(50 << 20))
    lines = btw("fs", source, "D", "--json-progress").err.splitlines()
    assert lines and all(json.loads(line)["total"] for line in lines)


def test_id_of_root_path_tells_an_unmounted_disk(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", source, "D")
    btw.root.rename(btw.top / "away")
    assert "is not a folder" in btw("fs", source, "D", status=1).err
    btw.root.mkdir()
    ended = btw("fs", source, "D", status=1)
    assert "is not the ROOT_PATH of this configuration" in ended.err and "mounted" in ended.err
    for words in (("list",), ("list", "D"), ("restore", "D", "out")):
        assert "is not the ROOT_PATH of this configuration" in btw(*words, status=1).err
    assert list(btw.root.iterdir()) == []


def test_f55_two_hosts_with_one_root_path(btw: Installation, source: Path, tmp_path: Path) -> None:
    """The second is refused unless somebody says that it is meant so; a renamed host stays what it is."""
    btw.tree(source)
    btw("fs", source, "D")
    second = Installation(tmp_path / "second")
    second.config_dir.mkdir(parents=True)
    shutil.copy(btw.config_dir / "config.py", second.config_dir)
    second.tree(source)
    words = [sys.executable, "-m", "btw_backup", "--config-dir"]

    def elsewhere(config_dir: Path, *more: object) -> subprocess.CompletedProcess[str]:
        named = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "-", *words, config_dir, *more]
        return subprocess.run(named, check=False, capture_output=True, text=True, cwd=REPOSITORY)

    for more in (("fs", source, "E"), ("cleanup",), ("sync",)):
        ended = elsewhere(second.config_dir, *more)
        assert ended.returncode == 4 and "belongs to an installation on " in ended.stderr, ended
    assert elsewhere(second.config_dir, "list").returncode == 0
    assert elsewhere(btw.config_dir, "fs", source, "D").returncode == 0
    command = ended.stderr.splitlines()[1].partition("both are to use it: ")[2]
    subprocess.run(command.split(), check=True)
    assert elsewhere(second.config_dir, "cleanup").returncode == 0


def test_f61_what_was_not_whole_is_said_when_it_is_restored(btw: Installation, source: Path) -> None:
    """tar pads a file that shrank while it was read with zeros."""
    big = source / "big"
    big.write_bytes(random_bytes(20 << 20))
    btw.tree(source)
    wrapper = btw.top / "tar"
    wrapper.write_text(f'#!/bin/sh\n(sleep 0.2; truncate -s 5M {big}) &\nexec /usr/bin/tar "$@" | (sleep 1; cat)\n')
    wrapper.chmod(0o755)
    assert "padded with zeros" in btw("fs", source, "D", status=3, env={"BTW_TAR": str(wrapper)}).err
    ended = btw("restore", "D", btw.top / "all")
    assert ended.err.count("\n") == 1 and "big may not be whole" in ended.err
    assert btw("restore", "D", btw.top / "one", "--path", "etc").err == ""


def test_C06_random_data_is_not_inflated(btw: Installation, source: Path) -> None:
    btw.tree(source)
    (source / "random").write_bytes(random_bytes(20 << 20))
    btw("fs", source, "D")
    assert archives(btw)[0].stat().st_size < (20 << 20) * 1.01
    (source / "random").unlink()
    (source / "text").write_text("".join(f"line {n} of a text\n" for n in range(500_000)))
    btw("fs", source, "D")
    assert archives(btw)[1].stat().st_size < (source / "text").stat().st_size * 0.4


def test_X13_a_hole_costs_nothing_and_attributes_come_back(btw: Installation, source: Path) -> None:
    btw.tree(source, extra='COMPRESSION = "none"\n')
    with open(source / "hole", "wb") as file:
        file.truncate(200 << 20)
    os.setxattr(source / "etc" / "hosts", "user.colour", b"green")
    btw("fs", source, "D")
    assert archives(btw)[0].stat().st_size < 1 << 20
    btw("restore", "D", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""
    assert (btw.top / "out" / "hole").stat().st_blocks == 0


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ('kill -9 "$$"', "tar was killed by SIGKILL"),
        ("echo 'tar: -: Cannot write: No space left on device' >&2; exit 2", "No space left on device"),
        ("exit 2", "tar exited with status 2"),
        ("exit 126", "tar exited with status 126"),
    ],
)
def test_X13_F03_what_a_failing_tar_wrote_is_no_backup(btw: Installation, source: Path, ending: str, said: str) -> None:
    """The archive itself is whole: what counts is how tar ended."""
    broken = btw.top / "tar"
    broken.write_text(f'#!/bin/sh\n/usr/bin/tar "$@"\n{ending}\n')
    broken.chmod(0o755)
    for type_ in ("tar", "rdiff"):
        copy = btw.top / f"copy-{type_}"
        subprocess.run(["cp", "-a", source, copy], check=True)
        btw.tree(copy, type_, name=type_)
        ended = btw("fs", copy, type_, status=1, env={"BTW_TAR": str(broken)})
        assert said in ended.err and ended.err.count("\n") == 1
        assert archives(btw, type_) == [] and not litter(btw)
        btw("fs", copy, type_)
        assert len(archives(btw, type_)) == 1


def test_A28_an_archive_of_the_old_script_is_compared_with(btw: Installation, source: Path) -> None:
    btw.tree(source)
    place = btw.root / "D"
    place.mkdir()
    subprocess.run(["tar", "-C", source, "-cjpf", place / "2016-05-05T10:00:00.tbz", "."], check=True)
    assert btw("list", "D").out == "2016-05-05T10:00:00.tbz\n"
    btw("fs", source, "D")
    assert btw("list", "D").out == "2016-05-05T10:00:00.tbz\n"
    assert (place / "log.txt").read_text().endswith(": no change in the data to be backed up: dropping backup\n")
    (source / "etc" / "hosts").write_text("changed\n")
    btw("fs", source, "D")
    assert btw("list", "D").out.startswith("2016-05-05T10:00:00.tbz\n20") and len(archives(btw)) == 2
    btw("restore", "D@first", btw.top / "out")
    assert (btw.top / "out" / "etc" / "hosts").read_text() == "127.0.0.1 localhost\n"


def test_a_tree_with_a_hole_is_unchanged_too(btw: Installation, source: Path) -> None:
    """tar puts the number of its process into the headers of sparse files, however long their names are, and it."""
    for name in ("hole", "deep/" * 18 + "of middle length", "deep/" * 30 + "h" * 90):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        with open(source / name, "wb") as file:
            file.truncate(10_000_000)
    os.setxattr(source / "etc" / "hosts", "user.of", b"no record\n23 size=99999999999999\n")
    btw.tree(source)
    for _ in range(3):
        btw("fs", source, "kept", "--reread")
    words = [sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir, "fs", source, "kept", "--reread"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(["unshare", "--pid", "--fork", "--kill-child", *words], env=environment, cwd=btw.top, check=True)
    assert len(btw("list", "kept").out.splitlines()) == 1
    with open(source / "hole", "r+b") as file:
        file.seek(5_000_000)
        file.write(b"/GNUSparseFile.1/")
    btw("fs", source, "kept", "--reread")
    assert len(btw("list", "kept").out.splitlines()) == 2
