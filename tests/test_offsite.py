"""Off-site: what is proved is struck off, what is not stays owed, and nothing is removed because it is missing here."""

import hashlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_backup.configuration.config import GENERAL, load
from btw_backup.errors import ImproperlyConfigured
from btw_backup.offsite.etags import computed
from btw_backup.offsite.parts import parts_of, parts_with
from btw_backup.offsite.state import SyncState
from btw_backup.offsite.superseded import superseded
from btw_backup.offsite.sync import targets
from tests.conftest import PATIENCE, Installation, random_bytes
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, free_port, offsite, proxy, s3_server

__all__ = ["bucket", "offsite", "proxy", "s3_server"]

STAMP = "2026-11-20T01:02:03"


def write(btw: Installation, path: str, content: bytes = b"content", owe: str = "") -> Path:
    """A file below ROOT_PATH, owed by the operation `owe`."""
    file = btw.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    if owe:
        note(btw, owe, path)
    return file


def note(btw: Installation, op: str, path: str) -> None:
    """Note a debt."""
    SyncState(btw.config_dir / "sync_state").owe(op, path)


def owed(btw: Installation) -> list[str]:
    """What sync-state lists."""
    return btw("sync-state", "--list").out.splitlines()


def mirrored(btw: Installation) -> dict[str, bytes]:
    """What should be off-site."""
    stays = (".lock", ".btw-backup-id", ".btw-backup-dsts", ".fingerprint", ".tmp-")
    files = (p.relative_to(btw.root) for p in btw.root.rglob("*") if p.is_file())
    return {str(p): (btw.root / p).read_bytes() for p in files if not any(part.startswith(stays) for part in p.parts)}


MOMENTS = itertools.count(1_700_000_000)


def repository(btw: Installation, *contents: bytes) -> Path:
    """A real repository of rdiff-backup in ROOT_PATH, with one session for each of `contents`."""
    top = btw.root / "www" / STAMP
    top.parent.mkdir(parents=True, exist_ok=True)
    stage = btw.top / "stage"
    stage.mkdir(exist_ok=True)
    for content in contents:
        (stage / "backup.tar").write_bytes(content)
        os.utime(stage / "backup.tar", (next(MOMENTS),) * 2)  # the same size in the same second is unchanged for it
        while subprocess.run(
            ["rdiff-backup", "--api-version", "201", "backup", stage, top], check=False, capture_output=True
        ).returncode:
            time.sleep(0.2)  # it wants a second for each session
    return top


def test_pushes_files_and_folders(btw: Installation, offsite: Bucket) -> None:
    """A13: path by path, records too, and not what means nothing elsewhere."""
    write(btw, f"www/{STAMP}.tbz", random_bytes(100_000), "push")
    write(btw, f"www/.records/{STAMP}.json", b"{}", "push")
    write(btw, "a b/ü+%41/empty", b"", "push")
    write(btw, "db/one.dump")
    write(btw, "db/.lock")
    write(btw, "db/.fingerprint.json")
    write(btw, "db/.tmp-1-x/half")
    note(btw, "push", "db/")
    write(btw, "top", b"at the top", "push")
    ended = btw("sync")
    assert (ended.out, ended.err) == ("", "")
    assert offsite.objects() == mirrored(btw)
    assert len(offsite.objects()) == 5
    assert owed(btw) == []


def test_a15_full(btw: Installation, offsite: Bucket) -> None:
    """A15: everything, although nothing was owed."""
    for number in range(30):
        write(btw, f"www/deep/{number % 3}/{number}", b"%d" % number)
    btw("sync")
    assert offsite.objects() == {}
    btw("sync", "--full")
    assert offsite.objects() == mirrored(btw)
    assert owed(btw) == []


def test_big_file_is_proved_by_its_parts(btw: Installation, offsite: Bucket) -> None:
    """Multipart: the ETag is the MD5 of the parts' MD5s; one of another content is found and sent anew."""
    content = random_bytes(33 << 20)
    write(btw, "www/big", content, "push")
    btw("sync")
    assert hashlib.sha256(offsite.objects()["www/big"]).digest() == hashlib.sha256(content).digest()
    write(btw, "www/big", content[:-1] + bytes([content[-1] ^ 1]), "sync")
    btw("sync")
    assert offsite.objects() == mirrored(btw)


