"""Parts of drawn concrete: grain, stains, stones, joints, light, and the outlines of cracks.

A pixel of a drawing means the same at every image size: a 4000x3000 photograph has more stones than a 227x227 image,
not larger ones. Equal generators give equal pixels, for one version of numpy and Pillow.

Every share, density and contrast below was chosen by eye from METU contact sheets unless a source is given.

Shape letters: H, W rows and columns of an image [px]; N points along a crack; B blobs; V corners of one blob;
2 = (x, y) [px], where pixel (0, 0) covers 0 <= x, y < 1; 3 = red, green, blue.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# Side of one METU image (Ozgenel 2018) [px]; the scale at which stones, holes and crack widths are drawn.
SIDE_PX = 227

# Cracks are filled on a grid this much finer than the image [subpixels per px]: edges are accurate to 0.25 px, and the
# grid of a 4000x3000 photograph takes 192 MB.
SUBPIXELS = 4


def compass(rng: np.random.Generator) -> tuple[int, int]:
    """One of the eight neighbours of a pixel, as (x, y)."""
    angle = rng.integers(8) * math.pi / 4
    return round(math.cos(angle)), round(math.sin(angle))


def resize(plane_HW: Floats, shape: tuple[int, int]) -> Floats:
    """Read-only bicubic copy of another shape."""
    return np.asarray(Image.fromarray(plane_HW).resize(shape[::-1], Image.Resampling.BICUBIC))


def fractal(rng: np.random.Generator, shape: tuple[int, int], finest_px: float, coarsest_px: float) -> Floats:
    """Noise with equal contrast in every octave between two sizes: mean about 0, deviation about 1.

    METU surfaces have near-equal contrast in each octave from 1 to 32 px, so this is their grain too.

    Source: Perlin, An Image Synthesizer (1985), a sum of octaves of lattice noise.
    """
    n_octaves = 1 + max(0, round(math.log2(coarsest_px / finest_px)))
    plane_HW = np.zeros((2, 2), np.float32)
    for octave in reversed(range(n_octaves)):
        cell_px = finest_px * 2**octave
        size = math.ceil(shape[0] / cell_px) + 1, math.ceil(shape[1] / cell_px) + 1
        plane_HW = resize(plane_HW, size) + rng.standard_normal(size, np.float32)
    # Each enlargement smooths: bicubic lattice noise keeps about 0.8 of its deviation.
    return resize(plane_HW, shape) * np.float32(1 / (0.8 * math.sqrt(n_octaves)))


def grain(rng: np.random.Generator, shape: tuple[int, int], toward_light_xy: tuple[int, int]) -> Floats:
    """Colour differences of the cement and the relief of its skin, as a share of the brightness, float (H, W)."""
    height, width = shape
    dx, dy = toward_light_xy
    skin_HW = fractal(rng, (height + 2, width + 2), rng.uniform(1.8, 3.2), 8)
    relief_HW = skin_HW[1:-1, 1:-1] - skin_HW[1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx]
    relief_HW *= np.float32(rng.lognormal(math.log(0.014), 0.5))
    relief_HW += fractal(rng, shape, rng.uniform(2.5, 5), rng.uniform(16, 64)) * np.float32(
        rng.lognormal(math.log(0.02), 0.4)
    )
    return relief_HW


def stains(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Dark or light blotches, soft or ragged, as a share of the brightness, float (H, W)."""
    stain_HW = fractal(rng, shape, rng.uniform(2, 6), rng.uniform(40, 160))
    stain_HW -= np.float32(rng.uniform(0.2, 1.5))
    stain_HW *= np.float32(rng.uniform(0.3, 0.9))
    np.clip(stain_HW, 0, 1, out=stain_HW)
    stain_HW *= np.float32(rng.choice([-1, -1, 0.6]) * rng.uniform(0.06, 0.25))
    return stain_HW


