"""Excerpts of a file as pictures, frames of a video and windows of a TIFF; and the pixels of any listed image."""

import sys
from collections.abc import Callable

import numpy as np

from crackvae.errors import UnreadableImage
from crackvae.images import decoding
from crackvae.images.decoding import Picture, video, windows
from crackvae.storage import archive, fileio
from crackvae.storage.names.excerpts import Excerpt, Frame, excerpt_of


def read_excerpt(excerpt: Excerpt, max_px: int) -> Picture:
    """The pixels of an excerpt; its file is not read whole.

    Args:
        max_px: larger frames are unreadable.

    Raises:
        UnreadableImage, OSError.
    """
    return video.read_frame(excerpt, max_px) if isinstance(excerpt, Frame) else windows.read_window(excerpt)


def read_pixels(image: str, read: Callable[[str], bytes] | None = None) -> np.ndarray:
    """The pixels of a listed image, uint8 (H, W), whatever its size: it was scored before.

    Args:
        read: bytes of a file, by default fileio.read_image(); image_reader() in a process on another machine.

    Raises:
        UnreadableImage, OSError.
    """
    excerpt = excerpt_of(image)
    if excerpt:
        return read_excerpt(excerpt, sys.maxsize).pixels_HW
    return decoding.decode((read or fileio.read_image)(image), archive.page_of(image), sys.maxsize)


def pixels_if_readable(image: str) -> np.ndarray | None:
    """read_pixels(), or None where the image is gone or can no longer be read."""
    try:
        return read_pixels(image)
    except (UnreadableImage, OSError):
        return None
