"""Frames of a stream or a local camera by PyAV (FFmpeg), with a connection that is made again when it breaks."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crackvae.console import say
from crackvae.errors import ConfigError
from crackvae.images.decoded import decoded_picture
from crackvae.images.decoding import MAX_IMAGE_PX, Picture
from crackvae.images.decoding.video import grey_of, library, what
from crackvae.images.metadata import Metadata
from crackvae.images.tiles import Tiling
from crackvae.storage import uris
from crackvae.storage.tables import RUN_TIME
from crackvae.streaming.arrivals import Arrival, Backlog, Capture, Newest

# How long a connection may take, and how long a connected camera may send nothing [s].
OPEN_S, READ_S = 10.0, 5.0

# Pauses between attempts to connect [s]: the first, and the longest after it was doubled several times.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

# How long the scoring thread waits for a frame before it looks at its other duties [s].
WAIT_S = 0.5

# Folder of the flagged frames, in the folder of the scores.
FRAMES = "_frames"


def without_secrets(source: str) -> str:
    """The address of a stream without user, password and query, as it may be written to tables, logs and pages."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def require_camera(source: str) -> None:
    """Raise ConfigError where a source in /dev is no device; one that is unplugged later is waited for."""
    if source.startswith("/dev/") and not Path(source).is_char_device():
        cameras = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise ConfigError(
            f"source {source} is no camera: connect it, or name another; cameras of this machine: {cameras}."
        )


class Camera:
    """A stream or a local camera; a thread of its own receives, so that a slow scorer never lets frames queue.

    Attributes:
        state: what it is doing, in words.
        connections: number of times that a connection was made.
        damaged: number of packets that could not be decoded, and of frames above the limit of pixels.
    """

    def __init__(self, source: str, out: str, every_s: float, *, quiet: bool) -> None:
        library()
        self.source, self.shown, self.out, self.quiet = source, without_secrets(source), out, quiet
        self.newest = Newest(every_s)
        self.state, self.connections, self.damaged = "connecting", 0, 0

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connections - 1)

    def counts(self) -> dict[str, Any]:
        """What became of the frames, apart from their rows."""
        newest = self.newest
        return {
            "received": newest.received,
            "dropped": newest.dropped,
            "passed_over": newest.passed_over,
            "reconnects": self.reconnects,
            "damaged": self.damaged,
        }

    def arrivals(self, tiling: Tiling, stop: threading.Event) -> Iterator[Arrival | None]:
        """The newest frame each time, None where there is none yet; ends when `stop` is set."""
        thread = threading.Thread(target=self._receive, args=(stop,), name="receive", daemon=True)
        thread.start()
        while not stop.is_set():
            capture = self.newest.take(WAIT_S)
            yield self._arrival(capture, tiling) if capture else None
            if not thread.is_alive() and not stop.is_set():
                raise RuntimeError("the receiving thread has ended, see its traceback above")
        thread.join(READ_S + 1)
        self.newest.drop_waiting()

    def _arrival(self, capture: Capture, tiling: Tiling) -> Arrival:
        name = uris.join(self.out, f"{FRAMES}/{capture.taken:{RUN_TIME}}.png")
        row = {"image": name, "group": self.shown, "bytes": 0, "modified": capture.taken, "error": ""}
        pixels_HW = grey_of(capture.frame, MAX_IMAGE_PX)
        decoded = decoded_picture(row, Picture(pixels_HW), Metadata(taken=capture.taken), tiling)
        return Arrival(name, [decoded], lambda: pixels_HW, capture.at_s, is_file=False)

    def _receive(self, stop: threading.Event) -> None:
        """Receive until `stop` is set; pauses grow while no frame comes."""
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            before = self.newest.received
            why = self._receive_once(stop)
            if stop.is_set():
                return
            if self.newest.received > before:
                pause_s = FIRST_PAUSE_S
            self.state = f"not connected ({why}), next attempt in {pause_s:g} s"
            say(f"{self.shown}: {why}; next attempt in {pause_s:g} s", quiet=self.quiet)
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _receive_once(self, stop: threading.Event) -> str:
        """Receive while a connection lasts; returns why it ended."""
        av = library()
        try:
            with av.open(self.source, timeout=(OPEN_S, READ_S), **_options(self.source)) as container:
                self.connections += 1
                if not container.streams.video:
                    return "the stream has no picture"
                video = container.streams.video[0]
                video.thread_type = "SLICE"  # threads that each decode a frame would delay it by their number
                self._frames(container, video, stop)
        except (av.FFmpegError, OSError) as error:
            return what(error)
        return "the stream ended"

    def _frames(self, container: Any, video: Any, stop: threading.Event) -> None:
        backlog = Backlog()
        for packet in container.demux(video):
            if stop.is_set():
                return
            if _is_left_out(packet, backlog, video.codec_context):
                self.newest.drop()
                continue
            try:
                frames = packet.decode()
            except library().InvalidDataError:  # a lost packet; the decoder recovers at the next key frame
                self.damaged += 1
                continue
            for frame in frames:
                if frame.width * frame.height > MAX_IMAGE_PX:
                    self.damaged += 1
                    continue
                self.state = "receiving"
                self.newest.put(frame)


def _is_left_out(packet: Any, backlog: Backlog, decoder: Any) -> bool:
    """Whether a packet comes too late to be decoded; before the next that is not, the decoder is flushed."""
    if not packet.size:  # the end: what the decoder holds back comes out
        return False
    was_skipping = backlog.is_skipping
    time_s = None if packet.pts is None else float(packet.pts * packet.time_base)
    if backlog.skips(time_s, time.monotonic(), is_key=packet.is_keyframe):
        return True
    if was_skipping:
        decoder.flush_buffers()
    return False


def _options(source: str) -> dict[str, Any]:
    """How FFmpeg opens a source with little delay."""
    if source.startswith("/dev/"):
        return {"format": "v4l2"}
    options = {"fflags": "nobuffer", "flags": "low_delay"}
    if source.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # over UDP, lost packets tear pictures, which look like cracks
    return {"options": options}
