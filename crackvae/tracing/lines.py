"""One line of a photograph: a chain, moved to the middle of the dark line, ended where it ends, and measured.

Shape letters: H, W rows and columns of a photograph; K points of a trace; M more of them; 2 = (y, x) [px].
"""

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from crackvae.tracing.following import end_of
from crackvae.tracing.skeleton import Chain
from crackvae.tracing.widths import sections, widths_of

# A line of at least this length [px] can be told to be straight.
MIN_JOINT_PX = 120.0

# Roughness of a joint at most, and of a crack at least [degrees]; between them, and of a short smooth line, the kind is
# unclear. The width of a joint varies by at most MAX_JOINT_VARIATION.
JOINT_ROUGHNESS_DEG, CRACK_ROUGHNESS_DEG, MAX_JOINT_VARIATION = 2.0, 2.5, 0.35

# Rough edges move the middle of a saw cut, but a long line that leaves its parabola by at most this share of its length
# (root mean square) is one. In photographs of bridges, joints had .001 to .004 and cracks .009 to .04.
MIN_LONG_JOINT_PX, MAX_OFF_SHARE, MAX_LONG_ROUGHNESS_DEG = 600.0, 0.004, 4.0

# Length of the chords whose directions are compared for it, in widths, at least [px], and at most as a share of the
# line: longer than the steps of pixels and than what rough edges move the middle of a saw cut by.
CHORD_WIDTHS, MIN_CHORD_PX, CHORD_SHARE = 6.0, 24, 0.25

# A joint that runs into a crack is straight over windows of this length, to this distance from a straight line (root
# mean square) [px], and so are no cracks; what is left of a line on either side of it has at least MIN_REST_PX.
WINDOW_PX, STRAIGHT_PX, MIN_REST_PX = 400, 1.0, 60

# Two lines meet where their edges come nearer than this [px]; looked at every so many points.
MEETING_PX, MEETING_STEP = 2.0, 4

# Standard deviation of the Gaussian along a trace that removes the steps of its pixels [points].
SMOOTHING = 1.0

# Points that a Gaussian along a trace needs beyond an end [standard deviations].
SMOOTHED_SIGMAS = 4

# Standard deviations of the Gaussians along a trace [px] between which its length tells how a line grows with its
# bends: those that are finer are lost to the blur and to averages along the line, or are noise.
BENDS_PX = (4.0, 12.0)

# Largest growth of a length for each octave of finer bends [octaves]: drawn cracks have up to 0.1. What turns more is
# no line. A guess.
MAX_GROWTH = 0.15


