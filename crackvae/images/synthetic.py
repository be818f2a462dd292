"""Drawn concrete and drawn cracks with their masks, to feed the demo, the tests and the benchmarks.

The drawings are made to look plausible beside the METU images (Ozgenel 2018), and nothing more: no number measured on
them says anything about real concrete. The project ships no photograph; this module stands in for one.

A pixel of a drawing means the same at every size: a 4000x3000 photograph has more stones than a 227x227 image, not
larger ones. Equal seeds give equal pixels in any order and any process, for one version of numpy and Pillow.

Every share, density and contrast below is a guess by eye from METU contact sheets unless a source is given.

Shape letters: H, W rows and columns of an image [px]; N points along a crack; B blobs; V corners of one blob;
2 = (x, y) [px], where pixel (0, 0) covers 0 <= x, y < 1; 3 = red, green, blue.
"""

import io
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]


Points = NDArray[np.float64]


Bytes = NDArray[np.uint8]


Mask = NDArray[np.bool_]


# Side of one METU image (Ozgenel 2018) [px]; the scale at which stones, holes and crack widths are drawn.
SIDE_PX = 227


# Smallest side drawn [px]: below it stones and cracks are larger than the image.
MIN_SIDE_PX = 16


# Quality of written JPEGs, a setting: fine grain survives it, and an image takes 9 kB (METU's own files: 6 kB).
JPEG_QUALITY = 90


# Cracks are filled on a grid this much finer than the image [subpixels per px]: edges are right to 0.25 px, and the
# grid of a 4000x3000 photograph takes 192 MB.
SUBPIXELS = 4


# Width of the thinnest crack drawn [px]: a thinner one may cover no pixel by half, and its mask would have gaps.
MIN_CRACK_WIDTH_PX = 1.2


# Beyond this distance from its mask [px, chessboard] a crack leaves the surface untouched: blur and lit edge end here.
RIM_PX = 4


# Shares of the drawn surfaces that show each distractor.
STAIN_SHARE, STONE_SHARE, HOLE_SHARE, FLAKE_SHARE = 0.45, 0.6, 0.5, 0.3


JOINT_SHARE, SHADOW_SHARE = 0.08, 0.12


def draw_concrete(rng: np.random.Generator, height_px: int, width_px: int) -> Bytes:
    """Draw one sound surface: grain, stones, stains, holes, joints, shadows, uneven light, tint, sensor noise.

    Returns:
        uint8 (H, W, 3), sRGB. A 4000x3000 one takes about 2 s and 400 MB.

    Raises:
        ValueError: a side is shorter than MIN_SIDE_PX.
    """
    if min(height_px, width_px) < MIN_SIDE_PX:
        raise ValueError(
            f"an image of {width_px}x{height_px} px is too small to draw concrete on. Ask for {MIN_SIDE_PX} px or more."
        )
    shape = (height_px, width_px)
    toward_light_xy = _compass(rng)
    # Everything up to the light is a share of the surface's own brightness, so that dark concrete is not noisier.
    share_HW = _grain(rng, shape, toward_light_xy)
    if rng.random() < STAIN_SHARE:
        share_HW += _stains(rng, shape)
    if rng.random() < STONE_SHARE:
        share_HW += _blobs(rng, shape, rng.uniform(20, 160), rng.uniform(1, 2), 0) * np.float32(rng.uniform(0.1, 0.5))
    if rng.random() < HOLE_SHARE:
        share_HW += _holes(rng, shape, toward_light_xy)
    if rng.random() < FLAKE_SHARE:
        share_HW += _blobs(rng, shape, rng.uniform(1, 12), 0.8, 1) * np.float32(rng.uniform(0.1, 0.3))
    if rng.random() < JOINT_SHARE:
        share_HW += _joint(rng, shape)
    share_HW += 1
    share_HW *= _light(rng, shape)
    if rng.random() < SHADOW_SHARE:
        share_HW *= _shadow(rng, shape)
    return _develop(rng, share_HW)


