"""Frames of a video as images: which ones there are, and their pixels. PyAV (FFmpeg) decodes.

Shape letters: H, W rows and columns of a frame.
"""

import contextlib
import errno
import math
import os
import threading
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import Picture, require_pixels
from crackvae.images.decoding.flight import place_in, subtitle_at, subtitles_of
from crackvae.images.decoding.windows import with_excerpts
from crackvae.storage import archive
from crackvae.storage.filesystems import opened
from crackvae.storage.names.excerpts import VIDEO_NAME, Frame
from crackvae.storage.uris import is_local, reason

# A frame is compared with those this close to it in time [s]: nine frames at 30 frames a second, 75 MB in 4K.
NEAR_S = 0.15

# A frame with less than this share of the sharpness of the sharpest one near it (half its amplitude) is blurred.
BLURRED_SHARE = 0.25

# Every so many rows and columns are measured for sharpness.
SHARPNESS_STEP_PX = 8

# A frame that lies further ahead than this [s] is reached by its key frame instead of decoding all frames before it.
SEEK_S = 3.0

# A video whose last frame ends this much [s] before the end that its header states breaks off.
MISSING_S = 1.0

# PyAV on names that are no text, and on a stream of an unknown codec.
NAME_ERRORS = (UnicodeDecodeError, AttributeError)

# Names have milliseconds.
ROUNDING_S = 0.0006


class Shot(NamedTuple):
    """A decoded frame: time from the start of the video [s], grey pixels uint8 (H, W) upright, and sharpness."""

    time_s: float
    pixels_HW: np.ndarray
    sharpness: float


def frames_of(file: str, every_s: float) -> Iterator[tuple[str, str]]:
    """Name of each frame to score, and why there is none ("" for a frame): the first at or after each multiple.

    Only packets are read, nothing is decoded, so that the frames of a variable rate have their own times. Where a video
    breaks off there is one more name, with the reason.

    Raises:
        OSError: storage does not deliver it, or PyAV is missing.
    """
    av = library()
    try:
        with opened(file) as stream, av.open(stream) as container:
            video = _video_stream(container)
            start_s, end_s, times_s = _times(container, video)
            stated_s = float(container.duration or 0) / av.time_base
    except UnreadableImage as error:
        yield file, str(error)
        return
    except (av.FFmpegError, *NAME_ERRORS) as error:
        yield file, f"damaged video: {what(error)}"
        return
    if not times_s:
        yield file, "damaged video: no frame"
        return
    next_s = 0.0
    for time_s in times_s:
        if time_s >= next_s - ROUNDING_S:
            yield str(Frame(file, time_s)), ""
            next_s = (int((time_s + ROUNDING_S) / every_s) + 1) * every_s
    if end_s + MISSING_S < stated_s - max(0.0, start_s):
        broken_s = times_s[-1] + 0.001
        yield str(Frame(file, broken_s)), f"the video breaks off at {broken_s:.1f} of {stated_s:.1f} s: copy it again"


def with_frames(images: pa.Table, every_s: float) -> pa.Table:
    """A listing in which each video is replaced by its frames, or keeps its name with the reason why there are none.

    Args:
        images: LISTING_SCHEMA.

    Raises:
        OSError: storage does not deliver a video, or PyAV is missing.
    """
    frames: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    for name in images["image"].filter(pc.match_substring_regex(images["image"], VIDEO_NAME)).to_pylist():
        found = [(name, "in an archive: unpack it")] if archive.split_entry(name) else list(frames_of(name, every_s))
        frames[name] = [frame for frame, _ in found]
        problems |= {frame: problem for frame, problem in found if problem}
    images = with_excerpts(images, frames)
    if not problems:
        return images
    listed = zip(images["image"].to_pylist(), images["error"].to_pylist(), strict=True)
    errors = [problems.get(name, error) for name, error in listed]
    return images.set_column(images.schema.get_field_index("error"), "error", pa.array(errors, pa.string()))


def _times(container: Any, video: Any) -> tuple[float, float, list[float]]:
    """Start of the video, and from it the end of the last frame and the times of all frames [s], sorted.

    Of a damaged file what it still delivers.
    """
    times_s: list[float] = []
    end_s = 0.0
    try:
        for packet in container.demux(video):
            if packet.pts is not None:
                times_s.append(float(packet.pts * packet.time_base))
                end_s = max(end_s, times_s[-1] + float((packet.duration or 0) * packet.time_base))
    except library().FFmpegError:
        pass  # the caller compares the last frame with the stated duration
    times_s.sort()
    start_s = times_s[0] if times_s else 0.0
    if video.start_time is not None:  # what lies before it is decoded and not shown
        start_s = float(video.start_time * video.time_base)
    return start_s, end_s - start_s, [time_s - start_s for time_s in times_s if time_s >= start_s - ROUNDING_S]


def read_frame(frame: Frame, max_px: int) -> Picture:
    """A frame, upright; one that is blurred has a `problem`.

    Raises:
        UnreadableImage: damaged at this place, or too large.
        OSError: storage does not deliver it, or PyAV is missing.
    """
    modified = os.stat(frame.file).st_mtime_ns if is_local(frame.file) else 0
    with _LOCK:
        clip = _clip(frame.file, modified, max_px)
        try:
            shot, sharpest = clip.at(frame.time_s)
        except (library().FFmpegError, *NAME_ERRORS) as error:
            _close_clip()
            raise UnreadableImage(f"damaged video at {frame.time_s:.3f} s: {what(error)}") from error
        except Exception:
            _close_clip()
            raise
    problem = ""
    if shot.sharpness < BLURRED_SHARE * sharpest:
        share = round(100 * shot.sharpness / sharpest)
        problem = f"blurred: {share} % of the sharpness of the sharpest frame within {NEAR_S:g} s"
    subtitle = subtitle_at(clip.subtitles, frame.time_s)
    place = subtitle.place if subtitle and not math.isnan(subtitle.place[0]) else clip.place
    return Picture(shot.pixels_HW, problem=problem, place=place, taken=subtitle.taken if subtitle else None)


