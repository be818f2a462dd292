"""TIFF files that Pillow does not decode, or decodes wrongly: other depths, colour spaces and layouts.

Pillow has a table of the layouts that it knows, and no error for some that it reads wrongly: 16 bits in which white is
zero come out as a negative. So Pillow decodes what is_plain() accepts, and tifffile everything else. What the tags
state and what was decoded are compared, and what has no defined grey level is refused by name.

Shape letters: H, W rows and columns of an image, S samples of a pixel, G = 1 or 3 samples of colour.
"""

import io
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crackvae.errors import UnreadableImage
from crackvae.images.decoding.luma import luma

BITS, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLE_FORMAT = 258, 262, 266, 274, 339
COLOUR_MAP, EXTRA_SAMPLES, SUBSAMPLING, GDAL_NO_DATA = 320, 338, 530, 42113

# Sizes of strips and tiles; 0 for a part that was never written.
PART_SIZES = (279, 325)

# PhotometricInterpretation, of the TIFF 6.0 specification and its supplements.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 4, 5, 6, 8
NAMES = {
    MASK: "a transparency mask",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a colour filter array (camera raw)",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw (camera raw)",
}

# None, CCITT, LZW, JPEG, deflate, PackBits, LZMA and Zstandard: the compressions of Pillow's own libtiff.
COMPRESSION, PILLOW_COMPRESSIONS = 259, (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000)

# Largest decoded size [bytes]: 160 Mpx of 16-bit grey with an alpha channel, or 115 Mpx of 16-bit colour. 600 MB
# from an uncompressed file of that size were measured to take 1.3 GB.
MAX_DECODED_BYTES = 700_000_000

# Floating-point pixels are taken as 0 black to 1 white; resampling overshoots a little.
FLOAT_SLACK = 0.05

ROWS_AT_ONCE = 64

Floats = NDArray[np.float32]

# Where nobody listens, Python prints what tifffile says of damaged tags; what matters of them is in the image's row.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_plain(tags: Mapping[int, Any]) -> bool:
    """Whether Pillow decodes a page with these tags rightly (tests/images/test_formats.py)."""
    bits = _tuple(tags.get(BITS, 1))
    is_usual = tags.get(FILL_ORDER, 1) == 1 and tags.get(COMPRESSION, 1) in PILLOW_COMPRESSIONS
    is_whole = not any(0 in _tuple(tags.get(sizes, 1)) for sizes in PART_SIZES)
    if not (is_usual and is_whole) or set(_tuple(tags.get(SAMPLE_FORMAT, 1))) != {1}:
        return False
    photometric = tags.get(PHOTOMETRIC, -1)
    if photometric == PALETTE and max(_tuple(tags.get(COLOUR_MAP, 0))) < 256:
        return False
    if set(bits) == {8}:
        if photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            return len(bits) == 1 or 1 not in _tuple(tags.get(EXTRA_SAMPLES, 0))
        is_packed = tags.get(COMPRESSION, 1) == 1 and _tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
        return photometric in (RGB, PALETTE, CMYK) or (photometric == YCBCR and not is_packed)
    if len(bits) == 1 and bits[0] in (1, 2, 4):
        return photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE)
    return bits == (16,) and photometric == BLACK_IS_ZERO


