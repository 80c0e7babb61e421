"""The target S3, spoken by the program s3cmd.

s3cmd's exit status proves nothing: it is 0 after files that it skipped and after a PUT that the server only claimed
to have stored. What counts is the listing: name, size and ETag, compared with the file that is here. The ETag of an
object is the MD5 of its content, or for one sent in parts the MD5 of the parts' MD5s; we choose the size of the parts,
so we know both. Where a server makes up its ETags (it does with SSE-KMS, and some do for uploads in parts), we accept
the MD5 that s3cmd noted with the object, which travelled in the same signed request as the content.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from btw_backup import files, process
from btw_backup.configuration.addresses import Address
from btw_backup.errors import ProgramFailed, TooSlow
from btw_backup.log import debug
from btw_backup.offsite import Listing, Stored, Unreachable, s3cfg
from btw_backup.offsite.complaints import PATIENT, Complaints
from btw_backup.offsite.etags import PART, Etags
from btw_backup.offsite.together import together

PROBE_LIMIT = 10.0
"""How many seconds a server may take to answer to the first question."""

LISTING_LIMIT = 600.0
STALLED, LEAST, OPENED = 120.0, 64 << 10, 16 << 10
"""Seconds in which a call that fetches gets at least so many bytes, and what each file that it began counts for; s3cmd
writes 64 kB at once. Else the server only pretends to answer."""
_MAX_PARTS = 10000  # of one object; S3 takes no more
_ARGUMENTS = 500  # in one command line
CALLS = 4
"""How many s3cmd run at once: each is busy with one file at a time, and mostly waits for the server."""

_FEWEST, _LEAST = 25, 16 << 20  # files, or bytes, that are worth a call of their own

_ROW = re.compile(r"\S+ \S+ +(\d+)  (\S*) *  ([A-Z_]*) *  (s3://.*)")
_ROW_WITH_MD5 = re.compile(r"\S+ \S+ +\d+  ([0-9a-f]{32}) *  (s3://.*)")
_FOLDER = re.compile(r" *DIR +(s3://.*/)")
_UPLOAD = re.compile(r"[^\t]+\t(s3://[^\t]+)\t(\S+)")
_KMS = re.compile(r"^ *MD5 sum: +([0-9a-f]{32})\n *SSE: +aws:kms", re.MULTILINE)
_FAITHFUL = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")
_PATTERN = re.compile(r"[*?]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class S3:
    """Objects under the place of `address` (``s3://bucket/path/``) that mirror the folder `root`."""

    def __init__(self, address: Address, root: Path, timeout: float) -> None:
        self.name = address.place
        self._config = os.path.abspath(os.path.expanduser(address.s3cmd_config))
        self._root = os.path.realpath(root)
        self._timeout = timeout
        self._rate = address.rate
        self._allow_http = address.allow_http
        self._hidden = ["--no-preserve"] if address.layout == "objects" else []  # else the names of users are told
        self._sse = ["--server-side-encryption"] if address.server_side_encryption else []
        self._etags = Etags(self._root)
        self._sent: frozenset[str] = frozenset()
        self._makes_up_etags = False
        self._stalls = 0

    def probe(self) -> None:
        """See `Target`."""
        s3cfg.refuse_unprovable(self._config)
        if not self._allow_http:
            s3cfg.refuse_http(self._config, self.name)
        try:
            self._run(["ls", "--limit=1", self.name], PROBE_LIMIT)
        except ProgramFailed as error:
            raise Unreachable(error.message, error.hint, error.returncode) from error

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        """See `Target`."""
        how = ["--recursive"] if recursive else []
        listable = _FAITHFUL.match(prefix)
        assert listable is not None
        output = self._run(["ls", "--long-listing", *how, self.name + listable[0]], LISTING_LIMIT)
        found = {}
        for line in output.decode("utf-8", "surrogateescape").split("\n"):
            row = _ROW.fullmatch(line)
            if row and row[4].startswith(self.name):
                found[row[4].removeprefix(self.name)] = Stored(int(row[1]), row[2])
        return found

    def folders(self) -> Sequence[str]:
        """See `Target`."""
        output = self._run(["ls", self.name], LISTING_LIMIT).decode("utf-8", "surrogateescape")
        rows = filter(None, map(_FOLDER.fullmatch, output.split("\n")))
        return [row[1].removeprefix(self.name) for row in rows if row[1].startswith(self.name)]

    def send(self, paths: Sequence[str]) -> str:
        """See `Target`. Names that s3cmd would change are left out, and so remain unproved."""
        groups: dict[tuple[int, bool], list[str]] = {}
        for path in paths:
            if not mangled(path):
                groups.setdefault((self._part_size(path), "/" in path), []).append(path)
        self._sent = frozenset(paths)
        shares = [(share, *how) for how, group in groups.items() for share in self._shares(group)]
        rate = self._rate()
        rate = max(1, rate // min(len(shares), CALLS)) if rate and shares else 0
        return self._at_once([partial(self._put, *share, rate) for share in shares])

    def _shares(self, paths: list[str]) -> list[list[str]]:
        """`paths` for each of the calls that they are best sent in: a call takes a third of a second to begin."""
        size = sum(map(self._size, paths))
        many = min(CALLS, len(paths), max(1, len(paths) // _FEWEST, size // _LEAST))
        return [paths[n::many] for n in range(many)]

    def _size(self, path: str) -> int:
        try:
            return self._etags.size(path)
        except OSError:
            return 0

    def _put(self, paths: list[str], part: int, below: bool, rate: int) -> str:
        """Send `paths`, all of them `below` the top of the folder or all directly in it.

        s3cmd makes the name of an object from that of its folder, and gets it wrong for a file of --files-from that
        lies directly in the folder that is sent: those are given as arguments.
        """
        command = ["put", *self._sse, *self._hidden, "--no-guess-mime-type", f"--multipart-chunk-size-mb={part}"]
        command += [f"--limit-rate={rate}"] if rate else []
        if not below:
            return self._each(command, [f"{self._root}/{path}" for path in paths], [self.name])
        with tempfile.TemporaryFile() as names:
            names.write("".join(f"{path}\n" for path in paths).encode())
            names.seek(0)
            command += ["--recursive", "--files-from=-", f"{self._root}/", self.name]
            return self._attempt(command, names.fileno())

    def fetch(self, paths: Sequence[str], folder: Path) -> str:
        """See `Target`."""
        groups: dict[str, list[str]] = {}
        for path in paths:
            groups.setdefault(os.path.dirname(path), []).append(self.name + path)
        jobs = []
        for inner, uris in groups.items():
            files.make_folder(folder / inner)
            many = max(1, min(CALLS, len(uris) // 4))
            jobs += [partial(self._get, uris[n::many], folder / inner) for n in range(many)]
        before, self._stalls = self._stalls, 0
        complaint = self._at_once(jobs)
        if before and self._stalls:
            raise Unreachable(
                f"{self.name} answers too slowly, twice: {complaint}", "another target, or time, may help"
            )
        return complaint

    def _get(self, uris: list[str], folder: Path) -> str:
        """Fetch to `folder`; a call that gets nowhere is ended."""
        complaints = []
        for start in range(0, len(uris), _ARGUMENTS):
            some = uris[start : start + _ARGUMENTS]
            paths = [folder / os.path.basename(uri) for uri in some]
            pace = process.Pace(lambda paths=paths: _arrived(paths), LEAST, STALLED)  # type: ignore[misc]
            complaints.append(self._attempt(["get", "--force", *some, f"{folder}/"], pace=pace))
        return next(filter(None, complaints), "")

    def _at_once(self, jobs: Sequence[Callable[[], str]]) -> str:
        """Do `jobs`, a few at once; the first complaint."""
        return next(filter(None, together(jobs, CALLS)), "")

    def leftovers(self) -> Sequence[str]:
        """See `Target`. A server that cannot tell has none."""
        bucket = "/".join(self.name.split("/", 3)[:3])
        try:
            output = self._run(["multipart", bucket], LISTING_LIMIT, tolerant=True).decode("utf-8", "surrogateescape")
        except ProgramFailed as error:
            debug(error.message)
            return []
        rows = filter(None, map(_UPLOAD.fullmatch, output.split("\n")))
        return [f"{row[1]} {row[2]}" for row in rows if row[1].startswith(self.name)]

    def sweep(self, leftovers: Sequence[str]) -> None:
        """See `Target`."""
        for each in leftovers:
            self._attempt(["abortmp", *each.rsplit(" ", 1)])

    def remove(self, paths: Sequence[str]) -> str:
        """See `Target`. What s3cmd would take for a pattern is left out: it would remove others, too."""
        plain = [self.name + path for path in paths if not _PATTERN.search(path)]
        jobs = [partial(self._each, ["del"], plain[n::CALLS], []) for n in range(min(CALLS, len(plain)))]
        complaint = self._at_once(jobs)
        return complaint or ("" if len(plain) == len(paths) else "its name has * or ?, which s3cmd takes for a pattern")

    def _each(self, command: list[str], arguments: list[str], last: list[str]) -> str:
        """Run `command` with as many of `arguments` at once as there may be."""
        starts = range(0, len(arguments), _ARGUMENTS)
        complaints = [self._attempt([*command, *arguments[n : n + _ARGUMENTS], *last]) for n in starts]
        return next(filter(None, complaints), "")

    def unproved(self, paths: Sequence[str], listing: Listing) -> Mapping[str, str]:
        """See `Target`."""
        return {path: why for path in paths if (why := self._doubt(path, listing.get(path)))}

    def _doubt(self, path: str, stored: Stored | None) -> str:
        """Why `stored` may not be the file `path`; "" if it is."""
        try:
            size = self._etags.size(path)
            if stored is None:
                return mangled(path) or "it is not there"
            if stored.size != size:
                return f"it has {stored.size} bytes there and {size} here"
            expected = self._etags.of(path, self._part_size(path))
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"it cannot be read here: {error.strerror}"
        if stored.checksum in expected or self._noted(path, stored) == expected[0]:
            return ""
        return "its content there is another"

    def _noted(self, path: str, stored: Stored) -> str:
        """The MD5 that s3cmd noted with an object whose ETag seems to be made up; "" for any other.

        That an ETag of no parts is made up is asked only after we sent the object: before, it is simply another.
        """
        uri = self.name + path
        try:
            if "-" in stored.checksum:
                output = self._run(["ls", "--list-md5", uri], LISTING_LIMIT).decode("utf-8", "surrogateescape")
                rows = filter(None, map(_ROW_WITH_MD5.fullmatch, output.split("\n")))
                return next((row[1] for row in rows if row[2] == uri), "")
            if path in self._sent or self._makes_up_etags:
                found = _KMS.search(self._run(["info", uri], LISTING_LIMIT, tolerant=True).decode("utf-8", "replace"))
                self._makes_up_etags = found is not None
                return found[1] if found else ""
        except ProgramFailed as error:
            debug(f"{path}: {error.message}")
        return ""

    def _part_size(self, path: str) -> int:
        """The size of the parts of `path` in MiB: s3cmd's own, unless they would be too many."""
        return max(PART, -(-self._size(path) // (_MAX_PARTS << 20)))

    def _attempt(self, command: Sequence[str], stdin: int | None = None, pace: process.Pace | None = None) -> str:
        """Run s3cmd and give back what it complained of; only a target that is gone is an error here."""
        try:
            self._run(command, self._timeout, stdin, pace=pace)
        except Unreachable:
            raise
        except TooSlow as error:
            self._stalls += 1
            return error.message
        except ProgramFailed as error:
            debug(error.message)
            return error.message
        return ""

    def _run(
        self,
        command: Sequence[str],
        limit: float,
        stdin: int | None = None,
        *,
        tolerant: bool = False,
        pace: process.Pace | None = None,
    ) -> bytes:
        """What s3cmd printed; if `tolerant`, also before it failed, and it need not try again.

        Raises `Unreachable` if the server seems to be gone, `ProgramFailed`.
        """
        complaints = Complaints(longest_wait=0 if tolerant else PATIENT)
        whole = ["s3cmd", f"--config={self._config}", "--no-progress", "--encoding=UTF-8", *command]
        accepted = range(256) if tolerant else (0,)
        limit = min(limit, self._timeout)
        try:
            return process.run(whole, accepted=accepted, timeout=limit, pace=pace, on_line=complaints.take, stdin=stdin)
        except TooSlow:
            raise
        except ProgramFailed as error:
            raise complaints.explained(error) from error


def _arrived(paths: Sequence[Path]) -> int:
    """How much of these files is here: their bytes, and something for each that was begun."""
    sizes = []
    for path in paths:
        with suppress(OSError):
            sizes.append(path.lstat().st_size)
    return sum(sizes) + OPENED * len(sizes)


def mangled(path: str) -> str:
    """Why s3cmd would not keep the name `path`; "" if it would. It replaces control characters, skips what is not
    UTF-8, and strips spaces."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if _CONTROL.search(path):
        return "its name has control characters"
    return "its name begins or ends with a space" if path != path.strip() else ""
