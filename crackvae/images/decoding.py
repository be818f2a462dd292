"""Bytes to upright grey pixels, and what they say of the camera.

Shape letters: H, W rows and columns of an image.
"""

import io
import re
import struct
import time
import zlib
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from crackvae.errors import UnreadableImage

# Rows and columns of an image that its measures are taken from: 0.1 ms for a METU image, and every part is seen.
MEASURED_LINES = 64


# A blur of 1.5 px takes 17 % of the ratio of the mean steps over these two distances, and 6 % of that over 1 and 2 px,
# where a JPEG of quality 50 instead of 75 adds 13 and 4 % (METU; docs/log.md, 2026-11-24).
SHARPNESS_LAGS_PX = (1, 4)


# Pixels up to BLACK and from WHITE on show no surface: 16 is the black of video and 0.5 % of the light of white, 250 is
# 96 % of it, where a sensor saturates and JPEG rings by a few levels.
BLACK, WHITE = 16, 250


# Refuse larger images by their header, before decoding: 100 Mpx is 100 MB of grey pixels in one worker.
MAX_IMAGE_PX = 100_000_000


# WebP's decoder holds 16 bytes a pixel, four times as many as the others'; with these a worker stays under 1.5 GB.
MAX_WEBP_PX = 50_000_000


# A CMYK JPEG in several scans is held as 8 bytes of coefficients a pixel beside its 4 of colour, until the last scan.
MAX_SCANNED_CMYK_PX = 50_000_000


# Processor time [s] of one image in Pillow's Python code, which hostile files keep busy with a million empty chunks;
# its C code is kept short by the limits on pixels. Not the time of a clock: a machine that sleeps damages no image.
MAX_DECODE_S = 20.0


# Refuse a JPEG whose scans together visit more pixels: every scan visits all of them for a few bytes of file. The usual
# ten scans of a progressive one of 100 Mpx are half of it; 168 million pixels take a second (docs/log.md).
MAX_SCANNED_PX = 2_000_000_000


# Of a JPEG that has to be searched for scans: an ordinary one has some 20 segments.
MAX_SEGMENTS = 10_000


# A smaller image has no texture to judge; a METU image has 227 px.
MIN_SIDE_PX = 16


# Sixteen bits are scaled to eight by their full range, whatever part of it the camera used.
GREY16_PER_GREY8 = 257


ROWS_AT_ONCE = 64


FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")


# How a JPEG begins, and the segment that may hold a rotation, as EXIF or XMP; no pixels are stored as these two bytes.
JPEG_START, JPEG_APP1 = b"\xff\xd8\xff", b"\xff\xe1"


EXIF_ORIENTATION = 0x0112


# A marker of a JPEG, less what stands inside of a scan: escaped and repeated 0xFF, restarts, and a start of an image.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


TIFF_SUBFILE_TYPE, DNG_VERSION = 0x00FE, 0xC612


# Our own check on the header comes first and has one limit for every format; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


# Image.open(formats=) knows only plugins that are loaded; Pillow itself loads most of them when others have failed.
Image.init()


# What Pillow's decoders raise on hostile bytes; each of them was seen or is documented, so none is a bug of ours.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    Image.DecompressionBombError,
)


def decode(data: bytes) -> np.ndarray:
    """Upright grey pixels of an image file.

    JPEG, PNG, TIFF, BMP and WebP of any colour mode; colour becomes ITU-R 601 luma (for JPEG its own Y channel),
    16 bits become 8 by their full range, EXIF rotation is applied, transparency is ignored, and of several frames
    the first is taken.

    Returns:
        uint8 (H, W), 0 black to 255 white.

    Raises:
        UnreadableImage: empty, damaged, no image, too large, too small, or in a format that is not supported.
    """
    plain_HW = _plain_jpeg(data)
    if plain_HW is not None:
        return plain_HW
    image = _open(data)
    kind = image.format
    try:
        image.draft("L", image.size)  # JPEG: decode the luma only, at full size
        grey = _as_grey(image)
        is_turned = _orientation(image) > 1
        del image  # three bytes a pixel, which must not wait for the copy of the grey one
        return np.asarray(ImageOps.exif_transpose(grey) if is_turned else grey)
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged {kind}: {_first_line(error)}") from error


def _plain_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels of a JPEG without anything special, in half the time of Pillow; None where it needs a closer look.

    Special are a possible rotation, other colours than grey or Y'CbCr, a size outside the limits, many scans, and
    whatever the library warns of: Pillow decides on these, so that what is refused, and why, has one place.
    """
    if not data.startswith(JPEG_START) or JPEG_APP1 in data:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        is_plain = colours in ("Gray", "YCbCr") and width * height <= MAX_IMAGE_PX and min(width, height) >= MIN_SIDE_PX
        is_quick = data.count(_START_OF_SCAN) * width * height <= MAX_SCANNED_PX
        return simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0] if is_plain and is_quick else None
    except ValueError:  # its one error, for warnings too
        return None


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("empty file")
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"ftyphevc"):
        raise UnreadableImage("HEIC and AVIF are not supported: convert it to JPEG or PNG")
    try:
        image = Image.open(_Timed(data), formats=FORMATS)
        is_preview = _is_preview(image)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged header: {_first_line(error)}") from error
    if is_preview or (data[:2] == b"II" and data[8:10] == b"CR"):
        raise UnreadableImage("camera raw files are not supported: export it as JPEG or PNG")
    width, height = image.size
    most_px = _most_px(image, data)
    if width * height > most_px:
        raise UnreadableImage(f"{width}x{height} px is over the limit of {most_px // 1_000_000} Mpx")
    if min(width, height) < MIN_SIDE_PX:
        raise UnreadableImage(f"{width}x{height} px is too small to judge: {MIN_SIDE_PX} px a side at least")
    if image.format == "JPEG":
        _refuse_many_scans(data, width * height)
    return image


def _most_px(image: Image.Image, data: bytes) -> int:
    """The limit of pixels with which a worker stays under 1.5 GB."""
    if image.format == "WEBP":
        return MAX_WEBP_PX
    is_held = image.format == "JPEG" and image.mode == "CMYK" and data.count(_START_OF_SCAN) > 1
    return MAX_SCANNED_CMYK_PX if is_held else MAX_IMAGE_PX


class _Timed(io.BytesIO):
    """The bytes of one image, which nobody may read for longer than MAX_DECODE_S."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = time.thread_time() + MAX_DECODE_S

    def read(self, size: int | None = -1) -> bytes:
        if time.thread_time() > self._end:
            raise UnreadableImage(f"it took over {MAX_DECODE_S:g} s of processor time and was not read yet")
        return super().read(size)


