"""Whether a photograph shows a line at a place, in its grey levels: what is traced at one visit may not be at another.

Shape letters: H, W rows and columns of an image; K points of a trace as (x, y) [px]; T offsets across it; C chunks.
"""

import numpy as np
from scipy import ndimage

# Points of a chunk whose profiles are averaged: along it, registration errs by the same distance.
CHUNK = 16

# Standard deviation of the Gaussian that removes the steps of a trace before its normals are taken [points].
CALM = 4.0

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
    points_K2 = ndimage.gaussian_filter1d(points_K2, CALM, axis=0, mode="nearest")
    along_K2 = np.gradient(points_K2, axis=0)
    across_K2 = along_K2[:, ::-1] * (-1, 1) / np.maximum(1e-9, np.hypot(*along_K2.T))[:, None]
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
    """Depth of the darkest line within the inner reach, relative to what lies between it and the outer one."""
    offsets_T = np.arange(-np.ceil(reaches_px[1]), np.ceil(reaches_px[1]) + 1)
    at_2KT = (points_K2[:, :, None] + across_K2[:, :, None] * offsets_T).transpose(1, 0, 2)[::-1]
    profile_KT = ndimage.map_coordinates(pixels_HW, at_2KT, np.float32, order=1, mode="nearest")
    chunks = np.array_split(profile_KT, max(1, len(profile_KT) // CHUNK))
    profile_CT = np.array([chunk.mean(axis=0) for chunk in chunks])
    is_inner_T = np.abs(offsets_T) <= reaches_px[0]
    side_C = np.median(profile_CT[:, ~is_inner_T], axis=1)
    line_CT = ndimage.uniform_filter1d(profile_CT, max(1, round(width_px)), axis=1)
    return float(np.median(1 - line_CT[:, is_inner_T].min(axis=1) / np.maximum(side_C, 1.0)))
