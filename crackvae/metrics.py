"""Metrics of scores on labelled images: ranking, rates at a threshold, bootstrap intervals over groups.

Shape letters: N images, K operating points, R resamples.
A crack is the positive class. Whether an image is flagged is an input, because the score alone does not decide it for a
photograph of many tiles (Calibration.flags).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage

# False-alarm rates at which recall is reported; most images of a night are sound, so they must be low.
FALSE_ALARM_RATES = (0.05, 0.01, 0.001)
# Share of cracked images that average precision is restated for: a real night, where benchmarks are half cracked.
PREVALENCE = 0.01
INTERVAL = 0.95
# Fewest cracks of a group for its recall to be reported: with two, one miss would halve it.
MIN_GROUP_CRACKS = 10
# Upper limit of the pixels' false-positive rate in the area under the per-region overlap (Bergmann et al. 2021).
MAX_PIXEL_RATE = 0.3

RECALL_NAMES = ("recall_at_5%_false_alarms", "recall_at_1%_false_alarms", "recall_at_0.1%_false_alarms")
RANKING_NAMES = ("roc_auc", *RECALL_NAMES, "average_precision_at_1%_prevalence")
THRESHOLD_NAMES = ("precision", "recall", "f1", "false_alarm_rate")


@dataclass(frozen=True)
class Scored:
    """Labelled scores of one set of images.

    Attributes:
        is_crack_N: bool (N,).
        scores_N: float (N,), larger is more crack-like.
        groups_N: (N,), the unit of resampling.
        flagged_N: bool (N,), the decisions of the model.
    """

    is_crack_N: np.ndarray
    scores_N: np.ndarray
    groups_N: np.ndarray
    flagged_N: np.ndarray

    def __post_init__(self) -> None:
        assert np.isfinite(self.scores_N).all(), "unreadable images have no score; callers refuse them"
        assert 0 < self.is_crack_N.sum() < len(self.is_crack_N), "both labels are needed; callers refuse less"


def operating_points(is_crack_N: np.ndarray, scores_N: np.ndarray, weights_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """False-alarm rate and recall at every threshold that separates two scores, from none flagged to all flagged.

    Args:
        weights_N: float (N,), weight of each image; both labels need a positive sum.

    Returns:
        false_alarm_K, recall_K: float (K,), non-decreasing from 0 to 1.
    """
    order = np.argsort(-scores_N, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(scores_N[order], append=-np.inf))
    cracks, sound = weights_N * is_crack_N, weights_N * ~is_crack_N
    recall_K = np.r_[0, np.cumsum(cracks[order])[last_of_ties]] / cracks.sum()
    false_alarm_K = np.r_[0, np.cumsum(sound[order])[last_of_ties]] / sound.sum()
    return false_alarm_K, recall_K


def ranking(is_crack_N: np.ndarray, scores_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """The metrics of RANKING_NAMES, none of which needs a threshold.

    Recall at a false-alarm rate is that of the lowest threshold that does not exceed the rate. Average precision is the
    sum of precision times gained recall, with precision restated for PREVALENCE.

    Source: Fawcett, An introduction to ROC analysis (2006).
    """
    false_alarm_K, recall_K = operating_points(is_crack_N, scores_N, weights_N)
    recalls = [recall_K[np.searchsorted(false_alarm_K, rate + 1e-12, side="right") - 1] for rate in FALSE_ALARM_RATES]
    gained_K = np.diff(recall_K)
    found, wrong = PREVALENCE * recall_K[1:][gained_K > 0], (1 - PREVALENCE) * false_alarm_K[1:][gained_K > 0]
    average_precision = gained_K[gained_K > 0] @ (found / (found + wrong))
    return np.array([np.trapezoid(recall_K, false_alarm_K), *recalls, average_precision])


def at_threshold(is_crack_N: np.ndarray, flagged_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """The metrics of THRESHOLD_NAMES; precision and F1 are 0 if nothing is flagged."""
    cracks_N, sound_N = weights_N * is_crack_N, weights_N * ~is_crack_N
    hits, alarms = cracks_N @ flagged_N, sound_N @ flagged_N
    precision = hits / (hits + alarms) if hits + alarms else 0.0
    f1 = 2 * hits / (hits + alarms + cracks_N.sum())
    return np.array([precision, hits / cracks_N.sum(), f1, alarms / sound_N.sum()])


def figures(scored: Scored, weights_N: np.ndarray) -> np.ndarray:
    """All metrics, in the order of RANKING_NAMES and THRESHOLD_NAMES."""
    ranks = ranking(scored.is_crack_N, scored.scores_N, weights_N)
    return np.concatenate([ranks, at_threshold(scored.is_crack_N, scored.flagged_N, weights_N)])


def worst_group_recall(is_crack_N: np.ndarray, flagged_N: np.ndarray, group_N: np.ndarray) -> float:
    """Lowest recall of a group with MIN_GROUP_CRACKS or more; NaN if there is no such group.

    Args:
        group_N: int (N,), number of each image's group.
    """
    cracks_G = np.bincount(group_N[is_crack_N])
    found_G = np.bincount(group_N[is_crack_N & flagged_N], minlength=len(cracks_G))
    is_large_G = cracks_G >= MIN_GROUP_CRACKS
    return float((found_G[is_large_G] / cracks_G[is_large_G]).min()) if is_large_G.any() else float("nan")


def with_intervals(scored: Scored, resamples: int, seed: int) -> pd.DataFrame:
    """Every metric with its percentile bootstrap interval over groups.

    The worst group's recall has no interval, because every resample has another worst group. It is left out if no group
    has MIN_GROUP_CRACKS cracks.

    Groups, not images, are resampled, because the images of one wall are correlated. A resample without both labels is
    drawn again. For figures of exactly 0 or 1, of which resamples have the same value, see _with_exact_ends().

    Returns:
        one row per metric: value, low, high.

    Source: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8 on clustered data.
    """
    group_N = np.unique(scored.groups_N, return_inverse=True)[1]
    table = _with_interval(partial(figures, scored), scored.is_crack_N, group_N, resamples, seed)
    table.index = pd.Index([*RANKING_NAMES, *THRESHOLD_NAMES])
    table = _with_exact_ranking(table, scored.is_crack_N, group_N)
    counted = {"recall": scored.is_crack_N, "false_alarm_rate": ~scored.is_crack_N, "precision": scored.flagged_N}
    for name, counted_N in counted.items():
        table = _with_exact_ends(table, (name,), _n_groups(group_N[counted_N]))
    table = _with_exact_f1(table)
    worst = worst_group_recall(scored.is_crack_N, scored.flagged_N, group_N)
    if not np.isnan(worst):
        table.loc["worst_group_recall"] = worst
    return table


def ranking_with_intervals(
    is_crack_N: np.ndarray, scores_N: np.ndarray, groups_N: np.ndarray, resamples: int, seed: int
) -> pd.DataFrame:
    """with_intervals() for a score without a threshold: the metrics of RANKING_NAMES, with the same resamples."""
    group_N = np.unique(groups_N, return_inverse=True)[1]
    table = _with_interval(partial(ranking, is_crack_N, scores_N), is_crack_N, group_N, resamples, seed)
    table.index = pd.Index(RANKING_NAMES)
    return _with_exact_ranking(table, is_crack_N, group_N)


@dataclass(frozen=True)
class Decisions:
    """What one model says of N images: scores_N, float (N,), and flagged_N, bool (N,)."""

    scores_N: np.ndarray
    flagged_N: np.ndarray


def paired_intervals(
    is_crack_N: np.ndarray, groups_N: np.ndarray, first: Decisions, second: Decisions, resamples: int, seed: int
) -> pd.DataFrame:
    """Every metric of two models on the same images, with the interval of its difference.

    Both models are measured on the same resamples of the groups, so what makes one easy for both cancels.

    Returns:
        one row per metric: champion (the first), challenger, difference, low, high.

    Source: Davison & Hinkley, Bootstrap Methods and their Application (1997).
    """

    def measured(one: Decisions, weights_N: np.ndarray) -> np.ndarray:
        ranks = ranking(is_crack_N, one.scores_N, weights_N)
        return np.concatenate([ranks, at_threshold(is_crack_N, one.flagged_N, weights_N)])

    def difference(weights_N: np.ndarray) -> np.ndarray:
        gained: np.ndarray = measured(second, weights_N) - measured(first, weights_N)
        return gained

    group_N, ones_N = np.unique(groups_N, return_inverse=True)[1], np.ones(len(is_crack_N))
    table = _with_interval(difference, is_crack_N, group_N, resamples, seed).rename(columns={"value": "difference"})
    table.insert(0, "champion", measured(first, ones_N))
    table.insert(1, "challenger", measured(second, ones_N))
    table.index = pd.Index([*RANKING_NAMES, *THRESHOLD_NAMES])
    return table


def _with_interval(
    measure: Callable[[np.ndarray], np.ndarray], is_crack_N: np.ndarray, group_N: np.ndarray, resamples: int, seed: int
) -> pd.DataFrame:
    """Columns value, low and high of `measure`, a function of the weights of the images."""
    rng = np.random.default_rng(seed)
    n_groups = group_N.max() + 1
    draws: list[np.ndarray] = []
    while len(draws) < resamples:
        weights_N = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups))[group_N].astype(float)
        if (weights_N * is_crack_N).any() and (weights_N * ~is_crack_N).any():
            draws.append(measure(weights_N))
    # Interpolation between equal values is off by the last bit: .9999999999999999 for 1.
    low, high = np.quantile(draws, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0).round(12)
    return pd.DataFrame({"value": measure(np.ones(len(is_crack_N))), "low": low, "high": high})


def _with_exact_ends(table: pd.DataFrame, names: Sequence[str], n_trials: int) -> pd.DataFrame:
    """The table with the intervals of proportions that are 0 or 1 extended to those of Clopper and Pearson.

    Errors that did not occur are in no resample, and a few images without one do not show that there are none.

    The images of one group count as one trial. Without any, as for precision where nothing is flagged, the interval is
    that from 0 to 1.

    Args:
        names: rows that are proportions of the same images.
        n_trials: number of the groups of these images.

    Source: Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial (1934).
    """
    lowest = _lowest_of_all(n_trials)
    is_one, is_zero = (table.index.isin(names) & (table["value"].round(12) == end) for end in (1, 0))
    return table.assign(
        low=table["low"].mask(is_one, table["low"].clip(upper=lowest)),
        high=table["high"].mask(is_zero, table["high"].clip(lower=1 - lowest)),
    )


def _n_groups(group_N: np.ndarray) -> int:
    return len(np.unique(group_N))


def _lowest_of_all(n: int) -> float:
    """Lower limit of a proportion by n of n independent trials."""
    return float(((1 - INTERVAL) / 2) ** (1 / n)) if n else 0.0


def _with_exact_ranking(table: pd.DataFrame, is_crack_N: np.ndarray, group_N: np.ndarray) -> pd.DataFrame:
    """The table with exact ends of RANKING_NAMES.

    The area under the ROC curve is the proportion of pairs, of a crack and a sound image, in the right order. Those
    that share no group are independent.
    """
    n_cracks, n_sound = (_n_groups(group_N[chosen]) for chosen in (is_crack_N, ~is_crack_N))
    n_pairs = max(1, min(n_cracks, n_sound, _n_groups(group_N) // 2))
    table = _with_exact_ends(table, RECALL_NAMES, n_cracks)
    table = _with_exact_ends(table, ("roc_auc",), n_pairs)
    name = RANKING_NAMES[-1]
    if round(table["value"][name], 12) == 1:
        lowest = _lowest_average_precision(_lowest_of_all(n_cracks), 1 - _lowest_of_all(n_sound))
        table.loc[name, "low"] = min(table["low"][name], lowest)
    return table


def _lowest_average_precision(recall: float, false_alarm_rate: float) -> float:
    """Average precision at PREVALENCE of a score that has one threshold of this recall and this false-alarm rate, if
    all false alarms score higher than the cracks and no other threshold finds more.
    """
    odds = false_alarm_rate * (1 - PREVALENCE) / PREVALENCE
    return recall - odds * math.log1p(recall / odds)


def _with_exact_f1(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the interval of F1 extended to the limits of precision and recall, if one of these is 0 or 1."""
    parts = table.loc[["precision", "recall"]]
    if parts["value"].isin([0, 1]).any():
        low, high = (2 / (1 / parts[end].clip(lower=1e-12)).sum() for end in ("low", "high"))
        table.loc["f1", ["low", "high"]] = min(table["low"]["f1"], low), max(table["high"]["f1"], high)
    return table


