"""Image files to upright grey pixels.

Shape letters: H, W rows and columns of an image.
"""

import io
import math
import re
import struct
import sys
import time
import warnings
import zlib
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import camera_formats, jpegs, tiff
from crackvae.images.decoding.transparency import transparency
from crackvae.storage.names.pages import require_few_pages

# Refuse larger images by their header, before decoding; it covers cameras of 151 Mpx. A colour PNG of that size takes
# 0.75 GB while it is decoded, with the bytes of its file.
MAX_IMAGE_PX = 160_000_000

# These decoders hold 12 to 16 bytes per pixel, up to four times as many as the others; below this a worker stays under
# 1.5 GB.
MAX_HELD_PX = 50_000_000
HELD_FORMATS = ("WEBP", "AVIF", "HEIF", "JPEG2000")

# A CMYK JPEG in several scans takes 8 bytes of coefficients per pixel besides 4 of colour, until the last scan.
MAX_SCANNED_CMYK_PX = 50_000_000

# Processor time [s] of one image in Pillow's Python code, which hostile files can keep busy with a million empty chunks
# (its C code is limited by the number of pixels). Not wall-clock time, which passes while a machine is suspended.
MAX_DECODE_S = 20.0

# Refuse a JPEG whose scans visit more pixels in total: a scan visits all pixels for a few bytes of file. The usual ten
# scans of a progressive JPEG of 160 Mpx are 80 % of it; 168 million pixels take a second (docs/log.md).
MAX_SCANNED_PX = 2_000_000_000

# Largest number of segments of a JPEG that is searched for scans; an ordinary one has about 20.
MAX_SEGMENTS = 10_000

# Smaller images show too little texture to score; a METU image has 227 px.
MIN_SIDE_PX = 16

# Sixteen bits are scaled to eight by their full range, whatever part of it the camera used.
GREY16_PER_GREY8 = 257

ROWS_AT_ONCE = 64

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000")

# Start of a JPEG, and marker of the segment that may hold an orientation (EXIF, XMP); it does not occur in pixel data.
JPEG_START, JPEG_APP1 = b"\xff\xd8\xff", b"\xff\xe1"

EXIF_ORIENTATION, TIFF_SUBFILE_TYPE = 0x0112, 0x00FE

# Classic and BigTIFF in both byte orders.
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# A marker of a JPEG, other than those inside a scan: escaped and repeated 0xFF, restarts, and the start of an image.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

# The header is checked here first, with one limit for every format; Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None

# Image.open(formats=) only knows the plugins that are loaded.
Image.init()

# Raised by Pillow's decoders on hostile bytes; each of them was observed or is documented.
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
    RuntimeError,  # NotImplementedError too
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes:
        pixels_HW: uint8 (H, W), 0 black to 255 white.
        hidden_HW: bool (H, W), True where a pixel is transparent; None if none is.
        problem: why it is not scored although it was decoded, or "".
        place: latitude, longitude [degrees, WGS 84] and height [m] of a window or a frame, NaN where not known.
        mm_per_px: of a window of a GeoTIFF on the ground; NaN where not known.
        taken: time of a frame by the clock of its camera, of an unknown time zone.
    """

    pixels_HW: np.ndarray
    hidden_HW: np.ndarray | None = None
    problem: str = ""
    place: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    mm_per_px: float = math.nan
    taken: datetime | None = None


def decode(data: bytes, page: int = 1, max_px: int = MAX_IMAGE_PX) -> np.ndarray:
    """The pixels of decode_picture(), uint8 (H, W), those of transparent pixels included."""
    return decode_picture(data, page, max_px).pixels_HW


def decode_picture(data: bytes, page: int = 1, max_px: int = MAX_IMAGE_PX) -> Picture:
    """Decode an image file to upright grey pixels.

    The formats and colour modes of docs/formats.md. Colour becomes ITU-R 601 luma (for JPEG its own Y channel), deeper
    pixels become 8 bits by their full range, and the EXIF orientation is applied.

    Args:
        data: content of the file.
        page: of a TIFF, counted from 1.
        max_px: refuse larger images before decoding.

    Raises:
        UnreadableImage: empty, damaged, no image, too large, too small, an animation, or in an unsupported format.
        OSError: the library that reads its format is not installed.
    """
    plain_HW = _plain_jpeg(data, max_px)
    if plain_HW is not None:
        return Picture(plain_HW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, which do not affect the pixels
        return _by_pillow(data, page, max_px)


def _by_pillow(data: bytes, page: int, max_px: int) -> Picture:
    """decode_picture() of a file that Pillow opens, or says that another library has to."""
    if camera_formats.is_raw(data):
        return _camera_raw(data, max_px)
    is_tiff = data[:4] in TIFF_STARTS
    if is_tiff and page == 1:  # a further page was listed, so there are few
        require_few_pages(io.BytesIO(data))
    try:
        image = _open(data, page, max_px)
    except UnidentifiedImageError as error:
        if is_tiff:
            return _by_tifffile(data, page, max_px)
        if jpegs.precision(data) == 12:
            grey_HW = jpegs.decode_12_bits(data, partial(_require_size, max_px=max_px))
            return Picture(_upright(grey_HW, _orientation(Image.open(io.BytesIO(jpegs.with_8_bits(data))))))
        if jpegs.is_jpegxl(data):
            return Picture(*jpegs.decode_jpegxl(data, partial(_require_size, max_px=max_px, most_px=MAX_HELD_PX)))
        raise UnreadableImage(f"not an image in one of the formats {', '.join(FORMATS)}, JPEG XL, HEIC") from error
    if is_tiff and _is_preview(image):
        return _camera_raw(data, max_px)
    if is_tiff and not tiff.is_plain(getattr(image, "tag_v2", {})):
        return _by_tifffile(data, page, max_px)
    kind = image.format
    try:
        image.draft("L", image.size)  # JPEG: decode the luma only, at full size
        hidden = transparency(image, data)
        grey = _as_grey(image)
        is_turned = _orientation(image) > 1
        if hidden:
            hidden.info = image.info
        del image  # three bytes per pixel, freed before the grey pixels are copied
        upright = [ImageOps.exif_transpose(one) if is_turned and one else one for one in (grey, hidden)]
        return Picture(np.asarray(upright[0]), None if upright[1] is None else np.asarray(upright[1]) > 0)
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged {kind}: {_first_line(error)}") from error


def _camera_raw(data: bytes, max_px: int) -> Picture:
    return Picture(camera_formats.decode_raw(data, partial(_require_size, max_px=max_px)))


def _by_tifffile(data: bytes, page: int, max_px: int) -> Picture:
    grey_HW, hidden_HW, orientation = tiff.decode_page(data, page, partial(_require_size, max_px=max_px))
    upright = [None if one is None else _upright(one, orientation) for one in (grey_HW, hidden_HW)]
    assert upright[0] is not None, "decode_page() returns pixels"
    return Picture(upright[0], upright[1])


def _upright(pixels_HW: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8; any other is ignored."""
    turned_HW = pixels_HW.T if orientation in (5, 6, 7, 8) else pixels_HW
    step_y = -1 if orientation in (3, 4, 7, 8) else 1
    step_x = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned_HW[::step_y, ::step_x])


