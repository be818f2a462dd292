"""What a source delivers: images to score, and the newest frame of a camera that may be faster than the scoring."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

# A stream that is this late [s] is read on without decoding, to a key frame that is at most half as late.
LATE_S = 0.4

# After this time [s] without decoding nothing can be queued any more: what still looks late is another clock.
DRAINED_S = 1.0

# The clock of a camera may lose this share of a second each second and is still not late.
DRIFT = 0.001


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
        dropped: number of frames that a newer one replaced before they were taken, or that came too late to decode.
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

    def drop(self) -> None:
        """Count a frame that came too late to be decoded; called by the receiving thread."""
        with self._changed:
            self.received += 1
            self.dropped += 1

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


class Backlog:
    """Which packets of a stream to leave out, so that frames never queue in the network or before the decoder.

    Lateness is measured by the times that the stream gives its frames, against the earliest of them.
    """

    def __init__(self) -> None:
        self._least_s, self._last_s = math.inf, 0.0
        self._skips_since_s = math.nan

    def skips(self, frame_s: float | None, now_s: float, *, is_key: bool) -> bool:
        """Whether to leave out a packet; after the last one that is, the decoder has to be flushed.

        Args:
            frame_s: time of its frame by the clock of the stream, None if it has none.
            now_s: time.monotonic().
        """
        if frame_s is None:
            return self.is_skipping and not is_key
        offset_s = now_s - frame_s
        self._least_s = min(offset_s, self._least_s + DRIFT * (now_s - self._last_s))
        self._last_s = now_s
        late_s = offset_s - self._least_s
        if not self.is_skipping and late_s > LATE_S:
            self._skips_since_s = now_s
        elif self.is_skipping and is_key:
            is_drained = now_s - self._skips_since_s > DRAINED_S
            if is_drained:
                self._least_s = offset_s
            if is_drained or late_s < LATE_S / 2:
                self._skips_since_s = math.nan
        return self.is_skipping

    @property
    def is_skipping(self) -> bool:
        """Whether packets are left out until the next key frame that is not late."""
        return not math.isnan(self._skips_since_s)
