"""T5: HTTP to another machine is refused, unless somebody allows it; what the old script did goes on.

0.0.0.0 is this machine for who connects to it, and for nobody who only reads it.
"""

from pathlib import Path

import pytest

from btw_backup.offsite.s3cfg import settings_of, speaks_in_clear
from btw_backup.offsite.state import SyncState
from tests.conftest import Ended, Installation, tree_differences
from tests.s3 import Bucket, bucket, configure, s3_server

__all__ = ["bucket", "s3_server"]

OLD = "2020-01-01T00:00:00 +push www/a.tbz\n2020-01-01T00:00:01 -push www/a.tbz\n"
"""What the old script leaves of a backup that it has sent."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("use_https = False\nhost_base = minio.example.org:9000\n", True),
        ("use_https = False\nhost_base = 127.0.0.1:9000\nhost_bucket = 127.0.0.1:9000\n", False),
        ("use_https = no\nhost_base = localhost\nhost_bucket = localhost\n", False),
        ("use_https = no\nhost_base = [::1]:9000\nhost_bucket = http://[::1]:9000\n", False),
        ('use_https = "False"\nhost_base = minio.example.org\n', True),
        ("use_https = no\nhost_base = localhost.evil.example\nhost_bucket = localhost\n", True),
        ("use_https = no\nhost_base = localhost\nhost_bucket = %(bucket)s.example.org\n", True),
        ("use_https = no\nhost_base = localhost\n", True),
        ("use_https = no\n", True),
        ("use_https = 0\nhost_base = localhost\nhost_bucket = localhost\nproxy_host = proxy.example.org\n", True),
        ("use_https = True\nuse_https = False\n", True),
        ("use_https = True\nhost_base = minio.example.org\n", False),
        ("host_base = minio.example.org\n", False),
    ],
)
def test_plain_http_is_noticed(tmp_path: Path, text: str, expected: bool) -> None:
    """But to this machine; of several lines the last holds, as for s3cmd."""
    (tmp_path / "s3cfg").write_text(text)
    assert speaks_in_clear(str(tmp_path / "s3cfg")) == expected


@pytest.fixture
def elsewhere(btw: Installation, bucket: Bucket, source: Path) -> Bucket:
    """A bucket that `btw` sends to over HTTP, as if it were on another machine; `source` is a tree to be kept."""
    btw.tree(source)
    move(btw, bucket)
    return bucket


def move(btw: Installation, bucket: Bucket, **settings: object) -> str:
    """Configure `btw` so; the path of s3cmd's configuration."""
    configure(btw, bucket, **settings)
    config = btw.top / "s3cmd.conf"
    config.write_text(config.read_text().replace("127.0.0.1", "0.0.0.0"))  # noqa: S104
    return str(config)


def is_refused(ended: Ended) -> bool:
    """With a reason, and what to do."""
    return "has s3cmd speak HTTP to s3://" in ended.err and "ALLOW_HTTP = True" in ended.err


def test_what_has_no_value_has_none(tmp_path: Path) -> None:
    """As ``s3cmd --configure`` writes it: the line behind an empty setting is no value of that."""
    text = '[default]\naccess_key = a=b \naccess_token = \nproxy_host =\nproxy_port = 0\r\nsecret_key = "c d"\n\n'
    (tmp_path / "s3cfg").write_text(
        text + "use_https = False\nhost_base = localhost:9000\nhost_bucket = localhost:9000\n"
    )
    said = settings_of(str(tmp_path / "s3cfg"))
    assert (said["access_token"], said["proxy_host"], said["proxy_port"]) == ("", "", "0")
    assert (said["access_key"], said["secret_key"]) == ("a=b", "c d")
    assert not speaks_in_clear(str(tmp_path / "s3cfg"))