class Line:
    """One measured chain.

    Its widths are those that it has by itself, until `measure()` has seen the other lines of its photograph.
    """

    def __init__(self, chain: Chain, pixels_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        self.forks = frozenset(chain.forks)
        points_K2 = even(chain.points_K2)
        rough_px = rough_width(points_K2, mask_HW)
        self.sections = sections(pixels_HW, smooth(points_K2), rough_px)
        self.widths = widths_of([self.sections])[0]
        self.points_K2, self.stretch_K = smooth(self.sections.points_K2), self.sections.stretch_K
        width_px = self.widths.mean_px if math.isfinite(self.widths.mean_px) else rough_px
        for end in (1, 0):
            if chain.free_ends[end]:
                self.points_K2, self.stretch_K = _to_end(pixels_HW, self.points_K2, self.stretch_K, width_px)
            self.points_K2, self.stretch_K = self.points_K2[::-1], self.stretch_K[::-1]
        self.points_K2, self.stretch_K = _inside(self.points_K2, self.stretch_K, pixels_HW.shape)
        self.length_px = length_of(self.points_K2, width_px)
        self.axis_2 = _axis(self.points_K2)
        across_2 = np.array([-self.axis_2[1], self.axis_2[0]])
        self.waviness_px = float((self.points_K2 @ across_2).std())
        chord_px = max(MIN_CHORD_PX, round(min(CHORD_WIDTHS * width_px, CHORD_SHARE * len(self.points_K2))))
        parabola_K2 = _parabola(self.points_K2)
        self.off_parabola_px = float(((self.points_K2 - parabola_K2) @ across_2).std())
        self.roughness_deg = _roughness(self.points_K2, parabola_K2, chord_px)
        self.kind = self._kind()

    @property
    def width_K(self) -> np.ndarray:
        """Width at each point [px]; NaN where the line cannot be told from its surroundings."""
        return np.asarray(self.widths.width_C[self.stretch_K])

    def _kind(self) -> str:
        is_straight = self.length_px >= MIN_LONG_JOINT_PX and self.off_parabola_px <= MAX_OFF_SHARE * self.length_px
        if is_straight and self.roughness_deg <= MAX_LONG_ROUGHNESS_DEG:
            return "joint"
        if self.roughness_deg >= CRACK_ROUGHNESS_DEG:
            return "crack"
        is_smooth = self.length_px >= MIN_JOINT_PX and self.roughness_deg <= JOINT_ROUGHNESS_DEG
        return "joint" if is_smooth and not self.widths.variation > MAX_JOINT_VARIATION else "unclear"


def lines_of(chain: Chain, pixels_HW: np.ndarray, mask_HW: np.ndarray) -> list[Line]:
    """The line of a chain; or a joint and the cracks that it runs into, where the chain is both."""
    line = Line(chain, pixels_HW, mask_HW)
    share_2 = None if line.kind == "joint" else _straight_part(line.sections.points_K2)
    if share_2 is None:
        return [line]
    first, last = (round(share * (len(chain.points_K2) - 1)) for share in share_2)
    rest = [(0, first), (last, len(chain.points_K2) - 1)]
    rest = [part for part in rest if part[1] - part[0] >= MIN_REST_PX]
    parts = [Line(chain.part(*part), pixels_HW, mask_HW) for part in [(first, last), *rest]]
    is_both = [part.kind for part in parts] == ["joint"] + ["crack"] * len(rest) and rest
    return parts if is_both else [line]


def _straight_part(points_K2: np.ndarray) -> tuple[float, float] | None:
    """Where the longest straight part of a trace begins and ends, as shares of it; None where none is straight."""
    if len(points_K2) <= WINDOW_PX:
        return None
    y_K, x_K = (points_K2 - points_K2.mean(axis=0)).T
    sums = np.cumsum(np.pad([y_K, x_K, y_K**2, x_K**2, y_K * x_K], ((0, 0), (1, 0))), axis=1)
    y_W, x_W, yy_W, xx_W, xy_W = (sums[:, WINDOW_PX:] - sums[:, :-WINDOW_PX]) / WINDOW_PX
    yy_W, xx_W, xy_W = yy_W - y_W**2, xx_W - x_W**2, xy_W - x_W * y_W
    off_W = (yy_W + xx_W - np.hypot(yy_W - xx_W, 2 * xy_W)) / 2  # variance across the line that fits a window best
    label_W, n = ndimage.label(off_W <= STRAIGHT_PX**2)
    if not n:
        return None
    first, last = np.flatnonzero(label_W == np.bincount(label_W[label_W > 0]).argmax())[[0, -1]]
    return first / (len(points_K2) - 1), (last + WINDOW_PX - 1) / (len(points_K2) - 1)


def measure(lines: list[Line]) -> None:
    """Measure the widths of all lines of a photograph again, by the blur that they share, where they do not meet."""
    apart = [line.sections.without(meets_C) for line, meets_C in zip(lines, _meetings(lines), strict=True)]
    for line, widths in zip(lines, widths_of(apart), strict=True):
        line.widths = widths


def _meetings(lines: list[Line]) -> list[np.ndarray]:
    """Stretches of each line, bool (C,), across which another line shows."""
    traces = [line.sections.points_K2[::MEETING_STEP] for line in lines]
    number_N = np.repeat(np.arange(len(lines)), [len(trace) for trace in traces])
    half_N = np.nan_to_num([line.sections.full_px / 2 for line in lines])[number_N] if lines else np.empty(0)
    tree = KDTree(np.concatenate([*traces, np.empty((0, 2))]))
    found = []
    for number, (line, trace_K2) in enumerate(zip(lines, traces, strict=True)):
        own_px = np.nan_to_num(line.sections.full_px / 2) + MEETING_PX
        pairs = tree.query_ball_point(trace_K2, own_px + half_N.max())
        meets_K = [
            bool((np.hypot(*(tree.data[near] - at_2).T) < own_px + half_N[near])[number_N[near] != number].any())
            for at_2, near in zip(trace_K2, map(np.array, pairs), strict=True)
        ]
        stretch_K = line.sections.stretch_K[::MEETING_STEP]
        found.append(np.bincount(stretch_K, meets_K, len(line.sections.full_C)) > 0)
    return found


def _parabola(points_K2: np.ndarray) -> np.ndarray:
    """The parabola that fits a line best, (K, 2): a lens bends a joint into one. One or two points fit themselves."""
    at_K, degree = np.linspace(-1, 1, len(points_K2)), min(2, len(points_K2) - 1)
    return np.polynomial.polynomial.polyval(at_K, np.polynomial.polynomial.polyfit(at_K, points_K2, degree)).T


def _roughness(points_K2: np.ndarray, parabola_K2: np.ndarray, chord_px: int) -> float:
    """Deviation of the directions of a line's chords from those of its parabola [degrees]; NaN for a short line.

    A crack changes its direction from one grain to the next. Of a normal distribution it would be the standard
    deviation; unlike that, it ignores the few places where a crack crosses a joint.
    """
    if len(points_K2) < 2 * chord_px:
        return math.nan
    turn_K = _directions(points_K2, chord_px) - _directions(parabola_K2, chord_px)
    turn_K = (turn_K + math.pi) % (2 * math.pi) - math.pi
    return math.degrees(float(np.quantile(np.abs(turn_K), 0.683)))


def _directions(points_K2: np.ndarray, chord_px: int) -> np.ndarray:
    chords_K2 = points_K2[chord_px:] - points_K2[:-chord_px]
    return np.asarray(np.arctan2(chords_K2[:, 0], chords_K2[:, 1]))


def even(points_K2: np.ndarray) -> np.ndarray:
    """The same line with points about 1 px apart, also across gaps."""
    along_K = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points_K2, axis=0).T))]
    at = np.linspace(0, along_K[-1], max(2, round(along_K[-1]) + 1))
    return np.stack([np.interp(at, along_K, points_K2[:, axis]) for axis in (0, 1)], axis=1)


