"""Shape letters: N calibration images, B images to judge, R repeated calibrations.

A promise about images "like these" is tested where the truth is known: the false-alarm rate of a threshold t is 1 - t
where scores are uniform in 0..1, and a rule that uses only the order of the scores cannot tell other scores from these.
"""

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from conftest import HOUSE
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.errors import CalibrationError, ModelError
from crackvae.metrics import false_discovery_rates, fewest_discoveries
from crackvae.model.calibration import (
    FILE,
    MIN_IMAGES,
    Calibration,
    Sample,
    calibration_file,
    conformal_threshold,
    load_calibration,
    percentile_threshold,
)
from crackvae.storage.fileio import write_bytes
from crackvae.storage.uris import join

# Scores of 3,000 sound METU images that the model was not trained on: ties of copied pictures and a heavy tail.
SOUND_SCORES = HOUSE / "benchmarks" / "results" / "metu-sound-scores-2026-11-24.json"


def calibrated(scores, threshold: float = 0.5, **settings) -> Calibration:
    scores_N = np.sort(np.asarray(scores, np.float32))
    rule = {"groups": len(scores_N), "level": "95th percentile", "model": "digest", "leaky": False}
    return Calibration(scores_N=scores_N, threshold=threshold, **(rule | settings))


def rates_of(rule, n: int, repeats: int) -> np.ndarray:
    """True false-alarm rate of the thresholds of many calibrations on n sound images each, float (R,)."""
    rng = np.random.default_rng(n)
    return np.array([1 - rule(scores_N) for scores_N in rng.random((repeats, n), np.float32)])


# ------------------------------------------------------------------------------------------------- what is promised


@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (99, 0.01), (150, 0.01), (200, 0.05), (200, 0.2)])
def test_the_mean_false_alarm_rate_keeps_its_word_and_wastes_little(n, rate):
    rates_R = rates_of(lambda scores_N: conformal_threshold(scores_N, rate, None), n, 4000)
    noise = 3 * rates_R.std() / np.sqrt(len(rates_R))
    assert rate - 1 / (n + 1) - noise <= rates_R.mean() <= rate + noise


@pytest.mark.parametrize(("n", "rate", "confidence"), [(60, 0.05, 0.9), (300, 0.01, 0.95), (300, 0.05, 0.95)])
def test_with_confidence_the_rate_is_kept_by_that_share_of_calibrations(n, rate, confidence):
    rates_R = rates_of(lambda scores_N: conformal_threshold(scores_N, rate, confidence), n, 1500)
    noise = 3 * np.sqrt(confidence * (1 - confidence) / len(rates_R))
    assert (rates_R <= rate).mean() >= confidence - noise


def test_the_rates_hold_for_random_splits_of_tied_and_skewed_scores():
    rng = np.random.default_rng(0)
    pool = np.round(rng.lognormal(0, 1, 3000), 1).astype(np.float32)
    on_average, surely = [], []
    for _ in range(400):
        scores_N, scores_B = np.split(rng.permutation(pool), [1000])
        on_average.append((scores_B > conformal_threshold(scores_N, 0.05, None)).mean())
        surely.append((scores_B > conformal_threshold(scores_N, 0.05, 0.9)).mean() <= 0.055)
    assert np.mean(on_average) <= 0.05
    assert np.mean(surely) >= 0.9


def test_the_95th_percentile_of_1500_images_realises_4_to_6_percent():
    rates_R = rates_of(lambda scores_N: percentile_threshold(scores_N, 95), 1500, 1000)
    assert ((rates_R > 0.04) & (rates_R < 0.062)).mean() == pytest.approx(0.95, abs=0.02)


# -------------------------------------------------------------------------------------------- which score it becomes


def test_one_percent_with_confidence_is_about_the_99_47th_percentile_of_1500_images():
    rank = conformal_threshold(np.arange(1.0, 1501), 0.01, 0.95)
    assert rank / 1500 == pytest.approx(0.9947, abs=1e-4)


def test_on_average_the_threshold_is_the_order_statistic_of_the_conformal_rank():
    scores_N = np.random.default_rng(0).permutation(np.arange(1.0, 200))
    assert conformal_threshold(scores_N, 0.05, None) == 190  # ceil(200 * 0.95)
    assert conformal_threshold(scores_N, 0.051, None) == 190
    assert conformal_threshold(scores_N, 0.049, None) == 191
    assert conformal_threshold(scores_N, 0.005, None) == 199


