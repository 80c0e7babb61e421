"""JSON objects in files that know whether they were changed: their last name is the SHA-256 of the text before it."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import msgspec

_END = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n}\n\Z')
_LONGEST_END = 100

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class _Head:
    """What every format has."""

    format: int


def text_of(value: Mapping[str, Any]) -> bytes:
    """`value` as JSON that is sealed."""
    content = json.dumps(value, indent=1, ensure_ascii=True).encode()
    return b'%s,\n "checksum": "%s"\n}\n' % (content[:-2], hashlib.sha256(content).hexdigest().encode())


def decoded(content: bytes, decoder: "msgspec.json.Decoder[Thing]", names: Collection[str]) -> Thing:
    """What `content` says. Old files are not sealed; they can have no other names than `names`.

    ValueError or TypeError unless it is as it was written. Names that are no UTF-8 are half
    surrogates in JSON, which only the standard library reads.
    """
    if _is_sealed(content):
        with suppress(ValueError):
            return decoder.decode(content)
    found = _loaded(content)
    if not found.keys() <= {*names, "format", "checksum"} or ("checksum" in found and not _is_sealed(content)):
        raise ValueError("it has names that it cannot have")
    from msgspec import convert  # noqa: PLC0415 - 10 ms, and a run that finds nothing new reads none

    return convert(found, decoder.type)


def value_in(content: bytes) -> dict[str, Any]:
    """The object that is sealed in `content`. ValueError or TypeError unless it is as it was written."""
    if not _is_sealed(content):
        raise ValueError("it is not sealed")
    return dict(json.loads(content))


def format_of(content: bytes) -> int:
    """The format that `content` says it has. Raises as `decoded`, and LookupError."""
    _is_sealed(content)  # a flipped bit is no newer format
    from msgspec import json as fast  # noqa: PLC0415 - as above

    try:
        return fast.decode(content, type=_Head).format
    except ValueError:
        return int(_loaded(content)["format"])


def _is_sealed(content: bytes) -> bool:
    end = _END.search(content, max(0, len(content) - _LONGEST_END))
    if end and hashlib.sha256(content[: end.start()] + b"\n}").hexdigest().encode() != end[1]:
        raise ValueError("its checksum is not that of its content")
    return end is not None


def _loaded(content: bytes) -> dict[str, Any]:
    from msgspec import json as fast  # noqa: PLC0415 - as above

    try:
        return dict(fast.decode(content))
    except ValueError:
        return dict(json.loads(content))
