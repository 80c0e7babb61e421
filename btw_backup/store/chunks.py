"""The folder of the store: where a chunk lies, whether it is there, and its content, proved.

``.store/format.json`` says which format it is; ``.store/chunks/ab/ab….zst`` is a chunk, one zstd frame, whose
name is the SHA-256 of its plain content.
"""

import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zstandard

from btw_backup import files, flushing, locks, regular
from btw_backup.errors import Damaged, FatalUserError, NotFound, shortage, unreadable
from btw_backup.store import frames

FOLDER = ".store"
FORMAT = 1
FORMAT_FILE = "format.json"
LARGEST = 9 << 20
"""Bytes of plain content that a chunk may have: what the cutter gives at most, and a pack with its last file."""

DAMAGED = "damaged"
"""The folder below the store where chunks go that are not what was stored: evidence, and never a base again."""

_NAME = re.compile(r"[0-9a-f]{64}")
_UNUSED = 0x10
"""The bit of a frame's header that decoders do not look at (RFC 8878, 3.1.1.1.1.3)."""


class ChunkStore:
    """The store of the installation whose ROOT_PATH is `root`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self.chunks = self.folder / "chunks"
        self._local = threading.local()

    def refuse_newer(self) -> None:
        """Raise `FatalUserError` if the store is of a format that we do not know: then nothing is changed in ROOT_PATH.

        What is wrong with a store of our format is no matter here."""
        with suppress(Damaged):
            self._check_format()

    def open(self) -> None:
        """Make sure of a store of a format that we know; a new one is made. Raises `FatalUserError`."""
        if self._check_format():
            files.make_folder(self.chunks)  # who made the store may have died before that
        else:
            self._create(self.folder / FORMAT_FILE)

    def _check_format(self) -> bool:
        """Whether there is a store. Raises `FatalUserError` unless it is of a format that we know."""
        path = self.folder / FORMAT_FILE
        try:
            content = regular.read(path)
            found = json.loads(content)["format"]
        except FileNotFoundError:
            if self.chunks.exists():
                raise Damaged(f"{path} is missing", 'if the chunks are fine, write {"format": 1} into it') from None
            return False
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path} cannot be read: {error}", 'if the chunks are fine, write {"format": 1}') from error
        if content != format_text(FORMAT) and b"checksum" in content and content != format_text(found):
            raise Damaged(f"{path} is not what was written", "btw-backup scrub proves the chunks, and writes it anew")
        if found != FORMAT:
            raise FatalUserError(
                f"{self.folder} has the format {found}, and we know {FORMAT}", "use a newer btw-backup"
            )
        return True

    def _create(self, path: Path) -> None:
        files.make_folder(self.folder)
        files.write_whole(path, format_text(FORMAT))
        files.make_folder(self.chunks)

    def listed(self, after: str = "") -> Iterator[tuple[str, int]]:
        """The chunks with the lengths of their files, in the order of their names: first those behind the name
        `after`, then the others. Memory: the names of one folder in 256."""
        after = after if _NAME.fullmatch(after) else ""
        folders = [f"{number:02x}" for number in range(256)]
        at = int(after[:2] or "0", 16)
        for turn, folder in enumerate((*folders[at:], *folders[: at + bool(after)])):
            for name, length in self._listed_in(folder):
                if folder != after[:2] or (name > after) == (turn == 0):
                    yield name, length

    def _listed_in(self, folder: str) -> list[tuple[str, int]]:
        found = []
        try:
            with os.scandir(self.chunks / folder) as entries:
                for entry in entries:
                    name = entry.name.removesuffix(".zst")
                    if name != entry.name and _NAME.fullmatch(name) and name.startswith(folder):
                        with suppress(FileNotFoundError):  # somebody may be sweeping
                            found.append((name, entry.stat(follow_symlinks=False).st_size))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found)

    @contextmanager
    def locked(self, *, exclusive: bool, wait: float) -> Iterator[None]:
        """Hold the lock of the store: exclusively to remove chunks, shared to write, to remove or to bring back a
        backup. Its file may be missing in a copy of a store; where there is no store, there is nothing to lock."""
        if not self.folder.is_dir():
            yield
            return
        with suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self.folder / locks.LOCK_NAME, flags, 0o600))
        with locks.lock(self.folder, exclusive=exclusive, wait=wait):
            yield

    def path(self, name: str) -> Path:
        """Where the chunk `name` lies, if it is there. Raises `Damaged` for what cannot be a name."""
        if not _NAME.fullmatch(name):
            raise Damaged(f"{name[:80]!r} is not the name of a chunk")
        return self.chunks / name[:2] / f"{name}.zst"

    def reuse(self, name: str) -> int:
        """The bytes that the chunk `name` takes, which is marked as used again just now; 0 if it is not there."""
        path = self.path(name)
        try:
            os.utime(path, follow_symlinks=False)
            status = os.stat(path, follow_symlinks=False)
        except OSError:  # nobody counts on what cannot be looked at
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def reuse_whole(self, name: str, length: int | None = None) -> bool:
        """As `reuse`, and it looks whole: a frame that ends where the file ends, of `length` plain bytes if that is
        known."""
        if not self.reuse(name):
            return False
        try:
            with regular.opened(self.path(name)) as file:
                return frames.end_of(file.fileno(), length) == os.fstat(file.fileno()).st_size
        except OSError:
            return False

    def length(self, name: str) -> int:
        """The plain bytes that the chunk `name` says it has; 0 if it is not there."""
        try:
            with regular.opened(self.path(name)) as file:
                return int(zstandard.get_frame_parameters(file.read(18)).content_size)
        except (OSError, zstandard.ZstdError):
            return 0

    def read(self, name: str, *, from_disk: bool = False) -> bytes:
        """The plain content of the chunk `name`. Raises `Damaged` for any other content than what was stored.

        `from_disk`: what the kernel has of it in memory, which may be better than what the disk has, is let go.
        """
        return self.read_at(self.path(name), name, from_disk=from_disk)

    def read_at(self, path: Path, name: str, *, from_disk: bool = False) -> bytes:
        """As `read`, of what lies at `path`."""
        return self._proved(name, _frame_at(path, name, from_disk=from_disk))

    def frame(self, name: str) -> bytes:
        """The chunk `name` as it lies in the store, proved. Raises `Damaged`."""
        frame = _frame_at(self.path(name), name)
        self._proved(name, frame)
        return frame

    def _proved(self, name: str, frame: bytes) -> bytes:
        content = self._content(name, frame)
        if hashlib.sha256(content).hexdigest() != name:
            raise Damaged(f"the chunk {name} is damaged: its SHA-256 is not that of what was stored")
        return content

    def plain(self, name: str, frame: bytes) -> bytes:
        """What is in `frame`, which is called the chunk `name`; whoever asks proves that. Raises `Damaged`."""
        return self._content(name, frame)

    def _content(self, name: str, frame: bytes) -> bytes:
        """The content of a frame, within bounds of memory and time whatever it says."""
        try:
            if not frame.startswith(frames.MAGIC) or frame[4:5] == b"" or frame[4] & _UNUSED:
                raise zstandard.ZstdError("it is no zstd frame")
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size > LARGEST or parameters.window_size > LARGEST or parameters.dict_id:
                raise zstandard.ZstdError("its frame is not one of ours")
            return self._decompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            if shortage(error):
                raise
            raise Damaged(f"the chunk {name} is damaged: {error}") from error

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        """One for each thread: they cannot be shared."""
        found: zstandard.ZstdDecompressor | None = getattr(self._local, "decompressor", None)
        if found is None:
            found = self._local.decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST)
        return found

    def set_aside(self, name: str) -> Path:
        """Move the bad chunk `name` to where nothing uses it; where it is now. Raises `NotFound`."""
        path = self.path(name)
        target = self.folder / DAMAGED / path.name
        files.make_folder(target.parent)
        try:
            files.publish(path, target)
        except FileNotFoundError as error:
            raise NotFound(f"there is no chunk {name}") from error
        files.sync_folder(path.parent)
        return target


def _frame_at(path: Path, name: str, *, from_disk: bool = False) -> bytes:
    """What lies at `path`, which leaves the memory of the kernel: nobody reads it again soon. Raises `Damaged`."""
    try:
        with regular.opened(path) as file:
            if from_disk:
                flushing.let_go(file.fileno())
            size = os.fstat(file.fileno()).st_size
            frame = b"" if size > LARGEST + (LARGEST >> 8) + 512 else file.read(size + 1)
            flushing.let_go(file.fileno())
            return frame
    except FileNotFoundError as error:
        raise Damaged(f"the chunk {name} is missing") from error
    except OSError as error:
        raise unreadable(f"the chunk {name}", error) from error


def store_of(folder: Path, dst: str) -> ChunkStore:
    """The store of the ROOT_PATH in which `folder` is the dst."""
    return ChunkStore(folder.parents[dst.count("/")])


def format_text(number: int) -> bytes:
    """What is in format.json: with a checksum, so that a flipped bit is not taken for a newer format."""
    checksum = hashlib.sha256(b"%d" % number).hexdigest() if isinstance(number, int) else ""
    return json.dumps({"format": number, "checksum": checksum}).encode() + b"\n"
