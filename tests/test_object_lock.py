"""OBJECT_LOCK and --as-of: what is sent to S3 is locked there, stays locked, and is read as it was before it changed."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from btw_backup.configuration import config
from btw_backup.configuration.addresses import addresses
from btw_backup.errors import NotOffsite
from btw_backup.health.object_locks import judged
from btw_backup.offsite import lock_extension
from tests.conftest import REPOSITORY, Installation, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, Server, bucket, configure, guarded, running, s3_server

__all__ = ["bucket", "s3_server"]

RUBBISH = b"pay!"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows object lock."""
    with running("moto", tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def locked(moto: Server) -> Bucket:
    """An empty bucket with object lock, and so with versions."""
    made = Bucket(moto, f"locked-{uuid.uuid4().hex[:12]}")
    made.client.create_bucket(Bucket=made.name, ObjectLockEnabledForBucket=True)
    return made


def days_left(bucket: Bucket) -> dict[str, float | None]:
    """For how many days each object is locked, by its path; None for what is not."""
    found: dict[str, float | None] = {}
    for path in bucket.objects():
        head = bucket.client.head_object(Bucket=bucket.name, Key=f"backups/{path}")
        until = head.get("ObjectLockRetainUntilDate")
        found[path] = until and (until - datetime.now(UTC)) / timedelta(days=1)
    return found


def is_data(path: str) -> bool:
    """Whether an object never changes where it is: no part of a repository of rdiff-backup, and no log."""
    in_repository = path.startswith("rdiff/2")
    return not in_repository and not path.endswith(("log.txt", "RESTORE.py", "README.txt", "format.json"))


def versions(bucket: Bucket) -> list[dict[str, Any]]:
    """All versions of all objects."""
    found: list[dict[str, Any]] = bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]
    return found


def backed_up(btw: Installation, source: Path, *types: str) -> None:
    """A backup by each of these keepers, of a copy for each."""
    for type_ in types:
        copy = source.with_name(f"source-{type_}")
        subprocess.run(["cp", "-a", source, copy], check=True)
        btw.tree(copy, type_, type_)
        btw("fs", copy, type_)


def options(btw: Installation, bucket: Bucket) -> list[object]:
    """What leads a restore to the bucket, without the configuration."""
    return ["--from", f"s3://{bucket.name}/backups", "--s3cmd-config", bucket.s3cmd_config(btw.top / "other.conf")]


def a_moment_between() -> str:
    """A moment that nothing else happens in: the server tells whole seconds."""
    time.sleep(1.1)
    moment = datetime.now(UTC)
    time.sleep(1.1)
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def overwrite(bucket: Bucket) -> None:
    """Write anew under the name of each object."""
    for path in bucket.objects():
        bucket.put(path, RUBBISH)


def delete(bucket: Bucket) -> None:
    """Delete all objects: who asks for one without saying which version is told that there is none."""
    for path in bucket.objects():
        bucket.client.delete_object(Bucket=bucket.name, Key=f"backups/{path}")


# Set


@pytest.mark.parametrize(("layout", "mode"), [("mirror", "COMPLIANCE"), ("objects", "GOVERNANCE")])
def test_e06_what_is_sent_is_locked(btw: Installation, source: Path, locked: Bucket, layout: str, mode: str) -> None:
    """All that is written once, whole or in parts, for the time and in the mode that are set; and nothing else."""
    (source / "big").write_bytes(bytes(range(256)) * (80 << 10))
    configure(btw, locked, LAYOUT=layout, OBJECT_LOCK="30 days", OBJECT_LOCK_MODE=mode, COMPRESSION="none")
    backed_up(btw, source, "tar", "rdiff", "chunks")
    assert btw("sync-state", "--list").out == ""
    found = days_left(locked)
    data = {path for path in found if is_data(path)}
    assert len(data) >= 5 and len(found) > len(data)
    assert {path for path, days in found.items() if days} == data
    assert all(29.9 < found[path] <= 30 for path in data)  # type: ignore[operator]
    path = min(data)
    assert locked.client.head_object(Bucket=locked.name, Key=f"backups/{path}")["ObjectLockMode"] == mode
    assert "testsecret" not in (btw.config_dir / "btw-backup.log").read_text()


