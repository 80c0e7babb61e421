"""Archives that want to do harm, or are no archives: what a restore must survive, each by its name."""

import random
from collections.abc import Iterator
from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)


def member(
    name: bytes,
    flag: bytes = b"0",
    data: bytes = b"",
    link: bytes = b"",
    *,
    size: bytes | None = None,
    mode: bytes = b"0000644\0",
    owner: bytes = b"0000000\0",
    mtime: bytes = b"00000000000\0",
    device: bytes = b"0000001\0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """A header with a checksum that fits, and `data` behind it."""
    size = b"%011o\0" % len(data) if size is None else size
    fields = (
        name[:100].ljust(100, b"\0"),
        mode,
        owner,
        owner,
        size,
        mtime,
        b" " * 8,
        flag,
        link[:100].ljust(100, b"\0"),
    )
    names = b"\0" * 64
    header = b"".join(fields) + magic + names + device + device + prefix.ljust(155, b"\0")
    header = header.ljust(BLOCK, b"\0")
    if tail:
        header = header[:345] + tail.ljust(BLOCK - 345, b"\0")
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return header + data + bytes(-len(data) % BLOCK)


def pax(flag: bytes = b"x", **records: bytes) -> bytes:
    """A pax header; two underscores in a name are a dot."""
    return raw_pax(b"".join(record(name.replace("__", ".").encode(), value) for name, value in records.items()), flag)


def raw_pax(data: bytes, flag: bytes = b"x") -> bytes:
    return member(b"PaxHeaders", flag, data)


def record(keyword: bytes, value: bytes) -> bytes:
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def old_sparse(name: bytes, extents: list[tuple[int, int]], real: int, data: bytes, more: bytes = b"\0") -> bytes:
    entries = b"".join(b"%011o\0%011o\0" % pair for pair in extents[:4]).ljust(96, b"\0")
    return member(name, b"S", data, magic=b"ustar  \0", tail=bytes(41) + entries + more + b"%011o\0" % real)


def archives(outside: Path) -> Iterator[tuple[str, bytes]]:
    """All of them. What leads outside leads to `outside`, which holds ``file`` and ``folder/``."""
    out = bytes(outside)
    yield from _escapes(out)
    yield from _links(out)
    yield from _numbers()
    yield from _extended()
    yield from _sparse()
    yield from _cut()
    yield from _duplicates()
    yield from _garbage()


def _escapes(out: bytes) -> Iterator[tuple[str, bytes]]:
    evil = b"evil"
    for number, name in enumerate(
        (b"../evil", b"../../evil", b"a/../../evil", b"a/b/../../../evil", b"./../evil", b"..", b"../", b"a/..")
    ):
        yield f"dots {number}", member(b"a/", b"5") + member(name, data=evil) + END
    yield "absolute", member(out + b"/evil", data=evil) + END
    yield "absolute with slashes", member(b"//" + out + b"/file", data=evil) + END
    yield "absolute folder", member(out + b"/folder/", b"5", mode=b"0000777\0") + END
    yield "prefix absolute", member(b"evil", data=evil, prefix=out) + END
    yield "prefix dots", member(b"evil", data=evil, prefix=b"../..") + END
    yield "pax path absolute", pax(path=out + b"/evil") + member(b"fine", data=evil) + END
    yield "pax path dots", pax(path=b"x/../../evil") + member(b"fine", data=evil) + END
    yield "global path", pax(b"g", path=b"../evil") + member(b"fine", data=evil) + END
    yield "long name dots", member(b"L", b"L", b"../" * 50 + b"evil\0") + member(b"fine", data=evil) + END
    yield (
        "sparse name",
        pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__name=b"../evil", GNU__sparse__realsize=b"4")
        + member(b"fine", data=b"1\n0\n4\n".ljust(512, b"\0") + evil)
        + END,
    )
    yield "fifo outside", member(b"../fifo", b"6") + END
    yield "device outside", member(out + b"/null", b"3") + END
    yield "folder is dots", member(b"..", b"5", mode=b"0000777\0", owner=b"0001750\0") + END


def _links(out: bytes) -> Iterator[tuple[str, bytes]]:
    evil = b"evil"
    yield "through a link", member(b"l", b"2", link=out) + member(b"l/evil", data=evil) + END
    yield "through a relative link", member(b"l", b"2", link=b"../outside") + member(b"l/evil", data=evil) + END
    yield "through a link to the top", member(b"l", b"2", link=b"..") + member(b"l/outside/evil", data=evil) + END
    yield "onto a link", member(b"l", b"2", link=out + b"/file") + member(b"l", data=evil) + END
    yield (
        "folder onto a link",
        member(b"l", b"2", link=out + b"/folder")
        + member(b"l/", b"5", mode=b"0000777\0")
        + member(b"l/evil", data=evil)
        + END,
    )
    yield (
        "attributes through a link",
        member(b"l", b"2", link=out + b"/file")
        + pax(SCHILY__xattr__user__evil=b"1")
        + member(b"l", b"2", link=out + b"/file", mode=b"0007777\0", owner=b"0001750\0")
        + END,
    )
    yield "folder, then a link", member(b"d/", b"5") + member(b"d", b"2", link=out) + member(b"d/evil", data=evil) + END
    chain = b"".join(member(b"c%d" % n, b"2", link=b"c%d" % (n + 1)) for n in range(40)) + member(
        b"c40", b"2", link=out
    )
    yield "a chain of links", chain + member(b"c0/evil", data=evil) + END
    long_way = b"d" * 90
    deep = b"".join(member(b"/".join([long_way] * n)[:99], b"2", link=b"." * 1) for n in range(1, 2))
    yield "a loop of links", deep + member(b"x", b"2", link=b"x") + member(b"x/evil", data=evil) + END
    yield "hard link outside", member(b"h", b"1", link=out + b"/file") + member(b"h", data=evil) + END
    yield "hard link by dots", member(b"h", b"1", link=b"../outside/file") + member(b"h", data=evil) + END
    yield (
        "hard link through a link",
        member(b"l", b"2", link=out)
        + member(b"h", b"1", link=b"l/file")
        + member(b"h", data=evil, mode=b"0007777\0")
        + END,
    )
    yield (
        "hard link to a link",
        member(b"l", b"2", link=out + b"/file") + member(b"h", b"1", link=b"l") + member(b"h", data=evil) + END,
    )
    yield "hard link to itself", member(b"h", data=evil) + member(b"h", b"1", link=b"h") + END
    yield "hard link to a folder", member(b"d/", b"5") + member(b"h", b"1", link=b"d") + END
    yield "hard link to nothing", member(b"h", b"1", link=b"nothing") + END
    yield "hard link to the top", member(b"h", b"1", link=b".") + END
    yield "hard link without a target", member(b"h", b"1") + END
    yield "hard link with content", member(b"f", data=evil) + member(b"h", b"1", link=b"f", size=b"00000001000\0") + END
    yield "link without a target", member(b"l", b"2") + END
    yield "pax link outside", pax(linkpath=out + b"/file") + member(b"h", b"1", link=b"fine") + END
    yield "long link outside", member(b"K", b"K", out + b"/file\0") + member(b"h", b"1", link=b"fine") + END


def _numbers() -> Iterator[tuple[str, bytes]]:
    yield "size of letters", member(b"f", size=b"zzzzzzzzzzz\0") + END
    yield "size negative", member(b"f", size=b"\xff" * 12) + END
    yield "size of 8 EiB", member(b"f", size=b"\x80\0\0\0\x7f" + b"\xff" * 7) + END
    yield "size beyond", member(b"f", size=b"\x80" + b"\xff" * 11) + END
    yield "size of 8 GiB", member(b"f", size=b"77777777777\0", data=b"") + END
    yield "size with a sign", member(b"f", size=b"-0000000001\0") + END
    yield "owner -1", member(b"f", owner=b"\xff" * 8) + END
    yield "owner beyond", pax(uid=b"4294967295", gid=b"99999999999999999999") + member(b"f") + END
    yield "time beyond", member(b"f", mtime=b"\x80" + b"\x7f" * 11) + END
    yield "time before", member(b"f", mtime=b"\xff\x80" + bytes(10)) + END
    yield (
        "pax time of letters",
        pax(mtime=b"inf") + member(b"f") + pax(mtime=b"nan") + member(b"g") + pax(mtime=b"1e99") + member(b"h") + END,
    )
    yield "pax time beyond", pax(mtime=b"9" * 300) + member(b"f") + END
    yield "pax time in the far future", pax(mtime=b"4611686018427387903.999999999") + member(b"f") + END
    yield "pax size negative", pax(size=b"-1") + member(b"f") + END
    yield "pax size beyond", pax(size=b"9" * 19) + member(b"f") + END
    yield "mode of all bits", member(b"f", mode=b"7777777\0", data=b"x") + END
    yield "device beyond", member(b"n", b"3", device=b"\x80" + b"\xff" * 7) + END


def _extended() -> Iterator[tuple[str, bytes]]:
    fine = member(b"fine", data=b"fine")
    for number, data in enumerate(
        (
            b"",
            b"x",
            b"5 a=\n6",
            b"0 a=b\n",
            b"-5 a=b\n",
            b"99999 a=b\n",
            b"6 a=bc",
            b"7 abcd\n",
            b"9" * 600 + b" a=b\n",
            b" a=b\n",
        )
    ):
        yield f"pax record {number}", raw_pax(data) + fine + END
    yield "pax of 100 MB", member(b"p", b"x", size=b"00575360400\0") + fine + END
    yield "pax of 8 GiB", member(b"p", b"x", size=b"77777777777\0") + fine + END
    yield "pax again and again", raw_pax(record(b"SCHILY.xattr.user.x", b"v" * 60_000)) * 300 + fine + END
    many = b"".join(record(b"SCHILY.xattr.user.%d" % n, b"v") for n in range(100_000))
    yield "pax with many attributes", raw_pax(many) + fine + END
    yield "pax unknown", raw_pax(b"".join(record(b"k%d" % n, b"v") for n in range(100_000))) + fine + END
    yield (
        "global again and again",
        b"".join(raw_pax(record(b"SCHILY.xattr.user.%d" % n, b"v" * 60_000), b"g") for n in range(300)) + fine + END,
    )
    yield "long name of 8 GiB", member(b"L", b"L", size=b"77777777777\0") + fine + END
    yield "long name of 1 MB", member(b"L", b"L", b"n" * 1_000_000) + fine + END
    yield (
        "long names of folders",
        b"".join(member(b"L", b"L", b"%d/" % n * 3000 + b"\0") + fine for n in range(6)) + END,
    )
    yield "only long names", member(b"L", b"L", b"n" * 300 + b"\0") * 1000 + END
    yield "name of 256 bytes", member(b"L", b"L", b"n" * 256 + b"\0") + fine + END
    yield "name with a zero byte", pax(path=b"a\0/../../evil") + fine + END
    yield "name of nothing", member(b"", data=b"x") + member(b".", data=b"x") + member(b"./", b"5") + END
    yield "acl of letters", pax(SCHILY__acl__access=b"user::rwx,nobody knows::r--") + fine + END
    yield "acl of an unknown", pax(SCHILY__acl__access=b"user:nobody-of-that-name:rwx\n") + fine + END
    yield "acl of thousands", pax(SCHILY__acl__access=b"user:1:rwx\n" * 5000) + fine + END
    yield "attribute without a name", raw_pax(record(b"SCHILY.xattr.", b"1")) + fine + END
    yield (
        "attribute of the system",
        raw_pax(record(b"SCHILY.xattr.system.posix_acl_access", b"\xff" * 100)) + fine + END,
    )
    yield "attribute with a zero byte", raw_pax(record(b"SCHILY.xattr.user.\0x", b"1")) + fine + END


def _sparse() -> Iterator[tuple[str, bytes]]:
    def with_map(lines: bytes, real: bytes, data: bytes = b"") -> bytes:
        head = pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__name=b"s", GNU__sparse__realsize=real)
        return head + member(b"s", data=lines + bytes(-len(lines) % BLOCK) + data) + END

    yield (
        "sparse of 8 EiB",
        old_sparse(b"s", [(0, 4)], (1 << 33) - 1, b"data") + with_map(b"0\n", b"%d" % ((1 << 63) - 1)),
    )
    yield "sparse backwards", old_sparse(b"s", [(512, 512), (0, 512)], 1024, b"x" * 1024) + END
    yield "sparse overlapping", old_sparse(b"s", [(0, 512), (256, 512)], 1024, b"x" * 1024) + END
    yield "sparse beyond its size", old_sparse(b"s", [(4096, 4)], 100, b"data") + END
    yield "sparse with too little", old_sparse(b"s", [(0, 4096)], 4096, b"data") + END
    yield (
        "sparse map without an end",
        old_sparse(b"s", [(0, 4)], 4, b"data", more=b"\1") + (b"0" * 504 + b"\1" + bytes(7)) * 30_000,
    )
    yield "sparse map negative", with_map(b"1\n-1\n4\n", b"10", b"data")
    yield "sparse map of letters", with_map(b"x\n", b"10")
    yield "sparse map of millions", with_map(b"99999999\n", b"10")
    yield "sparse map cut", with_map(b"3\n0\n1\n", b"10")
    yield "sparse map of nothing", pax(GNU__sparse__major=b"1", GNU__sparse__realsize=b"1") + member(b"s") + END
    yield (
        "sparse map long",
        with_map(b"300000\n" + b"".join(b"%d\n1\n" % (n * 2) for n in range(300_000)), b"600000", b"x" * 300_000),
    )
    yield "sparse 0.1 odd", pax(GNU__sparse__map=b"0,1,2", GNU__sparse__size=b"3") + member(b"s", data=b"x") + END
    yield "sparse 0.1 without a size", pax(GNU__sparse__map=b"0,1") + member(b"s", data=b"x") + END
    yield "sparse folder", pax(GNU__sparse__map=b"0,1", GNU__sparse__size=b"3") + member(b"s/", b"5") + END


def _cut() -> Iterator[tuple[str, bytes]]:
    whole = pax(mtime=b"1.5") + member(b"a", data=b"a" * 2000) + member(b"b/", b"5") + member(b"b/c", data=b"c" * 600)
    for at in (0, 1, 511, 512, 1024, 1030, 1536, 1537, 3000, 4096, 4608, 5200, len(whole)):
        yield f"cut at {at}", whole[:at]
    yield "behind the end", whole + END + member(b"hidden", data=b"x") + END


def _duplicates() -> Iterator[tuple[str, bytes]]:
    yield "one name many times", b"".join(member(b"f", data=b"%d" % n) for n in range(3000)) + END
    yield "file, then folder", member(b"x", data=b"1") + member(b"x/", b"5") + member(b"x/y", data=b"2") + END
    yield "folder, then file", member(b"x/", b"5") + member(b"x/y", data=b"2") + member(b"x", data=b"1") + END
    yield "file, then below it", member(b"x", data=b"1") + member(b"x/y", data=b"2") + END
    yield "device, then file", member(b"x", b"3") + member(b"x", data=b"not to be written to the device") + END
    yield "fifo, then file", member(b"x", b"6") + member(b"x", data=b"must not wait for a reader") + END
    yield (
        "to and fro",
        b"".join(member(b"a/b/c/d/%d" % n, data=b"x") + member(b"e/f/g/h/%d" % n) for n in range(2000)) + END,
    )


def _garbage() -> Iterator[tuple[str, bytes]]:
    chance = random.Random(7)
    fine = member(b"fine", data=b"fine")
    yield "random", chance.randbytes(100_000)
    yield "random behind a header", fine + chance.randbytes(3_000_000)
    yield "zeros in front", bytes(BLOCK) + fine + END
    yield "unknown type", member(b"u", b"?", data=b"data") + fine + END
    yield "all types", b"".join(member(b"t%d" % n, bytes([n]), data=b"data", link=b"x") for n in range(256)) + END
    yield "volume", member(b"v", b"V") + member(b"m", b"M", data=b"rest of a file") + END
    yield "damaged header", fine + b"\1" + member(b"lost", data=b"lost" * 500)[1:] + member(b"back", data=b"back") + END
    for number in range(20):
        flipped = bytearray(
            pax(path=b"p" * 200, mtime=b"-5.25")
            + fine
            + member(b"l", b"2", link=b"x")
            + old_sparse(b"s", [(0, 4)], 9, b"data")
            + END
        )
        for _ in range(1 + number):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield f"flipped {number}", bytes(flipped)
