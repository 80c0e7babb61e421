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
from contextlib import suppress
from pathlib import Path

import zstandard

from btw_backup import files
from btw_backup.errors import Damaged, FatalUserError, NotFound

FOLDER = ".store"
FORMAT = 1
LARGEST = 9 << 20
"""Bytes of plain content that a chunk may have: what the cutter gives at most, and a pack with its last file."""

DAMAGED = "damaged"
"""The folder below the store where chunks go that are not what was stored: evidence, and never a base again."""

_NAME = re.compile(r"[0-9a-f]{64}")
_MAGIC = b"\x28\xb5\x2f\xfd"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ChunkStore:
    """The store of the installation whose ROOT_PATH is `root`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self.chunks = self.folder / "chunks"
        self._local = threading.local()

    def open(self) -> None:
        """Make sure of a store of a format that we know; a new one is made. Raises `FatalUserError`."""
        path = self.folder / "format.json"
        try:
            found = json.loads(path.read_bytes())["format"]
        except FileNotFoundError:
            if self.chunks.exists():
                raise Damaged(f"{path} is missing", 'if the chunks are fine, write {"format": 1} into it') from None
            self._create(path)
            return
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path} cannot be read: {error}", 'if the chunks are fine, write {"format": 1}') from error
        if found != FORMAT:
            raise FatalUserError(
                f"{self.folder} has the format {found}, and we know {FORMAT}", "use a newer btw-backup"
            )

    def _create(self, path: Path) -> None:
        files.make_folder(self.folder)
        with suppress(FileExistsError):
            os.close(os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        files.write_whole(path, json.dumps({"format": FORMAT}).encode() + b"\n")
        files.make_folder(self.chunks)

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
        except FileNotFoundError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def reuse_whole(self, name: str, length: int) -> bool:
        """As `reuse`, and it looks whole: a frame of `length` plain bytes that ends where the file ends."""
        if not self.reuse(name):
            return False
        with open(os.open(self.path(name), _OPEN), "rb", buffering=0) as file:
            return _frame_length(file.fileno(), length) == os.fstat(file.fileno()).st_size

    def length(self, name: str) -> int:
        """The plain bytes that the chunk `name` says it has; 0 if it is not there."""
        try:
            with open(os.open(self.path(name), _OPEN), "rb", buffering=0) as file:
                return int(zstandard.get_frame_parameters(file.read(18)).content_size)
        except (OSError, zstandard.ZstdError):
            return 0

    def read(self, name: str) -> bytes:
        """The plain content of the chunk `name`. Raises `Damaged` for any other content than what was stored."""
        path = self.path(name)
        try:
            with open(os.open(path, _OPEN), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                frame = b"" if size > LARGEST + (LARGEST >> 8) + 512 else file.read(size + 1)
        except FileNotFoundError as error:
            raise Damaged(f"the chunk {name} is missing") from error
        except OSError as error:
            raise Damaged(f"the chunk {name} cannot be read: {error.strerror}") from error
        content = self._content(name, frame)
        if hashlib.sha256(content).hexdigest() != name:
            raise Damaged(f"the chunk {name} is damaged: its SHA-256 is not that of what was stored")
        return content

    def _content(self, name: str, frame: bytes) -> bytes:
        """The content of a frame, within bounds of memory and time whatever it says."""
        try:
            if not frame.startswith(_MAGIC):
                raise zstandard.ZstdError("it is no zstd frame")
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size > LARGEST or parameters.window_size > LARGEST or parameters.dict_id:
                raise zstandard.ZstdError("its frame is not one of ours")
            return self._decompressor().decompress(frame, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
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


def _frame_length(file: int, length: int) -> int:
    """The length of the zstd frame in `file` with `length` plain bytes, told by its headers; 0 if it is none.

    RFC 8878, 3.1.1: the frame header, then blocks of a header of 3 bytes each, then 4 bytes of checksum. Reading the
    headers tells a file that was cut from a whole one for the price of one read a 128 KiB.
    """
    try:
        head = os.pread(file, 18, 0)
        parameters = zstandard.get_frame_parameters(head)
        at = zstandard.frame_header_size(head)
    except zstandard.ZstdError:
        return 0
    if not head.startswith(_MAGIC) or parameters.content_size != length:
        return 0
    while len(block := os.pread(file, 3, at)) == 3:
        header = int.from_bytes(block, "little")
        at += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        if header & 1:
            return at + 4 * parameters.has_checksum
    return 0
