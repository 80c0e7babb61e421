"""How the C library deals with large pieces of memory."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def reuse_large_pieces() -> None:
    """Have megabytes that were freed used again, by all threads, instead of given back and asked for anew.

    For who handles chunks: the kernel has to clear every page that it gives (a backup of 1.5 GB: 50,000 pages instead
    of 200,000, and 7 % of its time). mallopt(3); other C libraries than glibc do as they like.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 256 << 20)
