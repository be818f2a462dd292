"""Whether learned weights find more of the judged cracks that they were not trained on.

Shape letters: K cracked tiles, T other tiles, P side of a tile at the input [px].
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crackvae.model.artifact import Model
from crackvae.model.inference import score_tiles
from crackvae.training.loop import VAL_BATCH

# Fewer cracks decide nothing.
MIN_CRACKS = 10

# Share of the resamples of the cracks in which the learned weights must be better.
MIN_SHARE, RESAMPLES = 0.95, 2000

# Tiles that the cracks are ranked among, at most: each is scored twice.
MAX_OTHERS = 1000


@dataclass(frozen=True)
class HeldOutCracks:
    """What the learned weights do with judged cracks that they were not trained on.

    Attributes:
        cracks: their number.
        share_better: share of resamples in which they rank higher than before; NaN with fewer than MIN_CRACKS.
    """

    cracks: int
    share_better: float = float("nan")

    @property
    def are_found_better(self) -> bool:
        """Whether the learned weights are to be used."""
        return self.share_better >= MIN_SHARE

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        found = asdict(self) if self.cracks >= MIN_CRACKS else {"cracks": self.cracks, "share_better": None}
        return found | {"are_found_better": self.are_found_better}

    def in_words(self) -> str:
        """What follows, in a sentence."""
        if self.are_found_better:
            return f"The {self.cracks} judged cracks that were kept apart rank higher with the learned weights."
        if self.cracks < MIN_CRACKS:
            why = f"{self.cracks} judged cracks were kept apart, and {MIN_CRACKS} are needed to show a gain"
        else:
            why = f"a gain is not shown on the {self.cracks} judged cracks that were kept apart"
        return f"The weights stay those of the model: {why}."


def compared(before: Model, learned: Model, cracks_KPP: np.ndarray, others_TPP: np.ndarray, seed: int) -> HeldOutCracks:
    """Rank cracks among other tiles, before and after: by the mean logarithm of the share of others that score higher.

    Args:
        cracks_KPP: judged cracks, not trained on, at least MIN_CRACKS.
        others_TPP: tiles that nobody judged cracked, not trained on.
    """
    chosen = np.linspace(0, len(others_TPP) - 1, min(MAX_OTHERS, len(others_TPP))).astype(int)
    gained_K = _log_ranks(before, cracks_KPP, others_TPP[chosen]) - _log_ranks(learned, cracks_KPP, others_TPP[chosen])
    drawn = np.random.default_rng(seed).integers(0, len(gained_K), (RESAMPLES, len(gained_K)))
    return HeldOutCracks(len(gained_K), float((gained_K[drawn].mean(1) > 0).mean()))


def _log_ranks(model: Model, cracks_KPP: np.ndarray, others_TPP: np.ndarray) -> np.ndarray:
    """Logarithm of the share of the other tiles that score at least as high as each crack, float (K,)."""
    cracks_K, others_T = (score_tiles(model, tiles, VAL_BATCH)[:, 0] for tiles in (cracks_KPP, others_TPP))
    n_higher_K = len(others_T) - np.searchsorted(np.sort(others_T), cracks_K)
    return np.asarray(np.log((n_higher_K + 1) / (len(others_T) + 1)))
