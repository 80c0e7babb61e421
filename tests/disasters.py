"""What happens before each disaster page of the manual is read, and what proves that the page helped.

Each is a generator: what it does before it yields is the disaster, what it does behind that is the proof. They happen
one after the other to the same machine, in the order of the manual.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from tests.s3 import Guarded
from tests.servers import Postgres

FROM_NAS = "--from /srv/nas2 --identity"


@dataclass
class Scene:
    """The machine: its folders, its database server, an S3 server with policies; `run` types commands."""

    machine: Path
    server: Postgres
    s3: Guarded
    run: Callable[[str], str]
    replaced: dict[str, str] = field(default_factory=dict)
    """What a user would write in place of what the manual has as an example."""

    def backups(self, command: str) -> set[tuple[str, str]]:
        """The backups that `command` lists as JSON."""
        return {(row["dst"], row["stamp"]) for row in json.loads(self.run(command))}

    def same(self, one: str, other: str) -> None:
        """Two trees are equal, with all that a file can have."""
        options = "-aHAXin --numeric-ids --delete --checksum"
        assert self.run(f"rsync {options} --omit-dir-times {one}/ {other}/") == ""


def file_deleted(scene: Scene) -> Iterator[None]:
    """F101: one file."""
    scene.run("cp -a /etc/hosts /srv/hosts-before && rm /etc/hosts")
    yield
    scene.run('cmp /etc/hosts /srv/hosts-before && test -z "$(find /etc/hosts -newer /srv/hosts-before)"')


def database_spoilt(scene: Scene) -> Iterator[None]:
    """Rows that are wrong since the last backup."""
    before = scene.server.dump("shop")
    scene.server.sql("UPDATE sales.item SET name = 'spoilt ' || id; DROP TABLE parted", "shop")
    assert scene.server.dump("shop") != before
    yield
    assert scene.server.dump("shop") == before
    assert "shop_spoilt" in scene.server.databases()


def host_gone(scene: Scene) -> Iterator[None]:
    """All of it; the target and the key are left."""
    scene.run("btw-backup list --json >/srv/list-before; rm -rf /root/.btw-backup /var/backups/btw-backup")
    yield
    scene.same("/root/etc-restored", "/root/etc-from-nas")


def host_replaced(scene: Scene) -> Iterator[None]:
    """What comes after: everything is there, and goes on."""
    yield
    assert scene.backups("btw-backup list --json") == scene.backups("cat /srv/list-before")
    scene.run("btw-backup restore hosts/etc /root/etc-replaced")
    scene.same("/root/etc-restored", "/root/etc-replaced")
    scene.run("btw-backup fs /etc hosts/etc; btw-backup db shop db/shop; btw-backup keys test /srv/stick/backup.key")


def program_gone(scene: Scene) -> Iterator[None]:
    """Not installed, and not to be had."""
    scene.run("mv /usr/local/bin/btw-backup /usr/local/bin/gone")
    yield
    scene.run("mv /usr/local/bin/gone /usr/local/bin/btw-backup; btw-backup restore hosts/etc /root/etc-newest")
    scene.same("/root/etc-newest", "/root/etc-by-hand")
    records = "find . -path '*/.records/*.json' -exec cmp {} /root/from-nas/{} ';'"
    scene.run(f"cd /var/backups/btw-backup; {records}; test -d /root/from-nas/hosts/etc/.records")


def bucket_gone(scene: Scene) -> Iterator[None]:
    """The place with all copies."""
    scene.run("rm -rf /srv/nas")
    yield
    there = scene.backups(f"btw-backup restore {FROM_NAS} /srv/stick/backup.key --list --json")
    assert there == scene.backups("btw-backup list --json")
    scene.run(f"btw-backup restore {FROM_NAS} /srv/stick/backup.key hosts/etc /root/etc-from-nas2")
    scene.same("/root/etc-newest", "/root/etc-from-nas2")


def ransomware(scene: Scene) -> Iterator[None]:
    """Root on the host, who knows this program and uses all its credentials: T1."""
    guarded = scene.s3
    config = scene.machine / "home/.btw-backup/config.py"
    scene.run("cp -a /etc /srv/etc-before; touch /srv/etc-before")
    guarded.s3cmd_config(scene.machine / "home/.s3cfg", "host")
    with config.open("a") as file:
        file.write("S3_URI_PREFIX = 's3://bucket/backups'\nS3CMD_CONFIG = '/root/.s3cfg'\n")
    guarded.allow("host", scene.run("btw-backup offsite policy"))
    scene.run("btw-backup fs /etc hosts/etc; btw-backup sync; btw-backup doctor --attack | grep -c 's3: delete'")
    time.sleep(2)
    scene.replaced["yesterday"] = f"'{datetime.now(UTC):%Y-%m-%d %H:%M:%S}'"
    time.sleep(2)
    before = guarded.keys()
    _burgle(guarded, before)
    scene.run("for file in /etc/hosts /etc/fstab /etc/ssh/sshd_config; do head -c 999 /dev/urandom >$file; done")
    scene.run("btw-backup fs /etc hosts/etc")
    assert set(before) < set(guarded.keys())
    scene.run("cp -a /root/.btw-backup /srv/config-kept; cp -a /var/backups/btw-backup /srv/root-kept")
    scene.run("rm -rf /root/.btw-backup /var/backups/btw-backup; cp -a /srv/etc-before/. /etc/")
    guarded.s3cmd_config(scene.machine / "srv/stick/s3cfg", "rescuer")
    yield
    scene.same("/srv/etc-before", "/root/etc-before")


def _burgle(guarded: Guarded, keys: list[str]) -> None:
    """Try with the credentials of the host what would make backups vanish: all of it is refused."""
    client = guarded.client("host")
    rule: Any = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    tries: list[Callable[[], object]] = [
        *(lambda key=key: client.delete_object(Bucket="bucket", Key=key) for key in keys),  # type: ignore[misc]
        lambda: client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Suspended"}),
        lambda: client.put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration={"Rules": [rule]}),
        lambda: client.get_object(Bucket="bucket", Key=keys[0]),
        lambda: client.put_object(Bucket="bucket", Key="elsewhere", Body=b"x"),
    ]
    for attempt in tries:
        try:
            attempt()
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
        else:
            raise AssertionError("the credentials of the host may do more than they should")
    assert guarded.keys() == keys


def overwritten(scene: Scene) -> Iterator[None]:
    """S3 lets who may write write anew under any name."""
    spoilt = scene.s3.overwrite("host")
    command = "btw-backup restore --from s3://bucket/backups --s3cmd-config /srv/stick/s3cfg"
    scene.run(f"! {command} --identity /srv/stick/backup.key hosts/etc@1 /root/none; test ! -e /root/none")
    yield
    scene.same("/srv/etc-before", "/root/etc-overwritten")
    scene.s3.forget(spoilt)
    scene.run("cp -a /srv/config-kept /root/.btw-backup; cp -a /srv/root-kept /var/backups/btw-backup")


def key_lost(scene: Scene) -> Iterator[None]:
    """What was sent so far can be read by nobody."""
    scene.run("rm /srv/stick/backup.key")
    yield
    kept = scene.backups("btw-backup list --json")
    for name, place in {
        "nas2": FROM_NAS,
        "s3": "--from s3://bucket/backups --s3cmd-config /srv/stick/s3cfg --identity",
    }.items():
        assert scene.backups(f"btw-backup restore {place} /srv/stick/new.key --list --json") == kept
        scene.run(f"btw-backup restore {place} /srv/stick/new.key hosts/etc@1 /root/etc-{name}-new")
        scene.same("/srv/etc-before", f"/root/etc-{name}-new")
    scene.run("python3 /srv/nas2/RESTORE.py --identity /srv/stick/new.key /root/from-nas2")


PAGES: dict[str, Callable[[Scene], Iterator[None]]] = {
    "file deleted": file_deleted,
    "database spoilt": database_spoilt,
    "host gone": host_gone,
    "host replaced": host_replaced,
    "program gone": program_gone,
    "bucket gone": bucket_gone,
    "ransomware": ransomware,
    "overwritten": overwritten,
    "key lost": key_lost,
}
"""By the names of their blocks in the manual."""
