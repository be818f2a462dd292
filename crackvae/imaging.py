"""Bytes to upright grey pixels, and a photograph to model-sized tiles.

Shape letters: H, W rows and columns of an image; T tiles; P side of a tile at the model's input [px].
"""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crackvae.errors import UnreadableImage

# Rows and columns of an image that its measures are taken from: 0.1 ms for a METU image, and every part is seen.
MEASURED_LINES = 64
# Refuse larger images by their header, before decoding: 100 Mpx is 100 MB of grey pixels in one worker.
MAX_IMAGE_PX = 100_000_000
# A smaller image has no texture to judge; a METU image has 227 px.
MIN_SIDE_PX = 16
# Sixteen bits are scaled to eight by their full range, whatever part of it the camera used.
GREY16_PER_GREY8 = 257
# Below this many tile sides an image is resized whole: cutting a 300 px image into four overlapping tiles of
# 227 px would show the model mostly the same pixels four times.
MIN_TILES_TO_CUT = 1.5

# 100 Mpx in tiles of 227 px with stride 170 are 3,460; more than this is a sliver of an image or a wrong setting,
# and would fill a worker's memory (16 KiB a tile).
MAX_TILES = 20_000

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
EXIF_ORIENTATION = 0x0112
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
    image = _open(data)
    try:
        image.draft("L", image.size)  # JPEG: decode the luma only, at full size
        grey = _as_grey(image)
        return np.asarray(ImageOps.exif_transpose(grey) if _orientation(image) > 1 else grey)
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged {image.format}: {_first_line(error)}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("empty file")
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"ftyphevc"):
        raise UnreadableImage("HEIC and AVIF are not supported: convert it to JPEG or PNG")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        is_preview = _is_preview(image)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except DECODER_ERRORS as error:
        raise UnreadableImage(f"damaged header: {_first_line(error)}") from error
    if is_preview or (data[:2] == b"II" and data[8:10] == b"CR"):
        raise UnreadableImage("camera raw files are not supported: export it as JPEG or PNG")
    width, height = image.size
    if width * height > MAX_IMAGE_PX:
        raise UnreadableImage(f"{width}x{height} px is over the limit of {MAX_IMAGE_PX // 1_000_000} Mpx")
    if min(width, height) < MIN_SIDE_PX:
        raise UnreadableImage(f"{width}x{height} px is too small to judge: {MIN_SIDE_PX} px a side at least")
    return image


