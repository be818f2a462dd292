"""Cracks and joints of one photograph: traced in its map of crack probabilities, measured in its grey levels.

Shape letters: H, W rows and columns of a photograph; K points of a trace; 2 = (y, x) [px].
"""

import math
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from crackvae.tracing.skeleton import Chain, chains
from crackvae.tracing.widths import Widths, widths_along

# A line belongs to a crack where its probability exceeds LOW, if it exceeds HIGH somewhere [1/255]. Guesses.
LOW, HIGH = 51, 128

# Shorter findings count as texture: as a share of the shorter side of the image, but at most MAX_SHORT_PX. Guesses.
SHORT_SHARE, MAX_SHORT_PX = 0.1, 64.0

# A line of at least this length [px] can be told to be straight.
MIN_JOINT_PX = 120.0

# Roughness of a joint at most, and of a crack at least [degrees]; between them, and of a short smooth line, the kind is
# unclear. The width of a joint varies by at most MAX_JOINT_VARIATION.
JOINT_ROUGHNESS_DEG, CRACK_ROUGHNESS_DEG, MAX_JOINT_VARIATION = 2.5, 3.0, 0.35

# Length of the chords whose directions are compared for it, in widths, at least [px], and at most as a share of the
# line: longer than the steps of pixels and than what rough edges move the middle of a saw cut by.
CHORD_WIDTHS, MIN_CHORD_PX, CHORD_SHARE = 6.0, 24, 0.25

# Standard deviation of the Gaussian along a trace that removes the steps of its pixels [points].
SMOOTHING = 2.0

# Distance from a border of the image at which a line counts as reaching it [px].
BORDER_PX = 12.0

# Standard uncertainty of a length: a share of it, from the smoothing and the steps of pixels, and its ends [px], which
# fade. Fitted to drawn photographs (benchmarks/findings.py).
LENGTH_SHARE, ENDS_PX = 0.02, 8.0


def trace_findings(
    pixels_hw: np.ndarray, probability_hw: np.ndarray, origin: tuple[int, int], shape: tuple[int, int]
) -> list[dict[str, Any]]:
    """The cracks and joints in a crop of a photograph, the longest first.

    Args:
        pixels_hw: grey levels of the crop, uint8 (h, w).
        probability_hw: of a crack at each pixel, from 0 to 255, uint8 (h, w).
        origin: y and x of the crop in the photograph [px].
        shape: height and width of the photograph [px].

    Returns:
        For each finding the columns of FINDINGS_SCHEMA that its pixels decide.
    """
    mask_hw = apply_hysteresis_threshold(probability_hw, LOW, HIGH)
    lines = [_Line(one, pixels_hw, mask_hw) for one in chains(mask_hw)]
    found = [_row(group, origin, shape) for group in _groups(lines)]
    found = [one for one in found if one["length_px"] >= min(SHORT_SHARE * min(shape), MAX_SHORT_PX)]
    return sorted(found, key=lambda one: (-one["length_px"], one["left_px"], one["top_px"]))


