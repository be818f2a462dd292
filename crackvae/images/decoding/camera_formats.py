"""Formats of phones and cameras that Pillow does not read by itself: HEIC by pillow-heif, camera raw by rawpy (LibRaw).

Both libraries come with the extra `crackvae[formats]` and are imported when the first such file is met.

Shape letters: H, W rows and columns of an image.
"""

import io
import struct
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import numpy as np

from crackvae.errors import UnreadableImage
from crackvae.images.decoding.luma import luma

# Brands of an ISO base media file (ISO/IEC 23008-12, annex E) that hold HEVC pictures or do not say which codec.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

# Starts of camera raw files that are no ordinary TIFF: Canon CR2 and CR3, Fujifilm, Olympus and Panasonic.
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")

_DNG_VERSION = 50706

_ROWS_AT_ONCE = 64

# A thermal picture is in the first segments of a JPEG; photographs have 64 kB of EXIF and as much of XMP there.
_THERMAL_BYTES = 300_000
_THERMAL_MARKS = (b"FLIR\0\x01", b'ImageSource="InfraredCamera"', b"ImageSource>InfraredCamera<")


def is_heic(data: bytes) -> bool:
    """Whether a file is a HEIF with HEVC pictures; AVIF is read by Pillow."""
    if data[4:8] != b"ftyp":
        return False
    size = int.from_bytes(data[:4], "big")
    compatible = data[16 : min(size, 256)]
    is_avif = data[8:12] in _AVIF_BRANDS or any(brand in compatible for brand in _AVIF_BRANDS)
    return data[8:12] in _HEIF_BRANDS and not is_avif


def is_raw(data: bytes) -> bool:
    """Whether a file is camera raw by its first bytes; NEF and others are TIFFs whose first page is a preview."""
    is_canon = (data[:2] == b"II" and data[8:10] == b"CR") or data[4:11] == b"ftypcrx"
    return is_canon or data.startswith(_RAW_STARTS) or _DNG_VERSION in _first_tags(data)


def _first_tags(data: bytes) -> set[int]:
    """Tags of the first page of a classic TIFF; empty for any other file."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return set()
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (n_tags,) = struct.unpack_from(f"{order}H", data, at)
        return {struct.unpack_from(f"{order}H", data, at + 2 + 12 * number)[0] for number in range(n_tags)}
    except struct.error:  # truncated: decoding will say so
        return set()


def refuse_thermal(jpeg: bytes) -> None:
    """Raise UnreadableImage for a radiometric JPEG, whose grey levels are temperatures."""
    start = jpeg[:_THERMAL_BYTES]
    if any(mark in start for mark in _THERMAL_MARKS):
        raise UnreadableImage("a thermal image (R-JPEG): its grey levels are temperatures, which show no crack width")


def enable_heic() -> None:
    """Let Pillow open HEIC files; raises OSError where pillow-heif is missing."""
    _library("pillow_heif", "HEIC").register_heif_opener()


def decode_raw(data: bytes, require_size: Callable[[int, int], None]) -> np.ndarray:
    """Grey pixels uint8 (h, w), upright, of a camera raw file.

    Each block of 2x2 sensor pixels becomes one pixel (LibRaw's half-size demosaic), with the white balance and the
    brightness of the camera: the same pixels on each machine, in a tenth of the time of a full demosaic.

    Args:
        require_size: raises UnreadableImage for a width and height of the sensor outside the limits.

    Raises:
        UnreadableImage: damaged, too large, or of a camera that LibRaw does not know.
        OSError: rawpy is missing.
    """
    rawpy = _library("rawpy", "camera raw")
    try:
        with rawpy.imread(io.BytesIO(data)) as file:
            require_size(int(file.sizes.width), int(file.sizes.height))
            rgb_HW3 = file.postprocess(half_size=True, use_camera_wb=True, no_auto_bright=True, output_bps=8)
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise UnreadableImage(f"damaged or unknown camera raw file ({text}): export it as JPEG or PNG") from error
    grey_HW = np.empty(rgb_HW3.shape[:2], np.uint8)
    for top in range(0, len(grey_HW), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        grey_HW[rows] = np.rint(luma(rgb_HW3[rows]))
    return grey_HW


def _library(name: str, what: str) -> ModuleType:
    """A library of the extra `formats`.

    Raises:
        OSError: it is missing. The image is then `unreachable`, not `unreadable`: it is tried again in the next run.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise OSError(f"{what} files need {name}: pip install 'crackvae[formats]'") from error