@pytest.mark.slow
def test_what_an_older_run_sent_is_locked_by_a_full_sync(btw: Installation, source: Path, locked: Bucket) -> None:
    """It is not sent again for that."""
    configure(btw, locked)
    backed_up(btw, source, "chunks")
    sent = len(versions(locked))
    assert set(days_left(locked).values()) == {None}
    configure(btw, locked, OBJECT_LOCK="30 days")
    btw("sync", "--full")
    assert all(days for path, days in days_left(locked).items() if is_data(path))
    assert len(versions(locked)) == sent


def test_a_bucket_without_object_lock(btw: Installation, source: Path, bucket: Bucket) -> None:
    """It is said what to do; nothing is sent, and a server that knows nothing of locks does no harm."""
    configure(btw, bucket, LAYOUT="objects")
    backed_up(btw, source, "tar")
    before = bucket.objects()
    configure(btw, bucket, LAYOUT="objects", OBJECT_LOCK="30 days")
    (source.with_name("source-tar") / "new").write_bytes(b"new")
    ended = btw("fs", source.with_name("source-tar"), "tar", status=6)
    assert "the bucket has no object lock" in ended.err and "hint: a bucket gets object lock when" in ended.err
    ended = btw("lock", "extend", status=6)
    assert "the bucket has no object lock" in ended.err and len(ended.err.splitlines()) == 2
    assert bucket.objects() == before
    row = next(row for row in json.loads(btw("--json", "doctor", status=1).out) if row["what"] == "locks of s3")
    assert row["level"] == "error"


def test_a_server_that_refuses_to_lock(btw: Installation, source: Path, locked: Bucket) -> None:
    """What is not locked is not off-site: status 6, and the next run locks it, and sends nothing again."""
    with FaultProxy(locked.server.port) as proxy:
        configure(btw, locked, proxy.port, OBJECT_LOCK="30 days")
        proxy.rules = [Rule("PUT", "?retention", "denied")]
        btw.tree(source, "chunks")
        ended = btw("fs", source, "www", status=6)
        assert "AccessDenied" in ended.err and "btw-backup offsite policy" in ended.err
        sent = len(versions(locked))
        proxy.rules = []
        btw("sync")
        assert len(versions(locked)) - sent <= 5  # what had not been tried
    assert all(days for path, days in days_left(locked).items() if is_data(path))


def test_a_server_that_only_claims_to_lock(btw: Installation, source: Path, locked: Bucket) -> None:
    """It is asked."""
    with FaultProxy(locked.server.port) as proxy:
        configure(btw, locked, proxy.port, OBJECT_LOCK="30 days")
        proxy.rules = [Rule("PUT", "?retention", "lie"), Rule("GET", "?retention", "lie")]
        btw.tree(source)
        ended = btw("fs", source, "www", status=6)
    assert "is not locked, although the server says that it locked it" in ended.err


