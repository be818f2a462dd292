"""Processor cores that this process may use, and numbers of threads."""

import os

# Threads that hold one decoded photograph each: 100 Mpx are 100 MB of grey pixels.
MAX_THREADS = 8


def usable_cores() -> int:
    """Cores that this process may use, 1 or more: those of its affinity where the system has one, otherwise all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def thread_count() -> int:
    """Threads for work on photographs: one for each usable core, at most MAX_THREADS."""
    return min(MAX_THREADS, usable_cores())
