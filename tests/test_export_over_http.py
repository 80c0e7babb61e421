"""A command that is a URL: fetched from real servers, which send all, or too little, or somebody else."""

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Ended, Installation

TOKEN = "t0ken-that-nobody-may-see"
CONTENT = bytes(range(256)) * 8192
TYPES = ("chunks", "file")


@dataclass
class Server:
    """A server on a port of its own, in a thread; `seen` are the paths that were asked for, with their tokens."""

    other: str = ""
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"of": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    protocol_version = "HTTP/1.1"
    of: Server

    def do_GET(self) -> None:
        self.of.seen.append((self.path, self.headers["Authorization"]))
        getattr(self, "answer_" + self.path.strip("/").partition("?")[0].replace("-", "_"))()

    def answer_export(self, content: bytes = CONTENT) -> None:
        self.start(200, len(content))
        self.wfile.write(content)

    def answer_guarded(self) -> None:
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            self.answer_export()
        else:
            self.say(401, f"no such token: {self.headers['Authorization']}\nsecond line")

    def answer_empty(self) -> None:
        self.answer_export(b"")

    def answer_cut(self) -> None:
        self.start(200, len(CONTENT))
        self.wfile.write(CONTENT[:-1])
        self.close_connection = True

    def answer_in_chunks(self, missing: int = 0) -> None:
        self.start(200, None, ("Transfer-Encoding", "chunked"))
        chunks = [CONTENT[at : at + 100_000] for at in range(0, len(CONTENT), 100_000)]
        text = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        self.wfile.write(text[: len(text) - missing])
        self.close_connection = bool(missing)

    def answer_cut_in_a_chunk(self) -> None:
        self.answer_in_chunks(missing=50_000)

    def answer_cut_between_chunks(self) -> None:
        self.answer_in_chunks(missing=5)

    def answer_unknown_length(self) -> None:
        self.start(200, None)
        self.wfile.write(CONTENT)
        self.close_connection = True

    def answer_silent(self) -> None:
        self.start(200, len(CONTENT))
        self.wfile.write(CONTENT[:1000])
        time.sleep(PATIENCE)

    def answer_drop_by_drop(self) -> None:
        self.start(200, len(CONTENT))
        for _ in range(int(10 * PATIENCE)):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def answer_deaf(self) -> None:
        time.sleep(PATIENCE)

    def answer_broken(self) -> None:
        self.say(500, "it is broken")

    def answer_bare(self) -> None:
        self.say(503, "")

    def answer_here(self) -> None:
        self.start(302, 0, ("Location", "/guarded"))

    def answer_there(self) -> None:
        self.start(307, 0, ("Location", self.of.other + "/export"))

    def answer_signed(self) -> None:
        self.start(302, 0, ("Location", f"/broken?signature={TOKEN}"))

    def answer_circle(self) -> None:
        self.start(302, 0, ("Location", "circle"))

    def answer_file(self) -> None:
        self.start(302, 0, ("Location", "file:///etc/passwd"))

    def answer_nonsense(self) -> None:
        self.wfile.write(b"what?\r\n\r\n")
        self.close_connection = True

    def start(self, status: int, length: int | None, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def say(self, status: int, text: str) -> None:
        self.start(status, len(text))
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Not on standard error."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    running = found.start()
    yield found
    running.shutdown()


def fetch(btw: Installation, url: str, status: int = 0, extra: str = "", type_: str = "chunks") -> Ended:
    """Make the command ``job`` for `url`, and run it."""
    file = btw.config_dir / "command" / "job.py"
    file.unlink(missing_ok=True)
    token = btw.top / "token"
    token.touch(0o600)
    token.write_text(TOKEN + "\n")
    btw("command-init", "--type", type_, "--url", url, "--token-file", token, "job")
    with open(file, "a") as opened:
        opened.write(extra)
    ended = btw("command", "job", "d", status=status)
    assert TOKEN not in ended.err + ended.out
    assert TOKEN not in (btw.config_dir / "btw-backup.log").read_text()
    assert status == 0 or (not list((btw.root / "d").glob("2*")) and not list(btw.root.rglob(".tmp-*")))
    return ended


def restored(btw: Installation) -> bytes:
    (btw.top / "out").unlink(missing_ok=True)
    btw("restore", "d", "out")
    return (btw.top / "out").read_bytes()


@pytest.mark.parametrize("type_", TYPES)
def test_b11_an_export_with_a_token(btw: Installation, server: Server, type_: str) -> None:
    fetch(btw, f"{server.url}/guarded", type_=type_)
    assert server.seen == [("/guarded", f"Bearer {TOKEN}")]
    assert restored(btw) == CONTENT
    fetch(btw, f"{server.url}/guarded", type_=type_)
    assert "no change" in (btw.root / "d" / "log.txt").read_text()


@pytest.mark.parametrize("path", ["in-chunks", "export?all=1&x=%20y"])
def test_a_whole_answer(btw: Installation, server: Server, path: str) -> None:
    fetch(btw, f"{server.url}/{path}")
    assert restored(btw) == CONTENT
    assert server.seen[0][0] == f"/{path}"


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("cut", f"is cut: {len(CONTENT)} bytes are announced, and {len(CONTENT) - 1} came"),
        ("cut-in-a-chunk", "is cut: a chunk is not whole"),
        ("cut-between-chunks", "is cut: a chunk is not whole"),
    ],
)
def test_b11_an_answer_that_is_cut_is_no_backup(
    btw: Installation, server: Server, path: str, said: str, type_: str
) -> None:
    assert said in fetch(btw, f"{server.url}/{path}", status=1, type_=type_).err
    assert not list((btw.root / ".store").rglob("*.zst"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("unknown-length", "does not say how long its answer is"),
        ("broken", "answers 500: it is broken"),
        ("signed", "broken answers 500: it is broken"),
        ("bare", "answers 503: Service Unavailable"),
        ("empty", "is empty"),
        ("circle", "sends us round in circles"),
        ("file", "sends us to file:///etc/passwd, which is not safe"),
        ("nonsense", "answers what is not HTTP"),
    ],
)
def test_an_answer_that_is_an_error(btw: Installation, server: Server, path: str, said: str) -> None:
    assert said in fetch(btw, f"{server.url}/{path}", status=1).err


