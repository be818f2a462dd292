"""Drift on drawn nights with a trained model: alarms on sound nights, and what changed nights are called.

    python benchmarks/drift.py [--epochs 4] [--images 900]

Drawn concrete says nothing about real concrete; this shows that the parts work together.
"""

import argparse
import io
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFilter
from record import write_result

from crackvae import imaging
from crackvae.config import PartitionConfig, TrainConfig
from crackvae.drift import ALL, Drift, Limits, compare
from crackvae.histograms import count, load_reference
from crackvae.manifest import partition
from crackvae.scoring import LatentNorms, load_scorer, score_tiles
from crackvae.synthetic import JPEG_QUALITY, draw_image, write_images
from crackvae.tiles import cut
from crackvae.training import train

SEED, N_SOUND, N_CRACKS, N_NIGHT, NIGHTS = 77, 1500, 200, 800, 50
CRACKS = 0.05


def brick(pixels_HW: np.ndarray) -> np.ndarray:
    """Joints of a wall every 24 and 48 px."""
    factors = np.ones(pixels_HW.shape)
    factors[::24] = factors[:, ::48] = 0.6
    return (pixels_HW * factors).astype(np.uint8)


def through_a_camera(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """What a change of the scene looks like in a file."""
    return lambda pixels_HW: imaging.decode(_jpeg(Image.fromarray(change(pixels_HW))))


def blur(pixels_HW: np.ndarray) -> np.ndarray:
    """A lens out of focus by 1.5 px."""
    return np.asarray(Image.fromarray(pixels_HW).filter(ImageFilter.GaussianBlur(1.5)))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness -20 %": lambda pixels_HW: (pixels_HW * 0.8).astype(np.uint8),
    "blur 1.5 px": blur,
    "new texture": brick,
    "JPEG of quality 70 instead of 90": lambda pixels_HW: imaging.decode(_jpeg(Image.fromarray(pixels_HW), 70)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=900)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_images(folder / "images", given.images, 100, seed=SEED)
        partition(
            PartitionConfig(
                images=str(folder / "images"), out=scratch, external=(0, 0), non_crack_split=(50, 45, 5), quiet=True
            )
        )
        settings = {"manifest": str(folder / "manifest.parquet"), "model": str(folder / "model")}
        train(TrainConfig(**settings, epochs=given.epochs, quiet=True))
        results = judge_nights(str(folder / "model"))
    for name, found in results.items():
        print(f"{name}: {found}")
    print(write_result("drift", {"settings": vars(given), "night": N_NIGHT, "cracks": CRACKS, "verdicts": results}))


def judge_nights(model_dir: str) -> dict[str, dict[str, int]]:
    """Verdicts and causes by kind of night, and how often each was given."""
    scorer = load_scorer(model_dir)
    reference = load_reference(model_dir, scorer.model.digest)
    assert reference is not None
    norms = LatentNorms(scorer.model.network)

    def rows(images: list[np.ndarray]) -> pa.Table:
        spec = scorer.model.spec
        seen = [imaging.measures(pixels_HW) for pixels_HW in images]
        tiles = [cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px).pixels_TPP for pixels_HW in images]
        scores = score_tiles(scorer.model, np.concatenate(tiles), batch=32)
        camera = {name: pa.array([getattr(one, name) for one in seen], pa.float32()) for name in vars(seen[0])}
        return pa.table(
            {
                "group": [""] * len(images),
                "status": ["scored"] * len(images),
                "score": scores,
                "flagged": scores > np.float32(scorer.calibration.threshold),
                "latent_norm": norms.take(len(scores)),
                **camera,
            }
        )

    def verdict(night: pa.Table, limits: Limits) -> str:
        counted = count(night, reference.edges, scorer.model.digest)
        found: Drift = compare(counted, reference, scorer.calibration, limits)[ALL]
        return f"{found.level}: {', '.join(found.causes)}" if found.causes else found.level

    grey = partial(_grey, SEED + 1)
    images = [grey(number, is_crack=False) for number in range(N_SOUND)]
    sound, cracked = rows(images), rows([grey(number, is_crack=True) for number in range(N_CRACKS)])
    results: dict[str, Counter[str]] = {"sound": Counter(), "ordinary cracks": Counter(), "three times": Counter()}
    shares = [pc.mean(one["flagged"].cast("int8")).as_py() for one in (sound, cracked)]
    print(f"flagged: {shares[0]:.3f} of sound and {shares[1]:.3f} of cracked images")
    usual = (1 - CRACKS) * shares[0] + CRACKS * shares[1]
    for seed in range(NIGHTS):
        rng = np.random.default_rng(seed)
        for name, share in (("sound", 0.0), ("ordinary cracks", CRACKS), ("three times", 3 * CRACKS)):
            n_cracked = round(N_NIGHT * share)
            night = [
                sound.take(rng.choice(N_SOUND, N_NIGHT - n_cracked, replace=False)),
                cracked.take(rng.choice(N_CRACKS, n_cracked, replace=False)),
            ]
            results[name][verdict(pa.concat_tables(night), Limits(usual_flagged=usual if share else 0.0))] += 1
    for name, change in CHANGES.items():
        results[name] = Counter([verdict(rows([through_a_camera(change)(one) for one in images[:N_NIGHT]]), Limits())])
    return {name: dict(found) for name, found in results.items()}


def _grey(seed: int, number: int, *, is_crack: bool) -> np.ndarray:
    pixels, _ = draw_image(seed, number, is_crack)
    return imaging.decode(_jpeg(Image.fromarray(pixels)))


def _jpeg(image: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """As the calibration images were written: another encoder is another camera."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


if __name__ == "__main__":
    main()
