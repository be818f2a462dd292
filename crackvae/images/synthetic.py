"""Synthetic images of concrete, sound and cracked, with crack masks, for the demo, the tests and the benchmarks.

The images are drawn to look plausible beside METU images (Ozgenel 2018); no number measured on them says anything about
real concrete. The project ships no photographs and uses these instead.

Equal seeds give equal pixels in any order and any process, for one version of numpy and Pillow. Every share and
contrast below was chosen by eye from METU contact sheets unless a source is given.

Shape letters: H, W rows and columns of an image [px]; N points along a crack; 2 = (x, y) [px], where pixel (0, 0)
covers 0 <= x, y < 1; 3 = red, green, blue.
"""

import io
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from crackvae.images import drawing
from crackvae.images.drawing import SIDE_PX, Bytes

Mask = NDArray[np.bool_]

# Smallest side drawn [px]: below it stones and cracks are larger than the image.
MIN_SIDE_PX = 16

# Quality of written JPEGs: fine grain survives it, and an image takes 9 kB (METU's own files: 6 kB).
JPEG_QUALITY = 90

# Width of the thinnest crack drawn [px]: a thinner one may cover no pixel by half, and its mask would have gaps.
MIN_CRACK_WIDTH_PX = 1.2

# A crack changes no pixel further than this from its mask [px, chessboard distance]: blur and lit edge end here.
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
    toward_light_xy = drawing.compass(rng)
    # Everything up to the light is a share of the surface's own brightness, so that dark concrete is not noisier.
    share_HW = drawing.grain(rng, shape, toward_light_xy)
    if rng.random() < STAIN_SHARE:
        share_HW += drawing.stains(rng, shape)
    if rng.random() < STONE_SHARE:
        share_HW += drawing.blobs(rng, shape, rng.uniform(20, 160), rng.uniform(1, 2), 0) * np.float32(
            rng.uniform(0.1, 0.5)
        )
    if rng.random() < HOLE_SHARE:
        share_HW += drawing.holes(rng, shape, toward_light_xy)
    if rng.random() < FLAKE_SHARE:
        share_HW += drawing.blobs(rng, shape, rng.uniform(1, 12), 0.8, 1) * np.float32(rng.uniform(0.1, 0.3))
    if rng.random() < JOINT_SHARE:
        share_HW += drawing.joint(rng, shape)
    share_HW += 1
    share_HW *= drawing.light(rng, shape)
    if rng.random() < SHADOW_SHARE:
        share_HW *= drawing.shadow(rng, shape)
    return drawing.develop(rng, share_HW)


def draw_crack(rng: np.random.Generator, surface_HW3: Bytes) -> tuple[Bytes, Mask]:
    """Draw one branching crack, 1 to about 8 px wide, sometimes a hairline of low contrast, across a surface.

    Args:
        rng: random generator.
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
    tree = drawing.crack_tree(rng, height, width, peak_px, MIN_CRACK_WIDTH_PX)
    quads = [drawing.strip(rng, points_N2, widths_N, MIN_CRACK_WIDTH_PX) for points_N2, widths_N in tree]
    coverage_HW = drawing.fill(np.concatenate(quads), height, width)
    mask_HW = coverage_HW >= 0.5
    # The floor of a crack is not evenly dark: rubble and dirt catch light.
    factor_HW = drawing.fractal(rng, (height, width), 3, 24)
    factor_HW *= 0.13
    factor_HW += 0.9
    np.clip(factor_HW, 0.6, 1.05, out=factor_HW)
    factor_HW *= drawing.blurred(coverage_HW, ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8)))
    factor_HW *= -depth
    factor_HW += 1
    if not is_hairline and rng.random() < 0.4:
        rim_HW = drawing.lit_edge(coverage_HW, drawing.compass(rng), int(rng.integers(1, 3)))
        rim_HW[mask_HW] = 0
        factor_HW += rim_HW * np.float32(rng.uniform(0.05, 0.35))
    # Where the crack runs just outside the image its rim would show without a mask.
    factor_HW[drawing.blurred(mask_HW.astype(np.float32), ImageFilter.BoxBlur(RIM_PX)) == 0] = 1
    return drawing.shade(surface_HW3, factor_HW), mask_HW


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