def one_per_group(groups_N: np.ndarray, seed: int) -> np.ndarray:
    """Indices of one random image of every group, ascending: independent images if the groups are."""
    order = np.random.default_rng(seed).permutation(len(groups_N))
    firsts = np.unique(groups_N[order], return_index=True)[1]
    chosen: np.ndarray = np.sort(order[firsts])
    return chosen


def confusion(is_crack_N: np.ndarray, flagged_N: np.ndarray) -> pd.DataFrame:
    """Confusion matrix with the label in rows and the decision in columns."""
    names: Sequence[str] = ("non_crack", "crack")
    from sklearn.metrics import confusion_matrix  # imported here: it takes a second, which scoring need not wait for

    counts = confusion_matrix(is_crack_N, flagged_N, labels=[False, True])
    return pd.DataFrame(counts, index=[f"is {name}" for name in names], columns=["passed", "flagged"])


def pixel_figures(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> pd.DataFrame:
    """Pixel-level metrics of anomaly maps.

    Args:
        maps: float (H, W) of each image, larger is more crack-like.
        masks: bool (H, W) of each image, True where it is cracked; both values occur.

    Returns:
        rows `pixel_roc_auc` and `aupro`, column value. The area under the per-region overlap is that up to
        MAX_PIXEL_RATE false positives, divided by it.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset (2021), section 5.2, for AUPRO.
    """
    from sklearn.metrics import roc_auc_score  # imported here, as confusion_matrix() above

    values = np.concatenate([one.ravel() for one in maps])
    is_cracked = np.concatenate([one.ravel() for one in masks])
    assert 0 < is_cracked.sum() < len(is_cracked), "both kinds of pixels are needed; callers refuse less"
    # Thresholds at false-positive rates from 0 to MAX_PIXEL_RATE, the range of the integral.
    rates_K = np.linspace(0, MAX_PIXEL_RATE, 301)
    thresholds_K = np.quantile(values[~is_cracked], 1 - rates_K, method="higher")
    overlaps_RK = [
        1 - np.searchsorted(np.sort(one[regions == number]), thresholds_K, side="right") / (regions == number).sum()
        for one, mask in zip(maps, masks, strict=True)
        for regions, n in [ndimage.label(mask, structure=np.ones((3, 3)))]
        for number in range(1, n + 1)
    ]
    aupro = np.trapezoid(np.mean(overlaps_RK, axis=0), rates_K) / MAX_PIXEL_RATE
    return pd.DataFrame({"value": [roc_auc_score(is_cracked, values), aupro]}, index=["pixel_roc_auc", "aupro"])


def false_discovery_rates(p_values_N: np.ndarray) -> np.ndarray:
    """Adjusted p-values of the images of a night that control the false discovery rate, float (N,).

    If the images at or below a level are flagged, at most that share of them is sound on average, provided that the
    sound images of the night are exchangeable with those of the calibration.

    Source: Benjamini & Hochberg, Controlling the false discovery rate (1995); for conformal p-values, which
    share a calibration: Bates et al., Testing for outliers with conformal p-values (2023).
    """
    if len(p_values_N) < 2:
        return p_values_N
    from scipy.stats import false_discovery_control  # imported here: it takes a second

    return np.asarray(false_discovery_control(p_values_N))


def fewest_discoveries(n_images: int, n_calibration: int, max_false_discovery: float) -> int:
    """Smallest number of images that false_discovery_rates() can put at or below a level: p is 1 / (n + 1) or more."""
    return math.ceil(n_images / (max_false_discovery * (n_calibration + 1)) - 1e-9)
