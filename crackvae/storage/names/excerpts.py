"""Names of excerpts of a file: frame `clip.mp4!/t=0012.500`, window `ortho.tif!/x=0,y=4096,w=4096,h=4096`."""

import re
from typing import NamedTuple

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg")

_SUFFIX = rf"\.(?:{'|'.join(suffix[1:] for suffix in VIDEO_SUFFIXES)})"

# Of a path or URI, for pyarrow.
VIDEO_NAME = rf"(?i){_SUFFIX}(\?.*)?$"

# Of a window, for excerpt_of() and for pyarrow.
WINDOW_NAME = r"(?is)^(?P<file>.*\.tiff?(?:\?.*)?)!/x=(?P<x>\d+),y=(?P<y>\d+),w=(?P<w>\d+),h=(?P<h>\d+)$"

_FRAME = re.compile(rf"(?P<file>.*{_SUFFIX}(?:\?.*)?)!/t=(?P<t>\d+\.\d{{3}})", re.DOTALL | re.IGNORECASE)
_WINDOW = re.compile(WINDOW_NAME)


class Frame(NamedTuple):
    """A frame of a video, by its time from the start of the video [s]."""

    file: str
    time_s: float

    def __str__(self) -> str:
        return f"{self.file}!/t={self.time_s:08.3f}"


class Window(NamedTuple):
    """A rectangle of a TIFF: left and top edge, width and height [px]."""

    file: str
    x: int
    y: int
    w: int
    h: int

    def __str__(self) -> str:
        return f"{self.file}!/x={self.x},y={self.y},w={self.w},h={self.h}"


# A picture that is read without reading the whole of its file.
Excerpt = Frame | Window


def excerpt_of(image: str) -> Excerpt | None:
    """The excerpt that an image is; None for a file, an entry of an archive or a page."""
    if found := _FRAME.fullmatch(image):
        return Frame(found["file"], float(found["t"]))
    if found := _WINDOW.fullmatch(image):
        return Window(found["file"], *(int(found[name]) for name in "xywh"))
    return None
