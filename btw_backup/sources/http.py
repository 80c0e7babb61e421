"""What an HTTP server exports, as a source.

By the standard library: this is one GET, and what it takes to get that right (a token that goes to no other host, an
answer that is cut, a server that says nothing more) would have to be written with any library.
"""

import http.client
import os
import shlex
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from btw_backup import __version__
from btw_backup.errors import FatalUserError, ImproperlyConfigured, TimedOut
from btw_backup.log import debug, printable
from btw_backup.sources import Produced, relay
from btw_backup.sources.command import ENDING

CONNECT_TIMEOUT = 30.0
SILENCE = 120.0
"""Seconds without a byte after which a server is given up."""

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_TOKEN = 16 << 10
_SHOWN = 200
_BLOCK = 1 << 18
_SAFE = "/%:=&?~+!$,;'@()*[]"
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Export:
    """What the server answers to a GET of `url`; `name` is what the job is called. It has `seconds` altogether.

    The bearer token in `token_file` goes to the host of `url` alone, and only over TLS, or to this machine.
    """

    kind = "command"

    def __init__(
        self, name: str, url: str, token_file: Path | None, *, seconds: float, allow_empty: bool = False
    ) -> None:
        self.name = name
        self.file_name = name + ENDING
        self._url = url
        self._token_file = token_file
        self._seconds = seconds
        self._allow_empty = allow_empty

    def fingerprint(self) -> None:
        """None: it has to be fetched. Raises `ImproperlyConfigured` if the token may not be used."""
        self._token()

    def produce(self, out: BinaryIO) -> Produced:
        """Fetch it. Raises `FatalUserError` for an answer that is not a whole one."""
        length = 0
        deadline = time.monotonic() + self._seconds
        with closing(_visited(self._url, self._token(), deadline)) as answer:
            while block := answer.read():
                out.write(block)
                length += len(block)
        if not length and not self._allow_empty:
            raise FatalUserError(f"{shown(self._url)} is empty", "ALLOW_EMPTY = True says that this is right")
        return Produced(length, "", "")

    def content_of(self, stream: BinaryIO) -> str:
        """The bytes are the content; contract: `sources.Source.content_of`."""
        return relay.digest_of(stream)

    def programs(self) -> Mapping[str, str]:
        """None takes part."""
        return {}

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        url = urlsplit(self._url)
        if url.scheme != "https" and url.hostname not in _LOCAL:
            raise ImproperlyConfigured(
                f"a token cannot go to {shown(self._url)}, because everybody on the way could read it"
            )
        return read_token(self._token_file)


def shown(url: str) -> str:
    """`url` for a message: without what follows a question mark, which may be as good as a password."""
    return printable(url.partition("?")[0])[:_SHOWN]


def read_token(path: Path) -> str:
    """The token in the file `path`. Raises `ImproperlyConfigured` if it is none, or if others may read it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_LONGEST_TOKEN) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise ImproperlyConfigured(f"cannot read TOKEN_FILE {path}: {error.strerror}") from error
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise ImproperlyConfigured(f"others may read TOKEN_FILE {path}", f"chmod 600 {shlex.quote(str(path))}")
    token = text.decode("ascii", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ImproperlyConfigured(f"TOKEN_FILE {path} is not one line with a token")
    return token


class _Answer:
    """The answer of a server, of which `read` gives what is there until all of it was given. `close` ends it."""

    def __init__(self, url: str, token: str, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._received = 0
        parts = urlsplit(url)
        with _blaming(url):
            self._connection = _connected(parts, deadline)
            self._socket: socket.socket = self._connection.sock
            headers = {"Accept-Encoding": "identity", "User-Agent": f"btw-backup/{__version__}"}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            self._wait_at_most()
            self._connection.request("GET", _target(parts), headers=headers)
            self._response = self._connection.getresponse()
        self._announced = self._response.length
        self.status = self._response.status

    @property
    def location(self) -> str:
        """Where the server sends us, or ""."""
        found = self._response.getheader("Location", "") if self.status in _REDIRECTS else ""
        return urljoin(self._url, found) if found else ""

    def check(self, token: str) -> None:
        """Raise `FatalUserError` if this is an error, or if nobody could tell whether it is whole."""
        if not 200 <= self.status < 300:
            lines = self.read().decode("utf-8", "replace").strip().splitlines()
            said = (lines[0] if lines else self._response.reason)[:_SHOWN]
            said = said.replace(token, "***") if token else said
            raise FatalUserError(f"{shown(self._url)} answers {self.status}: {printable(said)}")
        if self._announced is None and not self._response.chunked:
            hint = "it has to send Content-Length, or chunks (HTTP/1.1)"
            raise FatalUserError(f"{shown(self._url)} does not say how long its answer is, so it could be cut", hint)

    def read(self) -> bytes:
        """What has come; b"" at the end. Raises `FatalUserError` where it is cut."""
        self._wait_at_most()
        with _blaming(self._url):
            block = self._response.read1(_BLOCK)
        self._received += len(block)
        if not block and self._announced is not None and self._received != self._announced:
            raise _cut(self._url, f"{self._announced} bytes are announced, and {self._received} came")
        return block

    def _wait_at_most(self) -> None:
        """Wait for the server at most until it is given up."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _late(self._url)
        self._socket.settimeout(min(SILENCE, left))

    def close(self) -> None:
        """End the connection."""
        self._response.close()
        self._connection.close()


def _visited(url: str, token: str, deadline: float) -> _Answer:
    """The answer of `url`, or of where it sends us. Another host does not get the token."""
    for _ in range(_MOST_REDIRECTS + 1):
        answer = _Answer(url, token, deadline)
        try:
            further = answer.location
            if not further:
                answer.check(token)
                return answer
            if urlsplit(further).scheme not in ("https", urlsplit(url).scheme):
                raise FatalUserError(f"{shown(url)} sends us to {shown(further)}, which is not safe")
        except BaseException:
            answer.close()
            raise
        answer.close()
        token = token if _origin(further) == _origin(url) else ""
        debug(f"{shown(url)} sends us to {shown(further)}" + ("" if token else ", which gets no token"))
        url = further
    raise FatalUserError(f"{shown(url)} sends us round in circles")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _connected(url: SplitResult, deadline: float) -> http.client.HTTPConnection:
    seconds = max(0.001, min(CONNECT_TIMEOUT, deadline - time.monotonic()))
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=seconds)
    connection.connect()
    return connection


def _target(url: SplitResult) -> str:
    return quote(url.path or "/", safe=_SAFE) + (f"?{quote(url.query, safe=_SAFE)}" if url.query else "")


@contextmanager
def _blaming(url: str) -> Iterator[None]:
    """Make what the network does an error that names `url`."""
    try:
        yield
    except TimeoutError as error:
        raise _late(url) from error
    except ssl.SSLCertVerificationError as error:
        raise FatalUserError(f"{shown(url)} cannot prove who it is: {error.verify_message}") from error
    except http.client.IncompleteRead as error:
        raise _cut(url, "a chunk is not whole") from error
    except http.client.HTTPException as error:
        what = printable(f"{type(error).__name__} {error}")[:_SHOWN]
        raise FatalUserError(f"{shown(url)} answers what is not HTTP: {what}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise FatalUserError(f"cannot fetch {shown(url)}: {reason}") from error


def _late(url: str) -> TimedOut:
    return TimedOut(f"{shown(url)} did not answer in time", "TIMEOUT is how long it may take")


def _cut(url: str, why: str) -> FatalUserError:
    return FatalUserError(f"the answer of {shown(url)} is cut: {why}", "nothing was kept")