def draw_crack(rng: np.random.Generator, surface_HW3: Bytes) -> tuple[Bytes, Mask]:
    """Draw one branching crack, 1 to about 8 px wide, sometimes a hairline of low contrast, across a surface.

    Args:
        rng: where chance comes from.
        surface_HW3: uint8 (H, W, 3); left as it is.

    Returns:
        image uint8 (H, W, 3) and mask bool (H, W): True where the crack covers half a pixel or more. Masked pixels are
        darker than before. Up to RIM_PX around the mask, pixels may be darker (blur) or lighter (lit edge); all others
        are unchanged.
    """
    height, width, _ = surface_HW3.shape
    is_hairline = rng.random() < 0.25
    peak_px = rng.uniform(1.3, 2.4) if is_hairline else 2.5 + 6.5 * rng.beta(1.3, 1.3)
    depth = np.float32(rng.uniform(0.25, 0.55) if is_hairline else rng.uniform(0.6, 0.9))
    tree = _crack_tree(rng, height, width, peak_px, MIN_CRACK_WIDTH_PX)
    quads = [_strip(rng, points_N2, widths_N, MIN_CRACK_WIDTH_PX) for points_N2, widths_N in tree]
    coverage_HW = _fill(np.concatenate(quads), height, width)
    mask_HW = coverage_HW >= 0.5
    # The floor of a crack is not evenly dark: rubble and dirt catch light.
    factor_HW = _fractal(rng, (height, width), 3, 24)
    factor_HW *= 0.13
    factor_HW += 0.9
    np.clip(factor_HW, 0.6, 1.05, out=factor_HW)
    factor_HW *= _blurred(coverage_HW, ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8)))
    factor_HW *= -depth
    factor_HW += 1
    if not is_hairline and rng.random() < 0.4:
        rim_HW = _lit_edge(coverage_HW, _compass(rng), int(rng.integers(1, 3)))
        rim_HW[mask_HW] = 0
        factor_HW += rim_HW * np.float32(rng.uniform(0.05, 0.35))
    # Where the crack runs just outside the image its rim would show without a mask.
    factor_HW[_blurred(mask_HW.astype(np.float32), ImageFilter.BoxBlur(RIM_PX)) == 0] = 1
    return _shade(surface_HW3, factor_HW), mask_HW


def draw_coverage(rng: np.random.Generator, side_px: int, peak_px: float) -> Floats:
    """Draw where cracks run, without their colour: one tree of cracks, sometimes two.

    Args:
        side_px: side of the square [px].
        peak_px: width of the widest place [px]; thinner places go down to half a pixel.

    Returns:
        float (H, W) in 0..1, the share of each pixel that is cracked.
    """
    thinnest_px = rng.uniform(0.5, 0.7)
    trees = [_crack_tree(rng, side_px, side_px, peak_px, thinnest_px) for _ in range(1 + (rng.random() < 0.12))]
    quads = [_strip(rng, points_N2, widths_N, thinnest_px) for tree in trees for points_N2, widths_N in tree]
    return _fill(np.concatenate(quads), side_px, side_px)


def draw_blemish(rng: np.random.Generator, side_px: int) -> Floats:
    """Draw one kind of blemish of sound concrete: stains, bug holes, a joint, or dark stones.

    Returns:
        float (H, W), the change as a share of the surface's brightness; negative is darker.
    """
    shape, kind = (side_px, side_px), rng.integers(4)
    if kind == 0:
        return _stains(rng, shape)
    if kind == 1:
        return _holes(rng, shape, _compass(rng)) * np.float32(rng.uniform(0.6, 1.4))
    if kind == 2:
        return _joint(rng, shape)
    stones_HW = np.minimum(_blobs(rng, shape, rng.uniform(1, 6), rng.uniform(1.5, 4), -0.7), 0)
    return stones_HW * np.float32(rng.uniform(0.2, 0.7))


