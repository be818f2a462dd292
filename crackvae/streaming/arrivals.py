"""What a source delivers: images to score, and the newest frame of a camera that may be faster than the scoring."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


class Arrival(NamedTuple):
    """An image to score.

    Attributes:
        image: its name in the scores table.
        decoded: DECODED_SCHEMA, one row in all; decoded when it is iterated.
        pixels: its pixels, uint8 (H, W); of a file it reads them again.
        at_s: time.monotonic() when it came.
        is_file: whether the image exists as a file, so that only its map has to be saved.
        is_again: whether this or a later image came before and was replaced since, so that a further run begins.
    """

    image: str
    decoded: Iterable[pa.Table]
    pixels: Callable[[], np.ndarray]
    at_s: float
    is_file: bool
    is_again: bool = False


class Capture(NamedTuple):
    """A frame as the decoder returns it, with the time at which it came."""

    frame: Any
    taken: datetime
    at_s: float


class Newest:
    """Hands the newest frame from the receiving thread to the scoring one; memory holds one frame at most.

    Attributes:
        received: number of frames that came.
        dropped: number of frames that a newer one replaced before they were taken.
        passed_over: number of frames that came less than `every_s` after the last one that was taken.
    """

    def __init__(self, every_s: float = 0.0) -> None:
        self.received = self.dropped = self.passed_over = 0
        self._every_s, self._due_s = every_s, 0.0
        self._waiting: Capture | None = None
        self._changed = threading.Condition()

    def put(self, frame: Any) -> None:
        """Offer a frame; called by the receiving thread."""
        capture = Capture(frame, datetime.now(UTC), time.monotonic())
        with self._changed:
            self.received += 1
            if capture.at_s < self._due_s:
                self.passed_over += 1
                return
            self.dropped += self._waiting is not None
            self._waiting = capture
            self._changed.notify()

    def take(self, timeout_s: float) -> Capture | None:
        """The newest frame, or None if none comes in time; called by the scoring thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None, timeout_s)
            capture, self._waiting = self._waiting, None
            if capture:
                self._due_s = capture.at_s + self._every_s
            return capture

    def drop_waiting(self) -> None:
        """Count the frame that nobody will take as dropped, so that all that came are accounted for."""
        with self._changed:
            self.dropped += self._waiting is not None
            self._waiting = None
