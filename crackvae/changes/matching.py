"""Findings of two visits matched along their traces: what is new, has grown, is static, or is gone.

Shape letters: K points of a trace as (x, y) [px]. All lengths are in pixels of the later photograph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from crackvae.images.registration import Registration, scale_at, transformed

# Two traces of one crack lie within this distance of each other on perfectly registered photographs [px]: a trace is
# the middle line of a mask whose edges move by about a pixel, and bends where branches meet.
TRACE_PX = 4.0

# Share of the shorter of two traces that must lie along the other one.
MIN_ALONG = 0.5

# A difference counts from this many standard uncertainties on: 1 of 200 static findings exceeds it in one direction.
CERTAIN = 2.58

# Share of a trace that both photographs must show for a claim that it is new or gone.
MIN_SEEN = 0.8

# Standard uncertainty of where a trace ends, at each end [px]: a crack fades out.
END_PX = 3.0

NAN = float("nan")


@dataclass(frozen=True)
class Trace:
    """A finding as it is matched.

    Attributes:
        finding: its id.
        points_K2: the trace, (x, y) [px]; without gaps.
        widths_K: width at each point [px]; NaN where it could not be measured.
        length_px, length_sigma_px: length and its standard uncertainty.
        width_px, width_sigma_px: mean width and its standard uncertainty.
    """

    finding: str
    points_K2: np.ndarray
    widths_K: np.ndarray
    length_px: float
    length_sigma_px: float
    width_px: float
    width_sigma_px: float


@dataclass(frozen=True)
class Change:
    """What became of one finding, and its size in the place that both photographs show [px of the later one].

    Attributes:
        status: new | grown | static | gone | not seen.
        after, before: ids of the finding at both visits; "" where there is none.
        sizes: length and mean width at the later, then at the earlier visit; NaN where there is no finding.
        length_px, width_px: differences, later minus earlier, with their standard uncertainty; NaN unless both visits
            have the finding.
    """

    status: str
    after: str
    before: str
    sizes: tuple[float, float, float, float] = (NAN, NAN, NAN, NAN)
    length_px: float = NAN
    length_sigma_px: float = NAN
    width_px: float = NAN
    width_sigma_px: float = NAN
    reason: str = ""


def moved(trace: Trace, matrix_33: np.ndarray) -> Trace:
    """A trace of the earlier photograph in pixels of the later one."""
    scale_K = scale_at(matrix_33, trace.points_K2)
    scale = float(scale_K.mean())
    return replace(
        trace,
        points_K2=transformed(matrix_33, trace.points_K2),
        widths_K=trace.widths_K * scale_K,
        length_px=trace.length_px * scale,
        length_sigma_px=trace.length_sigma_px * scale,
        width_px=trace.width_px * scale,
        width_sigma_px=trace.width_sigma_px * scale,
    )


def reach_of(registration: Registration) -> float:
    """Largest distance of two traces of one crack [px]."""
    return TRACE_PX + 3 * registration.residual_px


def match(
    before: Sequence[Trace],
    after: Sequence[Trace],
    registration: Registration,
    shown_before_HW: np.ndarray,
    shown_after_HW: np.ndarray,
) -> list[Change]:
    """Compare the findings of one registered pair: one Change for each later finding, and for each that is gone.

    Args:
        before, after: the findings of both photographs, each in pixels of its own.
        registration: of the pair, which must be matched.
        shown_before_HW, shown_after_HW: bool, in pixels of their own photographs: where a crack would be seen.
    """
    assert registration.is_matched
    matrix_33, back_33 = registration.matrix_33, np.linalg.inv(registration.matrix_33)
    earlier = [moved(trace, matrix_33) for trace in before]
    reach_px = reach_of(registration)
    seen_before = [_shown(shown_before_HW, transformed(back_33, one.points_K2)) for one in after]
    seen_after = [_shown(shown_after_HW, one.points_K2) for one in earlier]
    changes = []
    for earlier_ids, later_ids in _components(earlier, after, reach_px):
        if not earlier_ids:
            changes += [_alone(after[k], seen_before[k], is_later=True) for k in later_ids]
        elif not later_ids:
            changes += [_alone(earlier[k], seen_after[k], is_later=False) for k in earlier_ids]
        else:
            old = [_cut(earlier[k], seen_after[k]) for k in earlier_ids]
            new = [_cut(after[k], seen_before[k]) for k in later_ids]
            changes += _compared(old, new, reach_px, registration.residual_px)
    return changes


def _shown(shown_HW: np.ndarray, points_K2: np.ndarray) -> np.ndarray:
    """Which points lie where a crack would be seen, bool (K,)."""
    height, width = shown_HW.shape
    xs, ys = np.round(points_K2).astype(int).T
    is_inside_K = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return np.asarray(is_inside_K & shown_HW[ys.clip(0, height - 1), xs.clip(0, width - 1)])


def _components(earlier: Sequence[Trace], later: Sequence[Trace], reach_px: float) -> list[tuple[list[int], list[int]]]:
    """Groups of earlier and later findings that are the same crack, which one visit may show in several pieces."""
    n = len(earlier)
    links = [
        (i, n + j)
        for i, j in np.argwhere(_meet(earlier, later, reach_px)).tolist()
        if max(_near(earlier[i], later[j], reach_px).mean(), _near(later[j], earlier[i], reach_px).mean()) >= MIN_ALONG
    ]
    total = n + len(later)
    rows, columns = np.array(links, int).reshape(-1, 2).T
    count, labels = connected_components(csr_array((np.ones(len(links)), (rows, columns)), (total, total)), False)
    members = [np.flatnonzero(labels == one).tolist() for one in range(count)]
    return [([k for k in group if k < n], [k - n for k in group if k >= n]) for group in members]


def _meet(earlier: Sequence[Trace], later: Sequence[Trace], reach_px: float) -> np.ndarray:
    """Whether the boxes around two traces come within reach of each other, bool (N, M): a cheap first look."""
    if not earlier or not later:
        return np.zeros((len(earlier), len(later)), bool)
    low_N2, high_N2, low_M2, high_M2 = (
        np.array([end(one.points_K2, axis=0) for one in side]) for side in (earlier, later) for end in (np.min, np.max)
    )
    return np.asarray(((low_N2[:, None] - reach_px <= high_M2) & (low_M2 - reach_px <= high_N2[:, None])).all(axis=2))


def _near(trace: Trace, other: Trace, reach_px: float) -> np.ndarray:
    """Which points of a trace have a point of another one within reach, bool (K,)."""
    apart_K, _ = KDTree(other.points_K2).query(trace.points_K2, distance_upper_bound=reach_px)
    return np.isfinite(apart_K)


def _alone(trace: Trace, seen_K: np.ndarray, *, is_later: bool) -> Change:
    status, reason = ("new" if is_later else "gone"), ""
    if seen_K.mean() < MIN_SEEN:
        other = "earlier" if is_later else "later"
        status, reason = "not seen", f"the {other} photograph shows {100 * seen_K.mean():.0f} % of its place"
    size = trace.length_px, trace.width_px
    if is_later:
        return Change(status, trace.finding, "", (*size, NAN, NAN), reason=reason)
    return Change(status, "", trace.finding, (NAN, NAN, *size), reason=reason)


def _cut(trace: Trace, seen_K: np.ndarray) -> Trace:
    """The part of a trace that the other photograph shows as well; lengths in proportion to its points."""
    if seen_K.all() or not seen_K.any():
        return trace
    return replace(
        trace,
        points_K2=trace.points_K2[seen_K],
        widths_K=trace.widths_K[seen_K],
        length_px=trace.length_px * float(seen_K.mean()),
    )


def _compared(old: list[Trace], new: list[Trace], reach_px: float, residual_px: float) -> list[Change]:
    """One crack at both visits: its growth is that of all its pieces together."""
    ends_px = 2 * np.hypot(END_PX, residual_px)
    sizes = (*_size(new), *_size(old))
    length_px = sizes[0] - sizes[2]
    length_sigma_px = float(np.sqrt(sum(one.length_sigma_px**2 for one in (*old, *new)) + ends_px**2))
    added_px = sum(one.length_px * float((~_near_any(one, old, reach_px)).mean()) for one in new)
    width_px, width_sigma_px = _widening(old, new, reach_px)
    # Pieces that join make a crack longer without a new place: growth in length needs a trace where there was none.
    longer = min(length_px, added_px + reach_px) > CERTAIN * length_sigma_px
    status = "grown" if longer or width_px > CERTAIN * width_sigma_px else "static"
    return [
        Change(
            status,
            one.finding,
            max(old, key=lambda other: _near(one, other, reach_px).sum()).finding,
            sizes,
            length_px,
            length_sigma_px,
            width_px,
            width_sigma_px,
        )
        for one in new
    ]


def _size(pieces: Sequence[Trace]) -> tuple[float, float]:
    """Total length of the pieces of a crack, and their mean width."""
    length_px = sum(one.length_px for one in pieces)
    return length_px, sum(one.width_px * one.length_px for one in pieces) / length_px if length_px else NAN


def _near_any(trace: Trace, others: Sequence[Trace], reach_px: float) -> np.ndarray:
    return np.asarray(np.any([_near(trace, other, reach_px) for other in others], axis=0))


def _widening(old: list[Trace], new: list[Trace], reach_px: float) -> tuple[float, float]:
    """Median difference of the widths at the same places and its standard uncertainty [px]; NaN without such places."""
    points_M2 = np.concatenate([one.points_K2 for one in old])
    widths_M = np.concatenate([one.widths_K for one in old])
    places_K2 = np.concatenate([one.points_K2 for one in new])
    widths_K = np.concatenate([one.widths_K for one in new])
    apart_K, nearest_K = KDTree(points_M2).query(places_K2)
    difference_K = (widths_K - widths_M[nearest_K])[apart_K <= reach_px]
    difference_K = difference_K[np.isfinite(difference_K)]
    # The uncertainty of a mean width is that of its blur and its edges, which all points share.
    old_px, new_px = (float(np.mean([one.width_sigma_px for one in side])) for side in (old, new))
    sigma_px = float(np.hypot(old_px, new_px))
    if not difference_K.size or not np.isfinite(sigma_px):
        return float("nan"), float("nan")
    return float(np.median(difference_K)), sigma_px
