"""Whether the threshold holds for the images of a run: do their tiles score like those of the calibration?

Only tiles at or below the threshold are compared, so that cracks, however many there are, make no difference.

Shape letters: T tiles, K edges of the histogram.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from crackvae.model import builtin
from crackvae.model.calibration import Calibration

# Images with tiles below the threshold from which on the comparison is made.
MIN_IMAGES = 20
# Edges at quantiles of the calibration: a distance of 0.005 is the finest that they tell.
N_EDGES = 200
# Chance of a larger distance: none of 600 random nights of one site, of 30 to 200 images, exceeded it.
CHANCE = 0.001
# Kolmogorov-Smirnov distance beyond chance from which on the calibration is that of another site. Three surfaces of
# another site, 70 images each: 0.22 where 56 % of the sound tiles were flagged instead of 5 %, 0.08 and less than
# chance where 13 and 16 % were.
MIN_DISTANCE = 0.1


class ThresholdVoid(BaseModel):
    """Why the threshold does not hold for the images of a run.

    Attributes:
        reason: for people, with what to do.
        distance: Kolmogorov-Smirnov distance from the calibration, between 0 and 1.
        images: images of the run that were compared.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    distance: float
    images: int


class ThresholdCheck:
    """Counts the tiles of a run at or below the threshold, and compares them with those of the calibration.

    Attributes:
        images: number of images with such tiles.
    """

    def __init__(self, calibration: Calibration, model_dir: str) -> None:
        sample = calibration.sample
        scores_T = calibration.scores_N if sample is None else sample.tile_scores_M
        self.threshold, self.model_dir = np.float32(calibration.threshold), model_dir
        below_T = np.sort(scores_T[scores_T <= self.threshold])
        self._calibration_images = len(calibration.scores_N)
        self._edges_K = np.unique(np.quantile(below_T, np.linspace(0, 1, N_EDGES))) if len(below_T) else below_T
        self._usual_K = np.searchsorted(below_T, self._edges_K, side="right") / max(1, len(below_T))
        self._counts_K = np.zeros(len(self._edges_K) + 1, np.int64)
        self.images = 0

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns status and tile_scores."""
        tiles = rows.filter(pc.field("status") == "scored")["tile_scores"].combine_chunks()
        scores_T, image_T = tiles.flatten().to_numpy(), pc.list_parent_indices(tiles).to_numpy()
        is_below_T = scores_T <= self.threshold
        self.images += len(np.unique(image_T[is_below_T]))
        bin_T = np.searchsorted(self._edges_K, scores_T[is_below_T], side="left")
        self._counts_K += np.bincount(bin_T, minlength=len(self._counts_K))

    def result(self) -> ThresholdVoid | None:
        """Why the threshold does not hold, or None: it may, or there are too few images to tell.

        Tiles of one photograph resemble each other, so it is the numbers of images that chance is computed from.

        Source: Massey, The Kolmogorov-Smirnov test for goodness of fit (1951); the bound for two samples is Smirnov's.
        """
        if self.images < MIN_IMAGES or not len(self._edges_K):
            return None
        share_K = np.cumsum(self._counts_K)[:-1] / self._counts_K.sum()
        distance = float(np.abs(share_K - self._usual_K).max())
        by_chance = np.sqrt(-np.log(CHANCE / 2) / 2 * (1 / self.images + 1 / self._calibration_images))
        if distance - by_chance < MIN_DISTANCE:
            return None
        return ThresholdVoid(
            reason=(
                f"the threshold does not hold for these images: the tiles below it score unlike those of the "
                f"calibration (distance {distance:.2f} of {self.images} images; {by_chance:.2f} at random). The model "
                f"was calibrated on another site or camera: {builtin.calibrate_advice(self.model_dir)}."
            ),
            distance=round(distance, 4),
            images=self.images,
        )
