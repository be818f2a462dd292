"""Shape letters: N images. Scores are drawn from overlapping normal distributions, or from few values to make ties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from crackvae import metrics
from crackvae.metrics import (
    FALSE_ALARM_RATES,
    PREVALENCE,
    RANKING_NAMES,
    THRESHOLD_NAMES,
    Scored,
    _lowest_average_precision,
    at_threshold,
    confusion,
    figures,
    operating_points,
    ranking,
    ranking_with_intervals,
    with_intervals,
    worst_group_recall,
)


def overlapping(n_sound: int, n_crack: int, seed: int = 0, decimals: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores in random order; few decimals make ties."""
    rng = np.random.default_rng(seed)
    is_crack_N = rng.permutation(np.arange(n_sound + n_crack) < n_crack)
    return is_crack_N, np.round(rng.normal(is_crack_N * 1.5, 1.0), decimals)


def ranks(is_crack_N: np.ndarray, scores_N: np.ndarray) -> dict[str, float]:
    values = ranking(is_crack_N, scores_N, np.ones(len(scores_N)))
    return dict(zip(RANKING_NAMES, values.tolist(), strict=True))


def recall_by_brute_force(is_crack_N: np.ndarray, scores_N: np.ndarray, rate: float) -> float:
    """The best recall of all thresholds that flag few enough sound images."""
    best = 0.0
    for threshold in [*scores_N, -np.inf]:
        flagged_N = scores_N > threshold
        if flagged_N[~is_crack_N].sum() <= rate * (~is_crack_N).sum() + 1e-9:
            best = max(best, float(flagged_N[is_crack_N].mean()))
    return best


# labels and scores with many ties, at least one image of each label
few_scores = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40).map(
    lambda rows: (
        np.array([True, False, *(is_crack for is_crack, _ in rows)]),
        np.array([3.0, 3.0, *(score for _, score in rows)]),
    )
)


# ------------------------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize(("n_sound", "n_crack"), [(300, 40), (50, 400), (1, 20), (20, 1)])
def test_area_and_average_precision_agree_with_scikit_learn(n_sound, n_crack, decimals):
    is_crack_N, scores_N = overlapping(n_sound, n_crack, decimals=decimals)
    weights_N = np.where(is_crack_N, PREVALENCE / n_crack, (1 - PREVALENCE) / n_sound)
    found = ranks(is_crack_N, scores_N)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(is_crack_N, scores_N))
    assert found["average_precision_at_1%_prevalence"] == pytest.approx(
        average_precision_score(is_crack_N, scores_N, sample_weight=weights_N)
    )


@settings(derandomize=True, deadline=None)
@given(few_scores)
def test_ties_agree_with_scikit_learn(rows):
    is_crack_N, scores_N = rows
    prior_N = np.where(is_crack_N, PREVALENCE / is_crack_N.sum(), (1 - PREVALENCE) / (~is_crack_N).sum())
    found = ranks(is_crack_N, scores_N)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(is_crack_N, scores_N))
    assert found["average_precision_at_1%_prevalence"] == pytest.approx(
        average_precision_score(is_crack_N, scores_N, sample_weight=prior_N)
    )


@pytest.mark.parametrize(("n_sound", "n_crack"), [(99, 60), (100, 60), (101, 60), (999, 80), (1000, 80), (2500, 80)])
@pytest.mark.parametrize("decimals", [1, 6])
def test_recall_at_a_rate_is_the_best_of_all_thresholds_that_keep_it(n_sound, n_crack, decimals):
    is_crack_N, scores_N = overlapping(n_sound, n_crack, seed=n_sound, decimals=decimals)
    found = ranks(is_crack_N, scores_N)
    for rate, name in zip(FALSE_ALARM_RATES, RANKING_NAMES[1:4], strict=True):
        assert f"{rate:.1%}".replace(".0%", "%") in name
        assert found[name] == pytest.approx(recall_by_brute_force(is_crack_N, scores_N, rate))


def test_one_false_alarm_of_a_hundred_is_one_percent():
    is_crack_N = np.array([False] * 100 + [True] * 2)
    scores_N = np.array([*range(100), 98.5, 50.0])
    assert ranks(is_crack_N, scores_N)["recall_at_1%_false_alarms"] == 0.5
    assert ranks(is_crack_N, scores_N)["recall_at_0.1%_false_alarms"] == 0.0


