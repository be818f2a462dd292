"""What an image shows of a surface: measures of brightness, contrast and sharpness, and the parts that show none.

Frames are black (lens cap, failed flash), burnt out, or padded: letterbox bars, transparent or no-data corners of an
orthophoto. To a network that has learned sound concrete they are an anomaly or perfectly smooth; they are neither.

Shape letters: H, W rows and columns of an image; h, w those of one tile; L lines of N pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Rows and columns of an image that its measures are taken from: 0.1 ms for a METU image, and every part is seen.
MEASURED_LINES = 64

# A blur of 1.5 px takes 17 % of the ratio of the mean steps over these two distances, and 6 % of that over 1 and 2 px,
# where a JPEG of quality 50 instead of 75 adds 13 and 4 % (METU; docs/log.md, 2026-11-24).
SHARPNESS_LAGS_PX = (1, 4)

# Pixels up to BLACK and from WHITE on show no surface: 16 is the black of video and 0.5 % of the light of white, 250 is
# 96 % of it, where a sensor saturates and JPEG rings by a few levels.
BLACK, WHITE = 16, 250

# A tile is not scored if more of its pixels than this are clipped or hidden: most of it shows nothing.
MAX_CLIPPED = 0.5

# Grey levels within which nothing is seen, not even a hairline: the noise of a real surface alone spans more.
FLAT_RANGE = 3

# Thinnest letterbox bar [px]. Of each of its lines a share of BAR_SHARE lies within BAR_RANGE of its level, since JPEG
# rings at its edge.
MIN_BAR_PX, BAR_RANGE, BAR_SHARE = 3, 8, 0.98

# No-data regions: pixels of 0 or 255 that touch the border and are at least this thick [px], which no crack is; their
# thin ends belong to them.
MIN_NO_DATA_PX = 25

# Distance of the pixels by which a worker remembers hidden parts [px]; MARGIN_PX makes up for it.
HIDDEN_STEP_PX = 8

# Pixels around a hidden part that JPEG or resampling may have mixed with it [px].
MARGIN_PX = 4


@dataclass(frozen=True)
class Measures:
    """How a camera saw a surface. Contrast and sharpness do not change when the light changes by a factor.

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


# ------------------------------------------------------------------------------------------- parts without a surface


def hidden_parts(pixels_HW: np.ndarray, transparent_HW: np.ndarray | None) -> np.ndarray | None:
    """bool (H, W), True where an image shows no surface: transparent pixels, letterbox bars and no-data regions.

    None if there are none, which is nearly always; only the border lines are looked at then.
    """
    parts = [one for one in (transparent_HW, _bars(pixels_HW), _no_data(pixels_HW)) if one is not None and one.any()]
    if not parts:
        return None
    hidden_HW = np.logical_or.reduce(parts)
    return np.asarray(ndimage.maximum_filter(hidden_HW, 2 * MARGIN_PX + 1))


def _bars(pixels_HW: np.ndarray) -> np.ndarray | None:
    height, width = pixels_HW.shape
    top, bottom = _bar_lines(pixels_HW), _bar_lines(pixels_HW[::-1])
    if top + bottom >= height:
        return None  # black or white all over, but for small marks: no bars, and no surface either
    inner_hW = pixels_HW[top : height - bottom]
    left, right = _bar_lines(inner_hW.T), _bar_lines(inner_hW.T[::-1])
    if not top + bottom + left + right:
        return None
    is_bar_HW = np.ones((height, width), bool)
    is_bar_HW[top : height - bottom, left : width - right] = False
    return is_bar_HW


def _bar_lines(lines_LN: np.ndarray) -> int:
    """Number of leading lines that form a bar of one black or white level; 0 for a bar thinner than MIN_BAR_PX."""
    level = int(np.median(lines_LN[0]))
    if int(np.ptp(lines_LN[0])) > FLAT_RANGE or BLACK < level < WHITE:
        return 0
    n = 0
    for line_N in lines_LN:
        if (np.abs(line_N.astype(np.int16) - level) <= BAR_RANGE).mean() < BAR_SHARE:
            break
        n += 1
    return n if n >= MIN_BAR_PX else 0


