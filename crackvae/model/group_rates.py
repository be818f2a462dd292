"""How often sound tiles exceed a level, and how much that differs from group to group.

Tiles of one photograph, or of one bridge, score high together: what a calibration knows about the next group depends
on the number of its groups, not of its tiles. The hazard -log(1 - share) of a group is taken to be that of all tiles
times a gamma-distributed factor (a frailty). Both are averaged over their posterior, given how many tiles of each group
exceed.

Shape letters: G groups, P pairs of counts, V values on a grid, D draws from the posterior; ... stands for any number of
scores.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

DRAWS = 400
LEVELS = (np.arange(DRAWS) + 0.5) / DRAWS

# Coefficient of variation between groups: its range, and the median and standard deviation of the logarithm of its
# log-normal prior. Three groups leave it nearly undetermined. Photographs of one kind of surface of SDNET2018 differ
# by .5 to .9 (docs/log.md, 2026-11-29).
VARIATIONS = np.exp(np.linspace(np.log(0.05), np.log(4.0), 20))
VARIATION_PRIOR = (0.7, 0.5)

# Smallest group that shows how groups differ. Smaller ones are often copies of one picture (METU has hundreds of two or
# three), which resemble each other more than photographs of one place do; their tiles count as each its own group.
MIN_SIZE = 5

# Posterior standard deviations of the logarithm of the share that its grid extends to, on either side.
SHARE_GRID = np.linspace(-6, 6, 61)
MAX_SHARE = 0.999

# Quantiles that bound the interval of a flagged share: wider than 95 % of the posterior, so that in spite of the
# approximations 95 of 100 calibrations keep it (tests/model/test_tail.py).
INTERVAL = (0.01, 0.99)

# Coverage of the interval where images are independent, which is exact.
INDEPENDENT_INTERVAL = 0.95

# More groups of new images than this differ as little from their mean.
MAX_NEW_GROUPS = 400


@dataclass(frozen=True)
class GroupRates:
    """Posterior of the share of tiles above a level, and of how it differs between groups.

    Attributes:
        share_D: float (..., D), share of all tiles.
        shape_D: shape of the gamma distribution of the factor of a group; one over its squared variation.
    """

    share_D: np.ndarray
    shape_D: np.ndarray

    def any_of(self, n: np.ndarray | float) -> np.ndarray:
        """Probability that one or more of `n` tiles of one new group exceed, float (..., D)."""
        return np.asarray(-np.expm1(-self.shape_D * np.log1p(n * self._hazard_D)))

    @property
    def _hazard_D(self) -> np.ndarray:
        """Hazard for a factor of 1, such that any_of(1) is the share."""
        return np.asarray(np.expm1(-np.log1p(-np.minimum(self.share_D, 1 - 1e-12)) / self.shape_D))

    def interval(self, n_images: int, n_tiles: int, n_groups: int) -> tuple[float, float]:
        """Interval of the share of new images with a tile above the level, for `share_D` of one dimension.

        The upper end is that of tiles which are independent within a group, the lower end that of tiles which exceed
        together: the calibration need not know groups as large as an image.

        Args:
            n_images: number of new images, shared out evenly among n_groups.
            n_tiles: number of tiles of each.
        """
        low, _ = np.quantile(self._flagged(n_images, 1, n_groups), INTERVAL)
        _, high = np.quantile(self._flagged(n_images, n_tiles, n_groups), INTERVAL)
        return float(low), float(high)

    def _flagged(self, n_images: int, n_tiles: int, n_groups: int) -> np.ndarray:
        """Share of new images with a tile above the level, one for each draw."""
        rng, n = np.random.default_rng(1), min(n_images, n_groups, MAX_NEW_GROUPS)
        images_G = np.full(n, n_images // n)
        images_G[: n_images % n] += 1
        hazard_DG = rng.standard_gamma(self.shape_D[:, None], (DRAWS, n)) * self._hazard_D[:, None]
        return np.asarray(rng.binomial(images_G, -np.expm1(-n_tiles * hazard_DG)).sum(axis=1) / n_images)


def group_rates(
    sizes_G: np.ndarray, counts_G: np.ndarray, variation_prior: tuple[float, float] = VARIATION_PRIOR
) -> GroupRates:
    """The posterior, given the number of tiles of each group and how many of these exceed.

    Args:
        variation_prior: of the coefficient of variation between groups, as VARIATION_PRIOR.

    Source of the proportional tails: Einmahl, de Haan & Zhou, Statistics of heteroscedastic extremes (2016); of the
    counts, which are taken to be beta-binomial: Griffiths, Maximum likelihood estimation for the beta-binomial
    distribution (1973). The prior of the share is that of Jeffreys for independent tiles and few exceedances.
    """
    is_small_G = sizes_G < MIN_SIZE
    n_small, n_above = int(sizes_G[is_small_G].sum()), int(counts_G[is_small_G].sum())
    sizes_G = np.append(sizes_G[~is_small_G], np.ones(n_small, int))
    counts_G = np.append(counts_G[~is_small_G], np.arange(n_small) < n_above)
    n, mean = int(sizes_G.sum()), (counts_G.sum() + 0.5) / (sizes_G.sum() + 1)
    (sizes_P, counts_P), times_P = np.unique(np.stack([sizes_G, counts_G]), axis=1, return_counts=True)
    shapes_V = VARIATIONS**-2
    deviation_V = np.sqrt(1 / (n * mean) + np.square(sizes_G / n).sum() / shapes_V)
    share_VV = np.minimum(mean * np.exp(deviation_V[:, None] * SHARE_GRID), MAX_SHARE)
    log_posterior_VV = np.empty(share_VV.shape)
    for row, shape in enumerate(shapes_V):
        share_V1 = share_VV[row][:, None]
        rest_V1 = shape * (1 - share_V1) / share_V1
        log_likelihood_VP = betaln(shape + counts_P, rest_V1 + sizes_P - counts_P) - betaln(shape, rest_V1)
        log_posterior_VV[row] = log_likelihood_VP @ times_P + np.log(share_VV[row]) / 2 + np.log(deviation_V[row])
    median, deviation = variation_prior
    log_posterior_VV -= ((np.log(VARIATIONS / median) / deviation) ** 2 / 2)[:, None]
    log_posterior_VV[share_VV >= MAX_SHARE] = -np.inf
    cumulative = np.cumsum(np.exp(log_posterior_VV - log_posterior_VV.max()))
    chosen = np.searchsorted(cumulative / cumulative[-1], np.random.default_rng(0).permutation(LEVELS))
    return GroupRates(share_VV.ravel()[chosen], shapes_V[chosen // len(SHARE_GRID)])


def share_interval(is_above_N: np.ndarray, groups_N: np.ndarray, n_images: int, n_groups: int) -> tuple[float, float]:
    """Interval of the share of `n_images` new images above a level, given which calibration images are.

    If each calibration image is its own group, or all are one, it is that of independent images.

    Args:
        groups_N: int (N,), number of the group of each image.
        n_groups: number of groups of the new images.
    """
    _, groups_N, sizes_G = np.unique(groups_N, return_inverse=True, return_counts=True)
    if len(sizes_G) in (1, len(groups_N)):
        from scipy.stats import betabinom  # imported here: it takes half a second, and most calibrations name groups

        n, k = len(is_above_N), int(is_above_N.sum())
        low, high = betabinom.interval(INDEPENDENT_INTERVAL, n_images, k + 1, n - k)
        return low / n_images, high / n_images
    counts_G = np.bincount(groups_N[is_above_N], minlength=len(sizes_G))
    return group_rates(sizes_G, counts_G).interval(n_images, 1, n_groups)
