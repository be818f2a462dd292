"""Drawings of cracks and of structures that resemble cracks, made once and reused during training.

They are coverage maps of cracks and brightness maps of blemishes. The appearance of a crack (depth, sharpness,
moisture, dust) is sampled when it is composited with a tile; this module draws geometry only.

Shares, densities and sizes are visual estimates from contact sheets of training photographs unless a source is given.

Shape letters: N points along a crack or drawings of a library; P side of a tile [px]; 2 = (x, y) [px].
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Points = NDArray[np.float64]

# Supersampling factor: outlines are filled on a grid of 0.25 px.
SUBPIXELS = 4
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


def draw_blemish(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Change of the brightness int8 (P, P) of one or two structures that are not cracks."""
    change_PP = np.zeros((side_px, side_px), np.float32)
    for _ in range(1 + (rng.random() < 0.4)):
        kind = rng.choice(len(BLEMISHES), p=BLEMISH_SHARES)
        change_PP += BLEMISHES[kind](rng, side_px)
    return (np.clip(change_PP, -1, 1) * 127).astype(np.int8)


def _grid(rng: np.random.Generator, side_px: int, axis_bias: float) -> tuple[Floats, Floats]:
    """Distances [px] across and along a random straight line through the tile, float (P, P) each."""
    angle = rng.uniform(0, math.pi)
    if rng.random() < axis_bias:
        angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.12)
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32) - np.float32(side_px / 2)
    offset = rng.uniform(-0.5, 0.5) * side_px
    return x * math.cos(angle) + y * math.sin(angle) - np.float32(offset), y * math.cos(angle) - x * math.sin(angle)


def _profile(across_PP: Floats, width_px: float, soft_px: float) -> Floats:
    """1 inside a band of that width, 0 outside, with an edge of `soft_px`."""
    profile: Floats = np.clip((width_px / 2 - np.abs(across_PP)) / max(soft_px, 0.5) + 0.5, 0, 1)
    return profile


def _noise(rng: np.random.Generator, side_px: int, cell_px: float) -> Floats:
    """Smooth noise with a standard deviation of about 1, float (P, P)."""
    cells = max(2, math.ceil(side_px / cell_px) + 1)
    lattice = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(lattice.resize((side_px, side_px), Image.Resampling.BICUBIC)) * np.float32(1.2)


def _joint(rng: np.random.Generator, side_px: int) -> Floats:
    """A joint or saw cut: a long straight line of constant width, dark or filled, often with a lit edge."""
    across_PP, along_PP = _grid(rng, side_px, 0.7)
    across_PP = across_PP + _noise(rng, side_px, 40) * np.float32(rng.choice([0, 0.3, 0.8]))
    across_PP = across_PP + _noise(rng, side_px, 6) * np.float32(rng.uniform(0, 1.2) * rng.choice([0, 1]))  # worn
    width_px = 1.0 * (24 / 1.0) ** rng.random()
    line_PP = _profile(across_PP, width_px, rng.uniform(0.5, 3)) * np.float32(rng.choice([-1, -1, -1, 0.5]))
    line_PP *= np.float32(rng.uniform(0.1, 0.85))
    line_PP *= np.clip(1 + rng.choice([0.15, 0.5]) * _noise(rng, side_px, 6), 0.2, 1.3)
    lit_PP = _profile(across_PP - width_px / 2 - 1, rng.uniform(1, 3), 1)
    if rng.random() < 0.3:  # ends inside the tile, as a saw cut may
        line_PP *= np.clip((along_PP - rng.uniform(-0.5, 0.5) * side_px) / 3, 0, 1)
        lit_PP *= 0
    joined: Floats = line_PP + lit_PP * np.float32(rng.uniform(0, 0.25))
    return joined


def _form_line(rng: np.random.Generator, side_px: int) -> Floats:
    """A formwork line: a soft straight ridge, or a step between two boards."""
    across_PP, _ = _grid(rng, side_px, 0.8)
    soft_px = rng.uniform(1, 5)
    ridge_PP = np.exp(-((across_PP / soft_px) ** 2)) * np.float32(rng.uniform(-0.25, 0.2))
    step_PP = np.tanh(across_PP / soft_px) * np.float32(rng.normal(0, 0.06))
    lit_PP = np.exp(-(((across_PP - soft_px) / soft_px) ** 2)) * np.float32(rng.uniform(0, 0.2))
    form: Floats = ridge_PP + step_PP + lit_PP
    return form