@pytest.mark.parametrize("size", [0, 1, (15 << 20) - 1, 15 << 20, (15 << 20) + 1, 30 << 20])
def test_etags_at_the_edges(tmp_path: Path, size: int) -> None:
    """The number of parts is right where a part just ends."""
    content = random_bytes(size)
    (tmp_path / "x").write_bytes(content)
    with (tmp_path / "x").open("rb") as file:
        whole, parts = computed(file.fileno(), 15)
    pieces = [content[n : n + (15 << 20)] for n in range(0, size, 15 << 20)] or [b""]
    digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)  # noqa: S324
    assert whole == hashlib.md5(content).hexdigest()  # noqa: S324
    assert parts == f"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"  # noqa: S324


def test_x10_what_is_proved_is_not_sent_again(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """X10: after an interruption only what is missing is sent; and a change of the same size is seen."""
    for number in range(5):
        write(btw, f"db/{number}", b"x%d" % number)
        if number < 3:
            bucket.put(f"db/{number}", b"x%d" % number)
    bucket.put("db/3", b"y3")
    note(btw, "push", "db/")
    btw("sync")
    assert sorted(path.split("?")[0][-4:] for method, path in proxy.log if method == "PUT") == ["db/3", "db/4"]
    assert bucket.objects() == mirrored(btw)


# X3: a failed sync is not success


def test_x3_dead_server_costs_seconds_and_leaves_the_debt(btw: Installation, bucket: Bucket) -> None:
    """X3, A14, trap (c): 45 s for each file and exit 0 before."""
    configure(btw, bucket, free_port())
    for number in range(3):
        write(btw, f"www/{number}", owe="push")
    began = time.monotonic()
    ended = btw("sync", status=6)
    assert time.monotonic() - began < 60
    assert ended.err == (
        f"btw_backup: not at s3://{bucket.name}/backups/ yet: www/0 and 2 other paths, "
        "because s3cmd: Connection refused\n"
        "btw_backup: hint: btw-backup sync tries again\n"
    )
    assert owed(btw) == ["Must push: www/0", "Must push: www/1", "Must push: www/2"]
    configure(btw, bucket)
    btw("sync")
    assert owed(btw) == []
    assert bucket.objects() == mirrored(btw)


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_x3_server_that_never_answers(btw: Installation, bucket: Bucket, deaf: int) -> None:
    """It is asked one question, for ten seconds at most."""
    configure(btw, bucket, deaf, SYNC_TIMEOUT="2s")
    write(btw, "www/a", owe="push")
    began = time.monotonic()
    ended = btw("sync", status=6)
    assert time.monotonic() - began < 100
    assert "s3cmd did not end within 2 s and was killed" in ended.err


@pytest.mark.quick_with("s3rver")
@pytest.mark.parametrize(
    "fault",
    [("PUT", "busy", 25), ("GET", "busy", 12), ("PUT", "reset", 25), ("PUT", "denied", 6), ("GET", "denied", 6)],
)
def test_x3_server_that_fails(
    btw: Installation, proxy: FaultProxy, bucket: Bucket, fault: tuple[str, str, float]
) -> None:
    """Whatever it is: 6, the debt stays, and the next sync pays it."""
    method, act, limit = fault
    for number in range(20):
        write(btw, f"www/{number}", owe="push")
    proxy.rules = [Rule(method, "", act)]
    began = time.monotonic()
    ended = btw("sync", status=6)
    assert time.monotonic() - began < 10 * limit  # retries of s3cmd would take 45 s for each file
    assert len(ended.err.splitlines()) == 2
    assert len(owed(btw)) == 20
    proxy.rules = []
    btw("sync")
    assert owed(btw) == []
    assert bucket.objects() == mirrored(btw)


@pytest.mark.parametrize("act", ["lie", "corrupt", "lose"])
def test_what_the_server_only_claims_is_not_believed(
    btw: Installation,
    proxy: FaultProxy,
    bucket: Bucket,
    act: str,
) -> None:
    """M11: 200 without storing, another content stored, stored without an answer."""
    write(btw, "www/a", b"first" * 100, owe="push")
    proxy.rules = [Rule("PUT", "www/a", act)]
    ended = btw("sync", status=None)
    assert (ended.status, owed(btw)) in (
        [(6, ["Must push: www/a"])] if act != "lose" else [(6, ["Must push: www/a"]), (0, [])]
    )
    proxy.rules = []
    btw("sync")
    assert owed(btw) == []
    assert bucket.objects() == mirrored(btw)


def test_a_passing_fault_is_overcome(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """One 503, one lie: the same run tries again."""
    write(btw, "www/a", owe="push")
    write(btw, "www/b", owe="push")
    proxy.rules = [Rule("PUT", "www/a", "busy", last=1), Rule("PUT", "www/b", "lie", last=1)]
    btw("sync")
    assert bucket.objects() == mirrored(btw)


def test_made_up_etags(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """SSE-KMS: the MD5 that s3cmd noted is accepted, and the file is not sent again and again."""
    write(btw, "www/a", b"something", owe="push")
    proxy.rules = [Rule("GET", "", "odd"), Rule("HEAD", "", "odd")]
    btw("sync")
    assert owed(btw) == []
    assert len([method for method, _ in proxy.log if method == "PUT"]) == 1
    assert bucket.objects() == mirrored(btw)


def test_missing_bucket(btw: Installation, bucket: Bucket) -> None:
    """One line that says so."""
    btw.configure("", S3_URI_PREFIX="s3://not-there-at-all/x", S3CMD_CONFIG=str(bucket.s3cmd_config(btw.top / "c")))
    write(btw, "www/a", owe="push")
    assert "bucket does not exist" in btw("sync", status=6).err


@pytest.mark.parametrize("content", ["encrypt = True\n", "dry_run = yes\n", None])
def test_settings_of_s3cmd_that_cannot_work(btw: Installation, content: str | None) -> None:
    """They are named; the debt stays."""
    if content:
        (btw.top / "c").write_text("[default]\n" + content)
    btw.configure("", S3_URI_PREFIX="s3://b/x", S3CMD_CONFIG=str(btw.top / "c"))
    write(btw, "www/a", owe="push")
    err = btw("sync", status=6).err
    assert (content.split()[0] if content else "cannot be read: No such file") in err
    assert owed(btw) == ["Must push: www/a"]


# X7, X8, X9, M8, M9, M13: nothing is removed because it is missing here


def sync_without_privilege(btw: Installation) -> subprocess.CompletedProcess[str]:
    """Run sync without the capabilities that let root read what file modes forbid."""
    command = [sys.executable, "-m", "btw_backup", "--config-dir", str(btw.config_dir), "sync"]
    drop = ["capsh", "--drop=cap_dac_override,cap_dac_read_search", "--", "-c", 'exec "$@"', "sh"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HOME": str(btw.top)}
    return subprocess.run([*drop, *command], env=environment, check=False, capture_output=True, text=True)


def test_x7_unreadable_folder_removes_nothing(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """X7, trap (g): s3cmd sync --delete-removed deletes its remote copies and exits 0."""
    write(btw, "www/sub/kept")
    write(btw, "www/other")
    note(btw, "sync", "www/")
    btw("sync")
    before = bucket.objects()
    write(btw, "www/new")
    note(btw, "sync", "www/")
    (btw.root / "www/sub").chmod(0)
    ended = sync_without_privilege(btw)
    assert (ended.returncode, "www/sub/: it cannot be read here: Permission denied" in ended.stderr) == (6, True), ended
    assert bucket.objects() == {**before, "www/new": b"content"}
    assert not proxy.methods() & {"DELETE", "POST"}
    assert owed(btw) == ["Must sync: www/"]
    (btw.root / "www/sub").chmod(0o700)
    btw("sync")
    assert owed(btw) == []


def test_x8_unreadable_file_is_not_skipped(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """X8: s3cmd says "file disappeared, ignoring" and exits 0."""
    write(btw, "www/a").chmod(0)
    write(btw, "www/b")
    note(btw, "sync", "www/")
    ended = sync_without_privilege(btw)
    assert ended.returncode == 6, ended
    assert "www/a: it is not there" in ended.stderr
    assert owed(btw) == ["Must sync: www/"]
    assert set(bucket.objects()) == {"www/b"}


@pytest.mark.parametrize("path", ["", "www/", f"www/{STAMP}/"])
def test_x9_empty_folder_removes_nothing(
    btw: Installation,
    proxy: FaultProxy,
    bucket: Bucket,
    path: str,
) -> None:
    """X9, M13: what is only off-site stays there, and that is no failure."""
    top = repository(btw, b"1", b"2")
    note(btw, "sync", f"www/{STAMP}/")
    btw("sync")
    before = bucket.objects()
    proxy.log.clear()
    subprocess.run(["find", top, "-type", "f", "-delete"], check=True)
    note(btw, "sync", path)
    btw("sync")
    assert bucket.objects() == before
    assert not proxy.methods() & {"DELETE", "POST"}


def test_m13_unmounted_root(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """F21: it is an error, the debt stays, and no request is made."""
    write(btw, "www/a")
    btw("sync", "--full")
    before = bucket.objects()
    proxy.log.clear()
    btw.root.rename(btw.top / "away")
    btw.root.mkdir()
    ended = btw("sync", "--full", status=1)
    assert "is not the ROOT_PATH of this configuration" in ended.err
    assert bucket.objects() == before
    assert proxy.log == []


def test_m8_m9_failed_uploads_remove_nothing(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """M8, M9: while PUT fails, the old marker of an rdiff repository stays; later it goes, and only it."""
    repository(btw, b"1" * 1000)
    note(btw, "push", f"www/{STAMP}/")
    btw("sync")
    before = bucket.objects()
    repository(btw, b"2" * 1000)
    note(btw, "sync", f"www/{STAMP}/")
    proxy.log.clear()
    proxy.rules = [Rule("PUT", "", "denied")]
    btw("sync", status=6)
    assert bucket.objects() == before
    assert not proxy.methods() & {"DELETE", "POST"}
    proxy.rules = []
    bucket.put(f"www/{STAMP}/foreign", b"not ours to remove")
    btw("sync")
    assert bucket.objects() == {**mirrored(btw), f"www/{STAMP}/foreign": b"not ours to remove"}
    gone = sorted(path.split("?")[0].rpartition("/")[2].split(".")[0] for m, path in proxy.log if m == "DELETE")
    assert gone == ["current_mirror", "mirror_metadata"]


def test_off_site_repository_restores(btw: Installation, offsite: Bucket) -> None:
    """After several increments rdiff-backup restores every session from what is off-site."""
    contents = [random_bytes(50_000) for _ in range(4)]
    for number, content in enumerate(contents):
        repository(btw, content)
        note(btw, "sync" if number else "push", f"www/{STAMP}/")
        btw("sync")
    assert offsite.objects() == mirrored(btw)
    copy = btw.top / "copy"
    for path, content in offsite.objects(f"backups/www/{STAMP}/").items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(content)
    for back, content in enumerate(reversed(contents)):
        target = btw.top / f"restored{back}"
        command = ["rdiff-backup", "restore", "--at", f"{back}B", str(copy), str(target)]
        ended = subprocess.run(command, check=False, capture_output=True)  # version 201 of its API cannot restore
        assert ended.returncode == 0, ended.stderr
        assert (target / "backup.tar").read_bytes() == content


def test_superseded_needs_a_successor() -> None:
    """What is only missing is not superseded, nor is anything outside rdiff-backup-data."""
    data = f"www/{STAMP}/rdiff-backup-data/"
    old, new = f"{data}current_mirror.2026-11-20T01:02:03Z.data", f"{data}current_mirror.2026-11-20T02:02:03+01:00.data"
    newest = f"{data}current_mirror.2026-11-20T01:02:04Z.data"
    snapshot, diff = (
        f"{data}mirror_metadata.2026-11-20T01:02:03Z.snapshot.gz",
        f"{data}mirror_metadata.2026-11-20T01:02:03Z.diff.gz",
    )
    assert superseded([old, snapshot], []) == []
    assert superseded([old], [new]) == []  # the same moment
    assert superseded([newest], [old]) == []
    assert superseded([old, new, snapshot], [newest]) == [old, new]
    assert superseded([snapshot], [diff]) == [snapshot]
    assert superseded([snapshot], [snapshot, diff]) == []
    assert superseded([path.replace("rdiff-backup-data", "x") for path in (old, snapshot)], [newest, diff]) == []
    assert superseded([f"{data}current_mirror.junk.data"], [newest]) == []


# What is not there, and what others are at


def test_interrupted_backup_is_struck_off(btw: Installation, proxy: FaultProxy, bucket: Bucket) -> None:
    """It was noted before it got its name, and never got it; the copy that another run made stays."""
    write(btw, "www/other", owe="push")
    bucket.put(f"www/{STAMP}.tbz", b"of an older time")
    for path in (f"www/{STAMP}.tbz", f"www/{STAMP}/", f"www/.records/{STAMP}.json"):
        note(btw, "push", path)
    btw("sync")
    assert owed(btw) == []
    assert set(bucket.objects()) == {"www/other", f"www/{STAMP}.tbz"}


def test_kept_backup_that_is_gone_is_missed(btw: Installation, offsite: Bucket) -> None:
    """A record names it: then it was a backup."""
    write(btw, f"www/.records/{STAMP}.json", b"{}", "push")
    note(btw, "push", f"www/{STAMP}.tbz")
    ended = btw("sync", status=6)
    assert f"www/{STAMP}.tbz, because it is not here any more, although it was kept" in ended.err
    assert owed(btw) == [f"Must push: www/{STAMP}.tbz"]


def test_what_another_run_writes_is_left_to_it(btw: Installation, offsite: Bucket) -> None:
    """Trap (d): its debt is neither struck off, though there is nothing yet, nor a failure."""
    write(btw, "db/a", owe="push")
    write(btw, f"www/{STAMP}/half")
    note(btw, "sync", f"www/{STAMP}/")
    note(btw, "push", "www/not-yet")
    code = (
        "import sys, time; from pathlib import Path; from btw_backup import locks\n"
        "with locks.lock(Path(sys.argv[1]), exclusive=True, wait=0): print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(btw.root / "www")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as other:
        assert other.stdout is not None
        other.stdout.readline()
        btw("sync")
        other.kill()
    assert owed(btw) == [f"Must sync: www/{STAMP}/", "Must push: www/not-yet"]
    assert set(offsite.objects()) == {"db/a"}
    btw("sync")
    assert owed(btw) == []


def test_several_syncs_at_once(btw: Installation, offsite: Bucket) -> None:
    """A25: all end with 0, and nothing is owed."""
    for number in range(40):
        write(btw, f"www/{number}", owe="push")
    runs = [btw.start("sync") for _ in range(4)]
    assert [run.wait(PATIENCE) for run in runs] == [0] * 4
    assert owed(btw) == []
    assert offsite.objects() == mirrored(btw)


def test_who_may_not_wait_says_who_sends(btw: Installation, proxy: FaultProxy) -> None:
    """Status 6, naming the run that sends."""
    write(btw, "www/a", owe="push")
    proxy.rules = [Rule("GET", "", "hang")]
    first = btw.start("sync")
    while not proxy.log:
        time.sleep(0.05)
    ended = btw("sync", "--lock-wait", "0", status=6)
    assert f"is locked by pid {first.pid}" in ended.err
    first.terminate()
    first.wait()


ODD = [b"www/\xff\xfe", b"www/\x01", b"www/new\nline", b"www/ends with a space "]


@pytest.mark.parametrize("name", ODD)
def test_m10_names_that_s3cmd_mangles(btw: Installation, offsite: Bucket, name: bytes) -> None:
    """M10: s3cmd skips the first silently, and stores the others under other names. Everything else is sent."""
    write(btw, "www/tame")
    write(btw, "www/^A", b"stays itself")
    Path(os.fsdecode(os.fsencode(btw.root) + b"/" + name)).write_bytes(b"x")
    ended = btw("sync", "--full", status=6)
    assert "its name" in ended.err
    assert len(ended.err.splitlines()) == 2
    assert offsite.objects() == {"www/tame": b"content", "www/^A": b"stays itself"}
    assert owed(btw) == ["Must sync: "]


@pytest.mark.quick_with("moto")
@pytest.mark.parametrize("seed", range(4))
def test_a18_killed_at_any_moment(btw: Installation, offsite: Bucket, seed: int) -> None:
    """A18: killed five times at random moments, then once in peace; and s3cmd dies with it."""
    rng = random.Random(seed)  # noqa: S311
    for number in range(60):
        write(btw, f"www/{number}", rng.randbytes(rng.choice([10, 1000, 300_000])), "push" if number % 2 else "")
    write(btw, "db/big", rng.randbytes(20 << 20), "push")
    note(btw, "sync", "www/")
    for _ in range(5):
        run = btw.start("sync")
        time.sleep(rng.uniform(0.1, 1.2))
        run.send_signal(signal.SIGKILL)
        run.wait()
        write(btw, f"www/{rng.randrange(60)}", rng.randbytes(1000), "push")
    btw("sync")
    assert offsite.objects() == mirrored(btw)
    assert owed(btw) == []


# The configuration, and the parts


def test_configuration(btw: Installation) -> None:
    """The messages that old installations know."""
    cases = {
        "": "you must specify S3_URI_PREFIX in the general configuration",
        "S3_URI_PREFIX = 's3://b/p'\n": "you must specify S3CMD_CONFIG in the general configuration",
        "S3CMD_CONFIG = 'q'\n": "you must specify S3_URI_PREFIX in the general configuration",
        "OFFSITE = {'s3': {'PATH': '/mnt'}}\n": "OFFSITE, target s3: the name s3 belongs to S3_URI_PREFIX",
        "OFFSITE = {'nas': {'PATH': 'mnt'}}\n": "OFFSITE, target nas: PATH must be an absolute path",
        "OFFSITE = {'nas': {}}\n": "OFFSITE, target nas: it needs either PATH, or S3_URI_PREFIX and S3CMD_CONFIG",
        "OFFSITE = {'nas': {'PATH': '/m', 'COLOUR': 1}}\n": "OFFSITE, target nas: there is no setting COLOUR",
        "OFFSITE = {'a': {'PATH': '/m'}, 'b': {'PATH': '/m'}}\n": "the targets a and b are the same place: /m",
        f"OFFSITE = {{'nas': {{'PATH': {str(btw.root / 'x')!r}}}}}\n": "and ROOT_PATH lie in one another",
    }
    for text, message in cases.items():
        btw.configure(text)
        with pytest.raises(ImproperlyConfigured, match=re.escape(message)):
            targets(load(btw.config_dir / "config.py", GENERAL))
    btw.configure("OFFSITE = {}\n")
    assert targets(load(btw.config_dir / "config.py", GENERAL)) == []
    assert btw("sync").out == "OFFSITE = {}: backups stay on this machine only\n"
    btw.configure("S3CMD_CONFIG = 'q'\nS3_URI_PREFIX = 's3://b/p'\nOFFSITE = {'nas': {'PATH': '/mnt/x'}}\n")
    found = targets(load(btw.config_dir / "config.py", GENERAL))
    assert [(address.name, address.place) for address in found] == [("s3", "s3://b/p/"), ("nas", "/mnt/x")]


def test_parts_are_small(btw: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of many files is taken in parts, and none is left out."""
    monkeypatch.setattr("btw_backup.offsite.parts.LARGEST", 10)
    for number in range(40):
        write(btw, f"a/{number % 5}/{number}")
    for number in range(15):
        write(btw, f"flat/{number}")
    parts = list(parts_of(str(btw.root), "", lambda folder, error: None))
    assert sorted(path for part in parts for path in part.paths) == sorted(mirrored(btw))
    assert all(len(part.paths) <= 10 for part in parts if part.recursive)
    assert all(path.startswith(part.prefix) for part in parts for path in part.paths)


def test_parts_with() -> None:
    """One for each folder, named by what its files have in common."""
    parts = parts_with([f"w/{STAMP}.tbz", "w/2026-11-21T00:00:00.tbz", "x/log.txt", "top"])
    assert [part.prefix for part in parts] == ["w/2026-11-2", "x/log.txt", "top"]


def test_no_secret_is_told(btw: Installation, offsite: Bucket) -> None:
    """T13: neither in the log nor in what a neighbour sees of the processes."""
    with (btw.top / "s3cmd.conf").open("a") as s3cmd_config:
        s3cmd_config.write("gpg_passphrase = told-to-nobody\n")
    write(btw, "www/a", random_bytes(5 << 20), "push")
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if b"s3cmd" in (words := (process / "cmdline").read_bytes()):
                        seen.append(words + (process / "environ").read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    btw("sync", env={"AWS_SECRET_ACCESS_KEY": "of-somebody-else"})
    done.set()
    watcher.join()
    told = b"".join(seen) + (btw.config_dir / "btw-backup.log").read_bytes()
    assert seen
    assert b"of-somebody-else" not in told
    assert b"told-to-nobody" not in told
    if offsite.server.secret != offsite.server.key:
        assert offsite.server.secret.encode() not in told
