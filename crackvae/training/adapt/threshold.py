"""A threshold from the scores of unlabelled tiles of a site, of which a few per cent may show cracks.

The tail of the sound tiles' scores is taken to lie between that of a log-normal and a power law. Its two parameters are
fitted to three quantiles of the body, which a few per cent of cracked tiles hardly touch, so that whatever lies above
does not count. Its extrapolated quantile is the threshold, within what the observed scores allow: if no tile were
cracked it would be their own quantile, and if `max_cracked` of them were, all above it, a lower one.

Shape letters: T tiles.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

# Quantiles of the sound tiles' scores that the tail is fitted to; below the lowest lie blank tiles, which say nothing
# about the tail. Half of the largest share of cracked tiles is taken to lie above them, so that the rate errs as much
# where there are none as where there are most.
BODY = (0.5, 0.7, 0.85)
# The fit may set a rate that is this factor from the wanted one on the observed scores. Without it, chance would only
# ever move the threshold down where no tile is cracked, and only up where `max_cracked` are.
SLACK = 2.0
# A shape of 1 is a power law, as scores relative to those of like textures have; about 0.4 is a log-normal.
SHAPES = (0.1, 1.0)
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
    fitted = _fitted_quantile(scores_T, 1 - max_false_alarm, max_cracked / 2)
    return float(np.float32(np.clip(fitted, lowest, highest)))


def _fitted_quantile(scores_T: np.ndarray, level: float, cracked: float) -> float:
    """Quantile of the distribution whose log-scores are a + c * e**shape, with e = -log(1 - u), through the body."""
    body = np.quantile(scores_T, np.array(BODY) * (1 - cracked))
    if not 0 < body[0] < body[1] < body[2]:
        return float(np.inf)  # too many blank or equal tiles for a body: the observed quantile decides
    logs = np.log(body)
    tail = -np.log1p(-np.array([*BODY, level]))
    ratio = (logs[2] - logs[1]) / (logs[1] - logs[0])

    def excess(shape: float) -> float:
        """Ratio of the two steps of the body for a shape, less the observed one; it increases with the shape."""
        e = tail**shape
        return float((e[2] - e[1]) / (e[1] - e[0]) - ratio)

    low, high = SHAPES
    shape = low if excess(low) >= 0 else high if excess(high) <= 0 else float(brentq(excess, low, high, xtol=1e-4))
    e = tail**shape
    return math.exp(min(logs[2] + (logs[2] - logs[0]) * (e[3] - e[2]) / (e[2] - e[0]), MAX_LOG_SCORE))


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
