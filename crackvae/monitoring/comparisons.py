"""Comparisons of a night with its reference: the histogram of a measure, or a share of images. Used by drift.

Levels depend on effect size after sampling error is subtracted, so a large night does not make a small change an alarm.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta, betabinom, chi2

from crackvae.monitoring.histograms import MIN_GROUP_IMAGES

# PSI is conventionally computed over ten bins of equal weight in the reference.
PSI_BINS = 10

# Significance level of each comparison. 50 nights of five measures are 250 comparisons.
SIGNIFICANCE = 0.001

LEVELS = ("ok", "watch", "alarm")

# Mean shift of a measure, relative to its usual median, below which it is never an alarm: another JPEG quality changes
# the sharpness by up to 13 %, a blur of 1.5 px by 17 to 19 % (docs/log.md, 2026-11-24).
MIN_SHIFT = {"brightness": 0.05, "contrast": 0.15, "sharpness": 0.15}

# The median of three nights is robust to one outlier.
MIN_NIGHTS = 3

# Standard deviation of a normal variable divided by its median absolute deviation.
MAD_TO_SD = 1.4826

# Larger nights are treated as this many images: the standard error of a share of 5 % is then 0.2 %, below any limit.
MAX_COUNTED = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Lower limits of the levels (watch, alarm).

    Attributes:
        psi: population stability index in excess of sampling error; 0.1 and 0.25 are conventional.
        ks: Kolmogorov-Smirnov distance in excess of sampling error.
        unreadable: share of unreadable images.
        flagged: smallest significant excess of the flagged share over the usual share that is an alarm.
        min_images: groups with fewer scored images are not compared.
    """

    psi: tuple[float, float] = (0.1, 0.25)
    ks: tuple[float, float] = (0.1, 0.2)
    unreadable: tuple[float, float] = (0.01, 0.05)
    flagged: float = 0.02
    min_images: int = MIN_GROUP_IMAGES


@dataclass(frozen=True)
class Comparison:
    """Result of one comparison.

    Attributes:
        what: name of a measure, or flagged, or unreadable.
        level: ok, watch or alarm.
        tonight, usual: medians of a measure, or shares of images.
        psi, ks: in excess of sampling error, 0 or more; NaN for shares.
        low, high: prediction interval of the share; NaN for measures.
    """

    what: str
    level: str
    tonight: float
    usual: float
    psi: float = np.nan
    ks: float = np.nan
    low: float = np.nan
    high: float = np.nan


def worst_level(levels: Iterable[str]) -> str:
    """The worst of several levels; ok if there is none, or if there were too few images to compare."""
    return max((level for level in levels if level in LEVELS), key=LEVELS.index, default="ok")


def _level(value: float, limits: tuple[float, float]) -> str:
    return LEVELS[int(value >= limits[0]) + int(value >= limits[1])]


# --------------------------------------------------------------------------------------------------- histograms


def compare_histograms(
    what: str, counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray, limits: Limits
) -> Comparison:
    """Compare two histograms (K + 1,) by PSI and KS in excess of their sampling error."""
    n, n_usual = int(counts.sum()), int(usual.sum())
    if min(n, n_usual) < max(1, min(limits.min_images, n_usual)):
        return Comparison(what, "ok", np.nan, np.nan)
    inverse_n = 1 / n + 1 / n_usual
    psi, bins = _psi(counts, usual)
    psi = max(0.0, psi - inverse_n * float(chi2.ppf(1 - SIGNIFICANCE, max(1, bins - 1))))
    ks = float(np.abs(np.cumsum(counts) / n - np.cumsum(usual) / n_usual).max())
    ks = max(0.0, ks - float(np.sqrt(-np.log(SIGNIFICANCE / 2) / 2 * inverse_n)))
    level = worst_level([_level(psi, limits.psi), _level(ks, limits.ks)])
    compared = Comparison(what, level, _median(counts, edges_K), _median(usual, edges_K), psi, ks)
    if level == "alarm" and what in MIN_SHIFT:
        shift = _mean_shift(counts, usual, edges_K) / abs(compared.usual)
        return compared if shift >= MIN_SHIFT[what] else replace(compared, level="watch")
    return compared


def _mean_shift(counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray) -> float:
    """Mean shift of a measure: the area between the two distribution functions (Wasserstein distance)."""
    gaps_K = np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(usual) / usual.sum())[:-1]
    return float((gaps_K[:-1] * np.diff(edges_K)).sum())