def decode_page(
    data: bytes, page: int, require_size: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Grey pixels uint8 (H, W) of a page, bool (H, W) where it is transparent or None, and its orientation, unapplied.

    Args:
        page: counted from 1.
        require_size: raises UnreadableImage for a width and height outside the limits.

    Raises:
        UnreadableImage: damaged, too large, or without a defined grey level.
    """
    import tifffile  # imported here: it takes 0.3 s, and few images need it

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[page - 1]
            assert isinstance(found, tifffile.TiffPage), "pages are read whole"
            if found.is_reduced:
                raise UnreadableImage("a preview of a camera raw file: export it as JPEG or PNG")
            require_size(int(found.imagewidth), int(found.imagelength))
            orientation = int(found.tags.valueof(ORIENTATION, 1))
            _require_whole(found, len(data))
            kind = kind_of(found)
            _require_few_bytes(found)
            samples_HWS = _samples(found)
    except UnreadableImage:
        raise
    except Exception as error:  # each codec raises errors of its own on damaged bytes
        raise UnreadableImage(f"damaged TIFF: {type(error).__name__}: {error}"[:200].splitlines()[0]) from error
    return *grey_of(found, samples_HWS, kind), orientation


def grey_of(page: Any, samples_HWS: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey pixels uint8 (H, W) of decoded samples, and bool (H, W) where they are transparent or None.

    Raises:
        UnreadableImage: without a defined grey level.
    """
    grey_HW = np.empty(samples_HWS.shape[:2], np.uint8)
    hidden_HW = _without_level(page, samples_HWS)
    if hidden_HW is not None:
        samples_HWS = np.where(hidden_HW[..., None], 0, samples_HWS)
    white = _white(page, samples_HWS)
    alpha = _alpha(page)
    if alpha is not None:
        is_clear_HW = samples_HWS[..., alpha] < white / 2
        hidden_HW = is_clear_HW if hidden_HW is None else is_clear_HW | hidden_HW
    for top in range(0, len(grey_HW), ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        shares_hwS = np.clip(samples_HWS[rows].astype(np.float64) / white, 0, 1).astype(np.float32)
        if alpha is not None and page.extrasamples[0] == 1:  # colours were multiplied by it
            shares_hwS /= np.maximum(shares_hwS[..., alpha : alpha + 1], 1e-3)
        grey_hw = _grey(kind, shares_hwS, page, samples_HWS[rows])
        grey_HW[rows] = np.floor(np.clip(grey_hw, 0, 1) * 255 + 0.5)
    return grey_HW, hidden_HW


def _without_level(page: Any, samples_HWS: np.ndarray) -> np.ndarray | None:
    """Floats that are no number, or the value beyond 0..1 that means no data to GDAL, bool (H, W); None if none are."""
    if samples_HWS.dtype.kind != "f":
        return None
    is_missing_HWS = ~np.isfinite(samples_HWS)
    try:
        value = float(page.tags.valueof(GDAL_NO_DATA, "nan"))
    except (TypeError, ValueError):  # no number, which some programs write for none
        value = math.nan
    if not 0 <= value <= 1:
        with np.errstate(over="ignore"):  # more than half precision holds
            is_missing_HWS |= samples_HWS == samples_HWS.dtype.type(value)
    return is_missing_HWS.any(axis=2) if is_missing_HWS.any() else None


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def kind_of(page: Any) -> int:
    """The colour space of a page; raises UnreadableImage where it has no defined grey level."""
    samples = int(page.samplesperpixel)
    # Without the tag, which the specification demands, as libtiff takes it.
    kind = int(page.photometric) if PHOTOMETRIC in page.tags else RGB if samples >= 3 else BLACK_IS_ZERO
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3}
    if kind not in colours:
        raise UnreadableImage(f"TIFF of {NAMES.get(kind, f'PhotometricInterpretation {kind}')}: export it as RGB")
    if kind == YCBCR and int(page.compression) == 1 and tuple(page.subsampling or ()) != (1, 1):
        raise UnreadableImage("TIFF of subsampled Y'CbCr without compression: export it as RGB")
    n_colours = 1 if kind == CIELAB and samples == 1 else colours[kind]
    if samples < n_colours or (samples > n_colours and not page.extrasamples):
        raise UnreadableImage(
            f"TIFF of {samples} samples a pixel where its colour space has {n_colours}: export it as RGB"
        )
    return kind


def _require_few_bytes(page: Any) -> None:
    size = page.imagelength * page.imagewidth * page.samplesperpixel * (page.dtype.itemsize if page.dtype else 1)
    if size > MAX_DECODED_BYTES:
        raise UnreadableImage(
            f"its pixels take {size:,} bytes, over the limit of {MAX_DECODED_BYTES:,}: save it in 8 bits"
        )


def _require_whole(page: Any, n_bytes: int) -> None:
    """Refuse a page with missing or truncated strips or tiles, which tifffile would decode as black."""
    is_missing = [
        not 0 < count <= n_bytes - offset or offset <= 0
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    expected = int(np.prod(page.chunked)) if page.chunked else 1
    if len(is_missing) < expected or any(is_missing):
        raise UnreadableImage(
            f"damaged or sparse TIFF: {max(sum(is_missing), expected - len(is_missing))} of {expected} parts missing"
        )


def _samples(page: Any) -> np.ndarray:
    """The decoded samples (H, W, S); raises UnreadableImage where they contradict the tags."""
    values = np.asarray(page.asarray())
    height, width, samples = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    shape = (samples, height, width) if is_planar(page) else (height, width, samples)
    if values.size != height * width * samples:
        raise UnreadableImage(f"the tags state {width}x{height} px of {samples} samples, the data hold {values.shape}")
    values = values.reshape(shape)
    return np.moveaxis(values, 0, 2) if is_planar(page) else values


def is_planar(page: Any) -> bool:
    """Whether the samples of a pixel lie in planes of their own instead of beside each other."""
    return int(page.planarconfig or 1) == 2 and int(page.samplesperpixel) > 1


def _white(page: Any, samples_HWS: np.ndarray) -> float:
    """The value of white.

    Integers are scaled by the full range of their bits; those of more than 16 bits none of which exceeds 65535 are
    taken as 16 bits, since they would all be black.
    """
    if samples_HWS.dtype == bool:
        return 1.0
    if samples_HWS.dtype.kind not in "uif":
        raise UnreadableImage(f"TIFF of {samples_HWS.dtype} pixels: save them in 8 or 16 bits")
    low, high = float(samples_HWS.min()), float(samples_HWS.max())
    if samples_HWS.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high) and low >= -FLOAT_SLACK and high <= 1 + FLOAT_SLACK):
            raise UnreadableImage(
                f"floating-point pixels {low:g}..{high:g} have no known white: save them as 0..1, or in 8 or 16 bits"
            )
        return 1.0
    is_lab = int(page.photometric) == CIELAB
    if low < 0 and not is_lab:
        raise UnreadableImage(f"pixel values {low:g}..{high:g} are negative: save them unsigned")
    bits = int(_tuple(page.bitspersample)[0])
    if bits > 16 and high <= 65_535:
        bits = 16
    elif samples_HWS.dtype.kind == "i" and not is_lab:
        raise UnreadableImage(f"signed pixel values {low:g}..{high:g} have no known white: save them unsigned")
    return float(2**bits - 1)


