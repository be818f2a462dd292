"""The upper tail of the scores of sound tiles, for the p-values of photographs of many tiles.

A photograph of 600 tiles is sound only if all of its tiles are, so its p-value needs the probability of tile scores far
above those of the calibration. They are extrapolated by a generalised Pareto distribution of the excess over a high
quantile. Its parameters are not estimated by one value: predictions average over their posterior, which keeps the
false-alarm rate on average over calibrations, and intervals are quantiles of it.

Shape letters: M tiles of the calibration, K of them above the start of the tail, G groups of tiles, D draws from the
posterior, B scores to evaluate.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import genpareto

from crackvae.model.group_rates import LEVELS, GroupRates, group_rates

# Start of the tail: above the 95th percentile the excess of common score distributions is near a generalised Pareto.
TAIL_SHARE = 0.05

# Fewest tile scores above the start: with fewer, the shape is the prior's (its standard error is about 1 / sqrt(K)).
MIN_EXCESSES = 5

# Range of the shape: 0 is an exponential tail, above 0.5 the variance is infinite, and below -0.5 the likelihood is
# irregular (Coles, section 4.3.2): a tail that ends more abruptly gets p-values that are too high.
SHAPES = np.linspace(-0.5, 0.8, 27)

# Mean and standard deviation of the normal prior of the shape. Fifteen excesses leave it nearly undetermined, and the
# heaviest shapes, which scores do not have, then decide about large photographs. Those with five degrees of freedom
# (0.2) and with an exponential tail (0) lie well within it; both keep their level (docs/log.md, 2026-11-29).
SHAPE_PRIOR = (0.1, 0.2)

# Range of the scale, relative to the mean excess.
SCALES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 41))


@dataclass(frozen=True)
class Tail:
    """Posterior of the survival function of the score of one sound tile.

    Attributes:
        scores_M: ascending.
        start: score where the tail begins.
        rates: of exceeding `start`.
        shape_D, scale_D: of the generalised Pareto distribution of the excess.
    """

    scores_M: np.ndarray
    start: float
    rates: GroupRates
    shape_D: np.ndarray
    scale_D: np.ndarray

    def above(self, scores_B: np.ndarray) -> GroupRates:
        """Posterior of the share of sound tiles that score this high or higher, (B, D).

        Up to `start` it has the form of the sample, above it that of the generalised Pareto distribution.
        """
        n_above = len(self.scores_M) - np.searchsorted(self.scores_M, self.start, side="right")
        as_high_B = len(self.scores_M) - np.searchsorted(self.scores_M, scores_B, side="left")
        relative_B = np.maximum(1.0, (1 + as_high_B) / (1 + n_above))
        excess_B1 = np.maximum(scores_B - self.start, 0)[:, None]
        sf_BD = np.asarray(genpareto.sf(excess_B1, self.shape_D, scale=self.scale_D))
        return GroupRates(np.minimum(1.0, relative_B[:, None] * self.rates.share_D * sf_BD), self.rates.shape_D)

    def p_values(self, scores_B: np.ndarray, tiles_B: np.ndarray) -> np.ndarray:
        """Predictive probability of a sound photograph of T tiles having a tile that scores this high, float (B,)."""
        return np.asarray(self.above(scores_B).any_of(tiles_B[:, None]).mean(axis=1))

    def threshold(self, n_tiles: int, level: float) -> float:
        """Score above which the p-value of a photograph of `n_tiles` is at most `level`."""
        low = float(self.scores_M[0])
        high = self.start + float(self.scores_M[-1]) - low + 1e-6
        tiles = np.array([n_tiles])
        while self.p_values(np.array([high]), tiles)[0] > level:
            high += 2 * (high - low)
        for _ in range(60):
            middle = (low + high) / 2
            is_above = self.p_values(np.array([middle]), tiles)[0] > level
            low, high = (middle, high) if is_above else (low, middle)
        return high

    def promise(self, threshold: float, n_images: int, n_tiles: int, n_groups: int) -> dict[str, float]:
        """Share of `n_images` new sound photographs of `n_tiles` above a threshold: expected, and its interval."""
        above = self.above(np.array([threshold]))
        rates = GroupRates(above.share_D[0], above.shape_D)
        low, high = rates.interval(n_images, n_tiles, n_groups)
        return {"expected": float(rates.any_of(n_tiles).mean()), "low": low, "high": high}


def fit_tail(scores_M: np.ndarray, groups_M: np.ndarray) -> Tail | None:
    """Fit the tail of tile scores; None if too few lie above its start.

    Args:
        scores_M: float (M,), of sound tiles that the model was not trained on.
        groups_M: int (M,), the group of each tile; its tiles may be correlated.

    Source: Coles, An Introduction to Statistical Modeling of Extreme Values (2001), chapters 4 and 5. The likelihood of
    correlated tiles is divided by their design effect: Ribatet, Cooley & Davison, Bayesian inference from composite
    likelihoods (2012).
    """
    order = np.argsort(scores_M, kind="stable")
    scores_M, groups_M = scores_M[order].astype(np.float64), np.unique(groups_M[order], return_inverse=True)[1]
    n = len(scores_M)
    if not groups_M.any():  # one group says nothing about differences: its tiles count as independent
        groups_M = np.arange(n)
    start = float(scores_M[max(0, n - int(n * TAIL_SHARE) - 1)]) if n else 0.0
    excess_K = scores_M[scores_M > start] - start
    if len(excess_K) < MIN_EXCESSES:
        return None
    sizes_G = np.bincount(groups_M)
    rates = group_rates(sizes_G, np.bincount(groups_M, scores_M > start).astype(int))
    pairs = np.square(sizes_G / n).sum() - 1 / n  # of tiles of one group, among all pairs of tiles
    design_effect = 1 + len(excess_K) * pairs / float(np.median(rates.shape_D))
    shape_D, scale_D = _posterior_draws(excess_K, design_effect)
    return Tail(scores_M, start, rates, shape_D, scale_D)


def _posterior_draws(excess_K: np.ndarray, design_effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale, float (D,) each, from their posterior on a grid; the prior of the log scale is flat.

    Source of a prior of the shape: Martins & Stedinger, Generalized maximum-likelihood generalized extreme-value
    quantile estimators for hydrologic data (2000).
    """
    scales = SCALES * excess_K.mean()
    log_likelihood = np.empty((len(SHAPES), len(scales)))
    for row, shape in enumerate(SHAPES):
        log_likelihood[row] = genpareto.logpdf(excess_K[:, None], shape, scale=scales).sum(axis=0)
    mean, deviation = SHAPE_PRIOR
    log_posterior = log_likelihood / design_effect - ((SHAPES - mean) / deviation)[:, None] ** 2 / 2
    weights = np.exp(log_posterior - log_posterior.max()).ravel()
    cumulative = np.cumsum(weights) / weights.sum()
    chosen = np.searchsorted(cumulative, LEVELS)
    return SHAPES[chosen // len(scales)], scales[chosen % len(scales)]
