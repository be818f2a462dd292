"""Whether the threshold holds for the images of a run: do their tiles score like those of the calibration?

Only tiles at or below the threshold are compared, so that cracks, however many there are, make no difference.

Shape letters: T tiles, K levels.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from crackvae.model import builtin
from crackvae.model.calibration import Calibration
from crackvae.model.group_rates import group_rates

# Images with tiles below the threshold from which on they are compared: of fewer, nothing but chance would be seen.
MIN_IMAGES = 5
# Images on which a threshold that was not said to be void has held, so that later runs need not compare again.
ENOUGH_IMAGES = 20
# Quantiles of the calibration's tiles below the threshold. Groups differ least in their medians; tails show more of the
# difference where the calibration says little about its groups.
LEVELS = (0.5, 0.75, 0.9)
# Median and standard deviation of the logarithm of the coefficient of variation between groups at these levels, where a
# calibration says little about it. Blocks of photographs of SDNET2018 differ by .2 to .5, photographs by .3 to 1.1.
VARIATION_PRIOR = (0.4, 0.4)


class ThresholdVoid(BaseModel):
    """Why the threshold does not hold for the images of a run.

    Attributes:
        reason: for people, with what to do.
        level: the quantile of the calibration for which the images differ most, such as 0.5.
        share: share of their tiles below the threshold that score above it.
        low, high: between which this share is expected.
        images: images of the run that were compared.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    level: float
    share: float
    low: float
    high: float
    images: int


class ThresholdCheck:
    """Counts the tiles of a run at or below the threshold, and compares them with those of the calibration.

    Attributes:
        images: number of images with such tiles.
    """

    def __init__(self, calibration: Calibration, model_dir: str) -> None:
        self.threshold, self.model_dir = np.float32(calibration.threshold), model_dir
        sample = calibration.sample
        scores_T = sample.tile_scores_M if sample else calibration.scores_N
        groups_T = sample.tile_groups_M if sample else np.arange(len(scores_T))
        is_below_T = scores_T <= self.threshold
        self._calibration_T, groups_T = scores_T[is_below_T], groups_T[is_below_T]
        # The only group says nothing about differences: its tiles count as each its own, and the prior decides.
        self._groups_T = groups_T if len(np.unique(groups_T)) > 1 else np.arange(len(groups_T))
        self._edges_K = np.quantile(self._calibration_T, LEVELS) if is_below_T.any() else np.empty(0)
        self._above_K = np.zeros(len(self._edges_K), np.int64)
        self.images = self._tiles = 0

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns status and tile_scores."""
        tiles = rows.filter(pc.field("status") == "scored")["tile_scores"].combine_chunks()
        scores_T, image_T = tiles.flatten().to_numpy(), pc.list_parent_indices(tiles).to_numpy()
        is_below_T = scores_T <= self.threshold
        self.images += len(np.unique(image_T[is_below_T]))
        self._tiles += int(is_below_T.sum())
        self._above_K += (scores_T[is_below_T, None] > self._edges_K).sum(axis=0)

    def result(self) -> ThresholdVoid | None:
        """Why the threshold does not hold, or None: it may, or there are too few images to tell.

        The share of tiles above a level is compared with what the calibration's groups allow for one group more: all
        images of a run may show one structure. Chance is that of images, whose tiles resemble each other.
        """
        if self.images < MIN_IMAGES or not len(self._edges_K):
            return None
        found = [one for number in range(len(LEVELS)) if (one := self._difference(number))]
        return max(found, key=lambda one: abs(one.share - np.clip(one.share, one.low, one.high)), default=None)

    def untold(self, n_scored: int) -> str:
        """What to say where nearly all images of a run lie above the threshold, so that none can be compared; or ""."""
        if self.images >= MIN_IMAGES or n_scored < ENOUGH_IMAGES:
            return ""
        return (
            f"whether the threshold holds for these images cannot be told: {n_scored - self.images} of {n_scored} have "
            f"no tile below it. Unless they are all cracked, {builtin.calibrate_advice(self.model_dir)}."
        )

    def _difference(self, number: int) -> ThresholdVoid | None:
        """What is wrong at one of LEVELS; None if the share above it lies in its interval."""
        _, groups_T, sizes_G = np.unique(self._groups_T, return_inverse=True, return_counts=True)
        is_above_T = self._calibration_T > self._edges_K[number]
        rates = group_rates(sizes_G, np.bincount(groups_T[is_above_T], minlength=len(sizes_G)), VARIATION_PRIOR)
        low, high = rates.interval(self.images, 1, 1)
        share = float(self._above_K[number] / self._tiles)
        if low <= share <= high:
            return None
        return ThresholdVoid(
            reason=(
                f"the threshold does not hold for these images: of their tiles below it {share:.0%} score above the "
                f"{LEVELS[number]:.0%} quantile of the calibration, where {low:.0%} to {high:.0%} can be expected of "
                f"another place of the same kind. The model was calibrated on another site or camera: "
                f"{builtin.calibrate_advice(self.model_dir)}."
            ),
            level=LEVELS[number],
            share=round(share, 4),
            low=round(low, 4),
            high=round(high, 4),
            images=self.images,
        )