def _is_preview(image: Image.Image) -> bool:
    """Camera raw files are TIFFs; the first picture in one is a thumbnail, which would be scored in its place."""
    tags = getattr(image, "tag_v2", {})
    return DNG_VERSION in tags or tags.get(TIFF_SUBFILE_TYPE, 0) & 1 == 1


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _as_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey16 = np.asarray(image).astype(np.int64)
        if grey16.min() < 0 or grey16.max() > 65_535:
            raise UnreadableImage(f"pixel values {grey16.min()}..{grey16.max()} lie outside 16 bits")
        grey = Image.fromarray(((grey16 + GREY16_PER_GREY8 // 2) // GREY16_PER_GREY8).astype(np.uint8))
        grey.info = image.info  # exif_transpose() reads the orientation from it
        return grey
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels have no known white: convert it to 8 or 16 bits")
    image.info.pop("transparency", None)  # convert() would warn of some kinds that it cannot keep
    return image.convert("L")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --------------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measures:
    """How a camera saw a surface. Two of the three stay as they are when the light changes by a factor.

    Attributes:
        brightness: median grey level, 0 black to 255 white.
        contrast: distance of the 10th and 90th percentile, as a share of the median; a thin crack hardly moves it.
        sharpness: mean step between neighbouring pixels over that between pixels two apart. 1 for noise without any
            blur, 0.71 for a random walk, towards 0.5 the more the image is blurred; 1 where nothing changes at all.
    """

    brightness: float
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
    steps = [_mean_step(rows, lag) + _mean_step(columns, lag) for lag in (1, 2)]
    return Measures(median, (high - low) / max(1.0, median), steps[0] / steps[1] if steps[1] else 1.0)


def _mean_step(lines_LN: np.ndarray, lag: int) -> float:
    signed_LN = lines_LN.astype(np.int16)
    return float(np.abs(signed_LN[:, lag:] - signed_LN[:, :-lag]).mean())


# ------------------------------------------------------------------------------------------------------ tiles


@dataclass(frozen=True)
class Tiles:
    """One image as the tiles that the model sees, row by row.

    Attributes:
        pixels_TPP: uint8 (rows * cols, P, P).
        rows, cols: the grid of tiles.
        xs, ys: left edges of the columns and top edges of the rows in the image [px].
    """

    pixels_TPP: np.ndarray
    rows: int
    cols: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]


def tile_origins(length_px: int, tile_px: int, stride_px: int) -> tuple[int, ...]:
    """Start offsets [px] of the tiles along one side of an image.

    Every pixel is covered and no tile leaves the image: the last tile is moved back to the edge instead of padding,
    because a padded border reconstructs badly and looks like a crack.
    """
    assert tile_px <= length_px, "cut() never asks for a tile larger than the image"
    last = length_px - tile_px
    return tuple(sorted({*range(0, last, stride_px), last}))


def cut(pixels_HW: np.ndarray, tile_px: int, stride_px: int, input_px: int) -> Tiles:
    """Cut an image into square tiles and resize each, antialiased, to the model's input.

    An image under MIN_TILES_TO_CUT tiles along both sides is one tile, resized whole. In an image narrower than one
    tile the tiles are as wide as the image, and the stride shrinks with them.

    Args:
        pixels_HW: uint8 (H, W).
        tile_px: side of a tile in the image [px].
        stride_px: distance of neighbouring tiles in the image [px].
        input_px: side P of a tile at the model's input [px].

    Raises:
        UnreadableImage: more than MAX_TILES tiles.
    """
    height, width = pixels_HW.shape
    image = Image.fromarray(pixels_HW)
    if max(height, width) < MIN_TILES_TO_CUT * tile_px:
        whole = image.resize((input_px, input_px), Image.Resampling.BILINEAR)
        return Tiles(np.asarray(whole)[None], 1, 1, (0,), (0,))
    side = min(tile_px, height, width)
    stride = max(1, stride_px * side // tile_px)
    xs, ys = tile_origins(width, side, stride), tile_origins(height, side, stride)
    if len(xs) * len(ys) > MAX_TILES:
        raise UnreadableImage(f"{width}x{height} px would be {len(xs) * len(ys)} tiles: {MAX_TILES} at most")
    pixels_TPP = np.empty((len(ys) * len(xs), input_px, input_px), np.uint8)
    boxes = ((x, y, x + side, y + side) for y in ys for x in xs)
    for tile_PP, box in zip(pixels_TPP, boxes, strict=True):
        tile = image.crop(box)  # resize(box=...) would mix in pixels from outside the tile
        tile_PP[:] = np.asarray(tile.resize((input_px, input_px), Image.Resampling.BILINEAR))
    return Tiles(pixels_TPP, len(ys), len(xs), xs, ys)


def stitch(maps_TPP: np.ndarray, tiles: Tiles, height: int, width: int, tile_px: int) -> np.ndarray:
    """Maps of the tiles of cut() as one map of the image, at the image's own resolution.

    Where tiles overlap they are blended with weights that fall towards a tile's edge, so no seam is left. The weights
    are a product of rows and columns, so their sum is too, and no second map is needed for it.

    Args:
        maps_TPP: float (T, P, P), one map a tile.
        tiles: what cut() returned; its pixels are not read.
        height, width: of the image [px].
        tile_px: as given to cut().

    Returns:
        float32 (H, W).
    """
    whole = tiles.rows * tiles.cols == 1
    side = min(tile_px, height, width)
    tile_h, tile_w = (height, width) if whole else (side, side)
    rising_h, rising_w = _tent(tile_h), _tent(tile_w)
    sum_HW, sum_H, sum_W = np.zeros((height, width), np.float32), np.zeros(height), np.zeros(width)
    for y in tiles.ys:
        sum_H[y : y + tile_h] += rising_h
    for x in tiles.xs:
        sum_W[x : x + tile_w] += rising_w
    weight_hw = np.outer(rising_h, rising_w).astype(np.float32)
    for map_PP, (y, x) in zip(maps_TPP, ((y, x) for y in tiles.ys for x in tiles.xs), strict=True):
        tile = Image.fromarray(np.asarray(map_PP, np.float32)).resize((tile_w, tile_h), Image.Resampling.BILINEAR)
        sum_HW[y : y + tile_h, x : x + tile_w] += weight_hw * np.asarray(tile)
    sum_HW /= sum_H[:, None].astype(np.float32)
    sum_HW /= sum_W[None].astype(np.float32)
    return sum_HW


def _tent(length_px: int) -> np.ndarray:
    """Weights that rise from the edges of a tile to its middle, float (length_px,), never 0."""
    steps = np.arange(length_px)
    return np.minimum(steps + 1, length_px - steps) / ((length_px + 1) / 2)
