"""The headers of tar archives: one block of 512 bytes, extended headers, and what together they say of a member.

v7, ustar, GNU and pax. Every function raises ValueError for what cannot be.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from btw_backup.entries import Entry, Kind
from btw_backup.keepers import acl

BLOCK = 512
LARGEST_EXTENDED = 8 << 20
"""Extended attributes are 64 KiB each at most; nothing honest comes near."""

LARGEST_NAME = 16 << 10

LARGEST_MAP = 500_000
"""Parts of a sparse file that are kept in memory at once."""

LONG_NAME, LONG_LINK, LOCAL, SUN_LOCAL, GLOBAL, LABEL, OLD_SPARSE = b"L", b"K", b"x", b"X", b"g", b"V", b"S"
EXTENDED = frozenset((LONG_NAME, LONG_LINK, LOCAL, SUN_LOCAL, GLOBAL))
KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.LINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.FOLDER,
    b"D": Kind.FOLDER,
    b"6": Kind.FIFO,
}
WITH_CONTENT = frozenset((b"0", b"\0", b"7", b"S", b"D"))

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_SPARSE = struct.Struct("12s12s")
_XATTR = b"SCHILY.xattr."
_KNOWN = frozenset(
    (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"uname", b"gname", b"RHT.security.selinux")
)

Extents = list[tuple[int, int]]


@dataclass(slots=True)
class Extension:
    """What extended headers say of the next member: pax records by their keyword, and GNU's long names."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    extents: list[bytes] = field(default_factory=list)
    name: bytes | None = None
    link: bytes | None = None
    length: int = 0
    broken: bool = False


