"""Memory that was freed and is still held."""

import ctypes
from contextlib import suppress

import pyarrow as pa


def give_back() -> None:
    """Give freed memory back to the system: the allocators of Arrow and of glibc keep it for later."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)
