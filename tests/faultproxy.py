"""A proxy before an S3 server that logs every request and fails those that it is told to."""

import hashlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

_SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>'
_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
_SKEWED = (
    b'<?xml version="1.0"?><Error><Code>RequestTimeTooSkewed</Code>'
    b"<Message>The difference between the request time and the current time is too large.</Message></Error>"
)
_REFUSALS = {"busy": (503, _SLOW_DOWN), "denied": (403, _DENIED), "skewed": (403, _SKEWED)}
_OBJECT = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_EMPTY = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'
_HOP_BY_HOP = ("content-length", "transfer-encoding", "connection", "server", "date", "expect")


@dataclass
class Rule:
    """What to do (`act`) to requests of a method whose path contains `match`, from the `first` to the `last` such one.

    busy, denied: answer 503, 403 · reset: die amid the body · hang: never answer · corrupt: store another first byte ·
    lie: say stored, store nothing · lose: store, and close without an answer · empty: an empty listing ·
    odd: ETags that mean nothing, as with SSE-KMS · of what is fetched: short, flip, swap: half of it, with one bit
    flipped, or what was fetched before, each as if it were all well; cut: die amid the answer · drip: a byte a second ·
    skewed: 403, the clock is wrong · partial: a listing without every other object.
    """

    method: str
    match: str
    act: str
    first: int = 1
    last: int = 10**9
    count: int = 0
    every: int = 1
    """Of those, every so many-th only."""


@dataclass
class FaultProxy:
    """Give clients `port` instead of `upstream`; change `rules` at any time; `log` holds (method, path)."""

    upstream: int
    rules: list[Rule] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    seen: list[tuple[bytes, bytes]] | None = None
    """If it is a list: the head and the body of every request that came."""
    port: int = 0

    def __enter__(self) -> "FaultProxy":
        proxy = self

        class Handler(_Handler):
            faults = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def methods(self) -> set[str]:
        """The methods of all requests so far."""
        return {method for method, _ in self.log}

    def act(self, method: str, path: str) -> str:
        """Log a request, and say what to do to it."""
        self.log.append((method, path))
        for rule in self.rules:
            if rule.method == method and rule.match in path:
                rule.count += 1
                if rule.first <= rule.count <= rule.last and (rule.count - rule.first) % rule.every == 0:
                    return rule.act
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: FaultProxy
    before = b""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing; `FaultProxy.log` has it."""

    def serve(self) -> None:
        act = self.faults.act(self.command, self.path)
        size = int(self.headers.get("Content-Length") or 0)
        if act == "hang":
            time.sleep(600)
        elif act == "reset":
            self.rfile.read(size // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._close()
        else:
            body = self.rfile.read(size)
            if self.faults.seen is not None:
                self.faults.seen.append((f"{self.requestline}\n{self.headers}".encode(), body))
            self._pass_on(act, body)

    def _pass_on(self, act: str, body: bytes) -> None:
        if act in _REFUSALS:
            self._answer(_REFUSALS[act][0], {}, _REFUSALS[act][1])
        elif act == "lie":
            self._answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b"")  # noqa: S324
        elif act == "empty":
            self._answer(200, {"Content-Type": "application/xml"}, _EMPTY)
        else:
            status, headers, data = self._ask(bytes([body[0] ^ 1]) + body[1:] if act == "corrupt" and body else body)
            if act == "lose":
                self._close()
                return
            data = self._spoiled(act, data)
            if act == "cut":
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self._close()
                return
            if act == "drip":
                self._drip(status, data)
                return
            if act == "partial":
                found = _OBJECT.findall(data)
                for each in found[::2]:
                    data = data.replace(each, b"")
            if act == "odd":
                data = re.sub(rb"(&quot;|\")([0-9a-f]{32})(?=\1)", lambda found: found[1] + found[2][::-1], data)
                headers["x-amz-server-side-encryption"] = "aws:kms"
            self._answer(status, headers, data)

    def _spoiled(self, act: str, data: bytes) -> bytes:
        """What is said to have been asked for."""
        before, type(self).before = type(self).before, data
        if act == "flip" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return {"short": data[: len(data) // 2], "swap": before}.get(act, data)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.faults.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        upstream.close()
        return answer.status, kept, data

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # they lost patience
            self._say(status, headers, data)

    def _say(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _drip(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # they lost patience
            for number in range(len(data)):
                self.wfile.write(data[number : number + 1])
                self.wfile.flush()
                time.sleep(1)
        self.close_connection = True

    def _close(self) -> None:
        self.connection.close()
        self.close_connection = True

    do_GET: Callable[["_Handler"], None] = serve
    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET
