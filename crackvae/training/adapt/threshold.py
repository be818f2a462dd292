"""A threshold from the scores of unlabelled tiles of a site, of which a few per cent may show cracks.

Cracked tiles have the highest scores, so the tail of the sound tiles cannot be seen there. Its shape is that of the
starting model, from the sound images of its own calibration: surfaces differ in how high their sound tiles score, much
less in how far the highest lie above the median (docs/log.md, 2026-11-29). The site sets the median alone, which a few
per cent of cracked tiles hardly touch. The threshold is the quantile of that tail, within what the observed scores
allow: if no tile were cracked it would be their own quantile, and if `max_cracked` of them were, all above it, a lower
one.

Shape letters: M tiles of the calibration of the starting model, T tiles of the site.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import weibull_min

from crackvae.model.group_rates import share_interval

# The tail may set a rate that is this factor from the wanted one on the observed scores. Without it, chance would only
# ever move the threshold down where no tile is cracked, and only up where `max_cracked` are.
SLACK = 2.0
# Standard deviation of the logarithm of the false-alarm rate between other photographs of a site and the given ones,
# beyond what resamples of these show: other places, another tail. Chosen on half of the blocks of SDNET2018 so that the
# interval holds in all splits of each of its surfaces, judged on the other half (docs/log.md, 2026-11-29).
RATE_SPREAD = 0.5
RESAMPLES = 200
INTERVAL = 0.95
# Fewest judged tiles at or above a threshold that reviewers are said to have judged: the one that sets it may itself be
# cracked, and a single verdict may be on any tile.
MIN_JUDGED = 2
# Largest logarithm of the ratio of a threshold to the median: far above it there are no floats.
MAX_LOG_RATIO = 100.0


@dataclass(frozen=True)
class SoundTail:
    """How far above their median the upper half of the scores of sound tiles lies.

    The ratio of a score to the median has a logarithm with a Weibull distribution: with shape 1 the tail is a power
    law, and the upper half of a log-normal has a shape of about 1.3.

    Attributes:
        shape, scale: of that distribution; a scale of infinity leaves the threshold to the observed scores.
    """

    shape: float
    scale: float

    @classmethod
    def of(cls, scores_M: np.ndarray) -> "SoundTail":
        """The tail of the scores of sound tiles."""
        median = float(np.median(scores_M))
        above = scores_M[scores_M > median]
        if median <= 0 or len(np.unique(above)) < 2:
            return cls(1.0, math.inf)
        shape, _, scale = weibull_min.fit(np.log(above / median), floc=0)
        return cls(float(shape), float(scale))

    def quantile(self, median: float, rate: float) -> float:
        """The score that this share of sound tiles with the given median exceeds; `rate` is at most a half."""
        return median * math.exp(min(self.scale * (-math.log(2 * rate)) ** (1 / self.shape), MAX_LOG_RATIO))


@dataclass(frozen=True)
class ThresholdRule:
    """What a threshold shall keep, and what it takes for granted.

    Attributes:
        tail: of the sound tiles' scores.
        max_false_alarm: share of sound tiles that may be flagged.
        max_cracked: largest share of cracked tiles among the given ones.
    """

    tail: SoundTail
    max_false_alarm: float
    max_cracked: float

    def threshold(self, scores_T: np.ndarray) -> float:
        """The quantile of the tail, between the observed quantiles for `max_cracked` above it and for no cracked tile.

        Half of the largest share of cracked tiles is taken to lie above the median.
        """
        most_flagged = SLACK * self.max_false_alarm * (1 - self.max_cracked) + self.max_cracked
        fewest_flagged = self.max_false_alarm / SLACK
        lowest, highest = np.quantile(scores_T, [1 - most_flagged, 1 - fewest_flagged], method="inverted_cdf")
        fitted = self.tail.quantile(self._median(scores_T), self.max_false_alarm)
        return float(np.float32(np.clip(fitted, lowest, highest)))

    def sound_above(self, scores_T: np.ndarray, n: int) -> np.ndarray:
        """Scores of `n` sound tiles above the threshold, ascending, as the tail has them; float (n,)."""
        median, shares = self._median(scores_T), 1 - (np.arange(n) + 0.5) / max(1, n)
        return np.array([self.tail.quantile(median, self.max_false_alarm * share) for share in shares])

    def _median(self, scores_T: np.ndarray) -> float:
        """Of the sound tiles."""
        return float(np.quantile(scores_T, (1 - self.max_cracked / 2) / 2))


@dataclass(frozen=True)
class SiteThreshold:
    """A threshold and what follows from it.

    Attributes:
        threshold: a tile is flagged when its score is greater.
        flagged: share of the given tiles that it flags, sound and cracked.
        low, high: 95 % interval of the false-alarm rate on the sound tiles of as many other groups.
        sound: numbers of the tiles that are taken to be sound, by ascending score; of those above the threshold as
            many as the tail has.
        sound_scores: float32, of these tiles, above the threshold at most as high as the tail has them: where only
            cracked tiles are, theirs would make high scores look usual.
        assumes: what the rate takes for granted, in words.
    """

    threshold: float
    flagged: float
    low: float
    high: float
    sound: np.ndarray
    sound_scores: np.ndarray
    assumes: str


def tiles_needed(max_false_alarm: float, max_cracked: float) -> int:
    """Fewest tiles of which the highest allowed threshold is one of the scores."""
    return int(np.ceil(1 / (max_false_alarm * (1 - max_cracked)) - 1e-9))


def site_threshold(scores_T: np.ndarray, groups_T: np.ndarray, rule: ThresholdRule, seed: int) -> SiteThreshold:
    """Set a threshold that sound tiles exceed at about the rate of the rule.

    Args:
        scores_T: float (T,), finite, not negative.
        groups_T: the photograph or structure of each tile: the unit of resampling for the interval.
    """
    threshold = rule.threshold(scores_T)
    order = np.argsort(scores_T, kind="stable")
    n_below = int((scores_T <= threshold).sum())
    below, above = order[:n_below], order[n_below:]
    n_sound = min(len(above), round(len(below) * rule.max_false_alarm / (1 - rule.max_false_alarm)))
    wanted_K = rule.sound_above(scores_T, n_sound)
    kept = above[_nearest(scores_T[above], wanted_K)]
    kept_scores_K = np.clip(wanted_K, np.nextafter(np.float32(threshold), np.float32(np.inf)), scores_T[kept])
    low, high = _interval(scores_T, groups_T, rule, seed)
    return SiteThreshold(
        threshold=threshold,
        flagged=len(above) / len(scores_T),
        low=low,
        high=high,
        sound=np.concatenate([below, kept]),
        sound_scores=np.concatenate([scores_T[below], kept_scores_K]).astype(np.float32),
        assumes=f"at most {rule.max_cracked:g} of the tiles show cracks, and the highest scores of sound tiles lie as "
        "far above the typical one as where the starting model was calibrated",
    )


def judged_threshold(
    scores_T: np.ndarray, groups_T: np.ndarray, is_judged_T: np.ndarray, max_false_alarm: float
) -> SiteThreshold | None:
    """The conformal threshold of sound tiles, where most of what lies above it was judged sound; None elsewhere.

    With few tiles for the rate nothing lies above it: it is the highest score, perhaps that of a crack which nobody has
    judged, and a model with it would flag nothing.

    Judged cracks are not among the tiles, so the tail of the sound ones can be seen, and nothing is assumed about it.
    What nobody has judged counts as sound, so the rate is not exceeded whether it is cracked or not. The lower end of
    the interval is that if all of it is.

    Args:
        scores_T: float32 (T,), of tiles that were judged sound or not at all.
        is_judged_T: bool (T,), whether a reviewer has judged the image of the tile.
    """
    order, n = np.argsort(scores_T, kind="stable"), len(scores_T)
    rank = math.ceil((n + 1) * (1 - max_false_alarm) - 1e-9)
    threshold = float(scores_T[order[min(rank, n) - 1]])
    is_above_T = scores_T > threshold
    is_shown_T = is_above_T & is_judged_T
    n_judged = int(((scores_T >= threshold) & is_judged_T).sum())
    if not is_above_T.any() or 2 * is_shown_T.sum() < is_above_T.sum() or n_judged < MIN_JUDGED:
        return None
    n_groups = len(np.unique(groups_T))
    low, _ = share_interval(is_shown_T, groups_T, n, n_groups)
    _, high = share_interval(is_above_T, groups_T, n, n_groups)
    assumes = "the reviewers are right about the tiles above it, most of which they have judged"
    return SiteThreshold(threshold, float(is_above_T.mean()), low, high, order, scores_T[order], assumes)


def _nearest(scores_A: np.ndarray, wanted_K: np.ndarray) -> np.ndarray:
    """Ascending numbers of K different scores, each about the first that reaches the wanted one; A is at least K.

    Args:
        scores_A, wanted_K: ascending.
    """
    steps_K = np.arange(len(wanted_K))
    different_K = np.maximum.accumulate(np.searchsorted(scores_A, wanted_K) - steps_K)
    return np.minimum(different_K, len(scores_A) - len(wanted_K)) + steps_K


def _interval(scores_T: np.ndarray, groups_T: np.ndarray, rule: ThresholdRule, seed: int) -> tuple[float, float]:
    """Interval of the false-alarm rate: threshold and rate each from their own resample of the groups.

    A share `max_cracked` of all tiles is taken to be cracked: at the lower end all of them are flagged, at the upper
    end none. Other photographs have that rate times a factor, see RATE_SPREAD.
    """
    rng, (_, group_T) = np.random.default_rng(seed), np.unique(groups_T, return_inverse=True)
    by_group = [scores_T[group_T == group] for group in range(group_T.max() + 1)]
    rates, cracked = [], rule.max_cracked
    for _ in range(RESAMPLES):
        one, other = (
            np.concatenate([by_group[number] for number in rng.integers(len(by_group), size=len(by_group))])
            for _ in range(2)
        )
        flagged = (other > rule.threshold(one)).mean()
        factor = math.exp(RATE_SPREAD * rng.normal()) / (1 - cracked)
        rates.append((max(0.0, (flagged - cracked) * factor), flagged * factor))
    tail = (1 - INTERVAL) / 2
    low_R, high_R = np.array(rates).T
    return float(np.quantile(low_R, tail)), float(min(1.0, np.quantile(high_R, 1 - tail)))
