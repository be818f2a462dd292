"""Length and width of the cracks in an anomaly map, in pixels of the image.

Shape letters: H, W rows and columns of an image; K pixels of a skeleton.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_holes, skeletonize

# A trace ends where the residual falls to half of its local peak: the full width at half maximum of a profile equals
# the width of any line wider than the blur of the camera.
HALF_MAXIMUM = 0.5

# Side of the neighbourhood of the local peak [px]: wider than the widest crack of METU (about 30 px).
PEAK_PX = 41

# A peak must exceed the median residual of the image by this many robust standard deviations; Gaussian noise does so
# in one of a billion pixels.
MIN_SIGMAS = 6.0

# Lowest peak, as a share of the brightness: a map that is 0 nearly everywhere has no deviation.
MIN_ANOMALY = 0.04

# Standard deviation of a Gaussian divided by its median absolute deviation.
SIGMAS_PER_MAD = 1.4826

# Shorter traces count as texture [px]; a guess: a tenth of the side of a METU image.
MIN_LENGTH_PX = 23.0

# Lowest ratio of length L to width w: a line covers L^2 / (L / w) pixels; a disc has a ratio of 2.5 by its diagonal.
MIN_ELONGATION = 4.0

# Holes in a trace up to this size [px] are filled: the skeleton would form rings around them.
MAX_HOLE_PX = 16

# Length of a digital line from its straight steps, its diagonal steps and the corners between them.
# Source: Vossepoel & Smeulders, Vector code probability and metrication error (1982).
STRAIGHT_PX, DIAGONAL_PX, CORNER_PX = 0.980, 1.406, -0.091

# Large maps are processed in cells of this side [px], so that empty ones cost nothing; each with a margin in which the
# skeleton of a cut crack may deviate, wider than half of any crack.
CELL_PX, MARGIN_PX = 512, 64

_EIGHT = np.ones((3, 3), int)

_Window = tuple[slice, slice]


@dataclass(frozen=True)
class CrackSize:
    """Size of a traced crack.

    Attributes:
        length_px: total length of all branches.
        mean_width_px, max_width_px: width normal to the skeleton; 0 without a crack.
        pieces: number of connected components.
    """

    length_px: float
    mean_width_px: float
    max_width_px: float
    pieces: int


def trace(anomaly_HW: np.ndarray, background_N: np.ndarray | None = None) -> np.ndarray:
    """Pixels of an anomaly map that belong to a crack.

    The limits are relative to the residuals of the image, so no calibration of pixels is needed: around each peak that
    stands out, the pixels above half of it. Nearly every image has such peaks; measure flagged images only.

    Args:
        anomaly_HW: non-negative residual or darkness, float (H, W).
        background_N: values of the map that represent the image; by default a subsample of the map.

    Returns:
        bool (H, W).
    """
    height, width = anomaly_HW.shape
    if background_N is None:
        background_N = anomaly_HW[:: max(1, height // 1024), :: max(1, width // 1024)]
    middle = np.median(background_N)
    deviation = SIGMAS_PER_MAD * np.median(np.abs(background_N - middle))
    floor = max(MIN_ANOMALY, middle + MIN_SIGMAS * deviation)
    crack_HW = np.zeros(anomaly_HW.shape, bool)
    for cell, crop, inner in _cells(anomaly_HW > floor):
        peak_hw = ndimage.maximum_filter(anomaly_HW[crop], PEAK_PX, mode="nearest")[inner]
        crack_HW[cell] = anomaly_HW[cell] > np.maximum(floor, middle + HALF_MAXIMUM * (peak_hw - middle))
    return _lines(crack_HW)


def _cells(mask_HW: np.ndarray) -> Iterator[tuple[_Window, _Window, _Window]]:
    """The cells that contain a pixel of a mask.

    Yields:
        The window of the cell, that of the cell with its margin, and that of the cell inside the latter.
    """
    height, width = mask_HW.shape
    if max(height, width) <= CELL_PX + 2 * MARGIN_PX:
        whole = slice(0, height), slice(0, width)
        if mask_HW.any():
            yield whole, whole, whole
        return
    for y in range(0, height, CELL_PX):
        for x in range(0, width, CELL_PX):
            cell = slice(y, min(height, y + CELL_PX)), slice(x, min(width, x + CELL_PX))
            if mask_HW[cell].any():
                top, left = max(0, y - MARGIN_PX), max(0, x - MARGIN_PX)
                crop = slice(top, cell[0].stop + MARGIN_PX), slice(left, cell[1].stop + MARGIN_PX)
                inner = slice(y - top, cell[0].stop - top), slice(x - left, cell[1].stop - left)
                yield cell, crop, inner


def _lines(crack_HW: np.ndarray) -> np.ndarray:
    """The connected components that are long and thin; bug holes are round."""
    pieces_HW, n = ndimage.label(crack_HW, _EIGHT)
    boxes = ndimage.find_objects(pieces_HW)
    diagonals = np.array([np.hypot(*(side.stop - side.start for side in box)) for box in boxes])
    areas = np.bincount(pieces_HW[crack_HW], minlength=n + 1)[1:]
    keep = (diagonals >= MIN_LENGTH_PX) & (areas <= diagonals**2 / MIN_ELONGATION)
    return _components(crack_HW, pieces_HW, np.r_[False, keep])


def touching(crack_HW: np.ndarray, region_HW: np.ndarray) -> np.ndarray:
    """The complete components of a trace that touch a region; all arrays bool (H, W)."""
    pieces_HW, n = ndimage.label(crack_HW, _EIGHT)
    touches = np.bincount(pieces_HW[region_HW & crack_HW], minlength=n + 1) > 0
    return _components(crack_HW, pieces_HW, touches)


def _components(crack_HW: np.ndarray, pieces_HW: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The components of a mask whose label is marked in `keep`."""
    kept_HW = np.zeros_like(crack_HW)
    kept_HW[crack_HW] = keep[pieces_HW[crack_HW]]
    return kept_HW


