"""Which pixels of an image that Pillow has opened are transparent."""

import numpy as np
from PIL import Image

# Alpha from which on a pixel counts as opaque.
OPAQUE = 128

# Byte of a PNG that holds the bits of a sample.
_PNG_DEPTH_AT = 24


def transparency(image: Image.Image, data: bytes) -> Image.Image | None:
    """Mask of the transparent pixels, mode L; None if there are none. Half-transparent pixels are not hidden.

    Args:
        data: the file.
    """
    level = image.info.get("transparency")
    depth = data[_PNG_DEPTH_AT] if image.format == "PNG" else 8
    if depth != 8 and image.mode != "P" and isinstance(level, int | tuple):
        return _of_one_level(image, level, depth)
    if level is not None:
        alpha = image.convert("RGBA").getchannel("A")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        alpha = image.getchannel(image.getbands()[-1])
    else:
        return None
    low, high = map(int, alpha.getextrema())  # type: ignore[arg-type]
    if low >= OPAQUE or (image.format == "BMP" and high == 0):  # many programs leave the alpha of a bitmap empty
        return None
    return alpha.point([255] * OPAQUE + [0] * (256 - OPAQUE))


def _of_one_level(image: Image.Image, level: int | tuple[int, ...], depth: int) -> Image.Image | None:
    """Pixels of the grey level or colour that a PNG calls transparent, as it is stored: in its own number of bits.

    Pillow compares with the pixels that it has made of them: 8 bits of fewer, or of 16 in colour.
    """
    stored = np.atleast_1d(level)
    if depth in (2, 4):  # of one bit it is 0 or 255 already
        stored = stored * (255 // (2**depth - 1))
    elif depth == 16 and image.mode == "RGB":
        stored = stored >> 8
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    hidden_HW = (np.atleast_3d(pixels) == stored).all(axis=2)
    return Image.fromarray(hidden_HW.astype(np.uint8) * 255) if hidden_HW.any() else None
