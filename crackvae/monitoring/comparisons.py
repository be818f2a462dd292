"""One comparison of a night: a measure's histogram, or a share of its images, against what is usual. See drift.

A verdict is by the size of a change, once chance is taken off; a large night makes no alarm out of a trifle.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta, betabinom, chi2

from crackvae.monitoring.histograms import MIN_GROUP_IMAGES

# PSI is defined over about ten bins of equal weight in the reference.
PSI_BINS = 10


# Probability of a difference that we let pass as chance. 50 nights of five measures are 250 looks.
CHANCE = 0.001


LEVELS = ("ok", "watch", "alarm")


# Mean shift of a measure, as a share of its usual median, under which it is no alarm however sure it is: another JPEG
# quality moves the sharpness by up to 13 %, a blur of 1.5 px by 17 to 19 % (docs/log.md, 2026-11-24).
SMALLEST_SHIFT = {"brightness": 0.05, "contrast": 0.15, "sharpness": 0.15}


# The median of three nights is the first that one odd night among them does not move.
MIN_NIGHTS = 3


# Of a normal variable the median distance from the median is 1 / 1.4826 of its standard deviation.
MAD_TO_SD = 1.4826


# A night of more images is judged as one of so many: their share has a chance of 0.2 % at 5 %, less than any limit.
MAX_COUNTED = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on a difference is worth a look, and from where on an alarm: (watch, alarm).

    Attributes:
        psi: population stability index beyond chance; 0.1 and 0.25 are the usual ones.
        ks: Kolmogorov-Smirnov distance beyond chance.
        unreadable: share of images.
        flagged: excess of flagged images over the usual share, from which more than chance is an alarm.
        min_images: fewer scored images are not compared.
    """

    psi: tuple[float, float] = (0.1, 0.25)
    ks: tuple[float, float] = (0.1, 0.2)
    unreadable: tuple[float, float] = (0.01, 0.05)
    flagged: float = 0.02
    min_images: int = MIN_GROUP_IMAGES


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: a measure, or flagged, or unreadable.
        level: ok, watch or alarm.
        tonight, usual: medians of a measure, or shares of images.
        psi, ks: beyond chance, 0 or more; NaN for shares.
        low, high: the interval that a usual share stays in; NaN for measures.
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
    """The worst of several levels; ok where there is none, or where there were too few images to tell."""
    return max((level for level in levels if level in LEVELS), key=LEVELS.index, default="ok")


def _level(value: float, limits: tuple[float, float]) -> str:
    return LEVELS[int(value >= limits[0]) + int(value >= limits[1])]


# --------------------------------------------------------------------------------------------------- histograms


def moved(what: str, counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray, limits: Limits) -> Finding:
    """Compare two histograms (K + 1,); what is left of PSI and KS when chance is taken off."""
    n, n_usual = int(counts.sum()), int(usual.sum())
    if min(n, n_usual) < max(1, min(limits.min_images, n_usual)):
        return Finding(what, "ok", np.nan, np.nan)
    either = 1 / n + 1 / n_usual
    psi, bins = _psi(counts, usual)
    psi = max(0.0, psi - either * float(chi2.ppf(1 - CHANCE, max(1, bins - 1))))
    ks = float(np.abs(np.cumsum(counts) / n - np.cumsum(usual) / n_usual).max())
    ks = max(0.0, ks - float(np.sqrt(-np.log(CHANCE / 2) / 2 * either)))
    level = worst_level([_level(psi, limits.psi), _level(ks, limits.ks)])
    found = Finding(what, level, _median(counts, edges_K), _median(usual, edges_K), psi, ks)
    if level == "alarm" and what in SMALLEST_SHIFT:
        shift = _mean_shift(counts, usual, edges_K) / abs(found.usual)
        return found if shift >= SMALLEST_SHIFT[what] else replace(found, level="watch")
    return found


def _mean_shift(counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray) -> float:
    """Mean distance by which images have moved along a measure: the area between the two distribution functions."""
    gaps_K = np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(usual) / usual.sum())[:-1]
    return float((gaps_K[:-1] * np.diff(edges_K)).sum())


