"""The threshold of a site whose tiles nobody has labelled, on drawn score distributions."""

import numpy as np
import pytest

from crackvae.training.adapt import threshold as module
from crackvae.training.adapt.threshold import (
    SiteThreshold,
    SoundTail,
    ThresholdRule,
    judged_threshold,
    site_threshold,
    tiles_needed,
)

RATE, MAX_CRACKED = 0.01, 0.05
GROUPS, N = 40, 2_000
# Log-scores of cracked tiles: far above the sound ones (mean 0, deviation 0.52), or half hidden among them.
CRACKS = {"plain": (2.5, 0.4), "faint": (1.0, 0.6)}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval has its own test, with more."""
    monkeypatch.setattr(module, "RESAMPLES", 2)


def site(cracked: float, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the tiles of 40 photographs that differ from each other, their groups, and which tiles are cracked."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(GROUPS), N // GROUPS)
    scores = np.exp(rng.normal(0, 0.5, N) + rng.normal(0, 0.15, GROUPS)[groups])
    is_crack = rng.permutation(N) < round(cracked * N)
    scores[is_crack] = np.exp(rng.normal(*CRACKS[kind], is_crack.sum()))
    return scores, groups, is_crack


def rule() -> ThresholdRule:
    """With the tail of 1,000 sound tiles of other sites, whose scores are 1.6 times as high."""
    rng = np.random.default_rng(77)
    return ThresholdRule(SoundTail.of(1.6 * np.exp(rng.normal(0, np.hypot(0.5, 0.15), 1_000))), RATE, MAX_CRACKED)


def found(cracked: float, kind: str, seed: int) -> SiteThreshold:
    scores, groups, _ = site(cracked, kind, seed)
    return site_threshold(scores, groups, rule(), seed=0)


def sound_rate(threshold: float) -> float:
    """Share of all sound tiles, of any photograph, above a threshold."""
    rng = np.random.default_rng(99)
    return float((np.exp(rng.normal(0, np.hypot(0.5, 0.15), 200_000)) > threshold).mean())


@pytest.mark.parametrize("kind", CRACKS)
def test_cracked_tiles_up_to_five_per_cent_move_the_threshold_by_less_than_its_own_uncertainty(kind: str) -> None:
    thresholds = {share: [found(share, kind, seed).threshold for seed in range(12)] for share in (0, 0.01, 0.02, 0.05)}
    without = np.array(thresholds[0])
    half_width = 1.96 * without.std(ddof=1)
    for values in thresholds.values():
        assert abs(np.mean(values) - without.mean()) < half_width
        assert 0.003 < np.mean([sound_rate(value) for value in values]) < 0.02
    naive = np.mean([np.quantile(site(0.05, kind, seed)[0], 1 - RATE) for seed in range(12)])
    assert naive - without.mean() > half_width, "without care the same cracks move it by more"


def test_the_threshold_follows_the_scores_of_the_site_and_the_tail_of_the_starting_model() -> None:
    scores, groups, _ = site(0, "plain", 0)
    one, doubled = (site_threshold(factor * scores, groups, rule(), seed=0).threshold for factor in (1, 2))
    assert doubled == pytest.approx(2 * one, rel=1e-6)
    heavier = ThresholdRule(SoundTail(1.0, rule().tail.scale), RATE, MAX_CRACKED)
    assert site_threshold(scores, groups, heavier, seed=0).threshold > one


@pytest.mark.parametrize("cracked", [0.01, *(pytest.param(share, marks=pytest.mark.slow) for share in (0, 0.05))])
def test_the_rate_on_other_tiles_lies_in_the_stated_interval_nine_times_in_ten(
    cracked: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 40)
    stated = [found(cracked, "plain", seed) for seed in range(10)]
    assert sum(one.low <= sound_rate(one.threshold) <= one.high for one in stated) >= 9


def test_a_tail_that_no_share_of_cracks_explains_stays_below_the_threshold() -> None:
    scores, groups, _ = site(0, "plain", 0)
    scores[:300] *= 20  # 15 % of the tiles show a joint, say: more than could be cracked
    one = site_threshold(scores, groups, rule(), seed=0)
    assert one.flagged < MAX_CRACKED + 2 * RATE and one.threshold > np.quantile(scores, 0.9)


def test_the_scores_taken_as_sound_put_the_threshold_at_the_wanted_rate() -> None:
    scores, _, _ = site(0.05, "plain", 3)
    one = found(0.05, "plain", 3)
    sound = one.sound_scores
    assert (sound > one.threshold).mean() == pytest.approx(RATE, abs=0.001)
    assert np.all(np.diff(sound) >= 0) and len(set(one.sound)) == len(sound) < N
    assert sound.max() < np.median(scores[scores > one.threshold]), "the cracks above the threshold are left out"


def test_cracks_far_above_every_sound_tile_do_not_make_high_scores_look_usual() -> None:
    sound = np.sort(np.random.default_rng(3).lognormal(0, 0.2, 1_900))  # lighter than the tail of the rule
    scores = np.concatenate([sound, np.full(100, 1_000.0)])
    one = site_threshold(scores, np.arange(2_000) % 40, rule(), seed=0)
    n_above = int((one.sound_scores > one.threshold).sum())
    assert n_above > 0 and one.sound_scores.max() <= rule().sound_above(scores, n_above).max() < 1_000
    assert np.all(np.diff(one.sound_scores) >= 0) and len(one.sound_scores) == len(one.sound)


def test_blank_tiles_leave_the_observed_quantile() -> None:
    scores = np.r_[np.zeros(900), np.linspace(0.1, 1, 100)]
    one = site_threshold(scores, np.arange(1000), rule(), seed=0)
    assert np.quantile(scores, 0.93) < one.threshold <= 1


def test_a_calibration_of_equal_scores_leaves_the_observed_quantile() -> None:
    scores, groups, _ = site(0, "plain", 0)
    equal = ThresholdRule(SoundTail.of(np.ones(50)), RATE, MAX_CRACKED)
    observed = np.quantile(scores, 1 - RATE / module.SLACK)
    assert site_threshold(scores, groups, equal, seed=0).threshold == pytest.approx(observed, rel=0.02)


def test_the_number_of_tiles_needed_follows_from_the_rate() -> None:
    assert tiles_needed(0.01, 0.05) == 106 and tiles_needed(0.05, 0.0) == 20


def test_where_the_tiles_above_it_are_judged_the_threshold_is_that_of_the_sound_ones() -> None:
    rates, kept = [], 0
    for seed in range(10):
        scores, groups, is_crack = site(0.1, "plain", seed)
        is_judged = scores > np.quantile(scores, 0.75)  # the top of the queue
        left = ~(is_crack & is_judged)
        one = judged_threshold(scores[left], groups[left], is_judged[left], RATE)
        assert one is not None and "most of which they have judged" in one.assumes
        assert (one.flagged <= RATE) and len(one.sound) == left.sum() and (np.diff(one.sound_scores) >= 0).all()
        rates.append(sound_rate(one.threshold))
        kept += one.low <= rates[-1] <= one.high
    assert kept >= 9 and 0.7 * RATE < np.mean(rates) < 1.3 * RATE
    highest = np.sort(scores[left])[-5]
    few = judged_threshold(scores[left], groups[left], scores[left] > highest, RATE)
    assert few is None, "tiles above the threshold that nobody has judged may be cracked"
    assert judged_threshold(scores[:50], groups[:50], np.ones(50, bool), RATE) is None, "too few for the rate"


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (130, 0.01), (198, 0.01), (19, 0.05), (38, 0.05)])
def test_the_highest_score_of_few_tiles_is_no_threshold_that_reviewers_have_judged(n: int, rate: float) -> None:
    scores = np.exp(np.random.default_rng(5).normal(0, 0.5, n))
    n_cracks = max(1, n // 20)
    scores[:n_cracks] = 49.0 + np.arange(n_cracks)
    groups = np.arange(n)
    for is_judged in (np.zeros(n, bool), np.ones(n, bool)):
        assert judged_threshold(scores, groups, is_judged, rate) is None
    one = site_threshold(scores, groups, ThresholdRule(rule().tail, rate, MAX_CRACKED), seed=0)
    assert one.threshold < 49 and one.flagged >= n_cracks / n and "of the tiles show cracks" in one.assumes


def test_one_verdict_alone_makes_no_threshold_judged() -> None:
    scores = np.exp(np.random.default_rng(5).normal(0, 0.5, 250))
    scores[:3] = 60.0, 50.0, 49.0  # a joint and two cracks
    groups, rank = np.arange(250), np.argsort(np.argsort(-scores))
    assert judged_threshold(scores, groups, rank < 1, RATE) is None, "the crack below it would set the threshold"
    one = judged_threshold(scores, groups, rank < 2, RATE)
    assert one is not None and one.threshold == pytest.approx(50.0)
    tied = np.where(scores > 40, 60.0, scores)
    assert judged_threshold(tied, groups, np.ones(250, bool), RATE) is None, "nothing lies above three equal scores"
