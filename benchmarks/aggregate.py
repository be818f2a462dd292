"""A stand-in for a site of exposed aggregate with joints: does a model that learned the site find cracks on it?

    python benchmarks/aggregate.py --out FOLDER [--metu metu.zip]
    crackvae partition --images FOLDER/images --group-by parent --non-crack-split 60,15,25 --external 0,0 --out DATA
    crackvae train --manifest DATA/manifest.parquet --model MODEL
    crackvae evaluate --manifest DATA/manifest.parquet --model MODEL --out EVALUATION

Draws photographs of 1280 px, each with its own stones, light and joints, and cuts them into tiles of 128 px at
native resolution. Half of the cracks are drawn; with `--metu` the other half are the darkness of that archive's cracked
images, faded and multiplied on. Training draws its cracks with the same functions as the first half, so only the second
half is fair. It stands in for such a site and measures none.

Shape letters: H, W rows and columns of a photograph [px]; P side of a tile [px]; S stones.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.spatial import cKDTree

from crackvae.images import drawing, synthetic

PHOTO_PX, TILE_PX = 1280, 128
JPEG_QUALITY = 92
# Every number below is a guess at what exposed aggregate looks like from a few metres: stones of 5 to 14 px.
STONE_PX = (5.0, 14.0)
JOINTS = (2, 4)


def main() -> None:
    """Write FOLDER/images/Negative/PHOTO/TILE.jpg and FOLDER/images/Positive/PHOTO/TILE.jpg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metu", type=Path)
    parser.add_argument("--photographs", type=int, default=45)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    darkness = crack_darkness(options.metu) if options.metu else []
    for number in range(options.photographs):
        rng = np.random.default_rng([options.seed, number])
        tiles = cut(draw_photograph(rng))
        for at, tile_PP in enumerate(tiles):
            is_cracked = at % 5 == 0
            seen_PP = cracked(rng, tile_PP, darkness if at % 10 else []) if is_cracked else tile_PP
            label = "Positive" if is_cracked else "Negative"
            kind = "" if not is_cracked else "-metu" if at % 10 and darkness else "-drawn"
            path = options.out / "images" / label / f"photo-{number:03d}" / f"{at:03d}{kind}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(seen_PP).save(path, "JPEG", quality=JPEG_QUALITY)


def draw_photograph(rng: np.random.Generator) -> np.ndarray:
    """Stones in mortar, joints, uneven light, a little blur and noise, uint8 (H, W)."""
    share_HW = 1 + stones(rng, PHOTO_PX)
    share_HW += drawing.fractal(rng, share_HW.shape, 2.0, 64) * np.float32(rng.uniform(0.02, 0.05))
    share_HW *= joints(rng, PHOTO_PX)
    share_HW *= drawing.light(rng, share_HW.shape)
    grey_HW = share_HW * rng.uniform(110, 165)
    soft = Image.fromarray(np.clip(grey_HW, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.5, 1.0))
    )
    return np.clip(np.asarray(soft) + rng.normal(0, rng.uniform(1, 3), soft.size[::-1]), 0, 255).astype(np.uint8)


def stones(rng: np.random.Generator, side: int) -> np.ndarray:
    """Change of the brightness by two sizes of stones, each lit on one side, with dark gaps; float32 (H, W)."""
    y_HW, x_HW = np.mgrid[:side, :side].astype(np.float32)
    light = rng.uniform(0, 2 * np.pi)
    total_HW = np.zeros((side, side), np.float32)
    for spacing in (rng.uniform(*STONE_PX), rng.uniform(STONE_PX[0], STONE_PX[0] + 3)):
        middles_S2 = rng.uniform(0, side, (int((side / spacing) ** 2), 2))
        distance, nearest = cKDTree(middles_S2).query(np.stack([x_HW, y_HW], 2).reshape(-1, 2), k=2, workers=1)
        stone, gap_px = nearest[:, 0], distance[:, 1] - distance[:, 0]
        level_S = rng.normal(0, rng.uniform(0.06, 0.16), len(middles_S2)) - (rng.random(len(middles_S2)) < 0.06) * 0.25
        away_2 = np.stack([x_HW.ravel(), y_HW.ravel()], 1) - middles_S2[stone]
        lit = (away_2 @ [np.cos(light), np.sin(light)]) / spacing * rng.uniform(0.05, 0.2)
        gaps = -rng.uniform(0.1, 0.4) * np.exp(-((gap_px / rng.uniform(1.0, 2.5)) ** 2))
        total_HW += (0.7 * (level_S[stone] + lit + gaps)).reshape(side, side).astype(np.float32)
    return total_HW