def _grooves(rng: np.random.Generator, side_px: int) -> Floats:
    """Broom finish or rakes: many nearly parallel lines of varying strength."""
    across_PP, along_PP = _grid(rng, side_px, 0.3)
    wavelength_px = 3 * (24 / 3) ** rng.random()
    bend_PP = _noise(rng, side_px, 80) * np.float32(rng.choice([0, 0.1]))
    phase_PP = across_PP / wavelength_px + bend_PP + _noise(rng, side_px, 4) * np.float32(rng.uniform(0, 0.12))
    row_PP = np.floor(phase_PP).astype(int) % 512
    rows = phase_PP - np.floor(phase_PP)
    # The strength varies along each groove.
    knots = rng.normal(0.6, 0.5, (512, 16)).astype(np.float32)
    at_PP = along_PP / rng.uniform(20, 90) + rng.uniform(0, 16)
    strengths_PP = np.clip(knots[row_PP, np.floor(at_PP).astype(int) % 16], 0, 1.5)
    centres_PP = rng.uniform(0.35, 0.65, 512).astype(np.float32)[row_PP]
    groove_PP = -np.exp(-(((rows - centres_PP) / rng.uniform(0.08, 0.3)) ** 2)) * strengths_PP
    if rng.random() < 0.4:
        groove_PP = groove_PP * np.clip(0.5 + 0.7 * _noise(rng, side_px, 50), 0, 1)
    lit = rng.uniform(0, 0.6)
    grooves: Floats = (groove_PP - lit * np.roll(groove_PP, rng.integers(1, 4), rng.integers(0, 2))).astype(np.float32)
    return grooves * np.float32(rng.uniform(0.05, 0.4))


def _ellipses(rng: np.random.Generator, side_px: int, n: int, low_px: float, high_px: float) -> Floats:
    """Irregular rounded spots, coverage float (P, P) in 0..1."""
    canvas = Image.new("L", (side_px * 2, side_px * 2))
    draw = ImageDraw.Draw(canvas)
    for _ in range(n):
        radius = low_px * (high_px / low_px) ** (rng.random() ** 1.5)
        turns = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        radii = radius * np.exp(rng.normal(0, 0.2, 10)) * 2
        outline = np.stack([np.cos(turns) * radii * rng.uniform(0.6, 1.4), np.sin(turns) * radii], axis=1)
        tilt = rng.uniform(0, math.pi)
        outline = outline @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        outline += rng.random(2) * side_px * 2
        draw.polygon(outline.ravel().tolist(), fill=int(rng.uniform(90, 255)))
    soft = canvas.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    return np.asarray(soft, np.float32) / np.float32(255)


def _holes(rng: np.random.Generator, side_px: int) -> Floats:
    """Bug holes, popouts or a tie hole: dark, lit on one side."""
    spots_PP = _ellipses(rng, side_px, int(rng.integers(1, 40)), 1, rng.choice([4, 8, 20]))
    shift = rng.integers(-2, 3, 2)
    lit_PP = np.clip(np.roll(spots_PP, shift, (0, 1)) - spots_PP, 0, 1)
    holes: Floats = lit_PP * np.float32(rng.uniform(0, 0.4)) - spots_PP * np.float32(rng.uniform(0.1, 0.8))
    return holes


def _stones(rng: np.random.Generator, side_px: int) -> Floats:
    """Exposed aggregate, flakes, gum, paint spatter: light or dark grains."""
    light = _ellipses(rng, side_px, int(rng.integers(5, 80)), 1, rng.choice([3, 6, 14]))
    dark = _ellipses(rng, side_px, int(rng.integers(5, 80)), 1, rng.choice([3, 6, 14]))
    stones: Floats = light * np.float32(rng.uniform(0, 0.35)) - dark * np.float32(rng.uniform(0, 0.35))
    return stones


