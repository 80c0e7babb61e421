"""What of a line of a manifest can be restored: everything is checked, as a store may be in the hands of others."""

from btw_backup.entries import Entry, Kind
from btw_backup.store.manifest import Member


def entry_of(member: Member) -> Entry:
    """What is restored of `member`. ValueError for what cannot be."""
    stored = sum(length for _, _, length in member.extents)
    if member.kind == "file" and stored != (member.size if member.parts is None else _sparse(member)):
        raise ValueError(f"{member.key[:80]!r} has {stored} bytes, which is not what it should have")
    if not _fits(member.size, 63):
        raise ValueError(f"{member.key[:80]!r} has a size that cannot be")
    if not (_fits(member.uid, 32) and _fits(member.gid, 32) and -(1 << 63) <= member.mtime < 1 << 64):
        raise ValueError(f"{member.key[:80]!r} has an owner or a time that cannot be")
    if member.device and not all(_fits(number, 32) for number in member.device):
        raise ValueError(f"{member.key[:80]!r} is a device that cannot be")
    target = member.raw_target or member.target.encode()
    if b"\0" in target or any("\0" in name for name in member.xattrs):
        raise ValueError(f"{member.key[:80]!r} has a zero byte in a name")
    return Entry(
        path=_clean(member.raw_path or member.path.encode()),
        kind=Kind(member.kind),
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=member.mtime,
        size=member.size,
        target=_clean(target) if member.kind == "hard link" else target,
        uname=member.uname,
        gname=member.gname,
        device=member.device or (0, 0),
        xattrs=member.xattrs,
        extents=member.parts,
        digests=member.pieces,
    )


def _fits(number: int, bits: int) -> bool:
    return 0 <= number < 1 << bits


def _sparse(member: Member) -> int:
    """The bytes that are not holes. ValueError unless the parts follow each other, inside the file."""
    at = stored = 0
    for offset, length in member.parts or ():
        if offset < at or length < 0 or offset + length > member.size:
            raise ValueError(f"{member.key[:80]!r} has holes that cannot be")
        at, stored = offset + length, stored + length
    return stored


def _clean(path: bytes) -> bytes:
    if (path and any(part in (b"", b".", b"..") for part in path.split(b"/"))) or b"\0" in path:
        raise ValueError(f"{path[:80]!r} is no path below the top")
    return path