def test_decimal_rates_are_not_lost_to_rounding():
    for n, rate in [(39, 0.05), (99, 0.01), (999, 0.001), (29, 1 / 30), (124, 0.176), (999, 0.059)]:
        assert conformal_threshold(np.arange(1.0, n + 1), rate, None) == round((n + 1) * (1 - rate))


@settings(derandomize=True, deadline=None)
@given(st.integers(MIN_IMAGES, 400), st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_a_lower_rate_or_a_confidence_never_lowers_the_threshold(n, one, other, confidence):
    def threshold(rate: float, confidence: float | None) -> float:
        try:
            return conformal_threshold(np.arange(float(n)), rate, confidence)
        except CalibrationError:
            return np.inf

    low, high = sorted((one, other))
    assert threshold(low, None) >= threshold(high, None)
    assert threshold(low, confidence) >= threshold(high, confidence)
    assert threshold(low, 0.995) >= threshold(low, confidence)


def test_the_percentile_is_interpolated_like_numpys():
    scores_N = np.random.default_rng(0).random(150).astype(np.float32)
    assert percentile_threshold(scores_N, 95) == np.float32(np.percentile(scores_N, 95))
    assert percentile_threshold(np.arange(101.0), 50) == 50


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_rate_that_the_images_cannot_carry_is_refused_with_the_number_that_could():
    with pytest.raises(CalibrationError, match=r"rate of 0\.01 needs 99 sound images; got 98\. Add images"):
        conformal_threshold(np.arange(98.0), 0.01, None)
    assert conformal_threshold(np.arange(99.0), 0.01, None) == 98


def test_a_tenth_of_a_percent_with_confidence_needs_2995_images():
    with pytest.raises(CalibrationError, match=r"0\.001 with confidence 0\.95 needs 2995 sound images; got 1500"):
        conformal_threshold(np.arange(1500.0), 0.001, 0.95)
    with pytest.raises(CalibrationError, match="needs 2995 sound images; got 2994"):
        conformal_threshold(np.arange(2994.0), 0.001, 0.95)
    assert conformal_threshold(np.arange(2995.0), 0.001, 0.95) == 2994


@pytest.mark.parametrize(
    "rule",
    [
        lambda scores_N: percentile_threshold(scores_N, 95),
        lambda scores_N: conformal_threshold(scores_N, 0.5, None),
        lambda scores_N: conformal_threshold(scores_N, 0.5, 0.6),
    ],
    ids=["percentile", "conformal", "with confidence"],
)
def test_no_rule_takes_too_few_images_or_scores_that_are_no_numbers(rule):
    with pytest.raises(CalibrationError, match=f"{MIN_IMAGES - 1} sound images cannot .* give {MIN_IMAGES} or more"):
        rule(np.arange(MIN_IMAGES - 1.0))
    assert np.isfinite(rule(np.arange(float(MIN_IMAGES))))
    for broken in (np.nan, np.inf):
        with pytest.raises(CalibrationError, match=r"no finite score: .* train it again"):
            rule(np.r_[np.arange(float(MIN_IMAGES)), broken])


# ------------------------------------------------------------------------------------------------------- p-values


def one_tile(calibration: Calibration, scores) -> np.ndarray:
    return calibration.p_values(np.asarray(scores, np.float32), np.ones(len(scores), int))


def test_a_p_value_counts_the_sound_images_that_score_as_high():
    calibration = calibrated([1, 2, 3, 3, 3, 4, 5, 6, 7])
    assert one_tile(calibration, [0, 1, 2.5, 3, 3.5, 7, 8]) * 10 == pytest.approx([10, 10, 8, 8, 5, 2, 1])


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 400)), min_size=1, max_size=20),
)
def test_p_values_follow_the_formula_and_are_never_0_nor_above_1(sound, judged):
    scores_B, tiles_B = (np.array(column) for column in zip(*judged, strict=True))
    found_B = calibrated(sound).p_values(scores_B, tiles_B)
    for found, score, tiles in zip(found_B, scores_B, tiles_B, strict=True):
        as_high = sum(one >= score for one in sound)
        assert found == pytest.approx(min(1, tiles * (1 + as_high) / (len(sound) + 1)))
        assert 0 < found <= 1


def test_an_image_of_many_tiles_has_as_many_chances():
    calibration = calibrated(np.arange(99))
    assert calibration.p_values(np.full(4, 98.0), np.array([1, 2, 10, 60])) == pytest.approx([0.02, 0.04, 0.2, 1])