def _stain(rng: np.random.Generator, side_px: int) -> Floats:
    """A blotch or runs down the wall, soft or with a sharp edge, mostly darker."""
    field_PP = _noise(rng, side_px, rng.uniform(30, 120)) + 0.4 * _noise(rng, side_px, rng.uniform(6, 25))
    if rng.random() < 0.4:
        runs = np.interp(np.arange(side_px), np.linspace(0, side_px, 40), rng.normal(0, 1, 40)).astype(np.float32)
        field_PP = field_PP * 0.4 + runs[None, :] if rng.random() < 0.7 else field_PP * 0.4 + runs[:, None]
    edge = rng.choice([0.5, 1, 4, 12])
    inside_PP = np.clip((field_PP - rng.uniform(0, 1.2)) * edge, 0, 1)
    stain: Floats = inside_PP * np.float32(rng.choice([-1, -1, -1, 0.7]) * rng.uniform(0.05, 0.35))
    return stain


def _cable(rng: np.random.Generator, side_px: int) -> Floats:
    """A cable, root, rope or drip line: a smooth curve of constant width, dark or light, with a shadow."""
    turns = np.linspace(0, 1, 60)
    start, end = rng.random(2) * side_px, rng.random(2) * side_px
    direction = (end - start) / max(1.0, float(np.hypot(*(end - start))))
    across = np.array([-direction[1], direction[0]])
    start, end = start - direction * side_px, end + direction * side_px
    bend = rng.normal(0, 0.12) * side_px * np.sin(math.pi * turns * rng.uniform(0.7, 3) + rng.uniform(0, 3))
    points = start + (end - start) * turns[:, None] + across * bend[:, None]
    canvas = Image.new("L", (side_px * 2, side_px * 2))
    width_px = 2 * rng.uniform(2, 10)
    ImageDraw.Draw(canvas).line((points * 2).ravel().tolist(), fill=255, width=round(width_px), joint="curve")
    line_PP = np.asarray(
        canvas.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5))), np.float32
    ) / np.float32(255)
    shadow_PP = np.clip(np.roll(line_PP, rng.integers(-5, 6, 2), (0, 1)) - line_PP, 0, 1)
    cable: Floats = line_PP * np.float32(rng.uniform(-0.5, 0.5)) - shadow_PP * np.float32(rng.uniform(0, 0.4))
    return cable


def _twigs(rng: np.random.Generator, side_px: int) -> Floats:
    """Twigs, straw, scratches: short straight strokes, dark or light."""
    canvas = Image.new("L", (side_px * SUBPIXELS, side_px * SUBPIXELS))
    draw = ImageDraw.Draw(canvas)
    main = rng.uniform(0, math.pi)
    spread = rng.choice([0.2, 3])
    for _ in range(rng.integers(1, 14)):
        angle, length_px = main + rng.normal(0, spread), rng.uniform(4, 34)
        start = rng.random(2) * side_px
        end = start + length_px * np.array([math.cos(angle), math.sin(angle)])
        width = round(SUBPIXELS * rng.uniform(0.8, 3))
        draw.line((np.stack([start, end]) * SUBPIXELS).ravel().tolist(), fill=int(rng.uniform(80, 255)), width=width)
    strokes_PP = np.asarray(canvas.reduce(SUBPIXELS), np.float32) / np.float32(255)
    twigs: Floats = strokes_PP * np.float32(rng.choice([-1, 1]) * rng.uniform(0.1, 0.5))
    return twigs


def _band(rng: np.random.Generator, side_px: int) -> Floats:
    """A tyre mark, a painted line or a cast shadow: a wide band with soft or sharp edges."""
    across_PP, _ = _grid(rng, side_px, 0.4)
    across_PP = across_PP + _noise(rng, side_px, 60) * np.float32(rng.choice([0, 2, 6]))
    band_PP = _profile(across_PP, rng.uniform(10, 200), rng.choice([1, 3, 15, 40]))
    patch_PP = np.clip(1 + np.float32(rng.choice([0, 0.5])) * _noise(rng, side_px, 5), 0, 1.5)
    band: Floats = band_PP * patch_PP * np.float32(rng.choice([-1, -1, 1]) * rng.uniform(0.05, 0.45))
    return band


BLEMISHES = (_joint, _form_line, _grooves, _holes, _stones, _stain, _cable, _twigs, _band)
BLEMISH_SHARES = (0.21, 0.08, 0.17, 0.13, 0.10, 0.11, 0.05, 0.06, 0.09)