def test_a_crack_that_ties_with_too_many_sound_images_is_not_found():
    is_crack_N = np.array([False] * 100 + [True])
    scores_N = np.array([0.0] * 98 + [1.0, 1.0, 1.0])
    assert ranks(is_crack_N, scores_N)["recall_at_1%_false_alarms"] == 0.0


def test_a_perfect_ranking_has_ones_everywhere():
    is_crack_N = np.arange(50) >= 30
    assert ranks(is_crack_N, np.arange(50.0)) == pytest.approx(dict.fromkeys(RANKING_NAMES, 1.0))


def test_a_reversed_ranking_finds_nothing_without_false_alarms():
    is_crack_N = np.arange(50) >= 30
    found = ranks(is_crack_N, -np.arange(50.0))
    assert (found["roc_auc"], found["recall_at_1%_false_alarms"], found["recall_at_0.1%_false_alarms"]) == (0, 0, 0)
    assert 0 < found["average_precision_at_1%_prevalence"] < PREVALENCE


def test_equal_scores_rank_no_better_than_chance():
    found = ranks(np.arange(50) >= 30, np.full(50, 7.0))
    assert found == pytest.approx(
        {
            "roc_auc": 0.5,
            "recall_at_5%_false_alarms": 0.0,
            "recall_at_1%_false_alarms": 0.0,
            "recall_at_0.1%_false_alarms": 0.0,
            "average_precision_at_1%_prevalence": PREVALENCE,
        }
    )


def test_average_precision_does_not_depend_on_the_share_of_cracks_in_the_set():
    is_crack_N, scores_N = overlapping(400, 300)
    twice = np.r_[np.arange(700), np.flatnonzero(is_crack_N)]
    name = "average_precision_at_1%_prevalence"
    assert ranks(is_crack_N[twice], scores_N[twice])[name] == pytest.approx(ranks(is_crack_N, scores_N)[name])


@settings(derandomize=True, deadline=None)
@given(few_scores)
def test_operating_points_rise_from_none_flagged_to_all_flagged(rows):
    is_crack_N, scores_N = rows
    false_alarm_K, recall_K = operating_points(is_crack_N, scores_N, np.ones(len(scores_N)))
    assert len(false_alarm_K) == len(recall_K) == len(set(scores_N.tolist())) + 1
    for rate_K in (false_alarm_K, recall_K):
        assert (rate_K[0], rate_K[-1]) == (0, 1) and (np.diff(rate_K) >= 0).all()


# --------------------------------------------------------------------------------------------------- at a threshold


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.7, 3.0])
def test_the_figures_at_a_threshold_agree_with_scikit_learn(threshold):
    is_crack_N, scores_N = overlapping(200, 50)
    flagged_N = scores_N > threshold
    found = dict(zip(THRESHOLD_NAMES, at_threshold(is_crack_N, flagged_N, np.ones(250)), strict=True))
    assert found == pytest.approx(
        {
            "precision": precision_score(is_crack_N, flagged_N),
            "recall": recall_score(is_crack_N, flagged_N),
            "f1": f1_score(is_crack_N, flagged_N),
            "false_alarm_rate": flagged_N[~is_crack_N].mean(),
        }
    )


def test_where_nothing_is_flagged_precision_and_f1_are_zero():
    assert at_threshold(np.array([True, False]), np.array([False, False]), np.ones(2)).tolist() == [0, 0, 0, 0]


def test_the_rates_are_those_of_the_flags_whatever_the_scores():
    scored = Scored(np.array([False, True]), np.array([1.0, 2.0]), np.array(["a", "b"]), np.array([True, False]))
    found = dict(zip([*RANKING_NAMES, *THRESHOLD_NAMES], figures(scored, np.ones(2)), strict=True))
    assert (found["recall"], found["false_alarm_rate"], found["roc_auc"]) == (0, 1, 1)


@settings(derandomize=True, deadline=None)
@given(few_scores, st.data())
def test_a_weight_counts_an_image_that_often(rows, data):
    is_crack_N, scores_N = rows
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(scores_N) - 2, max_size=len(scores_N) - 2))
    weights_N = np.array([1, 1, *weights])
    repeated = np.repeat(np.arange(len(scores_N)), weights_N)
    weighted = Scored(is_crack_N, scores_N, np.arange(len(scores_N)), scores_N > 2.5)
    written_out = Scored(is_crack_N[repeated], scores_N[repeated], repeated, scores_N[repeated] > 2.5)
    assert figures(weighted, weights_N.astype(float)) == pytest.approx(figures(written_out, np.ones(len(repeated))))


# -------------------------------------------------------------------------------------------------------- intervals