@pytest.mark.parametrize("n_above", [0, 1, 2, 3, 4])
def test_what_a_p_value_rests_on_is_not_lost_to_rounding(n_above):
    """(n + 1) * (1 / (n + 1)) is less than 1 for n = 48, 97, 102, ..."""
    for n in range(MIN_IMAGES, 401):
        scores_N = np.r_[np.zeros(n - n_above), np.arange(1.0, n_above + 1)]  # too few above 0 for a tail
        enough = -(-(n + 1) // (n_above + 1)) - 1
        kinds = []
        for n_comparable in (0, enough - 1, enough):
            tiles_N = np.where(np.arange(n) < n_comparable, 9, 1)
            sample = Sample(tiles_N, np.arange(n), scores_N, np.arange(n))
            kinds.append([calibrated(scores_N, 0.0, sample=sample).kind(n_tiles) for n_tiles in (n_above + 1, 9)])
        few = "tiles" if n_above else "photographs"
        assert kinds == [[few, "none"], [few, "none"], ["photographs", "photographs"]], n


def test_an_image_without_a_score_has_no_p_value():
    found = calibrated(np.arange(30)).p_values(np.array([np.nan, 5.0, np.nan]), np.array([0, 1, 4]))
    assert np.isnan(found).tolist() == [True, False, True]


def test_no_images_have_no_p_values():
    assert calibrated(np.arange(30)).p_values(np.empty(0, np.float32), np.empty(0, int)).shape == (0,)


def test_p_values_of_sound_images_are_below_a_level_no_more_often_than_it_says():
    rng = np.random.default_rng(0)
    found = np.concatenate([one_tile(calibrated(rng.random(99)), rng.random(200)) for _ in range(300)])
    for level in (0.01, 0.05, 0.3):
        assert (found <= level).mean() == pytest.approx(level, abs=0.004)


def test_a_flag_at_the_conformal_threshold_is_a_p_value_within_the_rate():
    rng = np.random.default_rng(0)
    sound_N, scores_B = rng.random(500).astype(np.float32), rng.random(2000).astype(np.float32)
    threshold = conformal_threshold(sound_N, 0.05, None)
    assert np.array_equal(scores_B > threshold, one_tile(calibrated(sound_N, threshold), scores_B) <= 0.05)


# ----------------------------------------------------------------------------------------------------- the file


def saved(folder, calibration: Calibration, **changes) -> str:
    content = json.loads(calibration_file(calibration)) | changes
    write_bytes(join(str(folder), FILE), json.dumps(content).encode())
    return str(folder)


def test_a_saved_calibration_is_loaded_as_it_was(tmp_path):
    made = calibrated(np.random.default_rng(0).normal(size=200), 1 / 3, groups=17, level="1 %", leaky=True)
    write_bytes(join(str(tmp_path), FILE), calibration_file(made))
    loaded = load_calibration(str(tmp_path), "digest")
    assert np.array_equal(loaded.scores_N, made.scores_N) and loaded.scores_N.dtype == np.float32
    assert (loaded.threshold, loaded.groups, loaded.level, loaded.leaky) == (1 / 3, 17, "1 %", True)
    assert loaded.digest == made.digest


def test_the_file_says_what_the_calibration_rests_on(tmp_path):
    content = json.loads(calibration_file(calibrated([3, 1, 2], 2.5, groups=2)))
    assert (content["n"], content["groups"], content["level"]) == (3, 2, "95th percentile")
    assert (content["scores"], content["threshold"]) == ([1, 2, 3], 2.5)


def test_the_digest_changes_with_all_that_decides_a_flag_or_a_p_value():
    one = calibrated([1, 2, 3])
    others = [calibrated([1, 2, 4]), calibrated([1, 2, 3], 0.6), calibrated([1, 2, 3], model="other")]
    assert len({one.digest, *(other.digest for other in others)}) == 4
    assert one.digest == calibrated([3, 2, 1]).digest


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 0.4}, {"scores": [1, 2, 4]}, {"scores": [1, 2]}, {"scores": []}, {"digest": ""}, {"digest": None}],
)
def test_an_altered_calibration_is_refused(tmp_path, changes):
    with pytest.raises(ModelError, match=r"was altered: .* Run crackvae calibrate --model .* again"):
        load_calibration(saved(tmp_path, calibrated([1, 2, 3]), **changes), "digest")


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": {}},
        {"scores": ["a"]},
        {"scores": [[1], [2, 3]]},
        {"threshold": "high"},
        {"groups": None},
        {"groups": float("inf")},
    ],
)
def test_a_calibration_of_other_types_is_refused(tmp_path, changes):
    with pytest.raises(ModelError, match=r"is missing or damaged .* Run crackvae calibrate"):
        load_calibration(saved(tmp_path, calibrated([1, 2, 3]), **changes), "digest")