def _no_data(pixels_HW: np.ndarray) -> np.ndarray | None:
    border = np.concatenate([pixels_HW[0], pixels_HW[-1], pixels_HW[:, 0], pixels_HW[:, -1]])
    regions = []
    for level in (0, 255):
        if (border == level).sum() < MIN_NO_DATA_PX:
            continue
        # Zero-padding would thin a region at the border of the image.
        is_level_HW = pixels_HW == level
        opened_HW = ndimage.maximum_filter(
            ndimage.minimum_filter(is_level_HW.view(np.uint8), MIN_NO_DATA_PX, mode="nearest"), MIN_NO_DATA_PX
        )
        numbers_HW, _ = ndimage.label(opened_HW)
        touching = np.unique(np.r_[numbers_HW[0], numbers_HW[-1], numbers_HW[:, 0], numbers_HW[:, -1]])
        if touching.any():
            regions.append(_with_tips(np.isin(numbers_HW, touching[touching > 0]), is_level_HW))
    return np.logical_or.reduce(regions) if regions else None


def _with_tips(region_HW: np.ndarray, is_level_HW: np.ndarray) -> np.ndarray:
    """A no-data region with its thin ends, which lie along the border of the image: corners of a turned rectangle.

    Any other end is followed for MIN_NO_DATA_PX only: it may be a crack.
    """
    near_HW = ndimage.maximum_filter(region_HW, 2 * MIN_NO_DATA_PX + 1)
    for lines in (near_HW, near_HW.T):
        lines[:MIN_NO_DATA_PX] = lines[-MIN_NO_DATA_PX:] = True
    numbers_HW, _ = ndimage.label(is_level_HW & near_HW)
    return np.isin(numbers_HW, np.unique(numbers_HW[region_HW]))


def packed(hidden_HW: np.ndarray | None) -> bytes:
    """Hidden parts at every HIDDEN_STEP_PX-th row and column, one bit each; empty for None."""
    return b"" if hidden_HW is None else np.packbits(hidden_HW[::HIDDEN_STEP_PX, ::HIDDEN_STEP_PX]).tobytes()


def unpacked(data: bytes, height: int, width: int) -> np.ndarray | None:
    """The hidden parts that packed() has stored, bool (H, W), in steps of HIDDEN_STEP_PX; None for none."""
    if not data:
        return None
    rows, columns = -(-height // HIDDEN_STEP_PX), -(-width // HIDDEN_STEP_PX)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=rows * columns).reshape(rows, columns).astype(bool)
    return bits.repeat(HIDDEN_STEP_PX, axis=0).repeat(HIDDEN_STEP_PX, axis=1)[:height, :width]


def is_blank(tile_hw: np.ndarray, hidden_hw: np.ndarray | None) -> bool:
    """Whether more than MAX_CLIPPED of a tile is hidden, black or white."""
    is_lost_hw = (tile_hw <= BLACK) | (tile_hw >= WHITE)
    if hidden_hw is not None:
        is_lost_hw |= hidden_hw
    return bool(is_lost_hw.mean() > MAX_CLIPPED)


def is_flat(tile_hw: np.ndarray) -> bool:
    """Whether a tile has one grey level, within FLAT_RANGE."""
    return int(np.ptp(tile_hw)) <= FLAT_RANGE


def filled(tile_hw: np.ndarray, hidden_hw: np.ndarray | None) -> np.ndarray:
    """A tile in which hidden pixels mirror the surface at the nearest visible pixel, so that no edge is left."""
    if hidden_hw is None or not hidden_hw.any():
        return tile_hw
    nearest_2hw = ndimage.distance_transform_edt(hidden_hw, return_distances=False, return_indices=True)
    own_2hw = np.indices(tile_hw.shape)
    limits = np.array(tile_hw.shape)[:, None, None] - 1
    ys, xs = np.clip(2 * nearest_2hw - own_2hw, 0, limits)
    is_hidden_again = hidden_hw[ys, xs]
    ys, xs = np.where(is_hidden_again, nearest_2hw[0], ys), np.where(is_hidden_again, nearest_2hw[1], xs)
    return np.asarray(tile_hw[ys, xs])


def no_surface(pixels_HW: np.ndarray, hidden_HW: np.ndarray | None, tiles: Sequence[np.ndarray]) -> str:
    """Why an image whose tiles are all blank or flat shows no surface, in one line."""
    if any(not is_flat(tile) for tile in tiles) or pixels_HW.min() <= BLACK or pixels_HW.max() >= WHITE:
        share = clipped_share(pixels_HW, hidden_HW)
        return f"no surface: {share:.0%} of the pixels are black, white or transparent"
    return f"no surface: all pixels have one grey level, {np.median(pixels_HW):.0f}"


def clipped_share(pixels_HW: np.ndarray, hidden_HW: np.ndarray | None) -> float:
    """Share of the pixels that are black, white or hidden."""
    is_lost_HW = (pixels_HW <= BLACK) | (pixels_HW >= WHITE)
    return float((is_lost_HW if hidden_HW is None else is_lost_HW | hidden_HW).mean())