def draw_line_crack(
    surface_HW3: Bytes, start_xy: tuple[float, float], end_xy: tuple[float, float], width_px: float
) -> tuple[Bytes, Mask]:
    """Draw a straight crack of known size, with square ends; no chance is involved.

    Args:
        surface_HW3: uint8 (H, W, 3); left as it is.
        start_xy, end_xy: ends of the centre line [px]; a part outside the image is cut off.
        width_px: full width [px], above 0; below 1 px the crack is fainter and its mask has gaps or is empty.

    Returns:
        image uint8 (H, W, 3), at 0.3 of its brightness inside the crack, and mask bool (H, W): True where a pixel's
        middle lies in the crack. Outside the mask only antialiased pixels that touch it change.

    Raises:
        ValueError: the line has no width or no length.
    """
    length_px = math.dist(start_xy, end_xy)
    if not (width_px > 0 and length_px > 0):
        raise ValueError(
            f"a crack from {start_xy} to {end_xy} of width {width_px} px covers nothing. "
            "Give two different points and a width above 0."
        )
    height, width, _ = surface_HW3.shape
    along_x, along_y = (end_xy[0] - start_xy[0]) / length_px, (end_xy[1] - start_xy[1]) / length_px
    x_W = np.arange(width, dtype=np.float32) + np.float32(0.5 - (start_xy[0] + end_xy[0]) / 2)
    y_H1 = (np.arange(height, dtype=np.float32) + np.float32(0.5 - (start_xy[1] + end_xy[1]) / 2))[:, None]
    coverage_HW: Floats = np.clip((width_px + 1) / 2 - np.abs(y_H1 * along_x - x_W * along_y), 0, min(1, width_px))
    coverage_HW *= np.clip((length_px + 1) / 2 - np.abs(y_H1 * along_y + x_W * along_x), 0, 1)
    return _shade(surface_HW3, 1 - np.float32(0.7) * coverage_HW), coverage_HW >= 0.5


def draw_image(seed: int, number: int, is_crack: bool, side_px: int = SIDE_PX) -> tuple[Bytes, Mask]:
    """Draw one image of a set; it depends on these four arguments alone, so any subset can be drawn anywhere.

    Args:
        seed: of the set, 0 or more.
        number: of the image within its label, 0 or more.
        is_crack: draw a crack on the surface, or leave it sound.
        side_px: side of the square image [px], MIN_SIDE_PX or more.

    Returns:
        image uint8 (H, W, 3) and mask bool (H, W), all False on a sound image.
    """
    rng = np.random.default_rng([seed, number, int(is_crack), side_px])
    surface_HW3 = draw_concrete(rng, side_px, side_px)
    return draw_crack(rng, surface_HW3) if is_crack else (surface_HW3, np.zeros((side_px, side_px), bool))