def crack_size(crack_HW: np.ndarray) -> CrackSize:
    """Length and width of a traced crack.

    The length is that of the skeleton plus the half width that a skeleton loses at each free end. The mean width is the
    area divided by the length; the maximum width is twice the largest distance from the skeleton to the background,
    accurate to one pixel.

    Args:
        crack_HW: bool (H, W).
    """
    if not crack_HW.any():
        return CrackSize(0.0, 0.0, 0.0, 0)
    # One pixel of background on every side, so that each pixel has eight neighbours.
    skeleton_HW = np.zeros((crack_HW.shape[0] + 2, crack_HW.shape[1] + 2), bool)
    inside_HW = np.zeros(skeleton_HW.shape)
    padded_HW = np.pad(crack_HW, 1)
    area = 0
    for cell, crop, inner in _cells(padded_HW):
        filled_hw = remove_small_holes(padded_HW[crop], max_size=MAX_HOLE_PX)
        inside_hw = ndimage.distance_transform_edt(np.pad(filled_hw, 1))[1:-1, 1:-1]
        skeleton_HW[cell] = _without_spurs(skeletonize(filled_hw), inside_hw)[inner]
        inside_HW[cell] = inside_hw[inner]
        area += int(filled_hw[inner].sum())
    ys, xs = np.nonzero(skeleton_HW)
    n_straight_K, n_diagonal_K, n_near_K = _neighbour_counts(skeleton_HW, ys, xs)
    # The centre of a pixel lies half a pixel inside its edge.
    inside_K = inside_HW[ys, xs]
    length_px = _length(n_straight_K, n_diagonal_K) + float((inside_K[n_near_K <= 1] - 0.5).sum())
    mean_px = float(area / length_px)
    return CrackSize(length_px, mean_px, max(mean_px, float((2 * inside_K - 1).max())), _n_pieces(crack_HW))


def _n_pieces(crack_HW: np.ndarray) -> int:
    """Number of connected components."""
    return int(ndimage.label(crack_HW, _EIGHT)[1])


def _neighbour_counts(
    skeleton_HW: np.ndarray, ys: np.ndarray, xs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Straight steps, diagonal steps and neighbours of each skeleton pixel, int (K,).

    A diagonal that two straight steps bypass is no step. No pixel may lie on the border of the array.
    """
    at = {(dy, dx): skeleton_HW[ys + dy, xs + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    straight_K = np.sum([at[step] for step in ((-1, 0), (1, 0), (0, -1), (0, 1))], axis=0)
    diagonals = [(dy, dx) for dy in (-1, 1) for dx in (-1, 1)]
    diagonal_K = np.sum([at[dy, dx] & ~at[dy, 0] & ~at[0, dx] for dy, dx in diagonals], axis=0)
    return straight_K, diagonal_K, straight_K + np.sum([at[step] for step in diagonals], axis=0)


def _length(n_straight_K: np.ndarray, n_diagonal_K: np.ndarray) -> float:
    """Length of a skeleton from the steps at each pixel; every step is counted at both of its ends."""
    corners = (n_straight_K == 1) & (n_diagonal_K == 1)
    steps = STRAIGHT_PX * n_straight_K.sum() + DIAGONAL_PX * n_diagonal_K.sum()
    return float(steps / 2 + CORNER_PX * corners.sum())


def _neighbours(skeleton_HW: np.ndarray) -> np.ndarray:
    """Number of skeleton pixels among the eight neighbours of each pixel."""
    around_HW = ndimage.convolve(skeleton_HW.astype(np.int8), _EIGHT.astype(np.int8), mode="constant")
    return np.asarray(around_HW - skeleton_HW)


def _without_spurs(skeleton_HW: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    """Remove branches shorter than the local width of the crack: they come from rough edges, not from forks."""
    forks_HW = skeleton_HW & (_neighbours(skeleton_HW) >= 3)
    if not forks_HW.any():
        return skeleton_HW
    near_fork_HW = ndimage.binary_dilation(forks_HW, _EIGHT) & skeleton_HW
    branches_HW, n = ndimage.label(skeleton_HW & ~near_fork_HW, _EIGHT)
    index = np.arange(1, n + 1)
    ends = ndimage.maximum(skeleton_HW & (_neighbours(skeleton_HW) <= 1), branches_HW, index)
    touches = ndimage.maximum(ndimage.binary_dilation(near_fork_HW, _EIGHT), branches_HW, index)
    sizes = ndimage.sum(branches_HW > 0, branches_HW, index)
    widths = 2 * ndimage.maximum(inside_HW, branches_HW, index)
    is_spur = np.r_[False, (ends > 0) & (touches > 0) & (sizes < widths)] if n else np.zeros(1, bool)
    return np.asarray(skeleton_HW & ~is_spur[branches_HW])