def _psi(counts: np.ndarray, usual: np.ndarray) -> tuple[float, int]:
    """Population stability index over at most PSI_BINS bins of nearly equal weight in the reference, and their number.

    Half an image is added to each bin, so that an empty bin does not make the index infinite.

    Source: Yurdakul, Statistical Properties of Population Stability Index (2018): under no change, the index times
    1 / (1/n + 1/m) is chi-squared distributed with one degree of freedom less than there are bins.
    """
    share = np.cumsum(usual) / usual.sum()
    bin_of = np.minimum((share - usual / usual.sum() / 2) * PSI_BINS, PSI_BINS - 1).astype(int)
    _, bin_of = np.unique(bin_of, return_inverse=True)
    bins = int(bin_of.max()) + 1
    shares = [(np.bincount(bin_of, one, bins) + 0.5) / (one.sum() + 0.5 * bins) for one in (counts, usual)]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum()), bins


def _median(counts: np.ndarray, edges_K: np.ndarray) -> float:
    """Upper edge of the bin that contains the median."""
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return float(edges_K[min(middle, len(edges_K) - 1)])


# ------------------------------------------------------------------------------------------------------- shares


def compare_share(
    what: str, n_above: int, n: int, rank: tuple[int, int], past: Sequence[tuple[int, int]], limits: Limits
) -> Comparison:
    """Compare the share of images above the calibration score of a given rank with the usual share.

    The usual share is that of the earlier ordinary nights of the site. With fewer than MIN_NIGHTS of them, it is the
    share expected of sound images: above rank k of N it is beta-binomially distributed with N+1-k and k, which includes
    the uncertainty of a small calibration set.

    Args:
        n_above, n: number of images of this night above the score, and of all scored images.
        rank: (k, N), the k-th of N calibration scores.
        past: (n_above, n) of earlier nights.

    Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
    """
    k, n_calibration = rank
    sound = (n_calibration + 1 - k) / (n_calibration + 1)
    if len(past) >= MIN_NIGHTS:
        usual, low, high = _usual_share(past, n)
    else:
        usual, (low, high) = sound, _beta_binomial_interval(n, n_calibration + 1 - k, k)
    share, level = n_above / n, "ok"
    if share > high:
        # An alarm needs half as many cracks again; the share that sound images contribute is not counted.
        is_large = share - usual >= max((usual - sound) / 2, limits.flagged)
        level = "alarm" if is_large else "watch"
    elif share < low:
        level = "watch"
    return Comparison(what, level, share, usual, low=low, high=high)


def _usual_share(past: Sequence[tuple[int, int]], n: int) -> tuple[float, float, float]:
    """Median share of earlier nights, and the prediction interval for another night of n images.

    Nights are overdispersed, because images of one bridge resemble each other: the effective number of independent
    images is estimated from the spread between nights (quasi-likelihood). Medians make share and spread robust to a few
    outliers, such as nights with many cracks. The interval is the beta-binomial prediction from all nights with
    Jeffreys' prior.

    Source: McCullagh & Nelder, Generalized Linear Models (1989), section 4.5, for the dispersion.
    """
    found_M, images_M = (np.array(column, float) for column in zip(*past, strict=True))
    share = float(np.median(found_M / images_M))
    floor = 0.5 / images_M.sum()  # where no night had any
    spread_M = np.sqrt(max(share, floor) * (1 - min(share, 1 - floor)) / images_M)
    per_image = max(1.0, MAD_TO_SD * float(np.median(np.abs(found_M / images_M - share) / spread_M))) ** 2
    images, tonight = float(images_M.sum()) / per_image, max(1, round(n / per_image))
    return share, *_beta_binomial_interval(tonight, share * images + 0.5, (1 - share) * images + 0.5)


def _beta_binomial_interval(n: int, a: float, b: float) -> tuple[float, float]:
    """Prediction interval at SIGNIFICANCE on either side for the share among n images with rate Beta(a, b)."""
    n = min(n, MAX_COUNTED)
    below = np.cumsum(betabinom.pmf(np.arange(n + 1), n, a, b))
    low, high = np.minimum(np.searchsorted(below, [SIGNIFICANCE, 1 - SIGNIFICANCE]), n) / n
    return float(low), float(high)


def compare_failed(what: str, n_found: int, n: int, limits: Limits) -> Comparison:
    """Share of files that are unreadable or show no surface; the level depends on the lower Clopper-Pearson bound."""
    at_least = float(beta.ppf(SIGNIFICANCE, n_found, n - n_found + 1)) if n_found else 0.0
    return Comparison(what, _level(at_least, limits.unreadable), n_found / n, 0.0, low=0.0, high=limits.unreadable[0])