def _alpha(page: Any) -> int | None:
    """Index of the alpha sample; None without one. Extra samples of unspecified meaning are ignored."""
    extra = _tuple(page.extrasamples or ())
    is_alpha = bool(extra) and int(extra[0]) in (1, 2)
    return int(page.samplesperpixel) - len(extra) if is_alpha else None


def _grey(kind: int, shares_hwS: Floats, page: Any, samples_hwS: np.ndarray) -> Floats:
    """Grey level 0 black to 1 white of samples in 0..1, as Pillow converts each colour space."""
    if kind == WHITE_IS_ZERO:
        return 1 - shares_hwS[..., 0]
    if kind == BLACK_IS_ZERO:
        return shares_hwS[..., 0]
    if kind == YCBCR:
        return shares_hwS[..., 0] if not _is_decoded_to_rgb(page) else luma(shares_hwS[..., :3])
    if kind == PALETTE:
        colours_3N = np.asarray(page.colormap, np.float32)
        white = 65_535 if colours_3N.max() > 255 else 255  # older programs wrote 8 bits
        return luma(colours_3N.T[samples_hwS[..., 0]] / np.float32(white))
    if kind == CMYK:
        return luma((1 - shares_hwS[..., :3]) * (1 - shares_hwS[..., 3:4]))
    if kind == CIELAB:
        return _lab_luma(shares_hwS, samples_hwS, page)
    return luma(shares_hwS[..., :3])


def _is_decoded_to_rgb(page: Any) -> bool:
    return int(page.compression) in (6, 7, 33007)  # JPEG: the codec converts


def _lab_luma(shares_hwS: Floats, samples_hwS: np.ndarray, page: Any) -> Floats:
    """Luma of the sRGB colours of CIE L*a*b* of illuminant D50, adapted to D65.

    Source: IEC 61966-2-1 (1999) for sRGB; Lindbloom, RGB/XYZ matrices, for the one adapted to D50.
    """
    if shares_hwS.shape[2] < 3:
        a_hw = b_hw = np.zeros(shares_hwS.shape[:2], np.float32)
    else:
        half = 2 ** (int(_tuple(page.bitspersample)[0]) - 1)
        signed_hw2 = (samples_hwS[..., 1:3].astype(np.int64) + half) % (2 * half) - half
        a_hw, b_hw = ((signed_hw2[..., k] * (128 / half)).astype(np.float32) for k in (0, 1))
    y_hw = (shares_hwS[..., 0] * 100 + 16) / 116
    steps = np.stack([y_hw + a_hw / 500, y_hw, y_hw - b_hw / 200], axis=2)
    xyz = np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * (0.96422, 1.0, 0.82521)
    to_rgb = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = np.clip(xyz @ to_rgb.T, 0, 1)
    return luma(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32))
