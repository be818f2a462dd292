"""JPEGs of 12 bits per sample and JPEG XL, which Pillow does not read."""

import re
import struct
from collections.abc import Callable

import numpy as np

from crackvae.errors import UnreadableImage
from crackvae.images.decoding.luma import luma

# Markers of a frame, whose segment begins with its length, the bits of a sample, height and width; and of what stands
# before it in any file: tables, metadata, comments.
_START_OF_FRAME = re.compile(rb"\xff+[\xc0-\xc3]")
_OTHER_SEGMENT = re.compile(rb"\xff+[\xc4-\xcf\xdb-\xfe]")

# Start of a JPEG XL file (ISO/IEC 18181-2): bare, or in boxes, the first of which is a signature.
_BARE, _BOXED = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"

# Width over height by the number in the header (ISO/IEC 18181-1, D.2); 0: the width has a field of its own.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}

_ROWS_AT_ONCE = 64

# More segments or boxes than this before the picture are no photograph.
_MAX_SEGMENTS = _MAX_BOXES = 1_000


def _precision_at(data: bytes) -> int | None:
    """Where a JPEG holds the bits of a sample; None for any other file. Thumbnails in its metadata are passed over."""
    at = 2 if data.startswith(b"\xff\xd8\xff") else len(data)
    for _ in range(_MAX_SEGMENTS):
        if found := _START_OF_FRAME.match(data, at):
            return found.end() + 2 if found.end() + 7 <= len(data) else None
        other = _OTHER_SEGMENT.match(data, at)
        if not other:
            break
        at = other.end() + int.from_bytes(data[other.end() : other.end() + 2], "big")
    return None


def precision(data: bytes) -> int:
    """Bits per sample of a JPEG; 0 for any other file."""
    at = _precision_at(data)
    return 0 if at is None else data[at]


def with_8_bits(data: bytes) -> bytes:
    """A JPEG of 12 bits as one of 8, of which Pillow reads the metadata though not the pixels; else `data`."""
    at = _precision_at(data)
    return data if at is None or data[at] != 12 else data[:at] + b"\x08" + data[at + 1 :]


def decode_12_bits(data: bytes, require_size: Callable[[int, int], None]) -> np.ndarray:
    """Grey pixels uint8 (H, W) of a JPEG of 12 bits.

    Args:
        require_size: raises UnreadableImage for a width and height outside the limits.

    Raises:
        UnreadableImage: damaged, or of another size than its header states.
    """
    import imagecodecs  # imported here: few images need it

    at = _precision_at(data)
    assert at is not None, "precision() found it"
    try:
        height, width = struct.unpack_from(">HH", data, at + 1)
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


def is_jpegxl(data: bytes) -> bool:
    """Whether a file is JPEG XL by its first bytes."""
    return data.startswith((_BARE, _BOXED))


def decode_jpegxl(data: bytes, require_size: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey pixels uint8 (H, W) of a JPEG XL, upright, and bool (H, W), True where one is transparent, or None.

    Of an animation it is the first frame.

    Args:
        require_size: raises UnreadableImage for a width and height outside the limits.

    Raises:
        UnreadableImage: damaged, or of a layout without grey levels.
    """
    import imagecodecs  # imported here: few images need it

    require_size(*_jpegxl_size(data))
    try:
        pixels = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    except Exception as error:  # the codec raises errors of its own on damaged bytes
        raise UnreadableImage(f"damaged JPEG XL: {error}"[:200]) from error
    pixels_HWS = np.atleast_3d(pixels)
    n_colours = 1 if pixels_HWS.shape[2] < 3 else 3
    if pixels_HWS.shape[2] > 4 or pixels.dtype.kind not in "uf":
        raise UnreadableImage(f"a JPEG XL of {pixels_HWS.shape[2]} channels of {pixels.dtype}: save it as PNG")
    white = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    grey_HW = np.empty(pixels_HWS.shape[:2], np.uint8)
    for top in range(0, len(grey_HW), _ROWS_AT_ONCE):
        rows_hWC = pixels_HWS[top : top + _ROWS_AT_ONCE, :, :n_colours].astype(np.float32) / white
        shares_hW = luma(rows_hWC) if n_colours == 3 else rows_hWC[..., 0]
        grey_HW[top : top + _ROWS_AT_ONCE] = np.rint(np.clip(np.nan_to_num(shares_hW), 0, 1) * 255)
    hidden_HW = pixels_HWS[..., -1] < white / 2 if pixels_HWS.shape[2] > n_colours else None
    return grey_HW, hidden_HW if hidden_HW is not None and hidden_HW.any() else None


def _jpegxl_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header states."""
    start = _codestream(data)[:12]
    if len(start) < 12 or not start.startswith(_BARE):
        raise UnreadableImage("damaged JPEG XL: no picture in it")
    bits = _Bits(int.from_bytes(start[2:], "little"))
    is_small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if is_small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1

    height = side()
    across, down = _RATIOS.get(bits.take(3), (0, 1))
    return height * across // down if across else side(), height


class _Bits:
    """Reads numbers from the lowest bit on."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, n_bits: int) -> int:
        number = self._value & ((1 << n_bits) - 1)
        self._value >>= n_bits
        return number


def _codestream(data: bytes) -> bytes:
    """The file from the first byte of its picture on; empty where there is none."""
    at = 0
    for _ in range(_MAX_BOXES if data.startswith(_BOXED) else 0):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + (16 if size == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            return data[start + (4 if kind == b"jxlp" else 0) :][:64]
        at += int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size == 0 or start > len(data):
            return b""
    return data[:64] if not at else b""