def blobs(rng: np.random.Generator, shape: tuple[int, int], per_side: float, radius_px: float, level: float) -> Floats:
    """Irregular grains at random places, many small and few large, float (H, W) in -1..1 on a ground of 0.

    Args:
        per_side: expected number on an image of SIDE_PX x SIDE_PX.
        radius_px: the smallest radius.
        level: mean of the grains' own levels; their deviation is 0.3.
    """
    n, corners = rng.poisson(per_side * shape[0] * shape[1] / SIDE_PX**2), 8
    angles_BV = np.linspace(0, 2 * math.pi, corners, endpoint=False) + rng.uniform(0, 0.7, (n, corners))
    radii_B = np.minimum(radius_px * (1 + rng.pareto(2.3, n)), 9 * radius_px)
    reach_BV = radii_B[:, None] * rng.uniform(0.6, 1.2, (n, corners))
    outline_BV2 = np.stack([np.cos(angles_BV), np.sin(angles_BV)], axis=2) * reach_BV[..., None]
    outline_BV2 *= rng.uniform(0.5, 1.4, (n, 1, 2))
    outline_BV2 += rng.random((n, 1, 2)) * shape[::-1]
    levels_B = np.clip(128 + 127 * rng.normal(level, 0.3, n), 0, 255).astype(int)
    canvas = Image.new("L", shape[::-1], 128)
    draw = ImageDraw.Draw(canvas)
    for outline, grey in zip(outline_BV2.reshape(n, 2 * corners).tolist(), levels_B.tolist(), strict=True):
        draw.polygon(outline, fill=grey)
    blobs_HW = np.asarray(canvas.filter(ImageFilter.BoxBlur(0.7))).astype(np.float32)
    blobs_HW -= 128
    blobs_HW *= 1 / 128
    return blobs_HW


def holes(rng: np.random.Generator, shape: tuple[int, int], toward_light_xy: tuple[int, int]) -> Floats:
    """Bug holes: small dark voids whose rim away from the light is lit, as a share of the brightness."""
    holes_HW = blobs(rng, shape, rng.uniform(1, 16), rng.uniform(0.8, 1.6), -0.9)
    np.minimum(holes_HW, 0, out=holes_HW)
    rim_HW = lit_edge(-holes_HW, (-toward_light_xy[0], -toward_light_xy[1]), 1)
    holes_HW *= np.float32(rng.uniform(0.25, 0.6))
    holes_HW += rim_HW * np.float32(rng.uniform(0, 0.3))
    return holes_HW


def distance(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Signed distance [px] of every pixel from a random straight line through the image's middle half."""
    angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.25)
    x, y = rng.uniform(0.25, 0.75, 2) * shape[::-1]
    along_x = (np.arange(shape[1], dtype=np.float32) - np.float32(x)) * np.float32(math.cos(angle))
    along_y = (np.arange(shape[0], dtype=np.float32) - np.float32(y)) * np.float32(math.sin(angle))
    return along_y[:, None] + along_x


