"""Bfloat16 screens every tile, float32 decides: a first pass whose errors no decision can feel.

A tile that scores above a level in bfloat16 is scored again in float32, and that score counts. The level lies so far
below the threshold, and below any score that is unusual among sound tiles, that every flag, every finding and every
p-value below SURE_P is one of float32.

Shape letters: T tiles, N images, S scores of each tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from crackvae.config import SEGMENTER_HEADS
from crackvae.console import say
from crackvae.model.calibration import MIN_IMAGES, Calibration
from crackvae.model.heads import LATENT_NORM
from crackvae.model.inference import Scorer, one_thread, score_tiles
from crackvae.model.runtime import Runtime, has_matrix_unit, runtime_of

# Above this share of tiles that are scored twice a screen costs more time than it saves.
MAX_AGAIN = 0.5

# Tiles on which a worker compares both precisions when it starts, which takes 0.2 s.
DRAWN_TILES = 4

# What the column `precision` says of the score of an image.
FLOAT32, BFLOAT16 = "float32", "bfloat16"

# A screened score may differ from that of float32 by this share of the larger of that and the level. Of 16,000 images
# none differed by more than .053 (benchmarks/results/screen-vectors-2026-11-30.json); with a backbone some of 3,000
# did, by up to .29, and no flag changed.
MAX_ERROR = 0.1
# A crack is followed into neighbouring tiles whose score exceeds this share of the threshold; below it nothing is
# decided.
FOLLOW_SHARE = 0.5
# Scores that more than this share of sound tiles do not reach are those of float32, and so are p-values below SURE_P.
SCREENED_SHARE, SURE_P = 0.85, 0.1

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Screen:
    """The first pass.

    Attributes:
        first: scores uint8 (T, P, P) roughly, float32 (T, S).
        level: tiles that score above it are scored again.
    """

    first: Score
    level: float

    def scores(self, tiles_TPP: np.ndarray, tiles_N: np.ndarray, exact: Score) -> tuple[np.ndarray, np.ndarray]:
        """Score the tiles of some images.

        An image on which the first pass errs by more than MAX_ERROR is scored without it. So the scores of an image
        depend on that image alone.

        Args:
            tiles_N: number of tiles of each image.
            exact: as `first`, in float32.

        Returns:
            float32 (T, S), and which of them are those of `exact`, bool (T,).
        """
        scores_TS, is_exact_T = self.first(tiles_TPP).copy(), np.zeros(len(tiles_TPP), bool)
        image_T = np.repeat(np.arange(len(tiles_N)), tiles_N)
        again_T = ~(scores_TS[:, 0] <= self.level)  # also what is not a number
        while again_T.any():
            first_A = scores_TS[again_T, 0]
            scores_TS[again_T] = exact(tiles_TPP[again_T])
            is_exact_T |= again_T
            error_A = np.abs(scores_TS[again_T, 0] - first_A)
            is_wrong_A = ~(error_A <= MAX_ERROR * np.maximum(scores_TS[again_T, 0], self.level))
            again_T = np.isin(image_T, image_T[again_T][is_wrong_A]) & ~is_exact_T
        return scores_TS, is_exact_T


def level_of(calibration: Calibration) -> float:
    """Level of a screen; 0 or less where there can be none."""
    if not np.isfinite(calibration.threshold) or len(calibration.scores_N) < MIN_IMAGES:
        return 0.0
    samples = [calibration.scores_N, calibration.sample.tile_scores_M if calibration.sample else np.empty(0)]
    usual = [float(np.quantile(scores, SCREENED_SHARE)) for scores in samples if len(scores)]
    return (1 - MAX_ERROR) * min(FOLLOW_SHARE * calibration.threshold, *usual)


def may_screen(scorer: Scorer, precision: str, extra_heads: tuple[str, ...], device: str) -> bool:
    """Whether a screen is asked for and possible.

    With `auto` it is where the processor has a matrix unit for bfloat16 (AMX), so that the first pass takes half of the
    time of float32. Where bfloat16 is only a vector instruction, it has not been shown to pay; nor with a backbone,
    with which it saves less and errs by more (benchmarks/results/screen-2026-12-01.json).
    """
    pays = has_matrix_unit() and scorer.model.spec.backbone == "none"
    is_wanted = precision == "screen" or (precision == "auto" and pays)
    is_usual = set(extra_heads) <= {LATENT_NORM} and scorer.model.spec.head in SEGMENTER_HEADS
    return is_wanted and is_usual and device == "cpu" and level_of(scorer.calibration) > 0


def screen_of(scorer: Scorer, batch: int, extra_heads: tuple[str, ...], exact: Runtime) -> Screen | None:
    """The screen of a model that may_screen(); None, with a message, if its errors are too large on drawn concrete."""
    model, level = scorer.model, level_of(scorer.calibration)
    first = partial(score_tiles, model, batch=batch, extra_heads=extra_heads)
    rough = runtime_of(model, "bf16", batch)
    tiles_TPP = drawn_tiles(model.spec.input_px, DRAWN_TILES)
    with one_thread():
        rough_T, exact_T = (first(tiles_TPP, runtime=runtime)[:, 0] for runtime in (rough, exact))
    error = float((np.abs(rough_T - exact_T) / np.maximum(exact_T, level)).max())
    if not error <= MAX_ERROR:
        say(
            f"precision: bfloat16 errs by {error:.0%} of a score, more than {MAX_ERROR:.0%}: float32 scores all tiles",
            quiet=False,
        )
        return None
    return Screen(partial(first, runtime=rough), level)


def drawn_tiles(side_px: int, n: int) -> np.ndarray:
    """Drawn concrete, every other tile with a crack, uint8 (n, P, P); the same in every process."""
    from crackvae.images.synthetic import draw_concrete, draw_crack

    rng, tiles_TPP = np.random.default_rng(0), np.empty((n, side_px, side_px), np.uint8)
    for number in range(n):
        surface = draw_concrete(rng, side_px, side_px)
        tiles_TPP[number] = (draw_crack(rng, surface)[0] if number % 2 else surface).mean(axis=2)
    return tiles_TPP
