"""Skeleton of a mask as chains: lines that run through their forks and over small gaps as straight as they can.

Only the pixels of the skeleton are looked at, so that a photograph costs what its cracks cost.

Shape letters: H, W rows and columns of an image; N pixels of a skeleton; E edges between them; K points of a chain;
2 = (y, x) [px].
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components, depth_first_order
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

# Length of the end of a segment whose direction decides which other one continues it [px]; the last pixels before a
# fork are left out, because the skeleton bends towards the other line there.
DIRECTION_PX, BENT_PX = 24, 8

# Two segments that leave a fork in line over this length [px], with at most this turn [degrees], are one line: a joint.
IN_LINE_PX, IN_LINE_DEG = 96, 4.0

# Largest turn where one segment continues another, at a fork, over a tiny gap and over the longest one [degrees]; of
# several, the smallest turn.
MAX_TURN_DEG, MAX_TURN_OVER_GAP_DEG = 60.0, (90.0, 40.0)

# Longest gap that is bridged [px], and at most as a share of both segments: a crack fades for a stretch, and two cracks
# in one line are rarely this close, but spots of texture are.
MAX_GAP_PX, MAX_GAP_SHARE = 40.0, 0.5

# A line that ends this near another one [px] is a branch of it.
TOUCH_PX = 15.0

# Longest stretch that two crossing lines share [px], their mean turn at its ends [degrees], and how much of each must
# go on beyond either end, as a share of it: less is a spur of a rough edge, and the stretch is no second line. A guess.
MAX_SHARED_PX, MAX_SHARED_TURN_DEG, MIN_APART_SHARE = 100.0, 45.0, 0.5

# Branches shorter than this many widths of the mask, or than MIN_SPUR_PX, come from a rough edge.
SPUR_WIDTHS, MIN_SPUR_PX = 1.5, 8


@dataclass(frozen=True)
class Chain:
    """One line of a skeleton.

    Attributes:
        points_K2: pixels in their order, float.
        forks: which of its points each fork is near that it passes or ends at, by number.
        free_ends: whether its first and its last point end at no fork.
    """

    points_K2: np.ndarray
    forks: dict[int, int]
    free_ends: tuple[bool, bool]

    def part(self, first: int, last: int) -> "Chain":
        """Its points from the first up to the last, with their forks; the ends that are cut are not free."""
        forks = {fork: at - first for fork, at in self.forks.items() if first <= at <= last}
        free_ends = self.free_ends[0] and first == 0, self.free_ends[1] and last == len(self.points_K2) - 1
        return Chain(self.points_K2[first : last + 1], forks, free_ends)


@dataclass(frozen=True)
class _Segment:
    points_K2: np.ndarray
    forks: tuple[int, int]  # at its first and its last point; 0 where there is none
    passed: dict[int, int] = field(default_factory=dict)  # between them: the points where they are

    def places(self) -> dict[int, int]:
        """The point of each fork that it passes or ends at, by number."""
        first, last = self.forks
        found = self.passed | {last: len(self.points_K2) - 1, first: 0}
        return {fork: at for fork, at in found.items() if fork}


# A segment by number, and 0 for its first or 1 for its last point.
_End = tuple[int, int]


def chains(mask_HW: np.ndarray) -> list[Chain]:
    """The chains of a mask, bool (H, W), in no particular order."""
    (box, *_) = [*ndimage.find_objects(mask_HW.view(np.uint8)), None]
    if not box:
        return []
    at_N2 = np.argwhere(skeletonize(mask_HW[box])) + [side.start for side in box]
    mean_width_px = mask_HW[box].sum() / len(at_N2)
    shortest = max(MIN_SPUR_PX, SPUR_WIDTHS * mean_width_px)
    segments = _without_bridges(_without_spurs(_segments(at_N2, _edges(at_N2)), shortest), shortest)
    segments, links = _shared(_without_lone_forks(segments))
    joined = _joined(segments, _links(segments, links))
    return _touching([_chain(one) for one in joined if len(one.points_K2) >= shortest])


def _chain(segment: _Segment) -> Chain:
    first, last = segment.forks
    return Chain(segment.points_K2, segment.places(), (first == 0, last == 0))


def _without_spurs(segments: list[_Segment], shortest: float) -> list[_Segment]:
    """Without short segments that end at one fork; two segments that are left of a fork become one."""
    kept = [one for one in segments if len(one.points_K2) >= shortest or all(one.forks) or not any(one.forks)]
    links: dict[_End, _End] = {}
    for fork, ends in _ends_at(kept).items():
        if fork and len(ends) == 2 and ends[0][0] != ends[1][0]:
            links |= {ends[0]: ends[1], ends[1]: ends[0]}
    return [replace(one, passed={}) for one in _joined(kept, links)]


def _ends_at(segments: list[_Segment]) -> dict[int, list[_End]]:
    """The ends of segments at each fork; 0 has the free ones."""
    ends_at: defaultdict[int, list[_End]] = defaultdict(list)
    for number, one in enumerate(segments):
        for end in (0, 1):
            ends_at[one.forks[end]].append((number, end))
    return ends_at


def _shared(segments: list[_Segment]) -> tuple[list[_Segment], dict[_End, _End]]:
    """The segments, with a copy of each that two lines share, and which ends of both lines continue at it.

    Where two lines run into each other at a small angle, they are one for a stretch and part again.
    """
    ends_at, found = _ends_at(segments), list(segments)
    links: dict[_End, _End] = {}
    for number, one in enumerate(segments):
        sides = [[at for at in ends_at[fork] if at[0] != number] for fork in one.forks]
        if not all(one.forks) or len(one.points_K2) > MAX_SHARED_PX or [len(side) for side in sides] != [2, 2]:
            continue
        if len({at[0] for side in sides for at in side}) < 4 or any(at in links for side in sides for at in side):
            continue
        before, after = ([_outward(segments[k].points_K2, end) for k, end in side] for side in sides)
        along = [_outward(one.points_K2, end) for end in (0, 1)]
        turns = [_turn_deg(out, along[end]) for end, side in enumerate((before, after)) for out in side]
        shortest = min(len(segments[k].points_K2) for side in sides for k, _ in side)
        if sum(turns) > 4 * MAX_SHARED_TURN_DEG or shortest < MIN_APART_SHARE * len(one.points_K2):
            continue
        straight, crossed = (_turn_deg(before[0], after[k]) + _turn_deg(before[1], after[1 - k]) for k in (0, 1))
        for copy, first in enumerate(sides[0]):
            last = sides[1][copy if straight <= crossed else 1 - copy]
            own = number if copy == 0 else len(found)
            links |= {first: (own, 0), (own, 0): first, last: (own, 1), (own, 1): last}
        found.append(one)
    return found, links


def _touching(found: list[Chain]) -> list[Chain]:
    """The chains, with a common fork for each free end and the other lines that it nearly reaches."""
    points = [chain.points_K2 for chain in found]
    if len(points) < 2:
        return found
    tree, lengths = KDTree(np.concatenate(points)), [len(one) for one in points]
    number_N, at_N = np.repeat(np.arange(len(points)), lengths), np.concatenate([np.arange(n) for n in lengths])
    forks = [dict(chain.forks) for chain in found]
    for number, chain in enumerate(found):
        for end, is_free in zip((0, lengths[number] - 1), chain.free_ends, strict=True):
            near = tree.query_ball_point(chain.points_K2[end], TOUCH_PX) if is_free else []
            for other in set(number_N[near]) - {number}:
                fork = -1 - 2 * number - (end > 0)  # real forks count from 1
                forks[number][fork] = end
                forks[other][fork] = int(np.median(at_N[near][number_N[near] == other]))
    return [replace(chain, forks=own) for chain, own in zip(found, forks, strict=True)]


def _without_bridges(segments: list[_Segment], shortest: float) -> list[_Segment]:
    """Two forks that a short segment connects become one: lines that cross share a few pixels of their skeletons."""
    is_bridge = [all(one.forks) and len(one.points_K2) < shortest for one in segments]
    n = 1 + max((fork for one in segments for fork in one.forks), default=0)
    bridges = [one.forks for one, short in zip(segments, is_bridge, strict=True) if short]
    _, merged = connected_components(_graph(np.array(bridges, int).reshape(-1, 2), n), directed=False)
    number = np.r_[0, merged[1:] + 1]  # 0 stays "no fork"
    rest = [one for one, short in zip(segments, is_bridge, strict=True) if not short]
    return [replace(one, forks=(int(number[one.forks[0]]), int(number[one.forks[1]]))) for one in rest]


def _without_lone_forks(segments: list[_Segment]) -> list[_Segment]:
    """A fork that only one segment is left of becomes a free end."""
    lone = {fork for fork, ends in _ends_at(segments).items() if len(ends) == 1}

    def left(fork: int) -> int:
        return 0 if fork in lone else fork

    return [replace(one, forks=(left(one.forks[0]), left(one.forks[1]))) for one in segments]


def _edges(at_N2: np.ndarray) -> np.ndarray:
    """Pairs of neighbouring pixels, int (E, 2); a diagonal that two straight steps bypass is no edge."""
    pitch = int(at_N2[:, 1].max()) + 3
    key_N = (at_N2[:, 0] + 1) * pitch + at_N2[:, 1] + 1  # ascending, as argwhere() goes row by row

    def number_of(key: np.ndarray) -> np.ndarray:
        place = np.searchsorted(key_N, key).clip(max=len(key_N) - 1)
        return np.where(key_N[place] == key, place, -1)

    found = []
    for step in (1, pitch):
        other = number_of(key_N + step)
        found.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]], axis=1))
    for down, aside in ((pitch, 1), (pitch, -1)):
        other = number_of(key_N + down + aside)
        is_edge = (other >= 0) & (number_of(key_N + down) < 0) & (number_of(key_N + aside) < 0)
        found.append(np.stack([np.flatnonzero(is_edge), other[is_edge]], axis=1))
    return np.concatenate(found)


def _graph(edges_E2: np.ndarray, n: int) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(edges_E2), np.int8), (edges_E2[:, 0], edges_E2[:, 1])), shape=(n, n))


def _segments(at_N2: np.ndarray, edges_E2: np.ndarray) -> list[_Segment]:
    """The parts of a skeleton between its forks; a ring is cut open at one of its pixels."""
    n = len(at_N2)
    is_fork_N = np.bincount(edges_E2.reshape(-1), minlength=n) >= 3
    n_forks_E = is_fork_N[edges_E2].sum(axis=1)
    _, fork_N = connected_components(_graph(edges_E2[n_forks_E == 2], n), directed=False)
    forks_at: defaultdict[int, list[int]] = defaultdict(list)  # numbers of the forks beside a pixel that is none
    for one, other in edges_E2[n_forks_E == 1].tolist():
        pixel, fork = (other, one) if is_fork_N[one] else (one, other)
        forks_at[pixel].append(int(fork_N[fork]) + 1)
    lines_E2 = edges_E2[n_forks_E == 0]
    graph = _graph(lines_E2, n)
    degree_N = np.bincount(lines_E2.reshape(-1), minlength=n)
    _, line_N = connected_components(graph, directed=False)
    order_N = np.lexsort((degree_N, line_N))  # of each line, one of its ends first
    first_N = order_N[np.r_[True, np.diff(line_N[order_N]) > 0]]
    found = []
    for start in first_N[~is_fork_N[first_N]]:
        path = depth_first_order(graph, start, directed=False, return_predecessors=False)
        first, last = [*forks_at[path[0]], 0, 0], [*forks_at[path[-1]], 0]
        second = first[1] if len(path) == 1 else last[0]  # one pixel may lie between two forks
        found.append(_Segment(at_N2[path].astype(float), (first[0], second)))
    return found


def _outward(points_K2: np.ndarray, end: int, length_px: int = DIRECTION_PX) -> np.ndarray:
    """Unit direction (y, x) in which a segment leaves at an end; 0 for a single pixel."""
    along = points_K2 if end else points_K2[::-1]
    last = max(len(along) - 1 - BENT_PX, min(len(along) - 1, BENT_PX))
    step = along[last] - along[max(0, last - length_px)]
    return np.asarray(step / max(1e-9, float(np.hypot(*step))))


def _turn_deg(one_2: np.ndarray, other_2: np.ndarray) -> float:
    """Turn from a segment that leaves in one direction into another that leaves in the other [degrees]."""
    return float(np.degrees(np.arccos(np.clip(-one_2 @ other_2, -1, 1))))


def _links(segments: list[_Segment], known: dict[_End, _End]) -> dict[_End, _End]:
    """Which end continues at which other one, both ways, beside the known; those in line, then the smallest turns."""
    ends_at = _ends_at(segments)
    outward = {at: _outward(segments[at[0]].points_K2, at[1]) for ends in ends_at.values() for at in ends}
    free = ends_at.pop(0, [])
    pairs = [
        (turn - 180 * _in_line(segments, one, other), one, other)
        for group in ends_at.values()
        for i, one in enumerate(group)
        for other in group[i + 1 :]
        if (turn := _turn_deg(outward[one], outward[other])) <= (180 if len(group) == 2 else MAX_TURN_DEG)
    ]
    pairs += _over_gaps(free, segments, outward)
    links = dict(known)
    for _, one, other in sorted(pairs):
        if one not in links and other not in links:
            links[one], links[other] = other, one
    return links


def _in_line(segments: list[_Segment], one: _End, other: _End) -> bool:
    points = [segments[k].points_K2 for k, _ in (one, other)]
    if min(len(points[0]), len(points[1])) < IN_LINE_PX:
        return False
    far = [_outward(part, end, IN_LINE_PX) for part, (_, end) in zip(points, (one, other), strict=True)]
    return _turn_deg(*far) <= IN_LINE_DEG


def _over_gaps(
    free: list[_End], segments: list[_Segment], outward: dict[_End, np.ndarray]
) -> list[tuple[float, _End, _End]]:
    """Free ends that face each other over a small gap, each pair with its turn plus its gap."""
    places_N2 = np.array([segments[k].points_K2[-end] for k, end in free]).reshape(-1, 2)
    pairs = []
    for i, j in KDTree(places_N2).query_pairs(MAX_GAP_PX) if len(free) else ():
        one, other = free[i], free[j]
        gap_px = float(np.hypot(*(places_N2[j] - places_N2[i])))
        if one[0] == other[0] or gap_px > MAX_GAP_SHARE * min(len(segments[k].points_K2) for k in (one[0], other[0])):
            continue
        across = (places_N2[j] - places_N2[i]) / max(1.0, gap_px)
        turn = max(_turn_deg(outward[one], -across), _turn_deg(outward[other], across))
        if turn <= np.interp(gap_px, (0, MAX_GAP_PX), MAX_TURN_OVER_GAP_DEG):
            pairs.append((turn + gap_px, one, other))
    return pairs


def _joined(segments: list[_Segment], links: dict[_End, _End]) -> list[_Segment]:
    """What linked segments form; a ring is cut open at one of its links."""
    seen: set[int] = set()
    starts = [(k, end) for k in range(len(segments)) for end in (0, 1) if (k, end) not in links]
    starts += [(k, 0) for k in range(len(segments))]  # rings
    found = []
    for start in starts:
        if start[0] in seen:
            continue
        parts, passed, n, at = [], dict[int, int](), 0, start
        while at[0] not in seen:
            number, end = at
            seen.add(number)
            one = segments[number]
            parts.append(one.points_K2[:: -1 if end else 1])
            last_point = len(one.points_K2) - 1
            passed |= {fork: n + (last_point - place if end else place) for fork, place in one.places().items()}
            n += last_point + 1
            last = (number, 1 - end)
            at = links.get(last, at)
        ends = segments[start[0]].forks[start[1]], segments[last[0]].forks[last[1]]
        found.append(_Segment(np.concatenate(parts), ends, passed))
    return found