def length_of(points_K2: np.ndarray, width_px: float) -> float:
    """Length of a line with its bends down to half of its width, which a trace does not show where that is narrow [px].

    A rough line is longer by the same factor for each octave of finer bends: that from coarse to less coarse ones is
    continued. A line too short to tell has the length of its trace.
    Source: Mandelbrot, How Long Is the Coast of Britain? (1967).
    """
    if len(points_K2) <= SMOOTHED_SIGMAS * max(BENDS_PX):
        return _along(points_K2) + 1
    finest_px, even_K2 = max(1.0, width_px / 2), even(points_K2)
    lengths = [_along(smooth(even_K2, bends_px)) for bends_px in BENDS_PX]
    octaves = [math.log2(math.hypot(bends_px, finest_px) / finest_px) for bends_px in BENDS_PX]
    growth = math.log2(max(lengths[0], 1.0) / max(lengths[1], 1.0)) / (octaves[1] - octaves[0])
    return lengths[0] * 2 ** (min(max(growth, 0.0), MAX_GROWTH) * octaves[0]) + 1


def _along(points_K2: np.ndarray) -> float:
    return float(np.hypot(*np.diff(points_K2, axis=0).T).sum())


def smooth(points_K2: np.ndarray, sigma: float = SMOOTHING) -> np.ndarray:
    """A trace without the steps of its pixels; the line is extended at both ends, so that it does not shrink."""
    n = min(len(points_K2) - 1, round(SMOOTHED_SIGMAS * sigma))
    if n < 1:
        return points_K2
    before = 2 * points_K2[0] - points_K2[n:0:-1]
    after = 2 * points_K2[-1] - points_K2[-2 : -n - 2 : -1]
    long = ndimage.gaussian_filter1d(np.concatenate([before, points_K2, after]), sigma, axis=0)
    return np.asarray(long[n:-n])


def _to_end(
    pixels_HW: np.ndarray, points_K2: np.ndarray, stretch_K: np.ndarray, width_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """A trace and the stretches of its points, cut or continued to where its line ends, beyond or before the last."""
    more = round(end_of(pixels_HW, points_K2, width_px))
    if more <= 0:
        kept = max(2, len(points_K2) + more)
        return points_K2[:kept], stretch_K[:kept]
    step_2 = points_K2[-1] - points_K2[-1 - min(len(points_K2) - 1, 8)]
    ahead_M2 = points_K2[-1] + np.arange(1, more + 1)[:, None] * step_2 / max(1e-9, float(np.hypot(*step_2)))
    return np.concatenate([points_K2, ahead_M2]), np.pad(stretch_K, (0, more), mode="edge")


def _inside(points_K2: np.ndarray, stretch_K: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A trace and the stretches of its points without ends beyond the border of a photograph of shape (H, W).

    Beyond it the grey levels of the border are repeated, and show no end of a line.
    """
    last_2 = np.array(shape) - 1
    inside = np.flatnonzero(((points_K2 >= 0) & (points_K2 <= last_2)).all(axis=1))
    kept = slice(inside[0], inside[-1] + 1) if len(inside) > 1 else slice(None)
    return points_K2[kept].clip(0, last_2), stretch_K[kept]


def rough_width(points_K2: np.ndarray, mask_HW: np.ndarray) -> float:
    """Twice the median distance of a trace from the outside of its mask [px], in steps of 2 px."""
    middle_K2 = points_K2[:: max(1, len(points_K2) // 50)]
    at = np.rint(middle_K2).astype(int)
    for radius in range(1, 40):
        ys = np.clip(at[:, :1] + np.array([-radius, radius, 0, 0]), 0, mask_HW.shape[0] - 1)
        xs = np.clip(at[:, 1:] + np.array([0, 0, -radius, radius]), 0, mask_HW.shape[1] - 1)
        if (~mask_HW[ys, xs]).any(axis=1).mean() >= 0.5:
            return 2.0 * radius - 1
    return 80.0


def _axis(points_K2: np.ndarray) -> np.ndarray:
    """Direction of the straight line with the least squared distance from some points."""
    return np.asarray(np.linalg.svd(points_K2 - points_K2.mean(axis=0), full_matrices=False)[2][0])