class _Line:
    """One measured chain."""

    def __init__(self, chain: Chain, pixels_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        self.forks = chain.forks
        points_K2 = _even(chain.points_K2)
        rough_px = _rough_width(points_K2, mask_HW)
        smooth_K2 = _smooth(points_K2)
        self.widths: Widths = widths_along(pixels_HW, smooth_K2, rough_px)
        self.points_K2 = _smooth(self.widths.points_K2)
        # A skeleton ends about half a width before its line does.
        ends_px = sum(chain.free_ends) * min(rough_px, 20.0) / 2
        self.length_px = float(np.hypot(*np.diff(self.points_K2, axis=0).T).sum()) + 1 + ends_px
        middle_2, axis_2 = _axis(self.points_K2)
        off_K = (self.points_K2 - middle_2) @ np.array([-axis_2[1], axis_2[0]])
        self.waviness_px = float(np.sqrt((off_K**2).mean()))
        self.axis_2 = axis_2
        wide_px = min(CHORD_WIDTHS * float(np.nan_to_num(self.widths.mean_px)), CHORD_SHARE * len(self.points_K2))
        chord_px = max(MIN_CHORD_PX, round(wide_px))
        self.roughness_deg = _roughness(self.points_K2, chord_px)
        self.kind = self._kind()

    def _kind(self) -> str:
        if self.roughness_deg >= CRACK_ROUGHNESS_DEG:
            return "crack"
        is_smooth = self.length_px >= MIN_JOINT_PX and self.roughness_deg <= JOINT_ROUGHNESS_DEG
        return "joint" if is_smooth and not self.widths.variation > MAX_JOINT_VARIATION else "unclear"


def _roughness(points_K2: np.ndarray, chord_px: int) -> float:
    """Deviation of the directions of a line's chords from those of its parabola [degrees]; NaN for a short line.

    A lens bends a joint into a parabola; a crack changes its direction from one grain to the next. Of a normal
    distribution it would be the standard deviation; unlike that, it ignores the few places where a crack crosses a
    joint.
    """
    if len(points_K2) < 2 * chord_px:
        return math.nan
    at_K = np.linspace(-1, 1, len(points_K2))
    smooth_K2 = np.polynomial.polynomial.polyval(at_K, np.polynomial.polynomial.polyfit(at_K, points_K2, 2)).T
    turn_K = _directions(points_K2, chord_px) - _directions(smooth_K2, chord_px)
    turn_K = (turn_K + math.pi) % (2 * math.pi) - math.pi
    return math.degrees(float(np.quantile(np.abs(turn_K), 0.683)))


def _directions(points_K2: np.ndarray, chord_px: int) -> np.ndarray:
    chords_K2 = points_K2[chord_px:] - points_K2[:-chord_px]
    return np.asarray(np.arctan2(chords_K2[:, 0], chords_K2[:, 1]))


def _even(points_K2: np.ndarray) -> np.ndarray:
    """The same line with points about 1 px apart, also across gaps."""
    along_K = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points_K2, axis=0).T))]
    at = np.linspace(0, along_K[-1], max(2, round(along_K[-1]) + 1))
    return np.stack([np.interp(at, along_K, points_K2[:, axis]) for axis in (0, 1)], axis=1)


def _smooth(points_K2: np.ndarray) -> np.ndarray:
    """A trace without the steps of its pixels; the line is extended at both ends, so that it does not shrink."""
    n = min(len(points_K2) - 1, round(4 * SMOOTHING))
    if n < 1:
        return points_K2
    before = 2 * points_K2[0] - points_K2[n:0:-1]
    after = 2 * points_K2[-1] - points_K2[-2 : -n - 2 : -1]
    long = ndimage.gaussian_filter1d(np.concatenate([before, points_K2, after]), SMOOTHING, axis=0)
    return np.asarray(long[n:-n])


def _rough_width(points_K2: np.ndarray, mask_HW: np.ndarray) -> float:
    """Twice the median distance of a trace from the outside of its mask [px], in steps of 2 px."""
    middle_K2 = points_K2[:: max(1, len(points_K2) // 50)]
    at = np.rint(middle_K2).astype(int)
    for radius in range(1, 40):
        ys = np.clip(at[:, :1] + np.array([-radius, radius, 0, 0]), 0, mask_HW.shape[0] - 1)
        xs = np.clip(at[:, 1:] + np.array([0, 0, -radius, radius]), 0, mask_HW.shape[1] - 1)
        if (~mask_HW[ys, xs]).any(axis=1).mean() >= 0.5:
            return 2.0 * radius - 1
    return 80.0


def _axis(points_K2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and direction of the straight line with the least squared distance from some points."""
    middle_2 = points_K2.mean(axis=0)
    return middle_2, np.linalg.svd(points_K2 - middle_2, full_matrices=False)[2][0]


def _groups(lines: list[_Line]) -> list[list[_Line]]:
    """Lines that meet at a fork are branches of one finding, longest first; a joint is one by itself."""
    groups: list[list[_Line]] = []
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


def _meets(line: _Line, group: list[_Line]) -> bool:
    return group[0].kind != "joint" and any(line.forks & other.forks for other in group)


def _row(group: list[_Line], origin: tuple[int, int], shape: tuple[int, int]) -> dict[str, Any]:
    """The columns of one finding; its first line is the main branch."""
    main, gap_12 = group[0], np.full((1, 2), np.nan)
    trace_N2 = np.concatenate([part for line in group for part in (line.points_K2, gap_12)])[:-1] + origin
    widths_N = np.concatenate([part for line in group for part in (line.widths.width_K, gap_12[0, :1])])[:-1]
    (top, left), (bottom, right) = np.nanmin(trace_N2, axis=0), np.nanmax(trace_N2, axis=0) + 1
    ends_22 = main.points_K2[[0, -1]]
    margins = [min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) for y, x in ends_22 + origin]
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


def _widths_of(group: list[_Line]) -> dict[str, float]:
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
