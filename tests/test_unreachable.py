"""A target that cannot be reached, that is slow, or that s3cmd is no help with: the backup is kept, the status is 6, it costs
little, and what is owed is sent when all is well again."""

import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from btw_backup import process
from btw_backup.errors import TooSlow
from btw_backup.offsite.state import SyncState
from tests.conftest import REPOSITORY, Installation, random_bytes, tree_differences
from tests.faultproxy import FaultProxy, Rule
from tests.s3 import Bucket, bucket, configure, proxy, s3_server

__all__ = ["bucket", "proxy", "s3_server"]

BUDGET = 100
"""Seconds that a whole run may take though its target is away, on a busy machine."""


def owed(btw: Installation) -> int:
    """How many paths are owed."""
    return len(SyncState(btw.config_dir / "sync_state").pending())


def unsent(btw: Installation, source: Path, **rest: object) -> str:
    """Make a backup that cannot be sent: it is kept, owed, and that costs little. What was said."""
    btw.tree(source)
    began = time.monotonic()
    ended = btw("fs", source, "www", status=6, **rest)
    assert time.monotonic() - began < BUDGET
    assert len(list((btw.root / "www").glob("*.tar.zst"))) == 1
    assert owed(btw) > 0
    assert len(ended.err.splitlines()) == 2
    return ended.err


def sent(btw: Installation, bucket: Bucket) -> None:
    """All is well again."""
    configure(btw, bucket)
    btw("sync")
    assert owed(btw) == 0
    assert any(name.endswith(".tar.zst") for name in bucket.objects())


def test_f77_no_such_name(btw: Installation, source: Path, bucket: Bucket) -> None:
    """DNS: a name that there is not."""
    configure(btw, bucket, ALLOW_HTTP=True)
    config = btw.top / "s3cmd.conf"
    config.write_text(config.read_text().replace("127.0.0.1", "s3.nowhere.invalid"))
    assert "ame or service not known" in unsent(btw, source)
    sent(btw, bucket)


