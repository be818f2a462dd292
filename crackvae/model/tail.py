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
from scipy.special import betaincinv
from scipy.stats import binom, genpareto

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

DRAWS = 400
_LEVELS = (np.arange(DRAWS) + 0.5) / DRAWS

# Quantiles that bound the interval of a flagged share: wider than 95 % of the posterior, so that in spite of the
# approximations 95 of 100 calibrations keep it (tests/model/test_tail.py).
INTERVAL = (0.01, 0.99)

# Shares of tiles above a level at which the dependence within groups is estimated.
DEPENDENCE_SHARES = (0.2, 0.05)

# Drop of the log-likelihood that bounds an interval of 95 % (half the 95 % quantile of chi-squared with one degree).
LIKELIHOOD_DROP = 1.92


@dataclass(frozen=True)
class Dependence:
    """How tiles of one group exceed a level together.

    Attributes:
        share: extremal index at the smallest of DEPENDENCE_SHARES, at its upper 95 % bound: this many of the tiles of a
            group count as independent.
        slope: exponent with which the index rises towards 1 as exceedances become rarer; 0 for clusters that persist.
        block: tiles of a group, averaged over tiles: the size of block that the estimates are about.
        design_effect: variance of the number of exceedances relative to that of independent tiles, 1 or more.
    """

    share: float
    slope: float
    block: float
    design_effect: float

    def at(self, survival: np.ndarray) -> np.ndarray:
        """Extremal index where one tile exceeds with the given probability, in (0, 1]."""
        rarer = np.minimum(1.0, survival / DEPENDENCE_SHARES[-1])
        with np.errstate(divide="ignore"):
            return np.asarray(np.minimum(1.0, self.share * rarer**-self.slope))


@dataclass(frozen=True)
class Tail:
    """Posterior of the survival function of the score of one sound tile.

    Attributes:
        scores_M: ascending.
        start: score where the tail begins.
        share_D: probability of exceeding `start`.
        shape_D, scale_D: of the generalised Pareto distribution of the excess.
        dependence: of tiles of one group.
    """

    scores_M: np.ndarray
    start: float
    share_D: np.ndarray
    shape_D: np.ndarray
    scale_D: np.ndarray
    dependence: Dependence

    def survival(self, scores_B: np.ndarray) -> np.ndarray:
        """Probability of one sound tile scoring this high or higher, float (B, D); empirical up to `start`."""
        n = len(self.scores_M)
        as_high_B = n - np.searchsorted(self.scores_M, scores_B, side="left")
        excess_B1 = np.maximum(scores_B - self.start, 0)[:, None]
        tail_BD: np.ndarray = self.share_D * genpareto.sf(excess_B1, self.shape_D, scale=self.scale_D)
        return np.where((scores_B > self.start)[:, None], tail_BD, ((1 + as_high_B) / (n + 1))[:, None])

    def p_values(self, scores_B: np.ndarray, tiles_B: np.ndarray) -> np.ndarray:
        """Predictive probability of a sound photograph of T tiles having a tile that scores this high, float (B,)."""
        survival_BD = self.survival(scores_B)
        independent_BD = tiles_B[:, None] * self.dependence.at(survival_BD)
        return np.asarray(_any_of(survival_BD, np.maximum(independent_BD, 1.0)).mean(axis=1))

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

    def flagged_share(self, n_images: int, n_tiles: int, threshold: float) -> dict[str, float]:
        """Share of `n_images` sound photographs of `n_tiles` above a threshold: expected, and its interval.

        The highest rate is that of independent tiles. The lowest is that of tiles as dependent as in the groups of the
        calibration within a block of that size, and of fully dependent blocks, about which the calibration says
        nothing. A draw of the lightest tail in SHAPES stands for all lighter ones, which may end below the threshold.
        """
        survival_D = self.survival(np.array([threshold]))[0]
        block = max(1.0, min(self.dependence.block, n_tiles) * self.dependence.share / 2)
        lows_D, highs_D = _any_of(survival_D, block), _any_of(survival_D, float(n_tiles))
        lows_D[self.shape_D <= SHAPES[0]] = 0.0
        levels_D = np.random.default_rng(1).permutation(_LEVELS)
        low, _ = np.quantile(binom.ppf(levels_D, n_images, lows_D), INTERVAL) / n_images
        _, high = np.quantile(binom.ppf(levels_D, n_images, highs_D), INTERVAL) / n_images
        independent_D = np.maximum(1.0, n_tiles * self.dependence.at(survival_D))
        return {"expected": float(_any_of(survival_D, independent_D).mean()), "low": float(low), "high": float(high)}


def _any_of(survival: np.ndarray, n: np.ndarray | float) -> np.ndarray:
    """Probability that one of n independent scores exceeds, without loss of digits for small probabilities."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(n * np.log1p(-np.minimum(survival, 1.0))))


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
    start = float(scores_M[max(0, n - int(n * TAIL_SHARE) - 1)]) if n else 0.0
    excess_K = scores_M[scores_M > start] - start
    if len(excess_K) < MIN_EXCESSES:
        return None
    dependence = _dependence(scores_M, groups_M)
    shape_D, scale_D = _posterior_draws(excess_K, dependence.design_effect)
    k, n_effective = len(excess_K) / dependence.design_effect, n / dependence.design_effect
    levels_D = np.random.default_rng(0).permutation(_LEVELS)
    share_D = betaincinv(k + 0.5, n_effective - k + 0.5, levels_D)
    return Tail(scores_M, start, share_D, shape_D, scale_D, dependence)


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
    chosen = np.searchsorted(cumulative, _LEVELS)
    return SHAPES[chosen // len(scales)], scales[chosen % len(scales)]


def _dependence(scores_M: np.ndarray, groups_M: np.ndarray) -> Dependence:
    sizes_G = np.bincount(groups_M)
    n = len(scores_M)
    indices, upper, counts_G = [], 1.0, sizes_G
    for share in DEPENDENCE_SHARES:
        level = scores_M[max(0, n - int(n * share) - 1)]
        counts_G = np.bincount(groups_M, scores_M > level)
        best, upper = _extremal_index(sizes_G, counts_G)
        indices.append(best)
    rise = np.log(indices[1] / indices[0]) / np.log(DEPENDENCE_SHARES[0] / DEPENDENCE_SHARES[1])
    share_above = counts_G.sum() / n
    spread = np.square(counts_G - sizes_G * share_above).sum() / max(1e-12, n * share_above * (1 - share_above))
    block = float(np.square(sizes_G).sum() / n)
    return Dependence(upper, max(0.0, float(rise)), block, max(1.0, float(spread)))


def _extremal_index(sizes_G: np.ndarray, counts_G: np.ndarray) -> tuple[float, float]:
    """Maximum likelihood estimate of the extremal index and the upper bound of its 95 % interval.

    A group of m tiles has no exceedance with probability F^(index m).
    """
    log_below = np.log1p(-counts_G.sum() / sizes_G.sum())
    indices = np.linspace(0.02, 1.0, 99)
    log_none = indices[:, None] * sizes_G * log_below
    likelihood = np.where(counts_G == 0, log_none, np.log(-np.expm1(log_none))).sum(axis=1)
    is_within = likelihood >= likelihood.max() - LIKELIHOOD_DROP
    return float(indices[likelihood.argmax()]), float(indices[is_within].max())