def joint(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A formwork joint: a soft straight ridge, light on one side and dark on the other, as a share."""
    across_HW = distance(rng, shape)
    across_HW *= np.float32(1 / rng.uniform(1.5, 5))
    ridge_HW = np.exp(-(across_HW**2))
    across_HW += np.float32(rng.uniform(-1, 1))
    ridge_HW *= across_HW
    ridge_HW *= np.float32(rng.uniform(0.1, 0.3))
    return ridge_HW


def shadow(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A cast shadow with a soft, wavy edge, as a factor."""
    shadow_HW = distance(rng, shape)
    shadow_HW += fractal(rng, shape, 16, 64) * np.float32(rng.uniform(0.5, 4))
    shadow_HW *= np.float32(1 / rng.uniform(4, 25))
    np.clip(shadow_HW, -1, 1, out=shadow_HW)
    shadow_HW *= np.float32(rng.uniform(0.05, 0.15))
    shadow_HW += 0.85
    return shadow_HW


def light(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Uneven light: a gradient, slow differences and a lens's darker corners, as a factor."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    slope = rng.normal(0, 0.03, 2)
    slow_4x4 = resize(rng.normal(0, 0.02, (4, 4)).astype(np.float32), (16, 16))
    coarse = 1 + slow_4x4 + slope[0] * x + slope[1] * y - rng.uniform(0, 0.04) * (x**2 + y**2)
    return resize(coarse.astype(np.float32), shape)


def develop(rng: np.random.Generator, share_HW: Floats) -> Bytes:
    """Brightness, tint, faint colour blotches and sensor noise, uint8 (H, W, 3); `share_HW` is used up."""
    # METU: mean grey 134..214 in nine images of ten; red about 3.4 % above it and blue about 4.4 % below.
    share_HW *= np.float32(np.clip(rng.normal(182, 22), 95, 225))
    share_HW += rng.standard_normal(share_HW.shape, np.float32) * np.float32(rng.uniform(0.2, 1))
    warmth = rng.normal(1, 0.5)
    colour_HW = fractal(rng, (share_HW.shape[0], share_HW.shape[1]), 16, 64) * np.float32(0.006)
    image_HW3 = np.empty((*share_HW.shape, 3), np.uint8)
    for channel, (gain, drift) in enumerate([(1 + 0.034 * warmth, 1), (1.006, 0), (1 - 0.044 * warmth, -1)]):
        plane_HW = colour_HW * np.float32(drift)
        plane_HW += np.float32(gain)
        plane_HW *= share_HW
        image_HW3[..., channel] = np.clip(plane_HW, 0, 255, out=plane_HW)
    return image_HW3


def crack_tree(
    rng: np.random.Generator, height: int, width: int, peak_px: float, thinnest_px: float
) -> list[tuple[Points, Points]]:
    """Centre lines (N, 2) and widths (N,) [px] of a crack and its branches; they may leave the image."""
    angle = rng.uniform(0, 2 * math.pi)
    heading_2 = np.array([math.cos(angle), math.sin(angle)])
    middle_2 = rng.uniform(0.3, 0.7, 2) * (width, height)
    reach_px = math.hypot(height, width) * 0.75
    is_through = rng.random() < 0.65
    end_2 = middle_2 + heading_2 * (reach_px if is_through else rng.uniform(0.05, 0.35) * min(height, width))
    # Two lines that meet in the middle: a single one could wander past the image.
    into_N2, onward_N2 = wander(rng, middle_2 - heading_2 * reach_px, middle_2), wander(rng, middle_2, end_2)
    stem_N2 = np.concatenate([into_N2, onward_N2[1:]])
    tree = [(stem_N2, widths(rng, stem_N2, peak_px, thinnest_px, not is_through))]
    for _ in range(rng.poisson(1.1)):
        at = rng.integers(int(len(stem_N2) * 0.35), int(len(stem_N2) * 0.75))
        turn = angle + rng.choice([-1, 1]) * rng.uniform(0.35, 1.2)
        length_px = rng.uniform(0.15, 0.6) * min(height, width)
        branch_N2 = wander(rng, stem_N2[at], stem_N2[at] + length_px * np.array([math.cos(turn), math.sin(turn)]))
        branch_px = tree[0][1][at] * rng.uniform(0.35, 0.8)
        tree.append((branch_N2, widths(rng, branch_N2, branch_px, thinnest_px, True)))
    return tree


def wander(rng: np.random.Generator, start_2: Points, end_2: Points) -> Points:
    """A crooked line (N, 2) between two points, with steps of about 3 px.

    Source: Fournier, Fussell & Carpenter, Computer Rendering of Stochastic Models (1982), midpoint displacement.
    """
    points_N2 = np.stack([start_2, end_2])
    crookedness = rng.uniform(0.07, 0.18)
    for _ in range(max(1, round(math.log2(math.dist(start_2, end_2) / 3)))):
        steps_N2 = np.diff(points_N2, axis=0)
        sideways_N2 = steps_N2[:, ::-1] * (1, -1) * rng.normal(0, crookedness, (len(steps_N2), 1))
        middles_N2 = points_N2[:-1] + steps_N2 / 2 + sideways_N2
        points_N2 = np.insert(points_N2, np.arange(1, len(points_N2)), middles_N2, axis=0)
    return points_N2


def widths(
    rng: np.random.Generator, points_N2: Points, peak_px: float, thinnest_px: float, is_tapering: bool
) -> Points:
    """Width [px] at every point of a centre line, at least `thinnest_px`; a tapering crack closes at its end."""
    along_N = np.linspace(0, 1, len(points_N2))
    n_knots = 3 + len(points_N2) // 12  # a knot about every 40 px
    widths_N = peak_px * np.interp(along_N, np.linspace(0, 1, n_knots), rng.uniform(0.4, 1, n_knots))
    if is_tapering:
        widths_N *= np.sqrt(1 - along_N)
    return np.maximum(widths_N, thinnest_px)


def strip(rng: np.random.Generator, points_N2: Points, widths_N: Points, thinnest_px: float) -> Points:
    """Outline of a crack with rough edges as quadrilaterals (N - 1, 4, 2), one for each step of its centre line."""
    halves_N2 = widths_N[:, None] / 2 * rng.normal(1, 0.22, (len(points_N2), 2))
    return outline(points_N2, np.maximum(halves_N2, thinnest_px / 2))


def outline(points_N2: Points, halves_N2: Points) -> Points:
    """Quadrilaterals (N - 1, 4, 2), one for each step of a line.

    Args:
        points_N2: centre line [px].
        halves_N2: distances of the two edges from it at each point [px].
    """
    along_N2 = np.gradient(points_N2, axis=0)
    across_N2 = along_N2[:, ::-1] * (-1, 1) / np.hypot(along_N2[:, :1], along_N2[:, 1:])
    left_N2, right_N2 = points_N2 + across_N2 * halves_N2[:, :1], points_N2 - across_N2 * halves_N2[:, 1:]
    return np.stack([left_N2[:-1], left_N2[1:], right_N2[1:], right_N2[:-1]], axis=1)


def fill(quads_N42: Points, height: int, width: int) -> Floats:
    """Share of every pixel that the quadrilaterals (N, 4, 2) cover together, float (H, W) in 0..1."""
    canvas = Image.new("L", (width * SUBPIXELS, height * SUBPIXELS))
    draw = ImageDraw.Draw(canvas)
    for outline in (quads_N42 * SUBPIXELS - 0.5).reshape(-1, 8).tolist():
        draw.polygon(outline, fill=255)
    return np.asarray(canvas.reduce(SUBPIXELS)) * np.float32(1 / 255)


def blurred(coverage_HW: Floats, blur: ImageFilter.Filter) -> Floats:
    """Blurred values in 0..1, in steps of 1/255."""
    grey = Image.fromarray((coverage_HW * np.float32(255.5)).astype(np.uint8))
    return np.asarray(grey.filter(blur)) * np.float32(1 / 255)


def lit_edge(depth_HW: Floats, away_xy: tuple[int, int], reach_px: int) -> Floats:
    """Light that the pixels beside a void catch on its side `away_xy`, float (H, W), 0 away from voids."""
    height, width = depth_HW.shape
    left, top = reach_px * (1 - away_xy[0]), reach_px * (1 - away_xy[1])
    shifted_HW = np.pad(depth_HW, reach_px, mode="edge")[top : top + height, left : left + width]
    lit_HW: Floats = np.maximum(shifted_HW - depth_HW, 0)
    return lit_HW


def shade(surface_HW3: Bytes, factor_HW: Floats) -> Bytes:
    """The surface times a factor, rounded down so that where the factor is below 1 a pixel never stays as light."""
    shaded_HW3 = np.empty_like(surface_HW3)
    for channel in range(3):
        plane_HW = surface_HW3[..., channel] * factor_HW
        shaded_HW3[..., channel] = np.minimum(plane_HW, 255, out=plane_HW)
    return shaded_HW3
