"""One crack across windows of a very large TIFF is one finding: traces that coincide where windows overlap are joined.

Each window is traced for itself, by whatever worker reads it, and the findings table holds what each has traced. The
rows are joined when they are read, so that the result depends neither on the order of windows nor on interrupted runs.

Shape letters: K points of a trace as x, y and width [px]; x and y count from the corner of the file.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.storage.names.excerpts import WINDOW_NAME, Window, excerpt_of
from crackvae.storage.tables.traces import branches_of, trace_of

# Two traces of one crack lie within this distance of each other, or within half its width [px]: at the border of a
# window the last tiles are others than those of its neighbour.
SAME_PX = 8.0

# Two findings are one where at least this much of them coincides [px]. Windows have 512 px in common, and the shortest
# finding has 64 px; a crack and a joint that cross have a few pixels in common.
COMMON_PX = 32

# What one window adds to the trace of another is left out below this length [px]: traces part a little at their ends.
MIN_ADDED_PX = 24


@dataclass(frozen=True)
class _Piece:
    """What one window has traced of a crack.

    Attributes:
        row: of the findings table.
        branches: float (K, 3) each, the main one first.
        points_K3: of all branches.
    """

    row: dict[str, Any]
    window: Window
    branches: list[np.ndarray]
    points_K3: np.ndarray

    @property
    def reach_px(self) -> float:
        width_px = self.row["width_mean_px"]
        return max(SAME_PX, width_px / 2) if math.isfinite(width_px) else SAME_PX


def joined(rows: pa.Table) -> pa.Table:
    """Findings in which those of several windows of one file that follow one crack are one row, in no order.

    The row is that of its longest piece, with the trace, the box, length, widths and score of the whole crack. x and y
    count from the corner of that piece's window, and may lie outside it.

    Args:
        rows: FINDINGS_SCHEMA, each of a row of the scores table that counts.
    """
    number_N = np.flatnonzero(pc.match_substring_regex(rows["image"], WINDOW_NAME).to_numpy())
    pieces = {int(number): _piece(row) for number, row in zip(number_N, rows.take(number_N).to_pylist(), strict=True)}
    pairs = list(_coinciding(pieces))
    if not pairs:
        return rows
    is_kept, whole = np.ones(rows.num_rows, bool), []
    for members in _connected(pairs):
        is_kept[members] = False
        whole.append(_whole([pieces[number] for number in members]))
    return pa.concat_tables([rows.filter(pa.array(is_kept)), pa.Table.from_pylist(whole, rows.schema)])


def _piece(row: dict[str, Any]) -> _Piece:
    window = excerpt_of(row["image"])
    assert isinstance(window, Window)
    trace_N3 = np.column_stack([trace_of(row) + np.array(window[1:3]), np.asarray(row["widths_px"], float)])
    branches = [trace_N3[one] for one in branches_of(trace_N3)]
    return _Piece(row, window, branches, np.concatenate(branches or [np.empty((0, 3))]))


def _coinciding(pieces: dict[int, _Piece]) -> Iterator[tuple[int, int]]:
    """Numbers of pieces of different windows that follow one crack."""
    of_file: dict[tuple[str, str], dict[Window, list[int]]] = {}
    for number, piece in pieces.items():
        of_file.setdefault((piece.row["model"], piece.window.file), {}).setdefault(piece.window, []).append(number)
    for of_window in of_file.values():
        for one, other in _overlapping(sorted(of_window, key=lambda window: (window.y, window.x))):
            for left, right in itertools.product(of_window[one], of_window[other]):
                if _is_same(pieces[left], pieces[right]):
                    yield left, right


def _overlapping(windows: list[Window]) -> Iterator[tuple[Window, Window]]:
    """Pairs of windows of a file, sorted by y, that have pixels in common."""
    for number, one in enumerate(windows):
        for other in windows[number + 1 :]:
            if other.y >= one.y + one.h:
                break
            if one.x < other.x + other.w and other.x < one.x + one.w:
                yield one, other


def _is_same(one: _Piece, other: _Piece) -> bool:
    """Whether two pieces coincide where both of their windows see them."""
    low_2 = np.maximum(one.window[1:3], other.window[1:3])
    high_2 = np.minimum(np.add(one.window[1:3], one.window[3:]), np.add(other.window[1:3], other.window[3:]))
    seen = [
        piece.points_K3[((piece.points_K3[:, :2] >= low_2) & (piece.points_K3[:, :2] < high_2)).all(axis=1)]
        for piece in (one, other)
    ]
    if one.window == other.window or min(map(len, seen)) < COMMON_PX:
        return False
    reach_px = max(one.reach_px, other.reach_px)
    return bool((_nearest(*seen)[0] <= reach_px).sum() >= COMMON_PX)


def _nearest(points_K3: np.ndarray, others_M3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance [px] and number of the nearest of other points, for each point."""
    from scipy.spatial import KDTree  # imported here: few tables have windows

    distance_K, number_K = KDTree(others_M3[:, :2]).query(points_K3[:, :2])
    return np.asarray(distance_K), np.asarray(number_K)