def _refuse_many_scans(jpeg: bytes, n_px: int) -> None:
    if jpeg.count(_START_OF_SCAN) * n_px <= MAX_SCANNED_PX:  # fast, and finds those of a film behind the image too
        return
    scans, at = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(jpeg, at)
        if not found or found[0] == _END_OF_IMAGE:
            return
        scans += found[0] == _START_OF_SCAN
        if scans * n_px > MAX_SCANNED_PX:
            raise UnreadableImage(f"over {scans - 1} scans of {n_px} px would take too long: save it again")
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
    raise UnreadableImage(f"over {MAX_SEGMENTS} segments: save it again")


def _is_preview(image: Image.Image) -> bool:
    """Camera raw files are TIFFs; the first picture in one is a thumbnail, which would be scored in its place."""
    tags = getattr(image, "tag_v2", {})
    return DNG_VERSION in tags or tags.get(TIFF_SUBFILE_TYPE, 0) & 1 == 1


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except DECODER_ERRORS:  # damaged notes, as some programs leave them, say nothing against the pixels
        return 1
    return value if isinstance(value, int) else 1


def _as_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = Image.fromarray(_as_8_bits(np.asarray(image)))
        grey.info = image.info  # exif_transpose() reads the orientation from it
        return grey
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels have no known white: convert it to 8 or 16 bits")
    image.info.pop("transparency", None)  # convert() would warn of some kinds that it cannot keep
    return image.convert("L") if image.mode != "CMYK" else _cmyk_as_grey(image)


def _cmyk_as_grey(image: Image.Image) -> Image.Image:
    """Grey by way of RGB, as convert() does it; some rows at a time, because the way takes four bytes a pixel."""
    grey = Image.new("L", image.size)
    grey.info = image.info  # exif_transpose() reads the orientation from it
    for top in range(0, image.height, ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height)))
        grey.paste(rows.convert("L"), (0, top))
    return grey


def _as_8_bits(levels_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of integer levels, by their full range; some rows at a time, which need 16 bytes a pixel."""
    low, high = levels_HW.min(), levels_HW.max()
    if low < 0 or high > 65_535:
        raise UnreadableImage(f"pixel values {low}..{high} lie outside 16 bits")
    grey_HW = np.empty(levels_HW.shape, np.uint8)
    for top in range(0, len(levels_HW), ROWS_AT_ONCE):
        levels = levels_HW[top : top + ROWS_AT_ONCE].astype(np.int64)
        grey_HW[top : top + ROWS_AT_ONCE] = (levels + GREY16_PER_GREY8 // 2) // GREY16_PER_GREY8
    return grey_HW


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --------------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measures:
    """How a camera saw a surface. Two of the three stay as they are when the light changes by a factor.

    Attributes:
        brightness: median grey level, 0 black to 255 white.
        clipped: share of the pixels that are black or white, see BLACK and WHITE.
        contrast: distance of the 10th and 90th percentile, as a share of the median; a thin crack hardly moves it.
        sharpness: mean step between neighbouring pixels over that between pixels four apart. 1 for noise without any
            blur, 0.5 for a random walk, towards 0.25 the more the image is blurred; 1 where nothing changes at all.
    """

    brightness: float
    clipped: float
    contrast: float
    sharpness: float


def measures(pixels_HW: np.ndarray) -> Measures:
    """Brightness, contrast and sharpness of an image, from MEASURED_LINES of its rows and as many columns.

    Args:
        pixels_HW: uint8 (H, W), MIN_SIDE_PX or more a side.
    """
    height, width = pixels_HW.shape
    rows = pixels_HW[:: -(-height // MEASURED_LINES)]
    columns = np.ascontiguousarray(pixels_HW[:, :: -(-width // MEASURED_LINES)].T)
    below_256 = np.cumsum(np.bincount(rows.ravel(), minlength=256) + np.bincount(columns.ravel(), minlength=256))
    low, median, high = (float(np.searchsorted(below_256, share * below_256[-1])) for share in (0.1, 0.5, 0.9))
    steps = [_mean_step(rows, lag) + _mean_step(columns, lag) for lag in SHARPNESS_LAGS_PX]
    clipped = 1 - (below_256[WHITE - 1] - below_256[BLACK]) / below_256[-1]
    sharpness = steps[0] / steps[1] if steps[1] else 1.0
    return Measures(median, float(clipped), (high - low) / max(1.0, median), sharpness)


def _mean_step(lines_LN: np.ndarray, lag: int) -> float:
    one, other = lines_LN[:, lag:], lines_LN[:, :-lag]
    step_LN = np.maximum(one, other) - np.minimum(one, other)  # stays in a byte, in half the time
    return float(step_LN.sum(dtype=np.uint64) / step_LN.size)