def scored_of(n_sound: int = 150, n_crack: int = 80, seed: int = 0) -> Scored:
    is_crack_N, scores_N = overlapping(n_sound, n_crack, seed)
    return Scored(is_crack_N, scores_N, np.arange(n_sound + n_crack), scores_N > 1.0)


def test_each_figure_has_its_value_and_an_interval_that_contains_it():
    scored = scored_of()
    table = with_intervals(scored, resamples=200, seed=0)
    assert table.index.tolist() == [*RANKING_NAMES, *THRESHOLD_NAMES]
    assert table["value"].to_numpy() == pytest.approx(figures(scored, np.ones(230)))
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert ((table["low"] >= 0) & (table["high"] <= 1) & (table["low"] < table["high"])).all()


def test_rank_is_judge_without_a_threshold():
    scored = scored_of()
    ranked = ranking_with_intervals(scored.is_crack_N, scored.scores_N, scored.groups_N, resamples=100, seed=3)
    assert ranked.equals(with_intervals(scored, resamples=100, seed=3).loc[list(RANKING_NAMES)])


def test_the_worst_group_is_that_with_the_fewest_cracks_found_among_large_ones():
    group_N = np.repeat([0, 1, 2], [10, 10, 2])
    flagged_N = np.r_[np.ones(10, bool), np.arange(10) < 4, np.zeros(2, bool)]
    is_crack_N = np.ones(22, bool)
    assert worst_group_recall(is_crack_N, flagged_N, group_N) == 0.4
    assert np.isnan(worst_group_recall(is_crack_N[20:], flagged_N[20:], group_N[20:]))
    flagged_N = np.r_[flagged_N, False]
    scored = Scored(np.r_[is_crack_N, False], flagged_N * 1.0, np.r_[group_N, 3], flagged_N)
    assert with_intervals(scored, resamples=100, seed=0).loc["worst_group_recall", "value"] == 0.4


def test_one_image_of_each_group_is_drawn_by_chance():
    groups_N = np.array(["b", "a", "b", "c", "a", "b"])
    draws = [metrics.one_per_group(groups_N, seed) for seed in range(50)]
    assert all(sorted(groups_N[chosen]) == ["a", "b", "c"] and list(chosen) == sorted(chosen) for chosen in draws)
    assert {int(index) for chosen in draws for index in chosen} == set(range(6))
    assert metrics.one_per_group(groups_N, 4).tolist() == draws[4].tolist()


def test_pixel_figures_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    masks = [np.zeros((20, 30), bool) for _ in range(3)]
    masks[0][2:5, 3:20], masks[0][15:17, 5:9], masks[1][10, :] = True, True, True
    maps = [mask * 1.0 + rng.normal(0, 0.8, mask.shape) for mask in masks]
    found = metrics.pixel_figures(maps, masks)["value"]
    values, is_cracked = np.concatenate(maps).ravel(), np.concatenate(masks).ravel()
    assert found["pixel_roc_auc"] == pytest.approx(roc_auc_score(is_cracked, values))
    regions = [(maps[0], np.s_[2:5, 3:20]), (maps[0], np.s_[15:17, 5:9]), (maps[1], np.s_[10, :])]
    rates = np.linspace(0, 0.3, 301)
    cuts = [np.quantile(values[~is_cracked], 1 - rate, method="higher") for rate in rates]
    overlap = [np.mean([(one[where] > cut).mean() for one, where in regions]) for cut in cuts]
    assert found["aupro"] == pytest.approx(np.trapezoid(overlap, rates) / 0.3)


def test_a_perfect_map_has_perfect_pixel_figures():
    mask = np.zeros((20, 20), bool)
    mask[4, 3:15] = True
    assert metrics.pixel_figures([mask.astype(float)], [mask])["value"].tolist() == pytest.approx([1, 1], abs=2e-3)