def write_images(
    folder: Path,
    n_non_crack: int,
    n_crack: int,
    seed: int = 0,
    side_px: int = SIDE_PX,
    masks: bool = False,
    workers: int = 2,
) -> None:
    """Write a labelled set: FOLDER/non_crack/00001.jpg ... and FOLDER/crack/00001.jpg ..., whole or not at all.

    Args:
        folder: must be missing or empty, so that two sets never mix.
        n_non_crack, n_crack: how many images of each label; a label with 0 gets no folder.
        seed, side_px: as for draw_image; numbers start at 1.
        masks: also write FOLDER-masks/00001.png (0 sound, 255 cracked), one for each cracked image. They lie beside
            the folder, not in it, so that a listing of the images does not meet them.
        workers: processes; 1 draws in this one. More are spawned, so a script needs its `__main__` guard.

    Raises:
        FileExistsError: `folder`, or its folder of masks, already holds something.
        ValueError: `workers` or a count is negative, or there is nothing to draw.
    """
    if workers < 1 or min(n_non_crack, n_crack) < 0 or n_non_crack + n_crack == 0:
        raise ValueError(
            f"cannot write n_non_crack={n_non_crack} and n_crack={n_crack} images with workers={workers}: "
            "give counts of 0 or more, one of them above 0, and 1 worker or more."
        )
    finals = {"images": folder} | ({"masks": folder.with_name(f"{folder.name}-masks")} if masks else {})
    for final in finals.values():
        if final.exists() and any(final.iterdir()):
            raise FileExistsError(f"{final} already holds files. Name a new folder, or remove that one first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as half:
        half_of = {name: Path(half, name) for name in finals}
        labels = [False] * n_non_crack + [True] * n_crack
        numbers = [*range(1, n_non_crack + 1), *range(1, n_crack + 1)]
        for label in sorted({_label(is_crack) for is_crack in labels}):
            (half_of["images"] / label).mkdir(parents=True)
        if masks:
            half_of["masks"].mkdir()
        write = partial(_write_image, half_of, seed, side_px)
        if workers == 1:
            list(map(write, numbers, labels))
        else:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(write, numbers, labels, chunksize=max(1, min(100, len(labels) // workers))))
        for name in reversed(finals):  # masks first: whoever sees the images finds their masks
            os.replace(half_of[name], finals[name])


def _label(is_crack: bool) -> str:
    return "crack" if is_crack else "non_crack"


def _write_image(half_of: dict[str, Path], seed: int, side_px: int, number: int, is_crack: bool) -> None:
    """Draw and write one image, and its mask where `half_of` has a folder "masks" and there is a crack."""
    image_HW3, mask_HW = draw_image(seed, number, is_crack, side_px)
    path = half_of["images"] / _label(is_crack) / f"{number:05d}.jpg"
    jpeg = io.BytesIO()  # one write: Pillow's own small ones cost 0.5 ms a file
    Image.fromarray(image_HW3).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    path.write_bytes(jpeg.getbuffer())
    if is_crack and "masks" in half_of:
        Image.fromarray(mask_HW.astype(np.uint8) * 255).save(half_of["masks"] / f"{number:05d}.png")


def _compass(rng: np.random.Generator) -> tuple[int, int]:
    """One of the eight neighbours of a pixel, as (x, y)."""
    angle = rng.integers(8) * math.pi / 4
    return round(math.cos(angle)), round(math.sin(angle))


def _resize(plane_HW: Floats, shape: tuple[int, int]) -> Floats:
    """Read-only bicubic copy of another shape."""
    return np.asarray(Image.fromarray(plane_HW).resize(shape[::-1], Image.Resampling.BICUBIC))


def _fractal(rng: np.random.Generator, shape: tuple[int, int], finest_px: float, coarsest_px: float) -> Floats:
    """Noise with equal contrast in every octave between two sizes: mean about 0, deviation about 1.

    METU surfaces have near-equal contrast in each octave from 1 to 32 px, so this is their grain too.

    Source: Perlin, An Image Synthesizer (1985), a sum of octaves of lattice noise.
    """
    n_octaves = 1 + max(0, round(math.log2(coarsest_px / finest_px)))
    plane_HW = np.zeros((2, 2), np.float32)
    for octave in reversed(range(n_octaves)):
        cell_px = finest_px * 2**octave
        size = math.ceil(shape[0] / cell_px) + 1, math.ceil(shape[1] / cell_px) + 1
        plane_HW = _resize(plane_HW, size) + rng.standard_normal(size, np.float32)
    # Each enlargement smooths: bicubic lattice noise keeps about 0.8 of its deviation.
    return _resize(plane_HW, shape) * np.float32(1 / (0.8 * math.sqrt(n_octaves)))


def _grain(rng: np.random.Generator, shape: tuple[int, int], toward_light_xy: tuple[int, int]) -> Floats:
    """Colour differences of the cement and the relief of its skin, as a share of the brightness, float (H, W)."""
    height, width = shape
    dx, dy = toward_light_xy
    skin_HW = _fractal(rng, (height + 2, width + 2), rng.uniform(1.8, 3.2), 8)
    relief_HW = skin_HW[1:-1, 1:-1] - skin_HW[1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx]
    relief_HW *= np.float32(rng.lognormal(math.log(0.014), 0.5))
    relief_HW += _fractal(rng, shape, rng.uniform(2.5, 5), rng.uniform(16, 64)) * np.float32(
        rng.lognormal(math.log(0.02), 0.4)
    )
    return relief_HW


def _stains(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Dark or light blotches, soft or ragged, as a share of the brightness, float (H, W)."""
    stain_HW = _fractal(rng, shape, rng.uniform(2, 6), rng.uniform(40, 160))
    stain_HW -= np.float32(rng.uniform(0.2, 1.5))
    stain_HW *= np.float32(rng.uniform(0.3, 0.9))
    np.clip(stain_HW, 0, 1, out=stain_HW)
    stain_HW *= np.float32(rng.choice([-1, -1, 0.6]) * rng.uniform(0.06, 0.25))
    return stain_HW


def _blobs(rng: np.random.Generator, shape: tuple[int, int], per_side: float, radius_px: float, level: float) -> Floats:
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


def _holes(rng: np.random.Generator, shape: tuple[int, int], toward_light_xy: tuple[int, int]) -> Floats:
    """Bug holes: small dark voids whose rim away from the light is lit, as a share of the brightness."""
    holes_HW = _blobs(rng, shape, rng.uniform(1, 16), rng.uniform(0.8, 1.6), -0.9)
    np.minimum(holes_HW, 0, out=holes_HW)
    rim_HW = _lit_edge(-holes_HW, (-toward_light_xy[0], -toward_light_xy[1]), 1)
    holes_HW *= np.float32(rng.uniform(0.25, 0.6))
    holes_HW += rim_HW * np.float32(rng.uniform(0, 0.3))
    return holes_HW


def _distance(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Signed distance [px] of every pixel from a random straight line through the image's middle half."""
    angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.25)
    x, y = rng.uniform(0.25, 0.75, 2) * shape[::-1]
    along_x = (np.arange(shape[1], dtype=np.float32) - np.float32(x)) * np.float32(math.cos(angle))
    along_y = (np.arange(shape[0], dtype=np.float32) - np.float32(y)) * np.float32(math.sin(angle))
    return along_y[:, None] + along_x


def _joint(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A formwork joint: a soft straight ridge, light on one side and dark on the other, as a share."""
    across_HW = _distance(rng, shape)
    across_HW *= np.float32(1 / rng.uniform(1.5, 5))
    ridge_HW = np.exp(-(across_HW**2))
    across_HW += np.float32(rng.uniform(-1, 1))
    ridge_HW *= across_HW
    ridge_HW *= np.float32(rng.uniform(0.1, 0.3))
    return ridge_HW


def _shadow(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A cast shadow with a soft, wavy edge, as a factor."""
    shadow_HW = _distance(rng, shape)
    shadow_HW += _fractal(rng, shape, 16, 64) * np.float32(rng.uniform(0.5, 4))
    shadow_HW *= np.float32(1 / rng.uniform(4, 25))
    np.clip(shadow_HW, -1, 1, out=shadow_HW)
    shadow_HW *= np.float32(rng.uniform(0.05, 0.15))
    shadow_HW += 0.85
    return shadow_HW


def _light(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Uneven light: a gradient, slow differences and a lens's darker corners, as a factor."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    slope = rng.normal(0, 0.03, 2)
    slow_4x4 = _resize(rng.normal(0, 0.02, (4, 4)).astype(np.float32), (16, 16))
    coarse = 1 + slow_4x4 + slope[0] * x + slope[1] * y - rng.uniform(0, 0.04) * (x**2 + y**2)
    return _resize(coarse.astype(np.float32), shape)


def _develop(rng: np.random.Generator, share_HW: Floats) -> Bytes:
    """Brightness, tint, faint colour blotches and sensor noise, uint8 (H, W, 3); `share_HW` is used up."""
    # METU: mean grey 134..214 in nine images of ten; red about 3.4 % above it and blue about 4.4 % below.
    share_HW *= np.float32(np.clip(rng.normal(182, 22), 95, 225))
    share_HW += rng.standard_normal(share_HW.shape, np.float32) * np.float32(rng.uniform(0.2, 1))
    warmth = rng.normal(1, 0.5)
    colour_HW = _fractal(rng, (share_HW.shape[0], share_HW.shape[1]), 16, 64) * np.float32(0.006)
    image_HW3 = np.empty((*share_HW.shape, 3), np.uint8)
    for channel, (gain, drift) in enumerate([(1 + 0.034 * warmth, 1), (1.006, 0), (1 - 0.044 * warmth, -1)]):
        plane_HW = colour_HW * np.float32(drift)
        plane_HW += np.float32(gain)
        plane_HW *= share_HW
        image_HW3[..., channel] = np.clip(plane_HW, 0, 255, out=plane_HW)
    return image_HW3


def _crack_tree(
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
    into_N2, onward_N2 = _wander(rng, middle_2 - heading_2 * reach_px, middle_2), _wander(rng, middle_2, end_2)
    stem_N2 = np.concatenate([into_N2, onward_N2[1:]])
    tree = [(stem_N2, _widths(rng, stem_N2, peak_px, thinnest_px, not is_through))]
    for _ in range(rng.poisson(1.1)):
        at = rng.integers(int(len(stem_N2) * 0.35), int(len(stem_N2) * 0.75))
        turn = angle + rng.choice([-1, 1]) * rng.uniform(0.35, 1.2)
        length_px = rng.uniform(0.15, 0.6) * min(height, width)
        branch_N2 = _wander(rng, stem_N2[at], stem_N2[at] + length_px * np.array([math.cos(turn), math.sin(turn)]))
        branch_px = tree[0][1][at] * rng.uniform(0.35, 0.8)
        tree.append((branch_N2, _widths(rng, branch_N2, branch_px, thinnest_px, True)))
    return tree


def _wander(rng: np.random.Generator, start_2: Points, end_2: Points) -> Points:
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


def _widths(
    rng: np.random.Generator, points_N2: Points, peak_px: float, thinnest_px: float, is_tapering: bool
) -> Points:
    """Width [px] at every point of a centre line, at least `thinnest_px`; a tapering crack closes at its end."""
    along_N = np.linspace(0, 1, len(points_N2))
    n_knots = 3 + len(points_N2) // 12  # a knot about every 40 px
    widths_N = peak_px * np.interp(along_N, np.linspace(0, 1, n_knots), rng.uniform(0.4, 1, n_knots))
    if is_tapering:
        widths_N *= np.sqrt(1 - along_N)
    return np.maximum(widths_N, thinnest_px)


def _strip(rng: np.random.Generator, points_N2: Points, widths_N: Points, thinnest_px: float) -> Points:
    """Outline of a crack with rough edges as quadrilaterals (N - 1, 4, 2), one for each step of its centre line."""
    along_N2 = np.gradient(points_N2, axis=0)
    across_N2 = along_N2[:, ::-1] * (-1, 1) / np.hypot(along_N2[:, :1], along_N2[:, 1:])
    halves_N2 = widths_N[:, None] / 2 * rng.normal(1, 0.22, (len(points_N2), 2))
    halves_N2 = np.maximum(halves_N2, thinnest_px / 2)
    left_N2, right_N2 = points_N2 + across_N2 * halves_N2[:, :1], points_N2 - across_N2 * halves_N2[:, 1:]
    return np.stack([left_N2[:-1], left_N2[1:], right_N2[1:], right_N2[:-1]], axis=1)


def _fill(quads_N42: Points, height: int, width: int) -> Floats:
    """Share of every pixel that the quadrilaterals (N, 4, 2) cover together, float (H, W) in 0..1."""
    canvas = Image.new("L", (width * SUBPIXELS, height * SUBPIXELS))
    draw = ImageDraw.Draw(canvas)
    for outline in (quads_N42 * SUBPIXELS - 0.5).reshape(-1, 8).tolist():
        draw.polygon(outline, fill=255)
    return np.asarray(canvas.reduce(SUBPIXELS)) * np.float32(1 / 255)


def _blurred(coverage_HW: Floats, blur: ImageFilter.Filter) -> Floats:
    """Blurred values in 0..1, in steps of 1/255."""
    grey = Image.fromarray((coverage_HW * np.float32(255.5)).astype(np.uint8))
    return np.asarray(grey.filter(blur)) * np.float32(1 / 255)


def _lit_edge(depth_HW: Floats, away_xy: tuple[int, int], reach_px: int) -> Floats:
    """Light that the pixels beside a void catch on its side `away_xy`, float (H, W), 0 away from voids."""
    height, width = depth_HW.shape
    left, top = reach_px * (1 - away_xy[0]), reach_px * (1 - away_xy[1])
    shifted_HW = np.pad(depth_HW, reach_px, mode="edge")[top : top + height, left : left + width]
    lit_HW: Floats = np.maximum(shifted_HW - depth_HW, 0)
    return lit_HW


def _shade(surface_HW3: Bytes, factor_HW: Floats) -> Bytes:
    """The surface times a factor, rounded down so that where the factor is below 1 a pixel never stays as light."""
    shaded_HW3 = np.empty_like(surface_HW3)
    for channel in range(3):
        plane_HW = surface_HW3[..., channel] * factor_HW
        shaded_HW3[..., channel] = np.minimum(plane_HW, 255, out=plane_HW)
    return shaded_HW3