_LOCK = threading.Lock()


class Clip:
    """An open video, and its last decoded frames: the frames of a listing come in order of their time."""

    def __init__(self, file: str, max_px: int) -> None:
        self.max_px = max_px
        with contextlib.ExitStack() as files:
            self.container = files.enter_context(library().open(files.enter_context(opened(file))))
            self.video = _video_stream(self.container)
            self.video.thread_type = "NONE"
            require_pixels(self.video.width, self.video.height, max_px)
            first = next(self.container.demux(self.video), None)
            if first is None or first.pts is None:
                raise UnreadableImage("damaged video: no frame")
            self.start_pts = self.video.start_time if self.video.start_time is not None else first.pts
            self.subtitles, self.place = subtitles_of(file), place_in(self.container.metadata)
            self._files = files.pop_all()  # an error above has closed them
        self.recent: deque[Shot] = deque()
        self.decoded: Iterator[Any] = iter(())

    def close(self) -> None:
        """Close the file; no further frame can be read."""
        self._files.close()

    def at(self, time_s: float) -> tuple[Shot, float]:
        """The frame at a time, and the sharpness of the sharpest one near it."""
        self._go_near(time_s)
        while not self.recent or self.recent[-1].time_s <= time_s + NEAR_S:
            shot = self._next()
            if shot is None:
                break
            self.recent.append(shot)
            while self.recent[0].time_s < min(time_s, shot.time_s) - 2 * NEAR_S:
                self.recent.popleft()
        near = [shot for shot in self.recent if abs(shot.time_s - time_s) <= NEAR_S]
        found = [shot for shot in near if abs(shot.time_s - time_s) <= ROUNDING_S]
        if not found:
            raise UnreadableImage(f"damaged video: no frame can be decoded at {time_s:.3f} s")
        return found[0], max(shot.sharpness for shot in near)

    def _go_near(self, time_s: float) -> None:
        """Continue where the last frame was, or go to the last key frame before the frames that are needed."""
        first_s = max(0.0, time_s - NEAR_S)
        is_ahead = self.recent and self.recent[0].time_s <= first_s <= self.recent[-1].time_s + SEEK_S
        if is_ahead:
            return
        back_s, shot = 0.0, self._first_from(first_s)
        while shot and shot.time_s > first_s + ROUNDING_S and back_s <= first_s:  # an MPEG stream goes to a later one
            back_s = 2 * back_s or SEEK_S
            shot = self._first_from(first_s - back_s)
        self.recent = deque([shot] if shot else [])

    def _first_from(self, time_s: float) -> Shot | None:
        offset = self.start_pts + int(time_s / self.video.time_base)
        self.container.seek(max(offset, 0), stream=self.video, backward=True)
        self.decoded = self.container.decode(self.video)
        return self._next()

    def _next(self) -> Shot | None:
        frame = next(self.decoded, None)
        if frame is None:
            return None
        pixels_HW = grey_of(frame, self.max_px)
        time_s = float((frame.pts - self.start_pts) * frame.time_base)
        return Shot(time_s, pixels_HW, _sharpness(pixels_HW))


def grey_of(frame: Any, max_px: int) -> np.ndarray:
    """Grey pixels of an av.VideoFrame, uint8 (H, W), upright; raises UnreadableImage above `max_px`."""
    require_pixels(frame.width, frame.height, max_px)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="gray"), round(frame.rotation / 90)))


def _sharpness(pixels_HW: np.ndarray) -> float:
    """Mean square of the second difference along some rows and columns [grey levels squared]."""
    rows, columns = pixels_HW[::SHARPNESS_STEP_PX], pixels_HW[:, ::SHARPNESS_STEP_PX].T
    steps = [np.diff(lines.astype(np.int16), n=2).astype(np.float32) for lines in (rows, columns)]
    return float(sum(np.square(one).mean() for one in steps))


# The clip that is open, by file, time of modification and limit of pixels; one at most. To be used under _LOCK.
_OPEN: dict[tuple[str, int, int], Clip] = {}


def _clip(file: str, modified: int, max_px: int) -> Clip:
    """The clip of a file; the last one stays open until another takes its place."""
    key = (file, modified, max_px)
    if key not in _OPEN:
        _close_clip()
        try:
            _OPEN[key] = Clip(file, max_px)
        except (library().FFmpegError, *NAME_ERRORS) as error:
            raise UnreadableImage(f"damaged video: {what(error)}") from error
    return _OPEN[key]


def _close_clip() -> None:
    while _OPEN:
        _OPEN.popitem()[1].close()


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise UnreadableImage("a video file without pictures")
    return container.streams.video[0]


def what(error: Any) -> str:
    """What FFmpeg says, without the address, which may hold a password."""
    return str(getattr(error, "strerror", "") or reason(error))


def library() -> Any:
    """PyAV; raises OSError where it is missing."""
    try:
        return import_module("av")
    except ImportError as error:
        raise OSError(errno.ENOPKG, "videos need av: pip install 'crackvae[formats]'") from error
