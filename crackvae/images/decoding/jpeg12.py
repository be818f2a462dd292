"""JPEGs of 12 bits per sample, which Pillow does not read."""

import re
import struct
from collections.abc import Callable

import numpy as np

from crackvae.errors import UnreadableImage
from crackvae.images.decoding.luma import luma

# Start of a frame with its length and precision; height and width follow.
_START_OF_FRAME = re.compile(rb"\xff[\xc0-\xc3]..[\x08\x0c\x10]", re.DOTALL)


def precision(data: bytes) -> int:
    """Bits per sample of a JPEG; 0 for any other file."""
    found = _START_OF_FRAME.search(data) if data.startswith(b"\xff\xd8\xff") else None
    return found[0][-1] if found else 0


def decode(data: bytes, require_size: Callable[[int, int], None]) -> np.ndarray:
    """Grey pixels uint8 (H, W) of a JPEG of 12 bits.

    Args:
        require_size: raises UnreadableImage for a width and height outside the limits.

    Raises:
        UnreadableImage: damaged, or of another size than its header states.
    """
    import imagecodecs  # imported here: few images need it

    found = _START_OF_FRAME.search(data)
    assert found, "precision() found it"
    try:
        height, width = struct.unpack(">HH", data[found.end() : found.end() + 4])
        require_size(width, height)
        shares = np.asarray(imagecodecs.jpeg_decode(data), np.float32) / 4095
    except UnreadableImage:
        raise
    except Exception as error:  # the codec raises errors of its own on damaged bytes
        raise UnreadableImage(f"damaged JPEG: {type(error).__name__}") from error
    if shares.shape[:2] != (height, width):
        raise UnreadableImage(f"the header states {width}x{height} px, the data hold {shares.shape}")
    grey_HW = luma(shares) if shares.shape[2:] == (3,) else shares
    return np.rint(grey_HW.reshape(height, width) * 255).astype(np.uint8)