def checksum_fits(block: bytes) -> bool:
    """Whether the block is a header, by its checksum; old programs summed signed bytes."""
    try:
        stated = number(block[148:156])
    except ValueError:
        return False
    total = sum(block) - sum(block[148:156]) + 8 * 32
    return stated == total or stated == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def number(text: bytes) -> int:
    """A number in a header: octal, or GNU's binary."""
    if text[0] & 0x80:
        bits = 8 * len(text) - 1
        value = int.from_bytes(text, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    text = text.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(f"a number is {text!r}")
    return int(text, 8)


def size_of(block: bytes) -> int:
    """The size that a header states."""
    size = number(block[124:136])
    if not 0 <= size < 1 << 63:
        raise ValueError(f"a size is {size}")
    return size


def read_records(data: bytes, into: Extension) -> None:
    """Add the records of a pax header to `into`: ``LENGTH KEYWORD=VALUE`` and a newline each."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if not data[at : max(at, space)].isdigit():
            raise ValueError("the length of an extended record is no number")
        end = at + int(data[at:space])
        equals = data.find(b"=", space, end)
        if equals < 0 or end > len(data) or data[end - 1] != 0x0A:
            raise ValueError("an extended record is cut")
        _add(into, data[space + 1 : equals], data[equals + 1 : end - 1])
        at = end


def _add(into: Extension, keyword: bytes, value: bytes) -> None:
    if keyword in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
        into.extents.append(value)
    elif keyword in _KNOWN or keyword.startswith((_XATTR, b"SCHILY.acl.", b"GNU.sparse.")):
        into.records[keyword] = value


def decimal(text: bytes) -> int:
    """A number in a pax record."""
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"a number is {text[:30]!r}")
    return int(text)


def nanoseconds(text: bytes) -> int:
    """A time in a pax record: seconds, perhaps with a fraction and a sign."""
    sign = -1 if text.startswith(b"-") else 1
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise ValueError(f"a time is {text[:30]!r}")
    return sign * (decimal(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))


def clean_path(name: bytes) -> bytes:
    """A member's name as `Entry.path`. ValueError for one that leads elsewhere."""
    if name.startswith(b"/"):
        raise ValueError("its name is absolute")
    if b"\0" in name or len(name) > LARGEST_NAME:
        raise ValueError("its name cannot be one")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ValueError("its name leads out of the tree")
    return b"/".join(parts)


def name_in(block: bytes) -> bytes:
    """The name that the header itself holds."""
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def entry(block: bytes, extension: Extension) -> Entry:
    """What the header and its extensions say of a member. Sparse files lack their extents and size still."""
    _, mode, uid, gid, _, mtime, _, flag, link, _, uname, gname, major, minor, _ = _FIELDS.unpack(block)
    records = extension.records
    name = records.get(b"path") or extension.name or name_in(block)
    kind = KINDS[flag]
    if kind is Kind.FILE and name.endswith(b"/") and flag != b"S":
        kind = Kind.FOLDER  # as v7 said it
    target = b""
    if kind in (Kind.LINK, Kind.HARD_LINK):
        target = _link_target(kind, records.get(b"linkpath") or extension.link or link.partition(b"\0")[0])
    is_device = kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
    return Entry(
        clean_path(records.get(b"GNU.sparse.name") or name),
        kind,
        number(mode) & 0o7777,
        _owner(records.get(b"uid"), uid),
        _owner(records.get(b"gid"), gid),
        _time(records.get(b"mtime"), mtime),
        stored_size(block, records) if kind is Kind.FILE else 0,
        target,
        _text(records.get(b"uname") or uname),
        _text(records.get(b"gname") or gname),
        (_device(major), _device(minor)) if is_device else (0, 0),
        xattrs(records) if records else {},
    )


def _link_target(kind: Kind, target: bytes) -> bytes:
    if not target or b"\0" in target or len(target) > LARGEST_NAME:
        raise ValueError("it is a link to nowhere")
    return clean_path(target) if kind is Kind.HARD_LINK else target


def _owner(record: bytes | None, text: bytes) -> int:
    owner = decimal(record) if record else number(text)
    if not 0 <= owner < (1 << 32) - 1:  # the last one means "leave it" to chown
        raise ValueError(f"its owner is {owner}")
    return owner


def _time(record: bytes | None, text: bytes) -> int:
    time = nanoseconds(record) if record else number(text) * 1_000_000_000
    if not -(1 << 62) < time // 1_000_000_000 < 1 << 62:
        raise ValueError(f"its time is {time}")
    return time


def stored_size(block: bytes, records: Mapping[bytes, bytes]) -> int:
    """How many bytes of content follow a header, which its extensions may say."""
    if not records.get(b"size"):
        return size_of(block)
    size = decimal(records[b"size"])
    if size >= 1 << 63:
        raise ValueError(f"a size is {size}")
    return size


def _text(text: bytes) -> str:
    return text.partition(b"\0")[0].decode("utf-8", "surrogateescape") if text and text[0] else ""


def _device(text: bytes) -> int:
    device = number(text)
    if not 0 <= device < 1 << 20:
        raise ValueError(f"its device number is {device}")
    return device


def xattrs(records: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The extended attributes among pax records, by the kernel's names."""
    found = {}
    for keyword, value in records.items():
        if keyword.startswith(_XATTR):
            name = keyword[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")
            if b"\0" in name:
                raise ValueError("the name of an attribute cannot be one")
            found[name.decode("utf-8", "surrogateescape")] = value
        elif keyword == b"RHT.security.selinux" and value:
            found.setdefault("security.selinux", value.rstrip(b"\0") + b"\0")
        elif keyword in (b"SCHILY.acl.access", b"SCHILY.acl.default") and value:
            found[f"system.posix_acl_{keyword[len(b'SCHILY.acl.') :].decode()}"] = _acl(value)
    return found


def _acl(text: bytes) -> bytes:
    """The ACL as the kernel takes it; one that cannot be, or names somebody unknown here, as it is: the kernel will
    refuse it, that will be told, and the file comes back without."""
    try:
        return acl.binary(text)
    except ValueError:
        return text


def extents_in(block: bytes, at: int, count: int) -> Extents:
    """Up to `count` parts of an old GNU sparse file, from a header or one of its continuations."""
    pairs = [_SPARSE.unpack_from(block, at + 24 * n) for n in range(count)]
    return [(number(offset), number(length)) for offset, length in pairs if length[0]]


def pairs_of(numbers: list[bytes]) -> Extents:
    """Offsets and lengths, by turns, as extents."""
    if len(numbers) % 2 or len(numbers) > 2 * LARGEST_MAP:
        raise ValueError("its map of holes is cut, or too long")
    values = [decimal(text) for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def checked(extents: Extents, size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """The extents, which must be in order, inside the file, and as long as what is stored."""
    end = total = 0
    for offset, length in extents:
        if offset < end or length < 0:
            raise ValueError("its map of holes is not in order")
        end, total = offset + length, total + length
    if end > size or total != stored:
        raise ValueError("its map of holes does not fit its size")
    return tuple((offset, length) for offset, length in extents if length)
