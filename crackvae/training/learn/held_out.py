"""Whether a change of the last layer finds more of the judged cracks that it was not fitted to.

Shape letters: T judged tiles, O other tiles, G groups.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crackvae.training.adapt.site import MIN_GROUPS
from crackvae.training.learn.last_layer import Cells, Change, fitted_change

# Fewer cracks, or cracks of fewer than MIN_GROUPS groups, decide nothing: with two groups any weights seem better in
# one case of four.
MIN_CRACKS = 10
# Parts of the groups, each of which is left out once.
FOLDS = 5
# Share of the resamples of the groups in which the cracks must rank higher.
MIN_SHARE, RESAMPLES = 0.95, 2000


@dataclass(frozen=True)
class HeldOutCracks:
    """What is made of judged cracks by weights that were learned without their groups.

    Attributes:
        cracks: their number.
        share_better: share of resamples in which they rank higher than before; None with too few verdicts.
    """

    cracks: int
    share_better: float | None = None

    @property
    def are_found_better(self) -> bool:
        """Whether the learned weights are to be used."""
        return self.share_better is not None and self.share_better >= MIN_SHARE

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"are_found_better": self.are_found_better}

    def in_words(self) -> str:
        """What follows, in a sentence."""
        if self.are_found_better:
            return f"The {self.cracks} judged cracks rank higher with weights that were learned without their groups."
        if self.share_better is None:
            why = (
                f"{self.cracks} judged cracks, their groups and the false alarms beside them are too few to show a gain"
            )
        else:
            why = f"a gain is not shown on {self.cracks} judged cracks whose groups were left out"
        return f"The weights stay those of the model: {why}."


def cross_validated(
    cells: Cells, is_crack_T: np.ndarray, groups_T: np.ndarray, others: Cells, seed: int
) -> HeldOutCracks:
    """Rank judged cracks among other tiles, before and after learning from the groups of all others.

    The measure is the mean logarithm of the share of the other tiles that score at least as high.

    Args:
        groups_T: of the judged tiles.
        others: tiles that nobody judged cracked, of groups that are not learned from.
    """
    names, group_T = np.unique(groups_T, return_inverse=True)
    fold_T = np.random.default_rng(seed).permutation(len(names))[group_T] % FOLDS
    gained_T, n_cracks = np.zeros(len(is_crack_T)), int(is_crack_T.sum())
    if n_cracks < MIN_CRACKS or len(np.unique(group_T[is_crack_T])) < MIN_GROUPS:
        return HeldOutCracks(n_cracks)
    for fold in range(FOLDS):
        rest, left_out = fold_T != fold, (fold_T == fold) & is_crack_T
        if len(set(is_crack_T[rest])) < 2:
            return HeldOutCracks(n_cracks)
        if left_out.any():
            change = fitted_change(cells[rest], is_crack_T[rest])
            gained_T[left_out] = _log_ranks(cells[left_out], others) - _log_ranks(cells[left_out], others, change)
    gained_G = np.bincount(group_T, gained_T)
    drawn = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    return HeldOutCracks(n_cracks, float((gained_G[drawn].sum(axis=1) > 0).mean()))


def _log_ranks(cracks: Cells, others: Cells, change: Change | None = None) -> np.ndarray:
    """Logarithm of the share of the other tiles that score at least as high as each crack."""
    cracks_T, others_O = (one.log_scores(change) for one in (cracks, others))
    n_higher_T = len(others_O) - np.searchsorted(np.sort(others_O), cracks_T)
    return np.asarray(np.log((n_higher_T + 1) / (len(others_O) + 1)))
