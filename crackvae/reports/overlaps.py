"""Findings that several photographs show: one crack in overlapping photographs of one wall is one finding.

Shape letters: F findings; N points of a trace, as x and y [px].
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from crackvae.images.metadata.places import metres_from_first
from crackvae.images.pictures import pixels_if_readable
from crackvae.images.registration import one_thread, register, transformed
from crackvae.storage.tables.traces import trace_of

# Photographs that overlap are taken within a few metres of each other, and a satellite receiver errs by as much [m].
NEAR_M = 6.0

# Two traces of one crack lie within this distance of each other on registered photographs [px]; the wall is not quite
# plane, and the two cameras were at different places.
TRACE_PX = 8.0

# Share of the part of a trace that both photographs show which must lie along the other trace, and its shortest length.
MIN_ALONG, MIN_COMMON_PX = 0.5, 30

# Photographs that are kept decoded: a place is compared with those around it.
KEPT = 8


def view_of(findings: pa.Table) -> list[str]:
    """For each finding the id of the longest one that shows the same crack in another photograph; "" for none.

    Photographs of one group are compared where their places are near each other: about two seconds a pair.

    Args:
        findings: FINDINGS_SCHEMA.
    """
    rows = findings.to_pylist()
    pixels_of = functools.lru_cache(maxsize=KEPT)(pixels_if_readable)
    pairs = [pair for images in _near(rows) for pair in _same(rows, images, pixels_of)]
    left_K, right_K = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (left_K, right_K)), (len(rows), len(rows)))
    _, crack_F = connected_components(graph, directed=False)
    longest: dict[int, int] = {}
    for at in sorted(range(len(rows)), key=lambda at: (-rows[at]["length_px"], rows[at]["finding"])):
        longest.setdefault(int(crack_F[at]), at)
    main = [longest[int(crack)] for crack in crack_F]
    return ["" if other == at else rows[other]["finding"] for at, other in enumerate(main)]


def _near(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], list[int]]]:
    """Positions of the findings of two photographs of one group that were taken near each other."""
    placed = sorted((row["group"], row["image"], at) for at, row in enumerate(rows) if row["lat"] == row["lat"])
    for _, of_group in itertools.groupby(placed, key=lambda one: one[0]):
        by_image = [[at for *_, at in one] for _, one in itertools.groupby(of_group, key=lambda one: one[1])]
        lat_N, lon_N = np.array([(rows[members[0]]["lat"], rows[members[0]]["lon"]) for members in by_image]).T
        tree = KDTree(np.stack(metres_from_first(lat_N, lon_N), axis=1))
        for left, right in sorted(tree.query_pairs(NEAR_M)):
            yield by_image[left], by_image[right]


def _same(rows: Sequence[dict[str, Any]], images: tuple[list[int], list[int]], pixels_of: Any) -> list[tuple[int, int]]:
    """Positions of the findings of two photographs that are one crack."""
    pixels = [pixels_of(rows[members[0]]["image"]) for members in images]
    if any(one is None for one in pixels):
        return []
    with one_thread():
        found = register(*pixels)
    if not found.is_matched:
        return []
    back_33 = np.linalg.inv(found.matrix_33)
    traces = {at: _points(rows[at]) for members in images for at in members}
    return [
        (left, right)
        for left, right in itertools.product(*images)
        if max(
            _along(transformed(found.matrix_33, traces[left]), traces[right], pixels[1].shape),
            _along(transformed(back_33, traces[right]), traces[left], pixels[0].shape),
        )
        >= MIN_ALONG
    ]


def _points(row: dict[str, Any]) -> np.ndarray:
    points_N2 = trace_of(row)
    return np.asarray(points_N2[~np.isnan(points_N2[:, 0])])


def _along(points_N2: np.ndarray, other_N2: np.ndarray, shape: tuple[int, ...]) -> float:
    """Share of a trace, as far as a photograph of this shape shows it, that lies along another trace on it."""
    seen_N2 = points_N2[((points_N2 >= 0) & (points_N2 < shape[1::-1])).all(axis=1)]
    if min(len(seen_N2), len(other_N2)) < MIN_COMMON_PX:
        return 0.0
    return float(np.mean(KDTree(other_N2).query(seen_N2)[0] <= TRACE_PX))
