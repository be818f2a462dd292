"""Drift on nights made of photographs: alarms on ordinary nights, and what changed nights are called.

    python benchmarks/drift.py --manifest manifest.parquet --model MODEL [--images 1500]

Nights are drawn from the test split, which neither training nor calibration has seen, 50 of each kind, each half of
--images; but for first nights they come after seven ordinary ones. What changes is the photograph: darker, blurred,
with joints of a wall, or compressed again. Nights of one pool resemble each other more than those of a site do.
"""

import argparse
import io
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFilter
from record import write_result

from crackvae.images import decoding, surface
from crackvae.images.manifest import load_manifest
from crackvae.images.tiles import cut
from crackvae.model.heads import LATENT_NORM
from crackvae.model.inference import load_scorer, score_tiles
from crackvae.monitoring.comparisons import Limits
from crackvae.monitoring.drift import ALL, Drift, compare
from crackvae.monitoring.histograms import NightHistograms, count, reference_of
from crackvae.storage import fileio

# Nights of each kind.
NIGHTS = 50
# Share of cracked images on an ordinary night, and how many of those come before.
CRACKS, N_BEFORE = 0.05, 7
# Of the METU archive, whose quantisation tables are those of libjpeg at this quality.
JPEG_QUALITY = 75


def brick(pixels_HW: np.ndarray) -> np.ndarray:
    """Joints of a wall every 24 and 48 px."""
    factors = np.ones(pixels_HW.shape)
    factors[::24] = factors[:, ::48] = 0.6
    return (pixels_HW * factors).astype(np.uint8)


def blur(pixels_HW: np.ndarray) -> np.ndarray:
    """A lens out of focus by 1.5 px."""
    return np.asarray(Image.fromarray(pixels_HW).filter(ImageFilter.GaussianBlur(1.5)))


def as_jpeg(pixels_HW: np.ndarray, quality: int = JPEG_QUALITY) -> np.ndarray:
    """What is left of an image in a file."""
    file = io.BytesIO()
    Image.fromarray(pixels_HW).save(file, "JPEG", quality=quality)
    return decoding.decode(file.getvalue())


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness -20 %": lambda pixels_HW: as_jpeg((pixels_HW * 0.8).astype(np.uint8)),
    "blur 1.5 px": lambda pixels_HW: as_jpeg(blur(pixels_HW)),
    "new texture": lambda pixels_HW: as_jpeg(brick(pixels_HW)),
    "JPEG again, quality 50": lambda pixels_HW: as_jpeg(pixels_HW, 50),
}


def main() -> None:
    """Judge nights of every kind and write what they were called."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=1500, help="of each kind, to draw nights from")
    given = parser.parse_args()
    pool = Pool(given.manifest, given.model, given.images)
    results = judge_nights(pool)
    for name, found in results.items():
        print(f"{name}: {found}")
    settings = {
        "images": given.images,
        "images_of_a_night": pool.n_night,
        "cracks": CRACKS,
        "ordinary_nights_before": N_BEFORE,
        "nights": NIGHTS,
    }
    model = {"digest": pool.scorer.model.digest, "calibration_images": len(pool.scorer.calibration.scores_N)}
    figures = {"settings": settings, "model": model, "flagged_share": pool.flagged, "verdicts": results}
    print(write_result("drift", figures))


def photographs(table: pa.Table, split: str, label: str, at_most: int) -> list[np.ndarray]:
    """A random sample of the images of a split, as grey pixels."""
    places = table.filter((pc.field("split") == split) & (pc.field("label") == label))["image"].to_pylist()
    chosen = np.random.default_rng(0).permutation(len(places))[:at_most]
    return [decoding.decode(fileio.read_image(places[number])) for number in chosen]


class Pool:
    """Test images as the model sees them, to take nights from, and what is to be said of those nights."""

    def __init__(self, manifest: str, model: str, n_images: int) -> None:
        self.scorer, self.n_night = load_scorer(model), n_images // 2
        table = load_manifest(manifest).table
        table = table.filter(pc.field("set") == "internal")
        self.reference = reference_of(
            self.rows(photographs(table, "val", "non_crack", n_images)), self.scorer.calibration
        )
        sound = photographs(table, "test", "non_crack", n_images)
        cracked = photographs(table, "test", "crack", n_images // 3)
        self.kinds = {"sound": self.rows(sound), "cracked": self.rows(cracked)}
        for name, change in CHANGES.items():
            print(name, flush=True)
            self.kinds[name] = self.rows([change(one) for one in sound])
        shares = {name: pc.mean(rows["flagged"].cast("int8")).as_py() for name, rows in self.kinds.items()}
        self.flagged = {name: round(share, 4) for name, share in shares.items()}

    def rows(self, images: list[np.ndarray]) -> pa.Table:
        """What scoring says of images."""
        spec = self.scorer.model.spec
        seen = [surface.measures(pixels_HW) for pixels_HW in images]
        tiles = [cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px).pixels_TPP for pixels_HW in images]
        scores, norms = score_tiles(self.scorer.model, np.concatenate(tiles), batch=32, extra_heads=(LATENT_NORM,)).T
        camera = {name: pa.array([getattr(one, name) for one in seen], pa.float32()) for name in vars(seen[0])}
        flagged = scores > np.float32(self.scorer.calibration.threshold)
        same = {"group": [""] * len(images), "status": ["scored"] * len(images)}
        return pa.table({**same, "score": scores, "flagged": flagged, "latent_norm": norms, **camera})

    def night(self, seed: int, kind: str = "sound", cracks: float = 0.0) -> NightHistograms:
        """n_night images of a kind, a share of which is cracked, no image twice."""
        rng, n_cracked = np.random.default_rng(seed), round(self.n_night * cracks)
        rows = [
            self.kinds[kind].take(rng.choice(self.kinds[kind].num_rows, self.n_night - n_cracked, replace=False)),
            self.kinds["cracked"].take(rng.choice(self.kinds["cracked"].num_rows, n_cracked, replace=False)),
        ]
        return count(pa.concat_tables(rows), self.reference.edges, self.scorer.model.digest)

    def verdict(self, night: NightHistograms, before: list[NightHistograms]) -> str:
        """Level and causes of the whole night."""
        found: Drift = compare(night, self.reference, self.scorer.calibration, Limits(), before)[ALL]
        return f"{found.level}: {', '.join(found.causes)}" if found.causes else found.level


def judge_nights(pool: Pool) -> dict[str, dict[str, int]]:
    """Verdicts and causes by kind of night, and how often each was given."""
    results: dict[str, Counter[str]] = defaultdict(Counter)
    sound_before = [pool.night(10_000 + number) for number in range(N_BEFORE)]
    before = [pool.night(20_000 + number, cracks=CRACKS) for number in range(N_BEFORE)]
    for seed in range(NIGHTS):
        results["sound, first night"][pool.verdict(pool.night(seed), [])] += 1
        results["sound"][pool.verdict(pool.night(seed), sound_before)] += 1
        results["ordinary cracks, first night"][pool.verdict(pool.night(seed, cracks=CRACKS), [])] += 1
        results["ordinary cracks"][pool.verdict(pool.night(seed, cracks=CRACKS), before)] += 1
        results["three times as many cracks"][pool.verdict(pool.night(seed, cracks=3 * CRACKS), before)] += 1
        for name in CHANGES:
            results[name][pool.verdict(pool.night(seed, name), sound_before)] += 1
    return {name: dict(found) for name, found in results.items()}


if __name__ == "__main__":
    main()
