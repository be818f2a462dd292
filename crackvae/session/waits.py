"""Waits that say what they are for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from crackvae.console import SILENCE_S, say

# After this long [s] a user is told what a wait is for.
ANNOUNCE_S = 10.0


@contextmanager
def announced(wait_for: str, *, quiet: bool) -> Iterator[None]:
    """Tell the user what the block waits for once it has taken ANNOUNCE_S, and again after each SILENCE_S."""
    ended = threading.Event()

    def announce() -> None:
        waited_s = ANNOUNCE_S
        while not ended.wait(ANNOUNCE_S if waited_s == ANNOUNCE_S else SILENCE_S):
            say(f"waiting for {wait_for} for {waited_s:g} s", quiet=quiet)
            waited_s += SILENCE_S

    thread = threading.Thread(target=announce, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
