"""Cracks and joints of one photograph: traced in its map of crack probabilities, measured in its grey levels.

Shape letters: H, W rows and columns of a photograph; K points of a trace; 2 = (y, x) [px].
"""

import math
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from crackvae.tracing.following import DIRECTION_PX, KNOWN_PX, NARROW_PX, draw_line, followed
from crackvae.tracing.lines import Line, even, lines_of, measure, rough_width, smooth
from crackvae.tracing.skeleton import chains
from crackvae.tracing.widths import sections

# A line belongs to a crack where its probability exceeds LOW, if it exceeds HIGH somewhere [1/255]. Guesses.
LOW, HIGH = 51, 128

# Shorter findings count as texture: as a share of the shorter side of the image, but at most MAX_SHORT_PX. Guesses.
SHORT_SHARE, MAX_SHORT_PX = 0.1, 64.0

# Lines of the map of at least this length [px] are followed beyond their ends, unless they are wider than so many times
# their length: a hole is no line. A guess.
MIN_FOLLOWED_PX, MAX_WIDTH_LENGTHS = 24, 1.5

# Branches shorter than this many widths of the line that they leave come from its rough edge, by its kind.
SPUR_WIDTHS = {"joint": 4.0, "crack": 2.0, "unclear": 2.0}

# A line of which this share of the points lies within so many widths of longer ones of its finding is another side of
# an open crack that is broken out or filled, and no second crack. Guesses.
SIDE_SHARE, SIDE_WIDTHS = 2 / 3, 2.0

# Distance from a border of the image at which a line counts as reaching it [px].
BORDER_PX = 12.0

# Standard uncertainty of a length: a share of it, from the smoothing and the steps of pixels, and its ends [px], which
# fade. Fitted to drawn photographs (benchmarks/findings.py).
LENGTH_SHARE, ENDS_PX = 0.02, 8.0