def test_equal_seeds_give_equal_intervals_and_another_seed_others():
    first, again, other = (with_intervals(scored_of(), resamples=100, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert first["value"].equals(other["value"]) and not first["low"].equals(other["low"])


def test_the_interval_of_recall_is_as_wide_as_the_binomial_distribution_makes_it():
    scored = scored_of(400, 200)
    row = with_intervals(scored, resamples=500, seed=0).loc["recall"]
    expected = 2 * 1.96 * np.sqrt(row["value"] * (1 - row["value"]) / 200)
    assert row["high"] - row["low"] == pytest.approx(expected, rel=0.15)


def test_copies_in_a_group_widen_the_intervals_by_the_square_root_of_their_number():
    one = scored_of(60, 40)
    columns = (one.is_crack_N, one.scores_N, one.groups_N, one.flagged_N)
    nine = Scored(*(np.repeat(column, 9) for column in columns))
    grouped = with_intervals(nine, resamples=300, seed=0)
    ungrouped = with_intervals(replace(nine, groups_N=np.arange(900)), resamples=300, seed=0)
    names = ["roc_auc", "recall", "precision", "false_alarm_rate"]
    ratio = (grouped["high"] - grouped["low"]) / (ungrouped["high"] - ungrouped["low"])
    assert ratio[names].between(2.3, 3.9).all()
    assert np.allclose(grouped, with_intervals(one, resamples=300, seed=0), atol=1e-12)


def test_groups_may_be_named_in_any_order_of_the_images():
    scored = scored_of(40, 30)
    names_N = np.array([f"bridge-{number % 9}" for number in range(70)])
    order = np.random.default_rng(1).permutation(70)
    shuffled = Scored(scored.is_crack_N[order], scored.scores_N[order], names_N[order], scored.flagged_N[order])
    whole = with_intervals(replace(scored, groups_N=names_N), resamples=100, seed=3)
    assert np.allclose(whole, with_intervals(shuffled, resamples=100, seed=3))


def test_a_resample_without_cracks_is_drawn_again():
    scored = Scored(np.array([True, False, False]), np.array([2.0, 1.0, 3.0]), np.arange(3), np.ones(3, bool))
    table = with_intervals(scored, resamples=100, seed=0)
    assert np.isfinite(table.to_numpy()).all() and table.loc["recall", "value"] == table.loc["recall", "high"] == 1


@pytest.mark.parametrize("n", [1, 20, 150])
def test_all_or_none_of_a_few_groups_is_no_certainty(n):
    """Twenty cracks of twenty found are a recall of .83 to 1."""
    is_crack_N, groups_N = np.arange(2 * n) < n, np.arange(2 * n)
    lowest = binomtest(n, n).proportion_ci(0.95, method="exact").low
    perfect = with_intervals(Scored(is_crack_N, is_crack_N * 1.0, groups_N, is_crack_N), resamples=100, seed=0)
    for name in ("recall", "precision", "recall_at_5%_false_alarms", "recall_at_0.1%_false_alarms"):
        assert perfect.loc[name].tolist() == pytest.approx([1, lowest, 1])
    assert perfect.loc["false_alarm_rate"].tolist() == pytest.approx([0, 0, 1 - lowest])
    assert perfect.loc["roc_auc"].tolist() == pytest.approx([1, lowest, 1])
    assert perfect.loc["f1"].tolist() == pytest.approx([1, lowest, 1])
    wrong = with_intervals(Scored(is_crack_N, ~is_crack_N * 1.0, groups_N, ~is_crack_N), resamples=100, seed=0)
    for name in ("recall", "precision", "recall_at_5%_false_alarms"):
        assert wrong.loc[name].tolist() == pytest.approx([0, 0, 1 - lowest])
    for name in ("roc_auc", "f1"):
        assert wrong.loc[name].tolist() == pytest.approx([0, 0, 1 - lowest])
    assert wrong.loc["false_alarm_rate"].tolist() == pytest.approx([1, lowest, 1])


def test_images_of_one_group_count_as_one_trial_of_an_exact_interval():
    is_crack_N, groups_N = np.arange(80) < 40, np.arange(80) // 2
    table = with_intervals(Scored(is_crack_N, is_crack_N * 1.0, groups_N, is_crack_N), resamples=100, seed=0)
    assert table.loc["recall", "low"] == pytest.approx(binomtest(20, 20).proportion_ci(0.95, method="exact").low)


def test_the_pairs_of_a_perfect_ranking_share_no_group():
    """Twenty groups with a crack and a sound image each are ten pairs of two groups."""
    is_crack_N, groups_N = np.arange(40) % 2 == 0, np.arange(40) // 2
    table = ranking_with_intervals(is_crack_N, is_crack_N * 1.0, groups_N, resamples=100, seed=0)
    assert table.loc["roc_auc", "low"] == pytest.approx(binomtest(10, 10).proportion_ci(0.95, method="exact").low)


@pytest.mark.parametrize("shift", [2.0, 3.0, 4.0])
def test_a_perfect_ranking_of_a_few_images_seldom_excludes_the_truth(shift):
    """Sound scores are N(0, 1), cracks N(shift, 1): the area is known, the average precision that of many images."""
    rng, n = np.random.default_rng(0), 200_000
    is_crack_N = np.arange(2 * n) < n
    truth = ranking(is_crack_N, rng.normal(shift * is_crack_N), np.ones(2 * n))
    n_missed = np.zeros(2)
    for seed in range(200):
        is_crack_N, groups_N = np.arange(24) < 12, np.arange(24)
        scores_N = np.random.default_rng(seed).normal(shift * is_crack_N)
        if scores_N[is_crack_N].min() > scores_N[~is_crack_N].max():
            table = ranking_with_intervals(is_crack_N, scores_N, groups_N, resamples=2, seed=0)
            n_missed += table["low"].to_numpy()[[0, -1]] > truth[[0, -1]]
    assert (n_missed <= 0.025 * 200).all()


def test_the_lowest_average_precision_is_that_of_false_alarms_before_all_cracks():
    """20 of 1,000 sound images score higher than the 900 of 1,000 cracks that are found; the others are not."""
    is_crack_N = np.arange(2000) < 1000
    scores_N = np.r_[np.linspace(2, 1, 900), np.zeros(100), np.full(20, 3.0), np.full(980, 0.5)]
    found = ranking(is_crack_N, scores_N, np.ones(2000))[-1]
    unfound = 100 / 1000 * 0.01 / (0.01 + 0.99)  # gained where everything is flagged
    assert _lowest_average_precision(0.9, 0.02) == pytest.approx(found - unfound, abs=1e-3)


def test_an_f1_without_misses_knows_no_more_than_the_recall():
    """A few false alarms alone are resampled: the 20 misses that did not occur are not."""
    is_crack_N, groups_N = np.arange(40) < 20, np.arange(40)
    table = with_intervals(Scored(is_crack_N, is_crack_N * 1.0, groups_N, np.arange(40) < 22), resamples=200, seed=0)
    precision, recall = table.loc["precision"], table.loc["recall"]
    assert recall["value"] == 1 and 0 < precision["low"] < precision["value"] < 1
    assert table.loc["f1", "low"] == pytest.approx(2 / (1 / precision["low"] + 1 / recall["low"]))


def test_the_precision_of_no_flags_is_unknown():
    scored = replace(scored_of(), flagged_N=np.zeros(230, bool))
    assert with_intervals(scored, resamples=100, seed=0).loc["precision"].tolist() == [0, 0, 1]


def test_an_exact_interval_does_not_narrow_that_of_the_resamples():
    """Half of the cracks lie below one of 100 sound images: where it is drawn twice, they are not found at 1 %."""
    is_crack_N, scores_N = np.arange(500) < 400, np.r_[np.full(200, 3.0), np.full(200, 1.0), 2.0, np.zeros(99)]
    recall = ranking_with_intervals(is_crack_N, scores_N, np.arange(500), resamples=200, seed=0).loc[RANKING_NAMES[2]]
    assert recall["value"] == recall["high"] == 1 and recall["low"] < 0.6


def test_one_group_has_no_width():
    scored = replace(scored_of(30, 20), groups_N=np.zeros(50, int))
    table = with_intervals(scored, resamples=100, seed=0)
    assert np.allclose(table["low"], table["value"]) and np.allclose(table["high"], table["value"])


@pytest.mark.parametrize("is_crack", [True, False])
def test_one_label_alone_is_a_mistake_of_the_caller(is_crack):
    with pytest.raises(AssertionError, match="both labels"):
        Scored(np.full(3, is_crack), np.arange(3.0), np.arange(3), np.ones(3, bool))


def test_an_image_without_a_score_is_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="no score"):
        Scored(np.array([True, False]), np.array([1.0, np.nan]), np.arange(2), np.ones(2, bool))


# -------------------------------------------------------------------------------------------------------- confusion


def test_the_rows_of_the_confusion_matrix_are_the_truth():
    is_crack_N = np.array([False] * 7 + [True] * 5)
    flagged_N = np.array([True] * 2 + [False] * 5 + [True] * 4 + [False])
    table = confusion(is_crack_N, flagged_N)
    assert table.loc["is non_crack"].to_dict() == {"passed": 5, "flagged": 2}
    assert table.loc["is crack"].to_dict() == {"passed": 1, "flagged": 4}


def test_a_confusion_matrix_keeps_its_shape_where_nothing_is_flagged():
    table = confusion(np.array([False, True, True]), np.zeros(3, bool))
    assert table.to_numpy().tolist() == [[1, 0], [2, 0]]
