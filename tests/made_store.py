"""Stores put together by hand, line by line: of any content, also of such that no backup would write."""

import base64
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

STAMP = "2026-01-02T03:04:05"
Line = Mapping[str, Any]


def chunk(root: Path, content: bytes) -> str:
    """Put a chunk into the store of `root`; its name."""
    name = hashlib.sha256(content).hexdigest()
    path = root / ".store" / "chunks" / name[:2] / f"{name}.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content))
    (root / ".store" / "format.json").write_text('{"format": 1}\n')
    return name


def manifest(
    root: Path,
    dst: str,
    lines: Iterable[Line | bytes],
    *,
    stamp: str = STAMP,
    kind: str = "fs",
    ending: bool = True,
) -> Path:
    """A manifest of `lines`, between a header and an end; of bytes as they are."""
    header = {"type": "header", "format": 1, "kind": kind, "source": "/source", "began": 10**18}
    body = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    end = [json.dumps({"type": "end", "entries": len(body), "size": 0}, separators=(",", ":")).encode()]
    text = b"".join(line + b"\n" for line in (json.dumps(header).encode(), *body, *(end if ending else [])))
    path = root / dst / f"{stamp}.manifest.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / ".store").mkdir(exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor().compress(text))
    return path


def entry(path: str, kind: str = "file", **more: Any) -> dict[str, Any]:
    """A line of a manifest."""
    return {"path": path, "kind": kind, "mode": 0o755, "uid": 0, "gid": 0, "mtime": 10**18, **more}


def file(path: str, root: Path, content: bytes = b"evil", **more: Any) -> dict[str, Any]:
    """A line for a file, whose content is put into the store."""
    extents = [[chunk(root, content), 0, len(content)]]
    return entry(path, size=len(content), extents=extents, **more)


def hostile(root: Path, outside: Path) -> Iterator[tuple[str, list[Line | bytes]]]:
    """Manifests that want to do harm, each with its name. `outside` holds ``file`` and ``folder/``."""
    top, out = entry("", "folder"), os.fspath(outside)
    evil = file("x", root)
    for number, path in enumerate(
        ("../evil", "../../evil", "a/../../evil", f"{out}/evil", f"/{out}/file", ".", "..", "a/..", "a//b", "a\0b", "/")
    ):
        yield f"path {number}", [top, entry("a", "folder"), {**evil, "path": path}]
    yield "raw path", [top, {**evil, "path": "", "raw_path": base64.b64encode(b"../evil").decode()}]
    yield "folder outside", [top, entry(f"{out}/folder", "folder", mode=0o777), entry("..", "folder", mode=0o777)]
    yield "through a link", [top, entry("l", "link", target=out), {**evil, "path": "l/evil"}]
    yield "folder onto a link", [top, entry("l", "link", target=out), entry("l", "folder"), {**evil, "path": "l/evil"}]
    yield "onto a link", [top, entry("l", "link", target=f"{out}/file"), {**evil, "path": "l"}]
    yield "file, then folder", [top, {**evil, "path": "l"}, entry("l", "folder"), {**evil, "path": "l/evil"}]
    yield "node through a link", [top, entry("l", "link", target=out), entry("l/null", "character device")]
    for number, target in enumerate((f"{out}/file", "../outside/file", "l/file", "l", "h", "", ".", "nothing")):
        link = entry("h", "hard link", target=target, mode=0o7777)
        yield f"hard link {number}", [top, entry("l", "link", target=out), link, {**evil, "path": "h"}]
    yield from _numbers(top, evil)
    yield from _odd(root, top, evil)


def _numbers(top: Line, evil: Line) -> Iterator[tuple[str, list[Line | bytes]]]:
    for name in ("size", "uid", "gid", "mode", "mtime"):
        for number, value in enumerate((-1, 1 << 32, 1 << 63, 1 << 200, 1.5, "1", None, [1])):
            yield f"{name} {number}", [top, {**evil, "path": name, name: value}]
    yield (
        "a million digits",
        [top, json.dumps({**evil, "path": "n"}).replace('"uid": 0', '"uid": ' + "9" * 10**6).encode()],
    )
    huge = (1 << 63) - 1
    for number, parts in enumerate(
        ([[0, huge]], [[huge - 4, 4]], [[-1, 4]], [[4, 2], [0, 2]], [[0, 3], [2, 1]], [["0", 4]], "x", [[0, 0]] * 9, {})
    ):
        yield f"parts {number}", [top, {**evil, "path": "s", "size": huge, "parts": parts}]
    name = evil["extents"][0][0]
    for number, extent in enumerate(
        ([name, -1, 4], [name, 1, 4], [name, 0, 1 << 40], ["../" + name, 0, 4], ["0" * 64, 0, 4], [name, 0], [0, 0, 4])
    ):
        yield f"extent {number}", [top, {**evil, "path": "e", "extents": [extent]}]
    for number, device in enumerate(([1 << 40, 1], [-1, 0], [1], "x", [None, None])):
        yield f"device {number}", [top, entry("d", "block device", device=device)]


def _odd(root: Path, top: Line, evil: Line) -> Iterator[tuple[str, list[Line | bytes]]]:
    yield "deep JSON", [top, b"[" * 100_000]
    yield "no JSON", [top, b"{'path': 1}"]
    yield "another type", [top, b"[]", b"1", b'"x"', b"{}", b'{"type":"header"}']
    yield (
        "link target",
        [top, entry("x", "link", target="a\0b"), entry("y", "link"), entry("z", "link", target="t" * 5000)],
    )
    yield "unknown kind", [top, entry("x", "directory"), entry("y", "")]
    yield "long name", [top, {**evil, "path": "n" * 300}, {**evil, "path": "d/" * 3000 + "f"}]
    yield (
        "attributes",
        [
            top,
            {**evil, "xattrs": {"user.\0": "AA==", "": "AA==", "user.x": "%%%", "system.posix_acl_access": "/////w=="}},
            {**evil, "path": "y", "xattrs": ["user.x"]},
            {**evil, "path": "z", "xattrs": {"user." + "n" * 300: "AA==", "security.capability": "AA=="}},
        ],
    )
    yield "device, then file", [top, entry("x", "character device", device=[1, 3]), evil]
    yield "fifo, then file", [top, entry("x", "fifo"), evil]
    yield "one name many times", [top, *[evil] * 1000]
    yield "the top many times", [*[top] * 1000, entry("", "file"), entry("", "link", target="x")]
    yield "a bomb", [top, file("x", root, bytes(8 << 20)), {**evil, "path": "y"}]


def bomb(root: Path) -> str:
    """A chunk whose frame says nothing of its length, and never ends; the name is that of its first byte alone."""
    name = hashlib.sha256(b"\0").hexdigest()
    head = struct.pack("<IBB", 0xFD2FB528, 0, 0x58)  # no length, a window of 2 MiB
    run = (128 << 10) << 3 | 1 << 1  # a block: one byte, 128 Ki times
    path = root / ".store" / "chunks" / name[:2] / f"{name}.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + (struct.pack("<I", run)[:3] + b"\0") * 100_000)
    return name
