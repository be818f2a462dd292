"""Drawings of cracks and of structures that resemble cracks (blemishes.py), made once and reused during training.

They are coverage maps of cracks and brightness maps of blemishes. The appearance of a crack (depth, sharpness,
moisture, dust) is sampled when it is composited with a tile; this module draws geometry only.

Shares, densities and sizes are visual estimates from contact sheets of training photographs unless a source is given.

Shape letters: N points along a crack or drawings of a library; P side of a tile [px]; 2 = (x, y) [px].
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crackvae.training.synthetic_cracks.blemishes import SUBPIXELS, draw_blemish

Points = NDArray[np.float64]

# Maximum width of a crack [px], log-uniform between these bounds, and the share of each kind.
HAIRLINE_PX, COMMON_PX, GAPING_PX = (0.7, 1.8), (1.5, 6.0), (5.0, 56.0)
KIND_SHARES = (0.42, 0.32, 0.26)
# Widest crack, as a share of the tile's side: a wider one would leave no surface around it.
WIDEST_SHARE = 0.22
# Distance between neighbouring points of a path [px], the scale of the finest kink.
STEP_PX = 3.0
# Shares of the cracks that end inside the tile, are interrupted, and consist of staggered segments.
END_SHARE, INTERRUPTED_SHARE, STAGGERED_SHARE = 0.35, 0.45, 0.25


@dataclass(frozen=True)
class Drawings:
    """Cracks and blemishes of one side length, drawn once and added to tiles many times.

    Attributes:
        cracks_NPP: uint8 (N, P, P), coverage from 0 (none) to 255 (the whole pixel).
        blemishes_NPP: int8 (N, P, P), change of the brightness from -127 (black) to 127 (twice as light).
    """

    cracks_NPP: np.ndarray
    blemishes_NPP: np.ndarray


def draw(seed: int, side_px: int, n: int) -> Drawings:
    """Draw `n` cracks and `n` blemishes, each from the seed and its number alone; 4 ms a pair at 256 px."""
    generators = [np.random.default_rng([seed, number]) for number in range(n)]
    return Drawings(
        cracks_NPP=np.stack([draw_crack_coverage(rng, side_px) for rng in generators]),
        blemishes_NPP=np.stack([draw_blemish(rng, side_px) for rng in generators]),
    )


def draw_crack_coverage(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Coverage uint8 (P, P) of one crack with its branches; in 8 % of the drawings of several cracks.

    Drawings with fewer than 0.1 P covered pixels are rejected and drawn again.
    """
    while True:
        canvas = Image.new("L", (side_px * SUBPIXELS, side_px * SUBPIXELS))
        draw = ImageDraw.Draw(canvas)
        n_stems = int(rng.integers(2, 5)) if rng.random() < 0.08 else 1
        for _ in range(n_stems):
            _draw_tree(rng, draw, side_px, min(_peak_width_px(rng), WIDEST_SHARE * side_px))
        coverage_PP = np.asarray(canvas.reduce(SUBPIXELS))
        if (coverage_PP > 60).sum() >= 0.1 * side_px:
            return coverage_PP


def _peak_width_px(rng: np.random.Generator) -> float:
    low, high = (HAIRLINE_PX, COMMON_PX, GAPING_PX)[rng.choice(3, p=KIND_SHARES)]
    return float(low * (high / low) ** rng.random())


