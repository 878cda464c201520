"""Memory that was used once and is free goes back to the system, instead of staying with us."""

from __future__ import annotations

import ctypes
import platform

import pyarrow as pa

# Of glibc's malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_ARENAS = 2
_LARGE_BYTES = 256 * 1024


def return_free_memory() -> None:
    """Set up this process; call it before the first thread starts.

    glibc gives every thread a heap of its own, from which little is ever returned, and takes larger
    and larger blocks from it. We hand texts from thread to thread and need large blocks for a
    moment only: a few heaps do, and large blocks are better mapped one by one. Arrow's own pool
    would keep what it has needed at most.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