def _plain_jpeg(data: bytes, max_px: int) -> np.ndarray | None:
    """Pixels of an ordinary JPEG, in half of Pillow's time; None if it has to be decoded by Pillow.

    Left to Pillow are a possible rotation, other colours than grey or Y'CbCr, a size outside the limits, many scans,
    and everything that the library warns of, so that refusals have one place.
    """
    if not data.startswith(JPEG_START) or JPEG_APP1 in data:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        is_plain = colours in ("Gray", "YCbCr") and width * height <= max_px and min(width, height) >= MIN_SIDE_PX
        is_quick = data.count(_START_OF_SCAN) * width * height <= MAX_SCANNED_PX
        return simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0] if is_plain and is_quick else None
    except ValueError:  # its one error, for warnings too
        return None


def _open(data: bytes, page: int, max_px: int) -> Image.Image:
    """Open an image without decoding it; raises UnidentifiedImageError where Pillow does not know it."""
    if not data:
        raise UnreadableImage("empty file")
    formats: tuple[str, ...] = FORMATS
    if camera_formats.is_heic(data):
        camera_formats.enable_heic()
        formats = ("HEIF",)
    try:
        image = Image.open(_Timed(data), formats=formats)
        if page > 1:
            image.seek(page - 1)
        n_frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "AVIF") else 1
    except UnidentifiedImageError:
        raise
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged header: {_first_line(error)}") from error
    if n_frames > 1:
        raise UnreadableImage(f"an animation of {n_frames} frames: save each frame as an image of its own")
    width, height = image.size
    _require_size(width, height, max_px, _most_px(image, data))
    if image.format in ("JPEG", "MPO"):
        camera_formats.refuse_thermal(data)
        _refuse_many_scans(data, width * height)
    return image


# How the error ends of an image over a limit that is a setting: it is readable where the setting is larger.
OVER_SETTING = r"over the limit of (?P<megapixels>\d+) Mpx$"


def require_pixels(width: int, height: int, max_px: int, most_px: int = sys.maxsize) -> None:
    """Refuse more pixels than the limits: `max_px` is a setting, `most_px` that of the format."""
    if width * height > min(max_px, most_px):
        limit = f"{max_px // 1_000_000} Mpx" if max_px < most_px else f"{most_px // 1_000_000} Mpx of its format"
        raise UnreadableImage(f"{width}x{height} px is over the limit of {limit}")


def _require_size(width: int, height: int, max_px: int, most_px: int = sys.maxsize) -> None:
    """require_pixels(), and enough of them a side."""
    require_pixels(width, height, max_px, most_px)
    if min(width, height) < MIN_SIDE_PX:
        raise UnreadableImage(f"{width}x{height} px is too small to judge: {MIN_SIDE_PX} px a side at least")


def _most_px(image: Image.Image, data: bytes) -> int:
    """The limit of pixels of a format, with which a worker stays under 1.5 GB."""
    if image.format in HELD_FORMATS:
        return MAX_HELD_PX
    is_held = image.format == "JPEG" and image.mode == "CMYK" and data.count(_START_OF_SCAN) > 1
    return MAX_SCANNED_CMYK_PX if is_held else sys.maxsize


class _Timed(io.BytesIO):
    """The bytes of one image, which can be read for at most MAX_DECODE_S of processor time."""

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
    """Whether the page of a TIFF is a preview: camera raw files are TIFFs whose first page is a thumbnail."""
    return bool(getattr(image, "tag_v2", {}).get(TIFF_SUBFILE_TYPE, 0) & 1)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except DECODER_ERRORS:  # damaged metadata, which some programs write, do not affect the pixels
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
    """Grey via RGB, as convert() does it; some rows at a time, because RGB takes four bytes per pixel."""
    grey = Image.new("L", image.size)
    grey.info = image.info  # exif_transpose() reads the orientation from it
    for top in range(0, image.height, ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height)))
        grey.paste(rows.convert("L"), (0, top))
    return grey


def _as_8_bits(levels_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of integer levels, by their full range; some rows at a time, because it takes 16 bytes per pixel."""
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
