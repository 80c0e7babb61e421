"""What a file or a tree is, as a value that can be compared: names, types, owners, modes, times, attributes, bytes."""

import bz2
import hashlib
import os
import random
import stat
import struct
import subprocess
from pathlib import Path

Content = dict[str, tuple[object, ...]] | str
"""Of a tree, what each path in it is; of anything else, the digest of its bytes."""

VERSION_OF_DUMP, TIME_OF_DUMP = b"\x01\x0e", slice(16, 51)
"""Where a dump of PostgreSQL 13 to 15 tells when it was made: seven numbers of five bytes (pg_backup_archiver.c)."""

_digests: dict[bytes, str] = {}
"""Of the SQL of dumps, by the digests of their bytes."""

OF_DUMP, OF_GLOBALS = b"PGDMP", b"--\n-- PostgreSQL database cluster dump"


def content_of(path: Path) -> Content:
    """What `path` is. A dump of PostgreSQL is the SQL that it stands for."""
    if path.is_symlink() or not path.is_dir():
        return _digest(path)
    found = {}
    links: dict[tuple[int, int], str] = {}
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names, *([""] if folder == os.fspath(path) else [])):
            one = os.path.join(folder, name) if name else folder
            found[os.path.relpath(one, path)] = _entry(one, os.path.relpath(one, path), links)
    return found


def _entry(path: str, name: str, links: dict[tuple[int, int], str]) -> tuple[object, ...]:
    status = os.lstat(path)
    first = links.setdefault((status.st_dev, status.st_ino), name)
    attributes = tuple(
        (key, os.getxattr(path, key, follow_symlinks=False))
        for key in os.listxattr(path, follow_symlinks=False)
        if not key.startswith("trusted.SGI_ACL_")  # how XFS shows an ACL once more
    )
    common = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, attributes)
    if stat.S_ISREG(status.st_mode):
        return (*common, status.st_size, _digest(Path(path)), first if status.st_nlink > 1 else "")
    if stat.S_ISLNK(status.st_mode):
        return (*common, os.readlink(path))
    return (*common, status.st_rdev)


def _digest(path: Path) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        if file.read(len(OF_DUMP)) == OF_DUMP:
            return _digest_of_dump(path)
        file.seek(0)
        if file.read(3) == b"BZh":
            return _digest_of_globals(bz2.decompress(path.read_bytes()))
        file.seek(0)
        if file.read(len(OF_GLOBALS)) == OF_GLOBALS:
            return _digest_of_globals(path.read_bytes())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_globals(text: bytes) -> str:
    lines = [line for line in text.splitlines() if not line.startswith((b"--", b"\\"))]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _digest_of_dump(path: Path) -> str:
    """That of its SQL, which is asked for once: a dump is told by its bytes but the time when it was made."""
    with open(path, "rb") as file:
        head = file.read(TIME_OF_DUMP.stop)
        digest = hashlib.sha256(head[: TIME_OF_DUMP.start])
        while piece := file.read(1 << 20):
            digest.update(piece)
    if head[len(OF_DUMP) :][:2] != VERSION_OF_DUMP:
        return _digest_of_sql(path)
    if digest.digest() not in _digests:
        _digests[digest.digest()] = _digest_of_sql(path)
    return _digests[digest.digest()]


def _digest_of_sql(path: Path) -> str:
    command = ["pg_restore", "--restrict-key=x", "-f", "-", os.fspath(path)]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    return hashlib.sha256(text).hexdigest()


def make_source(top: Path, seed: int) -> None:
    """A small tree with one of everything that matters to a keeper, in the new folder `top`."""
    chance = random.Random(seed)
    (top / "folder" / "deep").mkdir(parents=True)
    for number in range(4):
        (top / "folder" / f"{number}").write_bytes(chance.randbytes(700 * number))
    (top / "folder" / "text").write_text("the same line\n" * 300)
    (top / "large").write_bytes(chance.randbytes(700_000) + bytes(300_000) + chance.randbytes(300_000))
    with open(top / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(300_000)
    os.link(top / "folder" / "1", top / "folder" / "deep" / "other name of 1")
    (top / "link").symlink_to("folder/text")
    (top / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(top / "fifo", 0o640)
    odd = os.path.join(os.fsencode(top), b"odd \xff\n name")
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.setxattr(odd, "user.of", b"ours\0")
    os.chmod(top / "folder" / "text", 0o4711)
    os.chown(top / "folder" / "2", 1000, 1001)
    os.setxattr(
        top / "folder" / "3",
        "system.posix_acl_access",
        struct.pack("<I", 2)
        + b"".join(
            struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF)
            for tag, bits, who in ((1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 6, -1), (32, 0, -1))
        ),
    )
    for folder, folders, names in os.walk(top, topdown=False):
        for name in (*folders, *names):
            moment = 1_600_000_000_000_000_000 + chance.randrange(10**17)
            os.utime(os.path.join(folder, name), ns=(moment, moment), follow_symlinks=False)
    os.utime(top, ns=(1, 1_500_000_000_123_456_789))


def _last_name(top: Path) -> Path:
    """What is renamed at each odd change: one file, under the name that it has by now."""
    return next(iter(sorted(top.glob("renamed *"))), top / "folder" / "2")


def change_source(top: Path, seed: int) -> None:
    """Change some of everything in a tree that `make_source` made."""
    chance = random.Random(seed)
    (top / "folder" / "1").write_bytes(chance.randbytes(1500))
    with open(top / "large", "r+b") as file:
        file.seek(chance.randrange(600_000))
        file.write(chance.randbytes(50_000))
    (top / f"new {seed}").write_bytes(chance.randbytes(5000))
    os.chmod(top / "folder" / "0", 0o600 + seed % 8)
    (top / "link").unlink()
    (top / "link").symlink_to(f"elsewhere {seed}")
    if seed % 2:
        os.rename(_last_name(top), top / f"renamed {seed}")
    else:
        (top / "folder" / "3").unlink(missing_ok=True)