def test_it_is_refused_until_it_is_allowed(btw: Installation, source: Path, elsewhere: Bucket) -> None:
    """The backup is kept, nothing leaves, and it stays owed."""
    assert is_refused(btw("fs", source, "www", status=6))
    assert elsewhere.objects() == {}
    assert is_refused(btw("sync", status=6))
    assert "does not answer: " in (found := btw("doctor", status=1)).out
    assert "has s3cmd speak HTTP to s3://" in found.out
    move(btw, elsewhere, ALLOW_HTTP=True)
    assert btw("sync").err == ""
    assert [path for path in elsewhere.objects() if path.endswith(".tar.zst")]


def test_what_the_old_script_did_goes_on(btw: Installation, source: Path, elsewhere: Bucket) -> None:
    """Its journal shows that it was sent so; every run says it, and it can be forbidden."""
    (btw.config_dir / "sync_state").write_text(OLD)
    ended = btw("fs", source, "www")
    assert "over HTTP, as before" in ended.err
    assert "ALLOW_HTTP = True" in ended.err
    assert [path for path in elsewhere.objects() if path.endswith(".tar.zst")]
    (source / "new").write_text("new")
    move(btw, elsewhere, ALLOW_HTTP=False)
    assert is_refused(btw("fs", source, "www", status=6))
    move(btw, elsewhere, ALLOW_HTTP=True)
    assert btw("sync").err == ""


def test_the_old_script_knew_no_other_layout_and_no_other_target(
    btw: Installation, source: Path, elsewhere: Bucket
) -> None:
    """Whatever its journal says."""
    for name in ("sync_state", "sync_state.more"):
        (btw.config_dir / name).write_text(OLD)
    move(btw, elsewhere, LAYOUT="objects")
    assert is_refused(btw("fs", source, "www", status=6))
    more = {"S3_URI_PREFIX": f"s3://{elsewhere.name}/more", "S3CMD_CONFIG": str(btw.top / "s3cmd.conf")}
    btw.configure(OFFSITE={"more": more}, text="")
    assert is_refused(btw("sync", "--full", status=6))
    btw.configure(OFFSITE={"more": {**more, "ALLOW_HTTP": True}}, text="")
    assert btw("sync", "--full").err == ""
    assert elsewhere.objects("more/")


def test_a_restore_is_refused_too(btw: Installation, source: Path, elsewhere: Bucket) -> None:
    """With and without a configuration."""
    config = move(btw, elsewhere, ALLOW_HTTP=True)
    btw("fs", source, "www")
    place = ("--from", f"s3://{elsewhere.name}/backups", "--s3cmd-config", config)
    btw("restore", *place, "www", btw.top / "allowed")
    move(btw, elsewhere, ALLOW_HTTP=False)
    assert is_refused(btw("restore", "--from", "s3", "www", btw.top / "back", status=1))
    assert is_refused(btw("restore", *place, "www", btw.top / "back", status=1))
    (btw.config_dir / "config.py").unlink()
    ended = btw("restore", *place, "www", btw.top / "back", status=1)
    assert "--allow-http" in ended.err
    btw("restore", *place, "--allow-http", "www", btw.top / "back")
    assert tree_differences(source, btw.top / "back") == tree_differences(source, btw.top / "allowed") == ""


def test_what_asks_without_s3cmd_is_refused_too(btw: Installation, elsewhere: Bucket) -> None:
    """Its credentials and answers are those of the same target."""
    move(btw, elsewhere, OBJECT_LOCK="30 days")
    assert is_refused(btw("lock", "extend", status=6))
    as_of = ("--as-of", "2026-11-20 13:00")
    assert is_refused(btw("restore", "--from", "s3", *as_of, "www", btw.top / "back", status=1))


def test_a_journal_remembers_that_something_was_sent(tmp_path: Path) -> None:
    """However it was noted; what is merely owed says nothing."""
    noted = SyncState(tmp_path / "sync_state")
    noted.owe("push", "a")
    assert not noted.has_paid()
    noted.strike("push", "a")
    assert noted.has_paid()
    assert SyncState(tmp_path / "sync_state").has_paid()
