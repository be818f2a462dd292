"""Drawings of structures that resemble cracks and are sound: joints, edges, holes, shadows, stains.

What the network was not shown as sound scores high: nearly all of the highest sound tiles of SDNET2018 were the dark
beyond the edge of a deck, tie holes of walls and gaps between slabs, until these were drawn. Shares and sizes are
visual estimates from contact sheets of photographs.

Shape letters: P side of a tile [px].
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]

# Supersampling factor of thin strokes: they are filled on a grid of 0.25 px.
SUBPIXELS = 4


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
        draw.polygon(_anywhere(rng, outline, side_px * 2), fill=int(rng.uniform(90, 255)))
    soft = canvas.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    return np.asarray(soft, np.float32) / np.float32(255)


def _anywhere(rng: np.random.Generator, outline_N2: NDArray[np.float64], side_px: int) -> list[float]:
    """Corners x, y, x, y, ... of an outline around the origin, turned and moved at random."""
    tilt = rng.uniform(0, math.pi)
    turned_N2 = outline_N2 @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    corners: list[float] = (turned_N2 + rng.random(2) * side_px).ravel().tolist()
    return corners


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


def _gap(rng: np.random.Generator, side_px: int) -> Floats:
    """An expansion joint or the gap between two slabs: wide, straight and dark, with ravelled and bevelled edges."""
    across_PP, along_PP = _grid(rng, side_px, 0.5)
    width_px = 6.0 * (64 / 6.0) ** rng.random()
    worn = np.float32(rng.choice([0, 0.03, 0.1], p=[0.4, 0.4, 0.2]) * rng.random() * min(width_px, 25))
    from_left_PP = width_px / 2 + across_PP + worn * _noise(rng, side_px, rng.uniform(4, 20))
    from_right_PP = width_px / 2 - across_PP + worn * _noise(rng, side_px, rng.uniform(4, 20))
    soft_px = rng.uniform(0.7, 4)
    inside_PP = np.clip(from_left_PP / soft_px + 0.5, 0, 1) * np.clip(from_right_PP / soft_px + 0.5, 0, 1)
    # One wall of the gap may be lit, and debris lies in it.
    shade_PP = 1 - rng.uniform(0, 0.7) * np.clip(from_left_PP / width_px, 0, 1) * rng.choice([0, 1])
    debris_PP = np.clip(_noise(rng, side_px, rng.uniform(3, 12)) - rng.uniform(0.3, 2), 0, 1)
    shade_PP = np.clip(shade_PP - rng.uniform(0, 0.8) * debris_PP, 0.1, 1)
    bevel_px = rng.uniform(3, 40)
    bevel_PP = np.clip(-from_right_PP / 2, 0, 1) * np.clip((bevel_px + from_right_PP) / 3, 0, 1)
    if rng.random() < 0.15:  # ends inside the tile
        inside_PP = inside_PP * np.clip((along_PP - rng.uniform(-0.5, 0.5) * side_px) / 6, 0, 1)
    lit_PP = bevel_PP * rng.uniform(-0.15, 0.45) * rng.choice([0, 1])
    gap: Floats = (lit_PP - inside_PP * shade_PP * rng.uniform(0.7, 1.2)).astype(np.float32)
    return gap


def _void(rng: np.random.Generator, side_px: int) -> Floats:
    """The edge of the surface: beyond a rough line all is dark, or another thing, often with a broken, lit rim."""
    across_PP, _ = _grid(rng, side_px, 0.6)
    rough = rng.choice([0, 1, 3, 8])
    across_PP = across_PP + np.float32(rough) * _noise(rng, side_px, 30)
    across_PP = across_PP + np.float32(rough / 3) * _noise(rng, side_px, 6)
    beyond_PP = np.clip(across_PP / rng.uniform(0.7, 6) + 0.5, 0, 1)
    rim_PP = np.clip(across_PP + rng.uniform(3, 30), 0, 1) * (1 - beyond_PP)
    brightness = rng.choice([-1, -1, -1, 0.6]) * rng.uniform(0.5, 1)
    other_PP = brightness * (1 + rng.choice([0.03, 0.12]) * _noise(rng, side_px, rng.uniform(5, 60)))
    lit_PP = rim_PP * rng.uniform(-0.2, 0.3) * rng.choice([0, 1])
    void: Floats = (beyond_PP * other_PP + lit_PP).astype(np.float32)
    return void


def _tie_holes(rng: np.random.Generator, side_px: int) -> Floats:
    """One or two tie holes."""
    holes_PP = np.zeros((side_px, side_px), np.float32)
    for _ in range(1 + (rng.random() < 0.2)):
        holes_PP += _tie_hole(rng, side_px)
    return holes_PP


def _tie_hole(rng: np.random.Generator, side_px: int) -> Floats:
    """A large dark ellipse, shaded from one side, with a sharp or chipped rim."""
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32)
    radius_px = 8 * (90 / 8) ** rng.random()
    turn, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(0, math.pi)
    dx, dy = x - rng.uniform(-0.1, 1.1) * side_px, y - rng.uniform(-0.1, 1.1) * side_px
    long_PP = (dx * math.cos(tilt) + dy * math.sin(tilt)) / radius_px
    short_PP = (dy * math.cos(tilt) - dx * math.sin(tilt)) / (radius_px * rng.uniform(0.6, 1))
    radii_PP = np.hypot(long_PP, short_PP) + np.float32(rng.choice([0, 0.04, 0.1])) * _noise(rng, side_px, 8)
    inside_PP = np.clip((1 - radii_PP) * radius_px / rng.uniform(0.7, 3) + 0.5, 0, 1)
    light_PP = np.clip(0.5 + 0.7 * (dx * math.cos(turn) + dy * math.sin(turn)) / radius_px, 0, 1)
    if rng.random() < 0.5:  # the floor has a shade of its own
        is_floor_PP = np.hypot(long_PP + 0.3 * math.cos(turn), short_PP + 0.3 * math.sin(turn)) < 0.9
        light_PP = np.where(is_floor_PP, light_PP, 1)
    depth = rng.uniform(0.5, 1.1)
    rim_PP = np.exp(-(((radii_PP - 1.08) / 0.06) ** 2)) * np.float32(rng.uniform(-0.2, 0.25))
    hole: Floats = (rim_PP - inside_PP * (depth - rng.uniform(0, 0.8) * depth * light_PP)).astype(np.float32)
    return hole


def _popouts(rng: np.random.Generator, side_px: int) -> Floats:
    """Deep holes with a ragged outline, round or drawn out, in a cluster or alone."""
    canvas = Image.new("L", (side_px * 2, side_px * 2))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 6)):
        corners = int(rng.integers(10, 40))
        turns = np.linspace(0, 2 * math.pi, corners, endpoint=False)
        radii = 2 * 4 * (36 / 4) ** rng.random() * np.exp(rng.normal(0, 0.22, corners))
        outline = np.stack([np.cos(turns) * radii, np.sin(turns) * radii / rng.uniform(1, 5)], axis=1)
        draw.polygon(_anywhere(rng, outline, side_px * 2), fill=int(rng.uniform(120, 255)))
    deep = canvas.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    deep_PP = np.asarray(deep, np.float32) / np.float32(255)
    lit_PP = np.clip(np.roll(deep_PP, rng.integers(-4, 5, 2), (0, 1)) - deep_PP, 0, 1)
    patch_PP = np.clip(1 - 0.4 * np.abs(_noise(rng, side_px, 6)), 0, 1)
    popouts: Floats = lit_PP * np.float32(rng.uniform(0, 0.4)) - deep_PP * patch_PP * np.float32(rng.uniform(0.5, 1.1))
    return popouts


def _shadow(rng: np.random.Generator, side_px: int) -> Floats:
    """A cast shadow: one side of a straight or jagged line, or stripes from a fence or grass, keeps its texture."""
    across_PP, along_PP = _grid(rng, side_px, 0.2)
    across_PP = across_PP + np.float32(rng.choice([0, 0, 6, 20])) * _noise(rng, side_px, rng.uniform(10, 80))
    if rng.random() < 0.3:  # blades of grass, leaves
        across_PP = across_PP + 60 * np.abs(_noise(rng, side_px, 300)) * (((along_PP / rng.uniform(6, 30)) % 1) - 0.5)
    shadow: Floats = np.clip(across_PP / rng.choice([1, 2, 6, 20]) + 0.5, 0, 1) * np.float32(-rng.uniform(0.25, 0.8))
    return shadow


Blemish = Callable[[np.random.Generator, int], Floats]
BLEMISHES: tuple[Blemish, ...] = (
    _joint,
    _form_line,
    _grooves,
    _holes,
    _stones,
    _stain,
    _cable,
    _twigs,
    _band,
    _gap,
    _void,
    _tie_holes,
    _popouts,
    _shadow,
)
BLEMISH_SHARES = (0.14, 0.06, 0.12, 0.09, 0.07, 0.08, 0.04, 0.04, 0.06, 0.12, 0.06, 0.05, 0.04, 0.03)
