"""Length and width of the cracks in an anomaly map, in pixels of the image.

Shape letters: H, W rows and columns of an image; K pixels of a skeleton.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label
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


_EIGHT = np.ones((3, 3), int)


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


def trace(anomaly_HW: np.ndarray) -> np.ndarray:
    """Pixels of an anomaly map that belong to a crack.

    The limits are relative to the residuals of the image, so no calibration of pixels is needed: around each peak that
    stands out, the pixels above half of it. Nearly every image has such peaks; measure flagged images only.

    Args:
        anomaly_HW: non-negative residual or darkness, float (H, W).

    Returns:
        bool (H, W).
    """
    height, width = anomaly_HW.shape
    sample = anomaly_HW[:: max(1, height // 1024), :: max(1, width // 1024)]
    middle = np.median(sample)
    floor = max(MIN_ANOMALY, middle + MIN_SIGMAS * SIGMAS_PER_MAD * np.median(np.abs(sample - middle)))
    peak_HW = ndimage.maximum_filter(anomaly_HW, PEAK_PX, mode="nearest")
    crack_HW = anomaly_HW > np.maximum(floor, middle + HALF_MAXIMUM * (peak_HW - middle))
    return _lines(crack_HW)


def _lines(crack_HW: np.ndarray) -> np.ndarray:
    """The connected components that are long and thin; bug holes are round."""
    pieces_HW, n = ndimage.label(crack_HW, _EIGHT)
    boxes = ndimage.find_objects(pieces_HW)
    diagonals = np.array([np.hypot(*(side.stop - side.start for side in box)) for box in boxes])
    areas = np.bincount(pieces_HW.ravel(), minlength=n + 1)[1:]
    keep = (diagonals >= MIN_LENGTH_PX) & (areas <= diagonals**2 / MIN_ELONGATION)
    return np.asarray(np.r_[False, keep][pieces_HW])


def touching(crack_HW: np.ndarray, region_HW: np.ndarray) -> np.ndarray:
    """The complete components of a trace that touch a region; all arrays bool (H, W)."""
    pieces_HW, n = ndimage.label(crack_HW, _EIGHT)
    reaches = np.bincount(pieces_HW[region_HW & crack_HW], minlength=n + 1) > 0
    return np.asarray(reaches[pieces_HW])


def crack_size(crack_HW: np.ndarray) -> CrackSize:
    """Length and width of a traced crack.

    The length is that of the skeleton plus the half width that a skeleton loses at each free end. The mean width is the
    area divided by the length; the maximum width is twice the largest distance from the skeleton to the background,
    accurate to one pixel.

    Args:
        crack_HW: bool (H, W).
    """
    filled_HW = remove_small_holes(crack_HW, max_size=MAX_HOLE_PX)
    if not filled_HW.any():
        return CrackSize(0.0, 0.0, 0.0, 0)
    inside_HW = ndimage.distance_transform_edt(np.pad(filled_HW, 1))[1:-1, 1:-1]
    skeleton_HW = _without_spurs(skeletonize(filled_HW), inside_HW)
    ends_HW = skeleton_HW & (_neighbours(skeleton_HW) <= 1)
    # The centre of a pixel lies half a pixel inside its edge.
    widths_K = 2 * inside_HW[skeleton_HW] - 1
    length_px = _length(skeleton_HW) + float((inside_HW[ends_HW] - 0.5).sum())
    pieces = int(label(filled_HW, connectivity=2).max())
    mean_px = float(filled_HW.sum() / length_px)
    return CrackSize(length_px, mean_px, max(mean_px, float(widths_K.max())), pieces)


def _neighbours(skeleton_HW: np.ndarray) -> np.ndarray:
    """Number of skeleton pixels among the eight neighbours of each pixel."""
    around_HW = ndimage.convolve(skeleton_HW.astype(np.int8), _EIGHT.astype(np.int8), mode="constant")
    return np.asarray(around_HW - skeleton_HW)


def _length(skeleton_HW: np.ndarray) -> float:
    """Sum over the steps between neighbouring pixels; a diagonal bypassed by two straight steps is not counted."""
    s = np.pad(skeleton_HW, 1)
    straight, diagonal = np.zeros(s.shape, np.int8), np.zeros(s.shape, np.int8)
    down, right = s[:-1] & s[1:], s[:, :-1] & s[:, 1:]
    falling = s[:-1, :-1] & s[1:, 1:] & ~s[:-1, 1:] & ~s[1:, :-1]
    rising = s[:-1, 1:] & s[1:, :-1] & ~s[:-1, :-1] & ~s[1:, 1:]
    straight[:-1] += down
    straight[1:] += down
    straight[:, :-1] += right
    straight[:, 1:] += right
    diagonal[:-1, :-1] += falling
    diagonal[1:, 1:] += falling
    diagonal[:-1, 1:] += rising
    diagonal[1:, :-1] += rising
    corners = (straight == 1) & (diagonal == 1)
    steps = STRAIGHT_PX * straight.sum(dtype=int) + DIAGONAL_PX * diagonal.sum(dtype=int)
    return float(steps / 2 + CORNER_PX * corners.sum())


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