def _psi(counts: np.ndarray, usual: np.ndarray) -> tuple[float, int]:
    """Population stability index over at most PSI_BINS bins of near equal weight in the reference, and their number.

    Half an image is added to each bin, so that an empty one does not make it infinite.

    Source: Yurdakul, Statistical Properties of Population Stability Index (2018): times 1 / (1/n + 1/m) it is
    chi-squared distributed with one degree of freedom less than bins where nothing has moved.
    """
    share = np.cumsum(usual) / usual.sum()
    bin_of = np.minimum((share - usual / usual.sum() / 2) * PSI_BINS, PSI_BINS - 1).astype(int)
    _, bin_of = np.unique(bin_of, return_inverse=True)
    bins = int(bin_of.max()) + 1
    shares = [(np.bincount(bin_of, one, bins) + 0.5) / (one.sum() + 0.5 * bins) for one in (counts, usual)]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum()), bins


def _median(counts: np.ndarray, edges_K: np.ndarray) -> float:
    """Upper edge of the bin that the median lies in."""
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return float(edges_K[min(middle, len(edges_K) - 1)])


# ------------------------------------------------------------------------------------------------------- shares


def share_above(
    what: str, found: int, n: int, rank: tuple[int, int], past: Sequence[tuple[int, int]], limits: Limits
) -> Finding:
    """Share of a night's images above the calibration score of a rank, against what is usual.

    Usual is what the site's ordinary nights had. Where there are fewer than MIN_NIGHTS of them, it is what the
    calibration promises of sound images: above rank k of N it is beta-binomially distributed with N+1-k and k, so the
    uncertainty of a small calibration is in it.

    Args:
        found, n: images of tonight above it, and all scored ones.
        rank: (k, N) of N calibration scores.
        past: (found, n) of earlier nights.

    Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
    """
    k, n_calibration = rank
    sound = (n_calibration + 1 - k) / (n_calibration + 1)
    if len(past) >= MIN_NIGHTS:
        usual, low, high = _usual_share(past, n)
    else:
        usual, (low, high) = sound, _beta_binomial_interval(n, n_calibration + 1 - k, k)
    share, level = found / n, "ok"
    if share > high:
        # Half as many cracks again, or more: what sound images alone bring is no crack.
        is_large = share - usual >= max((usual - sound) / 2, limits.flagged)
        level = "alarm" if is_large else "watch"
    elif share < low:
        level = "watch"
    return Finding(what, level, share, usual, low=low, high=high)


def _usual_share(past: Sequence[tuple[int, int]], n: int) -> tuple[float, float, float]:
    """Median share of some nights, and the interval in which that of another night of n images lies by chance.

    Nights differ by more than chance, because the images of one bridge resemble each other: a night counts for as many
    independent images as the spread of the others allows (quasi-likelihood). Medians, so that a few odd nights, such as
    one with many cracks, change neither the share nor the spread. The interval is the beta-binomial prediction from
    all of them with Jeffreys' prior.

    Source: McCullagh & Nelder, Generalized Linear Models (1989), section 4.5, for the dispersion.
    """
    found_M, images_M = (np.array(column, float) for column in zip(*past, strict=True))
    share = float(np.median(found_M / images_M))
    floor = 0.5 / images_M.sum()  # a share of which no night had any
    spread_M = np.sqrt(max(share, floor) * (1 - min(share, 1 - floor)) / images_M)
    per_image = max(1.0, MAD_TO_SD * float(np.median(np.abs(found_M / images_M - share) / spread_M))) ** 2
    images, tonight = float(images_M.sum()) / per_image, max(1, round(n / per_image))
    return share, *_beta_binomial_interval(tonight, share * images + 0.5, (1 - share) * images + 0.5)


def _beta_binomial_interval(n: int, a: float, b: float) -> tuple[float, float]:
    """Shares of n images that a count of rate Beta(a, b) falls below or above by chance."""
    n = min(n, MAX_COUNTED)
    below = np.cumsum(betabinom.pmf(np.arange(n + 1), n, a, b))
    low, high = np.minimum(np.searchsorted(below, [CHANCE, 1 - CHANCE]), n) / n
    return float(low), float(high)


def unreadable(found: int, n: int, limits: Limits) -> Finding:
    """The share of unreadable files, judged by what it is at least: the lower end of its Clopper-Pearson interval."""
    at_least = float(beta.ppf(CHANCE, found, n - found + 1)) if found else 0.0
    return Finding(
        "unreadable", _level(at_least, limits.unreadable), found / n, 0.0, low=0.0, high=limits.unreadable[0]
    )
