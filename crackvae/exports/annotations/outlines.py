"""Outlines of cracks from their traces: polygons for programs that label images.

Shape letters: N points of a branch, each x, y.
"""

from typing import Any

import numpy as np

from crackvae.storage.tables.traces import branches_of, trace_of

# Narrower cracks are drawn this wide [px]: a polygon without an area is refused by most programs.
MIN_WIDTH_PX = 1.0

# Points of a trace that lie closer than this to the line between their neighbours are left out [px].
TOLERANCE_PX = 0.5


def outlines(row: dict[str, Any]) -> list[np.ndarray]:
    """Polygons around the branches of a finding, float (N, 2) each, in continuous pixel coordinates.

    The upper left corner of the image is 0, 0 and the centre of its first pixel 0.5, 0.5. Of a crack that leaves a
    window of a TIFF, the window shows a part.
    """
    points_N2 = trace_of(row) + 0.5
    widths_N = np.asarray(row["widths_px"], float)
    mean = row["width_mean_px"]
    widths_N = np.where(np.isfinite(widths_N), widths_N, mean if mean == mean else MIN_WIDTH_PX)
    limits = np.array([row["width"], row["height"]], float)
    is_outside_N2 = (points_N2 < 0) | (points_N2 > limits)
    points_N2[is_outside_N2.any(axis=1)] = np.nan
    polygons = [
        np.clip(_outline(points_N2[part], np.maximum(widths_N[part], MIN_WIDTH_PX)), 0, limits)
        for part in branches_of(points_N2)
    ]
    return [polygon for polygon in polygons if area_of(polygon) > 0]


def area_of(polygon_N2: np.ndarray) -> float:
    """Area of a polygon [px²]."""
    x, y = polygon_N2.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _outline(points_N2: np.ndarray, widths_N: np.ndarray) -> np.ndarray:
    """Both sides of a line of a varying width, half a width longer at each end."""
    chosen = simplified(points_N2, TOLERANCE_PX)
    points, halves = points_N2[chosen], widths_N[chosen, None] / 2
    if len(points) == 1:
        return np.asarray(points + halves * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]))
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    points = points.copy()
    points[0] -= along[0] * halves[0]
    points[-1] += along[-1] * halves[-1]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * halves
    return np.concatenate([points + across, (points - across)[::-1]])


def simplified(points_N2: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices of the points of a line that stays within `tolerance` of all points (Douglas & Peucker 1973)."""
    kept = np.zeros(len(points_N2), bool)
    kept[[0, -1]] = True
    waiting = [(0, len(points_N2) - 1)]
    while waiting:
        first, last = waiting.pop()
        chord = points_N2[last] - points_N2[first]
        between = points_N2[first + 1 : last] - points_N2[first]
        if not len(between):
            continue
        share = np.clip(between @ chord / max(float(chord @ chord), 1e-9), 0, 1)
        distance = np.linalg.norm(between - share[:, None] * chord, axis=1)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            kept[middle] = True
            waiting += [(first, middle), (middle, last)]
    return np.flatnonzero(kept)