def joints(rng: np.random.Generator, side: int) -> np.ndarray:
    """Straight dark lines across the photograph, with a lit edge, as a factor, float32 (H, W)."""
    y_HW, x_HW = np.mgrid[:side, :side].astype(np.float32)
    factor_HW = np.ones((side, side), np.float32)
    turn = rng.normal(0, 0.15)
    for number in range(rng.integers(*JOINTS, endpoint=True)):
        angle = turn + (number % 2) * np.pi / 2
        across_HW = (x_HW - rng.uniform(0, side)) * np.cos(angle) + (y_HW - rng.uniform(0, side)) * np.sin(angle)
        half_px, soft_px = rng.uniform(1.5, 6), rng.uniform(0.6, 1.5)
        inside_HW = np.clip((half_px - np.abs(across_HW)) / soft_px + 0.5, 0, 1)
        rim_HW = np.exp(-(((across_HW - half_px - 1.5) / 1.5) ** 2))
        factor_HW *= 1 - inside_HW * rng.uniform(0.25, 0.7) + rim_HW * rng.uniform(0, 0.2)
    return factor_HW


def cut(photo_HW: np.ndarray) -> np.ndarray:
    """All tiles side by side, uint8 (T, P, P)."""
    n = PHOTO_PX // TILE_PX
    return photo_HW.reshape(n, TILE_PX, n, TILE_PX).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX)


def cracked(rng: np.random.Generator, tile_PP: np.ndarray, darkness: list[np.ndarray]) -> np.ndarray:
    """The tile with a crack: one of `darkness` in one of eight orientations, or a drawn one if there is none."""
    if darkness:
        dark_PP = np.rot90(darkness[rng.integers(len(darkness))], rng.integers(4)) * rng.uniform(0.4, 0.9)
        dark_PP = dark_PP[:, ::-1] if rng.random() < 0.5 else dark_PP
    else:
        coverage_PP = synthetic.draw_coverage(rng, TILE_PX, peak_px=rng.uniform(1.2, 5))
        floor_PP = 1 + 0.25 * drawing.fractal(rng, tile_PP.shape, 4, 16)
        dark_PP = np.clip(coverage_PP * rng.uniform(0.25, 0.6) * floor_PP, 0, 1)
    return np.clip(tile_PP * (1 - dark_PP), 0, 255).astype(np.uint8)


def crack_darkness(archive: Path, n: int = 400) -> list[np.ndarray]:
    """How much light the cracks of `n` cracked images take, as a share, float (P, P) each; the surface itself is 0."""
    with zipfile.ZipFile(archive) as images:
        names = sorted(name for name in images.namelist() if "Positive/" in name and name.endswith(".jpg"))
        chosen = [names[at] for at in np.linspace(0, len(names) - 1, n).astype(int)]
        found = []
        for name in chosen:
            grey = Image.open(io.BytesIO(images.read(name))).convert("L").resize((TILE_PX, TILE_PX))
            share_PP = np.asarray(grey, np.float32) / max(1.0, float(np.median(np.asarray(grey))))
            found.append(np.clip((0.85 - share_PP) / 0.85, 0, 0.85))
    return found


if __name__ == "__main__":
    main()