def test_f77_no_network(btw: Installation, source: Path, bucket: Bucket) -> None:
    """Not even an interface that is up."""
    configure(btw, bucket)
    btw.tree(source)
    command = ["unshare", "--net", sys.executable, "-m", "btw_backup", "--config-dir", btw.config_dir]
    began = time.monotonic()
    ended = subprocess.run([*command, "fs", source, "www"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, time.monotonic() - began < BUDGET) == (6, True), ended
    assert "Network is unreachable" in ended.stderr
    sent(btw, bucket)


@pytest.fixture
def expired(tmp_path: Path) -> Iterator[int]:
    """The port of a server whose certificate was good until yesterday; ``tls.pem`` vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - 9 * day, now - day)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    format_ = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, format_, serialization.NoEncryption())
    (tmp_path / "tls.pem").write_bytes(certificate + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener, context), daemon=True).start()
        yield listener.getsockname()[1]


def _greet(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            with listener.accept()[0] as connection:
                context.wrap_socket(connection, server_side=True).close()
        except OSError as error:
            if listener.fileno() < 0 or not isinstance(error, ssl.SSLError | ConnectionError):
                return


def test_f77_expired_certificate(btw: Installation, source: Path, bucket: Bucket, expired: int) -> None:
    """TLS: it is not trusted, though whoever signed it is, and that is said."""
    configure(btw, bucket)
    config = btw.top / "s3cmd.conf"
    text = config.read_text().replace(f"127.0.0.1:{bucket.server.port}", f"localhost:{expired}")
    text = text.replace("use_https = False", f"use_https = True\nca_certs_file = {btw.top}/tls.pem")
    config.write_text(text)
    assert "ertificate" in unsent(btw, source)
    sent(btw, bucket)


def test_f79_a_byte_a_second(btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy) -> None:
    """It answers all the time, and gets nowhere."""
    configure(btw, bucket, proxy.port, SYNC_TIMEOUT="5s")
    proxy.rules = [Rule("GET", "", "drip")]
    assert "s3cmd did not end within" in unsent(btw, source)
    sent(btw, bucket)


# What is fetched

IMPATIENT = """
import sys
from btw_backup.offsite import s3cmd
s3cmd.STALLED = 2.0
from btw_backup.cli import main
sys.exit(main())
"""


@dataclass
class Drip:
    """A backup in S3, and the same in a folder; what is fetched from S3 drips."""

    btw: Installation
    source: Path
    proxy: FaultProxy

    def restore(self, *origins: object) -> tuple[int, str]:
        """The status, and what was said; it may take a while, but ends."""
        command = [sys.executable, "-c", IMPATIENT, "--config-dir", self.btw.config_dir, "restore", "www"]
        command += [self.btw.top / "out", *(word for each in origins for word in ("--from", each))]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.btw.top)}
        ended = subprocess.run(
            [*map(os.fspath, command)], check=False, capture_output=True, text=True, env=environment, timeout=BUDGET
        )
        return ended.returncode, ended.stderr


@pytest.fixture(params=["mirror", "objects"])
def drip(request: pytest.FixtureRequest, btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy) -> Drip:
    """With each layout."""
    nas = btw.top / "nas"
    nas.mkdir()
    settings = {"LAYOUT": request.param, "OFFSITE": {"nas": {"PATH": str(nas)}}}
    configure(btw, bucket, proxy.port, **settings)
    (source / "more").write_bytes(random_bytes(1 << 20))
    btw.tree(source)
    btw("fs", source, "www")
    dripping = "/backups/www/2" if request.param == "mirror" else "/backups/objects/"
    proxy.rules = [Rule("GET", dripping, "drip")]
    return Drip(btw, source, proxy)


def test_f79_what_drips_once_is_fetched_again(drip: Drip) -> None:
    """By another call."""
    drip.proxy.rules[0].last = 1
    status, _ = drip.restore("s3")
    assert status == 0
    assert tree_differences(drip.source, drip.btw.top / "out") == ""


def test_f79_what_drips_for_ever_is_given_up(drip: Drip) -> None:
    """The target is named, and nothing is left; the next one is asked, if there is one."""
    status, err = drip.restore("s3")
    assert status == 1
    assert "backups/ answers too slowly, twice: s3cmd got next to nothing within 2 s" in err
    assert not [path for path in drip.btw.top.iterdir() if "out" in path.name or ".tmp" in path.name]
    status, err = drip.restore("s3", "nas")
    assert status == 0
    assert "the next target is asked" in err
    assert tree_differences(drip.source, drip.btw.top / "out") == ""


@pytest.mark.parametrize(("least", "is_slow"), [(10, False), (10_000, True)])
def test_f79_what_is_merely_slow_arrives(tmp_path: Path, least: int, is_slow: bool) -> None:
    """A program that gets on is left alone, however long it takes."""
    (out := tmp_path / "out").touch()
    pace = process.Pace(lambda: out.stat().st_size, least, 2.0)
    script = "for each in $(seq 50); do echo 1234567890 >>out; sleep 0.1; done"
    with pytest.raises(TooSlow) if is_slow else nullcontext():
        process.run(["sh", "-c", script], cwd=str(tmp_path), pace=pace)
    assert (out.stat().st_size < 550) == is_slow


def test_f78_every_second_request_dies(btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy) -> None:
    """0 or 6; nothing half is counted."""
    btw.tree(source)
    proxy.rules = [Rule("PUT", "", "reset", every=2)]
    ended = btw("fs", source, "www", status=None)
    assert ended.status in (0, 6)
    assert (owed(btw) > 0) == (ended.status == 6)
    if ended.status == 0:
        [archive] = (btw.root / "www").glob("*.tar.zst")
        assert bucket.objects()[f"www/{archive.name}"] == archive.read_bytes()
    sent(btw, bucket)


def test_f88_wrong_clock(btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy) -> None:
    """The hint says so."""
    proxy.rules = [Rule(method, "", "skewed") for method in ("GET", "PUT", "HEAD")]
    assert "hint: the clock of this machine is wrong" in unsent(btw, source)
    sent(btw, bucket)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_f87_a_right_is_missing(
    btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy, method: str
) -> None:
    """What is said leads to what prints the rights that are needed."""
    proxy.rules = [Rule(method, "", "denied")]
    err = unsent(btw, source)
    assert "AccessDenied" in err
    sent(btw, bucket)


@pytest.mark.quick_with("s3rver")
@pytest.mark.parametrize("act", ["partial", "busy", "empty"])
def test_f86_listings_that_lack_something(
    btw: Installation, source: Path, bucket: Bucket, proxy: FaultProxy, act: str
) -> None:
    """At worst it is sent again; never is anything removed."""
    btw.tree(source)
    btw("fs", source, "www")
    before = bucket.objects()
    proxy.rules = [Rule("GET", "", act, 2)]
    btw("sync", "--full", status=None)
    proxy.rules = []
    btw("sync")
    assert bucket.objects() == before
    assert "DELETE" not in proxy.methods()


# F91: s3cmd itself

PROGRAMS = {
    "does nothing, and says that all is well": ("exit 0", 6),
    "warns, and ends with 0": ('echo "WARNING: something is odd" >&2; exec /usr/bin/s3cmd "$@"', 0),
    "does it, and fails": ('/usr/bin/s3cmd "$@"; case "$*" in *" put "*) exit 2;; esac', 0),
    "is killed": ('case "$*" in *" put "*) kill -9 $$;; esac; exec /usr/bin/s3cmd "$@"', 6),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_f91_an_odd_s3cmd(btw: Installation, source: Path, bucket: Bucket, name: str) -> None:
    """What it says proves nothing, either way."""
    script, status = PROGRAMS[name]
    program = btw.top / "s3cmd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    configure(btw, bucket)
    btw.tree(source)
    btw("fs", source, "www", status=status, env={"BTW_S3CMD": str(program)})
    assert (owed(btw) == 0) == (status == 0)
    sent(btw, bucket)


def test_f91_one_of_many_is_left_out(btw: Installation, bucket: Bucket) -> None:
    """Exit status 2 for one of 300: what arrived is struck off, and the one is named."""
    program = btw.top / "s3cmd"
    program.write_text('#!/bin/sh\ncase "$*" in *" put "*) grep -v /77$ | /usr/bin/s3cmd "$@"; exit 2;; esac\n'
                       'exec /usr/bin/s3cmd "$@"\n')  # fmt: skip
    program.chmod(0o755)
    configure(btw, bucket)
    (btw.root / "many").mkdir()
    state = SyncState(btw.config_dir / "sync_state")
    for number in range(300):
        (btw.root / f"many/{number}").write_text(str(number))
        state.owe("push", f"many/{number}")
    ended = btw("sync", status=6, env={"BTW_S3CMD": str(program)})
    assert "many/77, because it is not there" in ended.err
    assert [debt.path for debt in state.pending()] == ["many/77"]
    btw("sync")
    assert len(bucket.objects()) == 300


def test_f91_no_s3cmd(btw: Installation, source: Path, bucket: Bucket) -> None:
    """It is named."""
    configure(btw, bucket)
    assert "BTW_S3CMD is not an absolute path of a program" in unsent(btw, source, env={"BTW_S3CMD": "/none"})
    sent(btw, bucket)


# F89, E10: what was half sent


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)  # s3rver cannot tell
def test_f89_e10_uploads_that_nobody_finished(btw: Installation, bucket: Bucket) -> None:
    """doctor counts ours, sync --full aborts ours, and what is somebody else's stays."""
    configure(btw, bucket)
    (btw.root / "big").write_bytes(random_bytes(60 << 20))
    for key in ("backups/www/mine", "elsewhere/theirs"):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    assert "has 1 upload that nobody finished" in btw("doctor", status=None).out
    run = btw.start("sync", "--full")
    while len(uploads(bucket)) < 2 or "elsewhere/theirs" not in uploads(bucket) or "backups/big" not in uploads(bucket):
        assert run.poll() is None
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert "has 1 upload that nobody finished" in btw("doctor", status=None).out
    btw("sync", "--full")
    assert uploads(bucket) == ["elsewhere/theirs"]
    assert "nobody finished" not in btw("doctor", status=None).out


def uploads(bucket: Bucket) -> list[str]:
    """The names of objects that are half sent."""
    found = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
    return [upload["Key"] for upload in found]
