"""A threshold from the scores of unlabelled tiles of a site, of which a few per cent may show cracks.

The sound tiles' scores are taken to be log-normal in their body, which a few per cent of cracked tiles hardly touch: a
log-normal is fitted to the scores between two quantiles, as a truncated sample, so that whatever lies above does not
count. Its extrapolated quantile is the threshold, within what the observed scores allow: if no tile were cracked it
would be their own quantile, and if `max_cracked` of them were, all above it, a lower one.

Shape letters: T tiles.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

# Quantiles of the scores between which the log-normal is fitted. Of the sound tiles the upper one is at most 0.895 if
# 5 % are cracked; below the lower one lie blank tiles, which say nothing about the tail.
BODY = (0.25, 0.85)
# The fit may set a rate that is this factor from the wanted one on the observed scores. Without it, chance would only
# ever move the threshold down where no tile is cracked, and only up where `max_cracked` are.
SLACK = 2.0
# Of mean and log-deviation of the fit, in deviations of the body. A body whose density does not fall has no finite fit;
# the observed scores then decide.
LIMITS = ((-10.0, 10.0), (-1.0, 3.0))
MAX_LOG_SCORE = 100.0
RESAMPLES = 200
INTERVAL = 0.95


@dataclass(frozen=True)
class SiteThreshold:
    """A threshold and what follows from it.

    Attributes:
        threshold: a tile is flagged when its score is greater.
        flagged: share of the given tiles that it flags, sound and cracked.
        low, high: 95 % interval of the false-alarm rate on the sound tiles of as many other groups.
        sound: numbers of the tiles that are taken to be sound, by ascending score; of those above the threshold an
            evenly spaced part.
    """

    threshold: float
    flagged: float
    low: float
    high: float
    sound: np.ndarray


def tiles_needed(max_false_alarm: float, max_cracked: float) -> int:
    """Fewest tiles of which the highest allowed threshold is one of the scores."""
    return int(np.ceil(1 / (max_false_alarm * (1 - max_cracked)) - 1e-9))


def site_threshold(
    scores_T: np.ndarray, groups_T: np.ndarray, max_false_alarm: float, max_cracked: float, seed: int
) -> SiteThreshold:
    """Set a threshold that sound tiles exceed at about the given rate.

    Args:
        scores_T: float (T,), finite, not negative.
        groups_T: the photograph or structure of each tile: the unit of resampling for the interval.
        max_false_alarm: share of sound tiles that may be flagged.
        max_cracked: largest share of cracked tiles among the given ones.
    """
    threshold = estimated_threshold(scores_T, max_false_alarm, max_cracked)
    order = np.argsort(scores_T, kind="stable")
    n_below = int((scores_T <= threshold).sum())
    below, above = order[:n_below], order[n_below:]
    n_sound = min(len(above), round(len(below) * max_false_alarm / (1 - max_false_alarm)))
    kept = above[((np.arange(n_sound) + 0.5) / max(1, n_sound) * len(above)).astype(int)]
    low, high = _interval(scores_T, groups_T, max_false_alarm, max_cracked, seed)
    return SiteThreshold(threshold, len(above) / len(scores_T), low, high, np.concatenate([below, kept]))


def estimated_threshold(scores_T: np.ndarray, max_false_alarm: float, max_cracked: float) -> float:
    """The fitted quantile, between the observed quantiles for `max_cracked` above it and for no cracked tile."""
    most_flagged = SLACK * max_false_alarm * (1 - max_cracked) + max_cracked
    lowest, highest = np.quantile(scores_T, [1 - most_flagged, 1 - max_false_alarm / SLACK], method="inverted_cdf")
    fitted = _fitted_quantile(scores_T, 1 - max_false_alarm)
    return float(np.float32(np.clip(fitted, lowest, highest)))


def _fitted_quantile(scores_T: np.ndarray, level: float) -> float:
    """Quantile of the log-normal distribution of which the body of the scores is a truncated sample."""
    low, high = np.quantile(scores_T, BODY)
    if not 0 < low < high:
        return float(np.inf)  # too many blank tiles for a body: the observed quantile decides
    body = np.log(scores_T[(scores_T >= low) & (scores_T <= high)])
    centre, unit = float(body.mean()), float(body.std())
    if unit == 0:
        return float(np.inf)
    z_low, z_high = ((math.log(edge) - centre) / unit for edge in (low, high))

    def loss(parameters: np.ndarray) -> float:
        """Mean negative log-likelihood of the standardised body, whose mean is 0 and whose mean square is 1."""
        mu, sigma = float(parameters[0]), math.exp(parameters[1])
        inside = ndtr((z_high - mu) / sigma) - ndtr((z_low - mu) / sigma)
        return (1 + mu**2) / (2 * sigma**2) + math.log(sigma) + math.log(max(float(inside), 1e-300))

    mu, log_sigma = minimize(
        loss, (0.0, 0.0), method="Nelder-Mead", bounds=LIMITS, options={"xatol": 1e-3, "fatol": 1e-8}
    ).x
    return math.exp(min(centre + unit * (mu + math.exp(log_sigma) * ndtri(level)), MAX_LOG_SCORE))


def _interval(
    scores_T: np.ndarray, groups_T: np.ndarray, max_false_alarm: float, max_cracked: float, seed: int
) -> tuple[float, float]:
    """Interval of the false-alarm rate: threshold and rate each from their own resample of the groups.

    Of the flagged share of a resample, none or up to `max_cracked` of all tiles may be cracked.
    """
    rng, (_, group_T) = np.random.default_rng(seed), np.unique(groups_T, return_inverse=True)
    by_group = [scores_T[group_T == group] for group in range(group_T.max() + 1)]
    rates = []
    for _ in range(RESAMPLES):
        one, other = (
            np.concatenate([by_group[number] for number in rng.integers(len(by_group), size=len(by_group))])
            for _ in range(2)
        )
        flagged = (other > estimated_threshold(one, max_false_alarm, max_cracked)).mean()
        rates.append((max(0.0, (flagged - max_cracked) / (1 - max_cracked)), flagged / (1 - max_cracked)))
    tail = (1 - INTERVAL) / 2
    low_R, high_R = np.array(rates).T
    return float(np.quantile(low_R, tail)), float(min(1.0, np.quantile(high_R, 1 - tail)))