@pytest.mark.parametrize("key", ["scores", "groups", "level", "threshold", "model", "leaky", "digest"])
def test_a_calibration_without_one_of_its_values_is_refused(tmp_path, key):
    content = json.loads(calibration_file(calibrated([1, 2, 3])))
    del content[key]
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="Run crackvae calibrate"):
        load_calibration(str(tmp_path), "digest")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe\x00", b'{"scores": [1, 2'])
def test_a_damaged_calibration_is_refused(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"calibration\.json is missing or damaged"):
        load_calibration(str(tmp_path), "digest")


def test_a_missing_calibration_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"calibration\.json is missing or damaged"):
        load_calibration(str(tmp_path), "digest")


def test_a_calibration_made_with_other_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"was made with other weights than the model's\. Run crackvae calibrate"):
        load_calibration(saved(tmp_path, calibrated([1, 2, 3])), "other digest")


# ------------------------------------------------------------------------------------------------------- promise


def conformal(scores_N: np.ndarray, max_false_alarm: float, confidence: float | None = None) -> Calibration:
    threshold = conformal_threshold(scores_N, max_false_alarm, confidence)
    return Calibration(np.sort(scores_N.astype(np.float32)), len(scores_N), "", threshold, "", leaky=False)


RULES = {
    "95th percentile": partial(percentile_threshold, percentile=95),
    "1 % on average": partial(conformal_threshold, max_false_alarm=0.01, confidence=None),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_realised_rate_of_real_scores_lies_in_the_promised_interval_in_95_of_100_splits(
    rule: Callable[[np.ndarray], float],
) -> None:
    pool_N = np.array(json.loads(SOUND_SCORES.read_text())["scores"], np.float32)
    rng, kept, rates, half = np.random.default_rng(1), 0, [], len(pool_N) // 2
    promises: dict[int, dict[str, float]] = {}  # it depends on the rank alone, and takes 3 ms
    for _ in range(1_000):
        calibration_N, judged_N = np.split(rng.permutation(pool_N), [half])
        made = Calibration(np.sort(calibration_N), half, "", rule(calibration_N), "", leaky=False)
        rate = float((judged_N > np.float32(made.threshold)).mean())
        rank = int((made.scores_N <= np.float32(made.threshold)).sum())
        promise = promises[rank] = promises.get(rank) or made.promise(half)
        kept += promise["low"] <= rate <= promise["high"]
        rates.append(rate)
    assert kept >= 950
    assert np.mean(rates) == pytest.approx(promise["expected"], rel=0.02)


def test_the_published_percentile_promises_what_the_reference_says() -> None:
    scores_N = np.linspace(0, 1, 1_500, dtype=np.float32)
    made = Calibration(scores_N, 1_500, "", percentile_threshold(scores_N, 95), "", leaky=False)
    promise = made.promise(100_000)
    assert (round(promise["low"], 3), round(promise["high"], 3)) == (0.040, 0.062)
    assert promise["expected"] == pytest.approx(0.05, abs=0.001)


def test_a_threshold_below_every_score_promises_that_all_are_flagged() -> None:
    made = Calibration(np.ones(30, np.float32), 30, "", 0.5, "", leaky=False)
    assert made.promise(10) == {"expected": 1.0, "low": 1.0, "high": 1.0}


def test_among_the_discoveries_of_many_nights_at_most_the_promised_share_is_sound() -> None:
    rng, shares, found = np.random.default_rng(3), [], []
    for _ in range(300):
        made = conformal(rng.normal(size=4_000), 0.05)
        scores_B = np.r_[rng.normal(size=900), rng.normal(5, 0.7, size=100)]
        rates_B = false_discovery_rates(made.p_values(scores_B.astype(np.float32), np.ones(1_000, int)))
        is_found_B = rates_B <= 0.1
        shares.append(is_found_B[:900].sum() / max(1, is_found_B.sum()))
        found.append(is_found_B[900:].mean())
    assert np.mean(shares) <= 0.1 and np.mean(found) > 0.9


def test_too_small_a_calibration_cannot_discover_few_images_and_says_how_many() -> None:
    made = conformal(np.linspace(0, 1, 99), 0.05)
    outliers = 10
    scores_B = np.r_[np.linspace(0, 1, 990), np.full(outliers, 9.0)].astype(np.float32)
    rates_B = false_discovery_rates(made.p_values(scores_B, np.ones(1_000, int)))
    assert fewest_discoveries(1_000, 99, 0.1) == 100
    assert not (rates_B <= 0.1).any()
    assert len(false_discovery_rates(np.empty(0))) == 0
