"""Findings that several photographs show: one crack in overlapping photographs of one wall is one finding.

Shape letters: F findings; N points of a trace, as x and y [px].
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from crackvae.images.metadata.places import metres_from_first
from crackvae.images.pictures import pixels_if_readable
from crackvae.images.registration import first_transform, one_thread, refined, transformed
from crackvae.images.registration.features import Features, features_of
from crackvae.storage.tables.traces import trace_of

# Photographs that overlap are taken within a few metres of each other, and a satellite receiver errs by as much [m].
NEAR_M = 6.0

# Long side to which photographs are reduced for their features [px], and how many of these are compared: taken minutes
# apart, overlapping photographs agree in hundreds of them.
REDUCED_PX, N_FEATURES = 800, 2000

# Two traces of one crack lie within this distance of each other on registered photographs [px]; the wall is not quite
# plane, and the two cameras were at different places.
TRACE_PX = 8.0

# Share of the part of a trace that both photographs show which must lie along the other trace, and its shortest length.
MIN_ALONG, MIN_COMMON_PX = 0.5, 30

# Photographs whose pixels, and whose features (1 MB each), are kept: a photograph is compared with those around it.
KEPT_PIXELS, KEPT_FEATURES = 8, 64

Members = tuple[list[int], list[int]]


class Views(NamedTuple):
    """Which findings show the same crack.

    Attributes:
        view_of: for each finding the id of the longest one that shows its crack in another photograph; "" for none.
        n_compared: pairs of photographs that were compared.
        n_near: those that were taken near each other.
    """

    view_of: list[str]
    n_compared: int
    n_near: int


def views_of(
    findings: pa.Table,
    most_pairs: int | None = None,
    each: Callable[..., Iterable[list[tuple[int, int]]]] = map,
) -> Views:
    """Compare photographs of one group that were taken near each other: half a second each, and 0.1 s a pair.

    Args:
        findings: FINDINGS_SCHEMA.
        most_pairs: compare no more pairs than these, the nearest.
        each: as map(); that of an executor of threads compares several pairs at once.
    """
    rows = findings.to_pylist()
    near = sorted(_near(rows), key=lambda pair: pair[0])
    chosen = sorted(members for _, members in near[:most_pairs])
    pixels_of = functools.lru_cache(maxsize=KEPT_PIXELS)(pixels_if_readable)
    features = functools.lru_cache(maxsize=KEPT_FEATURES)(lambda image: _features(pixels_of(image)))
    with one_thread():
        pairs = list(itertools.chain(*each(lambda members: _same(rows, members, features, pixels_of), chosen)))
    left_K, right_K = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (left_K, right_K)), (len(rows), len(rows)))
    _, crack_F = connected_components(graph, directed=False)
    longest: dict[int, int] = {}
    for at in sorted(range(len(rows)), key=lambda at: (-rows[at]["length_px"], rows[at]["finding"])):
        longest.setdefault(int(crack_F[at]), at)
    main = [longest[int(crack)] for crack in crack_F]
    view_of = ["" if other == at else rows[other]["finding"] for at, other in enumerate(main)]
    return Views(view_of, len(chosen), len(near))


def _near(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[float, Members]]:
    """Distance [m] of two photographs of one group that were taken near each other, and the positions of their
    findings.
    """
    placed = sorted((row["group"], row["image"], at) for at, row in enumerate(rows) if row["lat"] == row["lat"])
    for _, of_group in itertools.groupby(placed, key=lambda one: one[0]):
        by_image = [[at for *_, at in one] for _, one in itertools.groupby(of_group, key=lambda one: one[1])]
        lat_N, lon_N = np.array([(rows[members[0]]["lat"], rows[members[0]]["lon"]) for members in by_image]).T
        places_N2 = np.stack(metres_from_first(lat_N, lon_N), axis=1)
        for left, right in KDTree(places_N2).query_pairs(NEAR_M):
            yield float(np.hypot(*(places_N2[left] - places_N2[right]))), (by_image[left], by_image[right])


def _features(pixels_HW: np.ndarray | None) -> Features | None:
    return None if pixels_HW is None else features_of(pixels_HW, REDUCED_PX, N_FEATURES)


def _same(
    rows: Sequence[dict[str, Any]],
    members: Members,
    features: Callable[[str], Features | None],
    pixels_of: Callable[[str], np.ndarray | None],
) -> list[tuple[int, int]]:
    """Positions of the findings of two photographs that are one crack."""
    images = [rows[positions[0]]["image"] for positions in members]
    before, after = map(features, images)
    if before is None or after is None:
        return []
    first_33, _ = first_transform(before, after)
    if first_33 is None:
        return []
    before_HW, after_HW = map(pixels_of, images)
    if before_HW is None or after_HW is None:
        return []
    found = refined(before_HW, after_HW, first_33, after.unit_px)
    if not found.is_matched:
        return []
    back_33 = np.linalg.inv(found.matrix_33)
    traces = {at: _points(rows[at]) for positions in members for at in positions}
    return [
        (left, right)
        for left, right in itertools.product(*members)
        if max(
            _along(transformed(found.matrix_33, traces[left]), traces[right], after.shape),
            _along(transformed(back_33, traces[right]), traces[left], before.shape),
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
