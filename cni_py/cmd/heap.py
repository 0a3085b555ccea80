"""The memory of a process that lives long: one heap, and what was needed to start given back."""

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8  # malloc.h


def share_one_heap() -> None:
    """All threads allocate from one arena: glibc gives each thread its own, which 28 idle threads leave unused."""
    with suppress(OSError, AttributeError):  # another libc has its own ways
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def tidy() -> None:
    """What is there stays, so that the collector need not look at it again; what is free goes back to the kernel."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