def trace_findings(
    pixels_HW: np.ndarray,
    probability_hw: np.ndarray,
    origin: tuple[int, int] = (0, 0),
    hidden_HW: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """The cracks and joints of a photograph, the longest first.

    Args:
        pixels_HW: grey levels of the photograph, uint8 (H, W).
        probability_hw: of a crack at each pixel of a crop, from 0 to 255, uint8 (h, w); none is known outside it.
        origin: y and x of the crop in the photograph [px].
        hidden_HW: where no line is traced, bool (H, W).

    Returns:
        For each finding the columns of FINDINGS_SCHEMA that its pixels decide.
    """
    mask_HW = np.zeros(pixels_HW.shape, bool)
    crop = tuple(slice(at, at + side) for at, side in zip(origin, probability_hw.shape, strict=True))
    mask_HW[crop] = _cracked(probability_hw)
    _add_followed(mask_HW, pixels_HW)
    if hidden_HW is not None:
        mask_HW &= ~hidden_HW
    lines = [line for chain in chains(mask_HW) for line in lines_of(chain, pixels_HW, mask_HW)]
    lines = _without_spurs(lines)
    measure(lines)
    found = [_row(_without_sides(group), pixels_HW.shape) for group in _groups(lines)]
    shortest_px = min(SHORT_SHARE * min(pixels_HW.shape), MAX_SHORT_PX)
    found = [one for one in found if one["length_px"] >= shortest_px]
    return sorted(found, key=lambda one: (-one["length_px"], one["left_px"], one["top_px"]))


def _cracked(probability_hw: np.ndarray) -> np.ndarray:
    """Pixels above LOW that are connected to one above HIGH."""
    label_hw, n = ndimage.label(probability_hw > LOW)
    is_kept = np.zeros(n + 1, bool)
    is_kept[label_hw[probability_hw > HIGH]] = True
    return np.asarray(is_kept[label_hw])


def _add_followed(mask_HW: np.ndarray, pixels_HW: np.ndarray) -> None:
    """Add what follows the free ends of the lines of a mask in the grey levels."""
    for chain in chains(mask_HW):
        for end in (0, 1):
            if not chain.free_ends[end] or len(chain.points_K2) < MIN_FOLLOWED_PX:
                continue
            points_K2 = smooth(even(chain.points_K2[:: 1 if end else -1][-KNOWN_PX:]))
            rough_px = rough_width(points_K2, mask_HW)
            full_px = sections(pixels_HW, points_K2, rough_px).full_px
            width_px = full_px if math.isfinite(full_px) else rough_px
            if width_px > MAX_WIDTH_LENGTHS * len(chain.points_K2):
                continue
            path_K2 = _follow(mask_HW, pixels_HW, points_K2, width_px)
            # Perhaps a joint that the chain met, and that goes on beyond it.
            if len(path_K2) > KNOWN_PX and width_px <= NARROW_PX:
                _follow(mask_HW, pixels_HW, path_K2[DIRECTION_PX:KNOWN_PX][::-1], width_px)


def _follow(mask_HW: np.ndarray, pixels_HW: np.ndarray, points_K2: np.ndarray, width_px: float) -> np.ndarray:
    """Add what follows the last point of a trace to a mask; its points (K, 2), 1 px apart."""
    path_M2 = followed(pixels_HW, mask_HW, points_K2, width_px)
    if len(path_M2) < 2:
        return np.empty((0, 2))
    path_K2 = even(path_M2)
    draw_line(mask_HW, path_K2, width_px)
    return path_K2


def _without_spurs(lines: list[Line]) -> list[Line]:
    """Without branches that the grey levels do not show, and without the short ones of the rough edges of others."""
    kept: list[Line] = []
    spur_px: dict[int, float] = {}  # length of the spurs of the longer lines at each fork
    for line in sorted(lines, key=lambda one: (one.kind != "joint", -one.length_px)):
        is_short = line.kind != "joint" and line.length_px < max(
            (spur_px.get(fork, 0.0) for fork in line.forks), default=0
        )
        if is_short or (line.forks and math.isnan(line.widths.mean_px)):
            continue
        kept.append(line)
        if math.isfinite(line.widths.mean_px):
            own_px = SPUR_WIDTHS[line.kind] * line.widths.mean_px
            spur_px |= {fork: max(own_px, spur_px.get(fork, 0.0)) for fork in line.forks}
    return kept


def _groups(lines: list[Line]) -> list[list[Line]]:
    """Lines that meet at a fork are branches of one finding, longest first; a joint is one by itself."""
    groups: list[list[Line]] = []
    for line in sorted(lines, key=lambda one: -one.length_px):
        mine = [group for group in groups if line.kind != "joint" and _meets(line, group)]
        for group in mine[1:]:
            mine[0] += group
            groups.remove(group)
        if mine:
            mine[0].append(line)
        else:
            groups.append([line])
    return [sorted(group, key=lambda one: -one.length_px) for group in groups]


def _meets(line: Line, group: list[Line]) -> bool:
    return group[0].kind != "joint" and any(line.forks & other.forks for other in group)


def _without_sides(group: list[Line]) -> list[Line]:
    """The lines of a finding, longest first, without those that run along longer ones of them."""
    kept: list[Line] = []
    beside: list[tuple[KDTree, float]] = []  # the points of those with a width, and how far their sides reach [px]
    for line in group:
        is_along_K = np.zeros(len(line.points_K2), bool)
        for points, reach_px in beside:
            is_along_K |= np.isfinite(points.query(line.points_K2, distance_upper_bound=reach_px)[0])
        if is_along_K.mean() >= SIDE_SHARE:
            continue
        kept.append(line)
        if math.isfinite(line.widths.mean_px):
            beside.append((KDTree(line.points_K2), SIDE_WIDTHS * line.widths.mean_px))
    return kept


def _row(group: list[Line], shape: tuple[int, ...]) -> dict[str, Any]:
    """The columns of one finding; its first line is the main branch."""
    main, gap_12 = group[0], np.full((1, 2), np.nan)
    trace_N2 = np.concatenate([part for line in group for part in (line.points_K2, gap_12)])[:-1]
    widths_N = np.concatenate([part for line in group for part in (line.width_K, gap_12[0, :1])])[:-1]
    (top, left), (bottom, right) = np.nanmin(trace_N2, axis=0), np.nanmax(trace_N2, axis=0) + 1
    ends_22 = main.points_K2[[0, -1]]
    margins = [min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) for y, x in ends_22]
    length_px = sum(line.length_px for line in group)
    return {
        "kind": main.kind,
        "x_px": trace_N2[:, 1].astype(np.float32),
        "y_px": trace_N2[:, 0].astype(np.float32),
        "widths_px": widths_N.astype(np.float32),
        "left_px": max(0, math.floor(left)),
        "top_px": max(0, math.floor(top)),
        "right_px": min(shape[1], math.ceil(right)),
        "bottom_px": min(shape[0], math.ceil(bottom)),
        "length_px": length_px,
        "length_sigma_px": math.hypot(LENGTH_SHARE * length_px, ENDS_PX),
        **_widths_of(group),
        "straightness": min(1.0, float(np.hypot(*np.diff(ends_22, axis=0)[0])) / main.length_px),
        "waviness_px": main.waviness_px,
        "roughness_deg": main.roughness_deg,
        "borders": sum(margin <= BORDER_PX for margin in margins),
        "orientation_deg": math.degrees(math.atan2(-main.axis_2[0], main.axis_2[1])) % 180,
    }


def _widths_of(group: list[Line]) -> dict[str, float]:
    """Widths of one finding, by length; NaN where none of its lines has one."""
    known = [line for line in group if math.isfinite(line.widths.mean_px)]
    if not known:
        known = group[:1]
    share_of = np.array([line.length_px for line in known]) / sum(line.length_px for line in known)
    widest = max((line.widths for line in known), key=lambda widths: widths.max_px)
    return {
        "width_mean_px": float(share_of @ [line.widths.mean_px for line in known]),
        "width_max_px": widest.max_px,
        "width_sigma_px": float(share_of @ [line.widths.mean_sigma_px for line in known]),
        "width_max_sigma_px": widest.max_sigma_px,
        "width_variation": known[0].widths.variation,
    }