def _draw_tree(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side_px: int, peak_px: float) -> None:
    """One stem along a random chord of the tile, with branches."""
    angle = rng.uniform(0, 2 * math.pi)
    heading_2 = np.array([math.cos(angle), math.sin(angle)])
    across_2 = np.array([-heading_2[1], heading_2[0]])
    aside, along = rng.uniform(-0.62, 0.62), rng.uniform(-0.3, 0.3)
    middle_2 = side_px / 2 + (across_2 * aside + heading_2 * along) * side_px
    reach_px = 0.9 * side_px
    ends = rng.random() < END_SHARE
    onward_px = rng.uniform(0.02, 0.5) * side_px if ends else reach_px
    stem_N2 = _path(rng, middle_2 - heading_2 * reach_px, middle_2 + heading_2 * onward_px)
    widths_N = _widths_px(rng, len(stem_N2), peak_px, ends)
    _draw_line(rng, draw, stem_N2, widths_N)
    for _ in range(rng.poisson(0.8)):
        at = int(rng.integers(len(stem_N2) // 4, len(stem_N2)))
        turn = angle + rng.choice([-1, 1]) * rng.uniform(0.3, 1.4)
        length_px = rng.uniform(0.08, 0.6) * side_px
        end_2 = stem_N2[at] + length_px * np.array([math.cos(turn), math.sin(turn)])
        branch_N2 = _path(rng, stem_N2[at], end_2)
        branch_px = max(0.7, widths_N[at] * rng.uniform(0.3, 0.9))
        _draw_line(rng, draw, branch_N2, _widths_px(rng, len(branch_N2), branch_px, True))


def _path(rng: np.random.Generator, start_2: Points, end_2: Points) -> Points:
    """A crooked line (N, 2): midpoint displacement with a roughness that decays with scale, and kinks.

    Source: Fournier, Fussell & Carpenter, Computer Rendering of Stochastic Models (1982), midpoint displacement.
    """
    points_N2 = np.stack([start_2, end_2])
    crookedness, decay = rng.uniform(0.03, 0.13), rng.uniform(0.75, 1.12)
    for _ in range(max(1, round(math.log2(max(6.0, math.dist(start_2, end_2)) / STEP_PX)))):
        steps_N2 = np.diff(points_N2, axis=0)
        # Heavy tails produce the sharp kinks of a crack that runs around an aggregate grain.
        bends_N1 = np.clip(rng.standard_t(3, (len(steps_N2), 1)), -2.5, 2.5) * crookedness
        middles_N2 = points_N2[:-1] + steps_N2 * rng.uniform(0.35, 0.65, (len(steps_N2), 1))
        middles_N2 += steps_N2[:, ::-1] * (1, -1) * bends_N1
        points_N2 = np.insert(points_N2, np.arange(1, len(points_N2)), middles_N2, axis=0)
        crookedness = min(crookedness * decay, 0.2)
    return points_N2


def _widths_px(rng: np.random.Generator, n: int, peak_px: float, tapers: bool) -> Points:
    """Width [px] at every point: random variation, an optional taper, and gaps where it is 0."""
    along_N = np.linspace(0, 1, n)
    n_knots = 3 + n // int(rng.integers(5, 25))
    knots = np.exp(rng.normal(0, rng.uniform(0.15, 0.6), n_knots))
    widths_N = np.interp(along_N, np.linspace(0, 1, n_knots), knots)
    widths_N *= peak_px / widths_N.max()
    if tapers:
        widths_N *= np.sqrt(1 - along_N * 0.97)
    widths_N = np.maximum(widths_N, min(0.7, peak_px))
    if peak_px < GAPING_PX[0] and rng.random() < INTERRUPTED_SHARE:
        n_knots = 2 + n // int(rng.integers(3, 12))
        openness_N = np.interp(along_N, np.linspace(0, 1, n_knots), rng.random(n_knots))
        widths_N[openness_N < rng.uniform(0.1, 0.4)] = 0
    return widths_N


def _draw_line(rng: np.random.Generator, draw: ImageDraw.ImageDraw, points_N2: Points, widths_N: Points) -> None:
    """Fill a line of varying width and strength with rough edges, sometimes in staggered segments."""
    along_N2 = np.gradient(points_N2, axis=0)
    across_N2 = along_N2[:, ::-1] * (-1, 1) / np.maximum(np.hypot(along_N2[:, :1], along_N2[:, 1:]), 1e-6)
    is_gaping = widths_N.max() > GAPING_PX[0]
    if not is_gaping and rng.random() < STAGGERED_SHARE:
        pieces_N = np.cumsum(rng.random(len(points_N2)) < STEP_PX / rng.uniform(15, 60))
        shifts = rng.normal(0, rng.uniform(0.5, 3), pieces_N[-1] + 1)
        points_N2 = points_N2 + across_N2 * shifts[pieces_N][:, None]
    roughness = rng.uniform(0.05, 0.3)
    halves_N2 = np.maximum(widths_N[:, None] / 2 * rng.normal(1, roughness, (len(points_N2), 2)), 0)
    left_N2, right_N2 = points_N2 + across_N2 * halves_N2[:, :1], points_N2 - across_N2 * halves_N2[:, 1:]
    faintness = rng.uniform(0, 0.1 if is_gaping else 0.5)
    strengths_N = 255 * np.clip(1 - np.abs(rng.normal(0, faintness, len(points_N2) // 3 + 1)), 0.15, 1)
    quads = np.stack([left_N2[:-1], left_N2[1:], right_N2[1:], right_N2[:-1]], axis=1) * SUBPIXELS
    is_open_N = np.minimum(widths_N[:-1], widths_N[1:]) > 0
    for number in np.flatnonzero(is_open_N).tolist():
        draw.polygon(quads[number].ravel().tolist(), fill=int(strengths_N[number // 3]))