def test_the_token_is_not_shown_by_an_error(btw: Installation, server: Server) -> None:
    """The server says it back."""
    url = f"{server.url}/guarded"
    fetch(btw, url)
    (btw.top / "token").write_text("wrong\n")
    ended = btw("command", "job", "d", status=1)
    assert f"{url} answers 401: no such token: Bearer ***\n" in ended.err


@pytest.mark.parametrize("path", ["silent", "drop-by-drop", "deaf"])
def test_a_server_that_is_slow(btw: Installation, server: Server, path: str) -> None:
    began = time.monotonic()
    ended = fetch(btw, f"{server.url}/{path}", status=1, extra='TIMEOUT = "1s"\n')
    assert "did not answer in time" in ended.err
    assert time.monotonic() - began < PATIENCE / 2


def test_the_same_host_gets_the_token_again_and_another_does_not(btw: Installation, server: Server) -> None:
    fetch(btw, f"{server.url}/here")
    assert server.seen == [("/here", f"Bearer {TOKEN}"), ("/guarded", f"Bearer {TOKEN}")]
    other = Server()
    running = other.start()
    server.other = other.url
    fetch(btw, f"{server.url}/there")
    assert server.seen[2:] == [("/there", f"Bearer {TOKEN}")]
    assert other.seen == [("/export", None)]
    running.shutdown()


def test_a_server_that_is_not_there(btw: Installation, server: Server) -> None:
    assert "Connection refused" in fetch(btw, "http://127.0.0.1:9/export", status=1).err
    assert "cannot fetch https://no.such.host.invalid/" in fetch(btw, "https://no.such.host.invalid/", status=1).err


def test_a_token_is_kept_from_others(btw: Installation, server: Server) -> None:
    ended = fetch(btw, "http://example.org/export", status=1)
    assert "a token cannot go to http://example.org/export" in ended.err
    fetch(btw, f"{server.url}/guarded")
    token = btw.top / "token"
    for content, mode, said in (
        (TOKEN, 0o640, "others may read TOKEN_FILE"),
        ("", 0o600, "not one line with a token"),
        ("two\nlines", 0o600, "not one line with a token"),
    ):
        token.write_text(content)
        token.chmod(mode)
        ended = btw("command", "job", "d", status=1)
        assert said in ended.err and TOKEN not in ended.err
    token.unlink()
    assert "cannot read TOKEN_FILE" in btw("command", "job", "d", status=1).err
    assert len(server.seen) == 1


def test_a_certificate_that_nobody_knows(btw: Installation, tmp_path: Path, server: Server) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *name]
    subprocess.run(made, check=True, capture_output=True)
    guarded = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"of": guarded}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"https://localhost:{running.server_port}/guarded"
    assert "cannot prove who it is" in fetch(btw, url, status=1).err
    assert guarded.seen == []
    btw("command", "job", "d", env={"SSL_CERT_FILE": str(certificate)})
    assert guarded.seen == [("/guarded", f"Bearer {TOKEN}")] and restored(btw) == CONTENT
    running.shutdown()
