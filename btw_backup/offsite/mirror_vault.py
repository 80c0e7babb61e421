"""Reads a target with the layout mirror: the paths there are those below ROOT_PATH."""

from collections.abc import Iterable
from pathlib import Path

from btw_backup import files
from btw_backup.errors import Damaged
from btw_backup.offsite import Readable
from btw_backup.offsite.parts import stays_here
from btw_backup.offsite.vault import CHUNKS, check_chunk_path, fetched, put
from btw_backup.progress import Advance
from btw_backup.store.chunks import ChunkStore

_AT_ONCE = 200


class MirrorVault:
    """What `target` holds. Contract: `Vault`. A file is proved by its length; its content is proved by what reads it:
    a backup has the digest in its record."""

    def __init__(self, target: Readable, scratch: Path) -> None:
        self.name = target.name
        self.problems: list[str] = []
        self._target = target
        self._folder = scratch / "fetched"
        listing = target.listing("", recursive=True)
        self._sizes = {path: stored.size for path, stored in listing.items() if _is_ours(path)}

    def paths(self) -> Iterable[str]:
        """See `Vault`."""
        return [path for path in self._sizes if not path.startswith(CHUNKS)]

    def chunks(self) -> Iterable[str]:
        """See `Vault`."""
        return [path for path in self._sizes if path.startswith(CHUNKS)]

    def sha256(self, path: str) -> str:
        """See `Vault`."""
        return ""

    def size(self, path: str) -> int:
        """See `Vault`."""
        return self._sizes.get(path, 0)

    def fetch(self, paths: Iterable[str], root: Path, advance: Advance) -> dict[str, str]:
        """See `Vault`."""
        paths = list(paths)
        bad = {path: "it is not there" for path in paths if path not in self._sizes}
        wanted = [path for path in paths if path not in bad]
        for start in range(0, len(wanted), _AT_ONCE):
            batch = wanted[start : start + _AT_ONCE]
            lost = fetched(self._target, batch, self._folder, self._wrong)
            for path in batch:
                if path not in lost:
                    source = self._folder / path
                    put(source, root / path, source.lstat().st_mtime_ns)
                    advance(self._sizes[path])
            bad.update(lost)
        files.remove(self._folder)
        return bad

    def _wrong(self, path: str) -> str:
        """What is wrong with a file that was fetched; "" if nothing is known to be."""
        size = (self._folder / path).lstat().st_size
        if size != self._sizes[path]:
            return f"it has {size} bytes and not {self._sizes[path]}"
        if path.startswith(CHUNKS):
            try:
                ChunkStore(self._folder).read(check_chunk_path(path))
            except Damaged as error:
                return error.message
        return ""


def _is_ours(path: str) -> bool:
    parts = path.split("/")
    return not any(part in ("", ".", "..") or stays_here(part) for part in parts)
