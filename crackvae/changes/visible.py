"""Whether a photograph shows a line at a place, in its grey levels: what is traced at one visit may not be at another.

Shape letters: H, W rows and columns of an image; K points of a trace as (x, y) [px]; T offsets across it; C chunks.
"""

import numpy as np
from scipy import ndimage

from crackvae.tracing.profiles import CALM, normals, profiles

# Points of a chunk whose profiles are averaged: along it, registration errs by the same distance.
CHUNK = 16

# A line was there before if it was at least this share as dark, relative to its surroundings.
SHARE = 0.5


def shows_too(
    own_HW: np.ndarray,
    own_K2: np.ndarray,
    other_HW: np.ndarray,
    other_K2: np.ndarray,
    widths_px: tuple[float, float],
    reach_px: float,
) -> bool:
    """Whether the line of a trace in one photograph is also in the other one.

    Args:
        own_HW, other_HW: grey levels, uint8.
        own_K2, other_K2: the trace in each.
        widths_px: of the line in each.
        reach_px: error of the place in the other photograph.
    """
    own = _darkness(own_HW, own_K2, widths_px[0], reach_px)
    return _darkness(other_HW, other_K2, widths_px[1], reach_px) >= SHARE * max(own, 0.0)


def _darkness(pixels_HW: np.ndarray, points_K2: np.ndarray, width_px: float, reach_px: float) -> float:
    """How much darker a line is than its sides, as a share of them, less the same beside it, where no line is known."""
    points_K2 = points_K2[:, ::-1]
    across_K2, points_K2 = normals(points_K2), ndimage.gaussian_filter1d(points_K2, CALM, axis=0, mode="nearest")
    inner_px = reach_px + width_px / 2
    outer_px = inner_px + 2 * width_px + 4
    found = [
        _depth(pixels_HW, points_K2 + shift * across_K2, across_K2, (inner_px, outer_px), width_px)
        for shift in (0.0, 2 * outer_px, -2 * outer_px)
    ]
    return found[0] - (found[1] + found[2]) / 2


def _depth(
    pixels_HW: np.ndarray,
    points_K2: np.ndarray,
    across_K2: np.ndarray,
    reaches_px: tuple[float, float],
    width_px: float,
) -> float:
    """Depth of the darkest line within the inner reach, relative to what lies between it and the outer one.

    Args:
        points_K2, across_K2: (y, x).
    """
    offsets_T = np.arange(-np.ceil(reaches_px[1]), np.ceil(reaches_px[1]) + 1)
    profile_KT = profiles(pixels_HW, points_K2, across_K2, offsets_T)
    chunks = np.array_split(profile_KT, max(1, len(profile_KT) // CHUNK))
    profile_CT = np.array([chunk.mean(axis=0) for chunk in chunks])
    is_inner_T = np.abs(offsets_T) <= reaches_px[0]
    side_C = np.median(profile_CT[:, ~is_inner_T], axis=1)
    line_CT = ndimage.uniform_filter1d(profile_CT, max(1, round(width_px)), axis=1)
    return float(np.median(1 - line_CT[:, is_inner_T].min(axis=1) / np.maximum(side_C, 1.0)))