WRONG = {
    "no duration": ({"OBJECT_LOCK": "30 dais"}, "OBJECT_LOCK must be a duration of a day or more, or None"),
    "too short": ({"OBJECT_LOCK": "1h"}, "OBJECT_LOCK must be a duration of a day or more, or None"),
    "for ever": ({"OBJECT_LOCK": "99999 weeks"}, "OBJECT_LOCK must be a duration of a day or more, or None"),
    "no text": ({"OBJECT_LOCK": 30}, "OBJECT_LOCK must be a duration of a day or more, or None"),
    "mode": ({"OBJECT_LOCK_MODE": "legal"}, "OBJECT_LOCK_MODE must be one of GOVERNANCE, COMPLIANCE"),
    "a folder": ({"OFFSITE": {"nas": {"PATH": "/nas", "OBJECT_LOCK": "9 days"}}}, "a folder cannot be locked"),
    "of a target": (
        {"OFFSITE": {"two": {"S3_URI_PREFIX": "s3://b", "S3CMD_CONFIG": "/x", "OBJECT_LOCK": "1h"}}},
        "OFFSITE, target two: OBJECT_LOCK must be a duration",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(btw: Installation, case: str) -> None:
    """Each gets one line, before anything is done."""
    settings, message = WRONG[case]
    btw.configure("", S3_URI_PREFIX="s3://bucket", S3CMD_CONFIG="/root/.s3cfg", **settings)
    ended = btw("lock", "extend", status=1)
    lines = [line for line in ended.err.splitlines() if "hint: " not in line]
    assert len(lines) == 1 and message in lines[0], ended.err


def test_one_target_can_do_without(btw: Installation) -> None:
    """None takes back for a target, and for folders nothing is said, what is set for all."""
    btw.configure("", OBJECT_LOCK="30 days", OFFSITE={
        "kept": {"S3_URI_PREFIX": "s3://b", "S3CMD_CONFIG": "/x"},
        "free": {"S3_URI_PREFIX": "s3://c", "S3CMD_CONFIG": "/x", "OBJECT_LOCK": None},
        "nas": {"PATH": "/mnt/nas"},
    })  # fmt: skip
    general = config.load(btw.config_dir / "config.py", config.GENERAL)
    assert {one.name: one.object_lock for one in addresses(general.values)} == {"kept": 30 * 86400, "free": 0, "nas": 0}
    assert "nothing is locked at the target nas" in btw("lock", "extend", "nas", status=2).err


# Extend


@pytest.mark.parametrize("layout", [pytest.param("mirror", marks=pytest.mark.slow), "objects"])
def test_e06_locks_are_extended(btw: Installation, source: Path, locked: Bucket, layout: str) -> None:
    """All that is needed, from now on; of what was overwritten the version of before, and not the rubbish."""
    configure(btw, locked, LAYOUT=layout, OBJECT_LOCK="30 days")
    backed_up(btw, source, "tar", "chunks")
    assert "never renewed" in found_by_doctor(btw)["detail"]
    data = {path for path in locked.objects() if is_data(path)}
    locked.put(spoilt := max(data), RUBBISH)
    delete_one = min(data)
    locked.client.delete_object(Bucket=locked.name, Key=f"backups/{delete_one}")
    configure(btw, locked, LAYOUT=layout, OBJECT_LOCK="60 days")
    ended = btw("--json", "lock", "extend")
    [row] = json.loads(ended.out)["targets"]
    assert (row["target"], row["objects"], ended.err) == ("s3", len(data), "")
    for one in versions(locked):
        path = one["Key"].removeprefix("backups/")
        head = locked.client.head_object(Bucket=locked.name, Key=one["Key"], VersionId=one["VersionId"])
        until = head.get("ObjectLockRetainUntilDate")
        is_ours = path in data and not (path == spoilt and one["IsLatest"])
        assert bool(until) == is_ours, path
        assert not is_ours or until == datetime.fromisoformat(row["until"]).replace(tzinfo=UTC)
    assert found_by_doctor(btw)["level"] == "ok"
    ended = btw("lock", "extend")
    assert (ended.out, ended.err) == ("", "")


def found_by_doctor(btw: Installation) -> dict[str, str]:
    """What the doctor says of the locks."""
    rows: list[dict[str, str]] = json.loads(btw("--json", "doctor", status=None).out)
    return next(row for row in rows if row["what"] == "locks of s3")


def test_an_interrupted_extension_goes_on(
    btw: Installation, source: Path, locked: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, with status 6, and does nothing twice but what was under way."""
    monkeypatch.setattr(lock_extension, "_BATCH", 2)
    with FaultProxy(locked.server.port) as proxy:
        configure(btw, locked, proxy.port, LAYOUT="objects", OBJECT_LOCK="30 days")
        backed_up(btw, source, "tar", "chunks")
        general = config.load(btw.config_dir / "config.py", config.GENERAL)
        [address] = addresses(general.values)
        needed = len([path for path in locked.objects() if is_data(path)])
        now = datetime.now(UTC) + timedelta(days=5)
        proxy.rules, proxy.log = [Rule("PUT", "retention", "denied", first=6)], []
        with pytest.raises(NotOffsite, match="not all locks at .* are renewed, because .*AccessDenied"):
            lock_extension.extend(address, general, btw.config_dir, now, 0)
        proxy.rules, proxy.log = [], []
        extended = lock_extension.extend(address, general, btw.config_dir, now + timedelta(hours=1), 0)
        again = sum(method == "PUT" for method, _ in proxy.log)
    assert extended.objects == needed and again == needed - 4
    assert all(34.9 < days <= 35 for days in days_left(locked).values() if days)


def test_what_is_lost_there_is_said(btw: Installation, source: Path, locked: Bucket) -> None:
    """An extension is no success if what it should lock was destroyed."""
    configure(btw, locked, LAYOUT="objects", OBJECT_LOCK="30 days")
    backed_up(btw, source, "chunks")
    [first, *_] = [one for one in versions(locked) if is_data(one["Key"])]
    locked.client.delete_object(
        Bucket=locked.name, Key=first["Key"], VersionId=first["VersionId"], BypassGovernanceRetention=True
    )
    ended = btw("lock", "extend", status=6)
    assert f"does not have any more what it had: {first['Key'].removeprefix('backups/')}" in ended.err
    assert "hint: btw-backup sync --verify" in ended.err
    btw("sync", "--verify")
    btw("lock", "extend")


@pytest.mark.parametrize(
    ("left", "level"),
    [(None, "warning"), (-1, "warning"), (10, "warning"), (20, "ok")],
)
def test_when_the_doctor_warns(left: int | None, level: str) -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    until = None if left is None else now + timedelta(days=left)
    assert judged("locks", until, timedelta(days=30), now).level == level


# What was before


@pytest.mark.parametrize(
    ("layout", "harm", "types"),
    [
        pytest.param("mirror", overwrite, ("tar", "rdiff"), marks=pytest.mark.slow),
        ("mirror", delete, ("chunks",)),
        ("objects", overwrite, ("chunks", "rdiff")),
        pytest.param("objects", delete, ("tar",), marks=pytest.mark.slow),
    ],
)
def test_e06_restore_as_of(btw: Installation, source: Path, locked: Bucket, layout: str, harm: Any, types: Any) -> None:
    """Byte for byte what was there before all of it was overwritten, or deleted."""
    configure(btw, locked, LAYOUT=layout, OBJECT_LOCK="30 days")
    (source / "big").write_bytes(bytes(range(256)) * (80 << 10))
    backed_up(btw, source, *types)
    there = options(btw, locked)
    before = btw("--json", "restore", *there, "--list").out
    moment = a_moment_between()
    harm(locked)
    assert btw("restore", *there, types[0], btw.top / "none", status=None).status != 0
    for type_ in types:
        btw("restore", *there, "--as-of", moment, type_, btw.top / f"{type_}-then")
        assert tree_differences(source, btw.top / f"{type_}-then") == ""
    assert btw("--json", "restore", *there, "--as-of", moment, "--list").out == before
    assert btw("restore", *there, "--as-of", "2020-01-01", "--list", status=1).out == ""


def test_as_of_is_what_was_then(btw: Installation, source: Path, locked: Bucket) -> None:
    """Neither what came later, nor what had been deleted before and came back."""
    configure(btw, locked)
    backed_up(btw, source, "tar")
    first = a_moment_between()
    (source.with_name("source-tar") / "new").write_bytes(b"new")
    btw("fs", source.with_name("source-tar"), "tar")
    a_moment_between()
    delete(locked)
    second = a_moment_between()
    btw("sync", "--full")
    there = options(btw, locked)
    for moment, expected in ((first, 1), ("0 seconds ago", 2)):
        assert len(json.loads(btw("--json", "restore", *there, "--as-of", moment, "--list").out)) == expected
    assert "holds no backups" in btw("restore", *there, "--as-of", second, "--list", status=1).err


@pytest.mark.slow
def test_root_path_is_rebuilt_as_of(btw: Installation, source: Path, locked: Bucket) -> None:
    configure(btw, locked, LAYOUT="objects")
    backed_up(btw, source, "chunks")
    moment = a_moment_between()
    overwrite(locked)
    other = Installation(btw.top / "other")
    for folder in (other.config_dir, other.root):
        folder.mkdir(parents=True)
    configure(other, locked, LAYOUT="objects")
    other("import", "--from", "s3", "--as-of", moment)
    other("restore", "chunks", btw.top / "rebuilt")
    assert tree_differences(source, btw.top / "rebuilt") == ""
    assert not (other.config_dir / ".offsite" / "s3.sqlite").exists()  # that it is there now is not known


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("www", "out", "--as-of", "yesterday"), 2, "--as-of goes with --from"),
        (("--from", "s3", "--list", "--as-of", "some day"), 2, "some day is no time"),
        (("--from", "/srv/nas", "--list", "--as-of", "2h ago"), 2, "is a folder, and has no older versions"),
    ],
)
def test_what_as_of_cannot_mean(
    btw: Installation, locked: Bucket, words: tuple[str, ...], status: int, message: str
) -> None:
    configure(btw, locked)
    assert message in btw("restore", *words, status=status).err


def test_without_the_library(btw: Installation, source: Path, locked: Bucket) -> None:
    """Whoever wants locks, or older versions, is told what is missing; nobody else needs it."""
    (btw.top / "none" / "botocore").mkdir(parents=True)
    (btw.top / "none" / "botocore" / "__init__.py").write_text("raise ImportError('not here')\n")
    without = {"PYTHONPATH": f"{btw.top / 'none'}:{REPOSITORY}"}
    configure(btw, locked)
    btw.tree(source)
    btw("fs", source, "www", env=without)
    btw("restore", "--from", "s3", "www", btw.top / "back", env=without)
    words = ("restore", "--from", "s3", "--as-of", "2h ago", "www", btw.top / "then")
    said = [btw(*words, status=1, env=without).err]
    configure(btw, locked, OBJECT_LOCK="30 days")
    (source / "new").write_bytes(b"new")
    said += [btw(*words, status=6, env=without).err for words in (("fs", source, "www"), ("lock", "extend"))]
    for text in said:
        assert "botocore is not installed" in text and "apt-get install python3-botocore" in text
    assert len(list((btw.root / "www").glob("*.tar.*"))) == 2


# Removing, and who tries to


@pytest.mark.parametrize("layout", ["mirror", pytest.param("objects", marks=pytest.mark.slow)])
def test_f87_what_is_locked_is_removed_later(btw: Installation, source: Path, locked: Bucket, layout: str) -> None:
    """A server that refuses to delete what is locked is right: it stays owed, until when is said, and that is no error."""
    with FaultProxy(locked.server.port) as proxy:
        configure(btw, locked, proxy.port, LAYOUT=layout, OBJECT_LOCK="30 days", ALLOW_REMOVAL=True)
        backed_up(btw, source, "tar")
        (source.with_name("source-tar") / "new").write_bytes(b"new")
        btw("fs", source.with_name("source-tar"), "tar")
        proxy.rules = [Rule("DELETE", "", "denied"), Rule("POST", "?delete", "denied")]
        btw("rm", "--force", "tar@first")
        ended = btw("cleanup", "--grace", "0")
        day = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"
        assert "not removed at s3://" in ended.err and f"is locked until {day}" in ended.err
        assert "Must remove: tar/" in btw("sync-state", "--list").out
        proxy.rules = []
        btw("sync")
    assert btw("sync-state", "--list").out == ""


def test_policy_for_locks(btw: Installation) -> None:
    """To lock, and to see it, and no longer than is set; neither to lift a lock nor to delete a version."""
    btw.configure("S3_URI_PREFIX = 's3://b/x'\nS3CMD_CONFIG = '/x'\n")
    assert '"s3:PutObjectRetention"' in denied(btw) and "s3:PutObjectRetention" not in allowed(btw)
    btw.configure("S3_URI_PREFIX = 's3://b/x'\nS3CMD_CONFIG = '/x'\nOBJECT_LOCK = '30 days'\n")
    assert {"s3:PutObjectRetention", "s3:GetObjectRetention", "s3:GetBucketObjectLockConfiguration"} <= allowed(btw)
    assert "s3:ListBucketVersions" in allowed(btw) and "s3:GetObjectVersion" not in allowed(btw)
    assert '"s3:BypassGovernanceRetention"' in denied(btw) and '"s3:DeleteObjectVersion"' in denied(btw)
    assert "s3:GetObjectVersion" in allowed(btw, "--read")
    [limit] = [one for one in statements(btw) if one["Sid"] == "NotForEver"]
    assert limit["Condition"] == {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": "31"}}


def statements(btw: Installation, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(btw("offsite", "policy", *words).out)["Statement"]
    return found


def allowed(btw: Installation, *words: str) -> set[str]:
    return {action for one in statements(btw, *words) if one["Effect"] == "Allow" for action in one["Action"]}


def denied(btw: Installation) -> str:
    return json.dumps([one["Action"] for one in statements(btw) if one["Effect"] == "Deny"])


def test_t1_a_thief_cannot_destroy_what_is_locked(btw: Installation, source: Path, tmp_path: Path) -> None:
    """With the policy that is printed backups are sent and locked, and versions cannot be deleted; whoever owns the
    bucket is told what he could do."""
    with guarded(tmp_path) as s3:
        s3.client().create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        conf = btw.top / "s3cmd.conf"
        s3.s3cmd_config(conf, "host")
        btw.configure(
            "", S3_URI_PREFIX="s3://locked/x", S3CMD_CONFIG=str(conf), OBJECT_LOCK="30 days", LAYOUT="objects"
        )
        policy = json.loads(btw("offsite", "policy", "--read").out)  # moto takes a look at a lock for reading
        policy["Statement"] = [one for one in policy["Statement"] if "Condition" not in one]  # of which moto knows none
        s3.allow("host", json.dumps(policy))
        backed_up(btw, source, "tar")
        btw("lock", "extend")
        assert attacked(btw)["destroy, in spite of a lock,"] == "ok"
        s3.s3cmd_config(conf, "owner")
        assert attacked(btw)["shorten the lock of"] == "warning"
        found = s3.client().list_object_versions(Bucket="locked", Prefix="x/objects/")["Versions"]
        assert found and all(
            s3.client().head_object(Bucket="locked", Key=one["Key"])["ObjectLockMode"] == "GOVERNANCE" for one in found
        )


def attacked(btw: Installation) -> dict[str, str]:
    """What doctor --attack found."""
    rows = json.loads(btw("--json", "doctor", "--attack", status=None).out)
    return {row["what"].removeprefix("attack on s3: "): row["level"] for row in rows}


def test_s3cmd_cannot_lock_while_it_sends(btw: Installation, locked: Bucket) -> None:
    """Why it is done behind it: as Amazon's, this server refuses headers for it without Content-MD5."""
    conf = locked.s3cmd_config(btw.top / "s3cmd.conf")
    (btw.top / "file").write_bytes(b"x")
    until = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
    headers = ["--add-header=x-amz-object-lock-mode:GOVERNANCE"]
    headers += [f"--add-header=x-amz-object-lock-retain-until-date:{until}"]
    command = ["s3cmd", f"--config={conf}", "put", *headers, btw.top / "file", f"s3://{locked.name}/file"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode != 0 and "Content-MD5" in ended.stderr
