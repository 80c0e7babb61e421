"""Frames of zstd, told by their headers, without decompressing anything (RFC 8878, 3.1.1)."""

import os

import zstandard

MAGIC = b"\x28\xb5\x2f\xfd"


def end_of(file: int, length: int | None = None) -> int:
    """Where the frame ends with which the open `file` begins; 0 if there is none, or none with `length` plain bytes.

    The frame header, then blocks of a header of 3 bytes each, then 4 bytes of checksum. Reading the headers tells a
    file that was cut from a whole one for the price of one read a 128 KiB.
    """
    try:
        head = os.pread(file, 18, 0)
        parameters = zstandard.get_frame_parameters(head)
        at = zstandard.frame_header_size(head)
    except zstandard.ZstdError:
        return 0
    if not head.startswith(MAGIC) or length not in (None, parameters.content_size):
        return 0
    while len(block := os.pread(file, 3, at)) == 3:
        header = int.from_bytes(block, "little")
        at += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        if header & 1:
            return at + 4 * parameters.has_checksum
    return 0


def is_cut(file: int) -> bool:
    """Whether the open `file` ends before the frame does with which it begins: if only the checksum is missing, whoever
    has all of the plain content does not see that, and the program zstd complains."""
    return not 0 < end_of(file) <= os.fstat(file).st_size