def _connected(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Groups of numbers that pairs connect, each ascending."""
    from scipy.sparse import coo_array  # imported here: few tables have windows
    from scipy.sparse.csgraph import connected_components

    number_N, at_M = np.unique(np.array(pairs, int).reshape(-1), return_inverse=True)
    left_K, right_K = at_M.reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (left_K, right_K)), (len(number_N), len(number_N)))
    count, group_N = connected_components(graph, directed=False)
    return [number_N[group_N == group].tolist() for group in range(count)]


def _whole(pieces: list[_Piece]) -> dict[str, Any]:
    """The row of one crack from its pieces, which are connected."""
    main, *waiting = sorted(
        pieces, key=lambda piece: (-round(piece.row["length_px"]), piece.row["image"], piece.row["finding"])
    )
    used, branches = [main], list(main.branches)
    while waiting:
        piece = next(one for one in waiting if any(_is_same(one, other) for other in used))
        waiting.remove(piece)
        used.append(piece)
        for branch_K3 in piece.branches:
            _add(branches, branch_K3, piece.reach_px)
    bends = sum(piece.row["length_px"] for piece in used) / sum(_along(piece.branches) for piece in used)
    sizes = _sizes(_along(branches) * bends, [piece.row for piece in used])
    return main.row | sizes | _trace(branches, main.window, bends)


def _add(branches: list[np.ndarray], branch_K3: np.ndarray, reach_px: float) -> None:
    """Add what a branch has that the others have not: to the end that it continues, or as a branch of its own."""
    old_M3 = np.concatenate(branches)
    distance_K, nearest_K = _nearest(branch_K3, old_M3)
    edges = np.flatnonzero(np.diff(np.r_[False, distance_K > reach_px, False])).reshape(-1, 2)
    for start, stop in edges[edges[:, 1] - edges[:, 0] >= MIN_ADDED_PX].tolist():
        before, after = old_M3[nearest_K[max(0, start - 1)]], old_M3[nearest_K[min(stop, len(branch_K3) - 1)]]
        added_K3 = branch_K3[start:stop]
        if start and stop < len(branch_K3):
            added_K3 = np.vstack([added_K3, after])
        elif stop < len(branch_K3):
            added_K3, before = added_K3[::-1], after
        elif not start:
            branches.append(added_K3)
            continue
        _attach(branches, before, added_K3)


def _attach(branches: list[np.ndarray], at_3: np.ndarray, added_K3: np.ndarray) -> None:
    """Continue the branch that ends near a point of it by added points; where none ends there, they branch off."""
    for number, branch_K3 in enumerate(branches):
        found = np.flatnonzero((branch_K3[:, :2] == at_3[:2]).all(axis=1))  # a width may be NaN
        if not len(found):
            continue
        if len(branch_K3) - found[0] <= MIN_ADDED_PX:
            branches[number] = np.concatenate([branch_K3[: found[0] + 1], added_K3])
            return
        if found[0] < MIN_ADDED_PX:
            branches[number] = np.concatenate([added_K3[::-1], branch_K3[found[0] :]])
            return
    branches.append(np.vstack([at_3, added_K3]))


def _trace(branches: list[np.ndarray], window: Window, bends: float) -> dict[str, Any]:
    """The columns of a trace, from the corner of a window.

    Args:
        bends: what finer bends than those of a trace add to its length, as a factor.
    """
    gap_13 = np.full((1, 3), np.nan)
    trace_N3 = np.concatenate([one for branch in branches for one in (branch, gap_13)])[:-1]
    trace_N3[:, :2] -= window[1:3]
    (left, top), (right, bottom) = np.nanmin(trace_N3[:, :2], axis=0), np.nanmax(trace_N3[:, :2], axis=0) + 1
    main_K3 = branches[0]
    return {
        "x_px": trace_N3[:, 0],
        "y_px": trace_N3[:, 1],
        "widths_px": trace_N3[:, 2],
        "left_px": math.floor(left),
        "top_px": math.floor(top),
        "right_px": math.ceil(right),
        "bottom_px": math.ceil(bottom),
        "straightness": float(np.hypot(*(main_K3[-1] - main_K3[0])[:2])) / (_along([main_K3]) * bends),
    }


def _along(branches: list[np.ndarray]) -> float:
    """Length of a trace [px]."""
    return sum(float(np.hypot(*np.diff(branch_K3[:, :2], axis=0).T).sum()) + 1 for branch_K3 in branches)


def _sizes(length_px: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Length and widths of a crack from the rows of its pieces, the longest first."""
    share_P = np.array([row["length_px"] for row in rows]) / sum(row["length_px"] for row in rows)
    widest = max(rows, key=lambda row: (math.isfinite(row["width_max_px"]), row["width_max_px"]))
    known_P = np.array([math.isfinite(row["width_mean_px"]) for row in rows])
    means = ("width_mean_px", "width_sigma_px", "width_mean_mm", "width_sigma_mm") if known_P.any() else ()
    of_known = [row for row, is_known in zip(rows, known_P, strict=True) if is_known]
    return {
        "length_px": length_px,
        "length_sigma_px": float(share_P @ [row["length_sigma_px"] / row["length_px"] for row in rows]) * length_px,
        "length_mm": length_px * rows[0]["mm_per_px"],
        "score": max(row["score"] for row in rows),
        "p_value": min(row["p_value"] for row in rows),
        **{name: float(np.average([row[name] for row in of_known], weights=share_P[known_P])) for name in means},
        **{name: widest[name] for name in ("width_max_px", "width_max_sigma_px", "width_max_mm", "width_class")},
    }
