"""Photographs of many tiles: flag, p-value and stated interval agree, and hold for sound photographs.

Shape letters: G groups of tiles in a calibration, B sound photographs, T tiles of each.
"""

import json
from collections.abc import Callable

import numpy as np
import pytest
from conftest import IS_LONG
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crackvae.model.calibration import FILE, P_KINDS, Calibration, Sample, calibration_file, load_calibration
from crackvae.model.calibration import conformal_threshold as conformal
from crackvae.storage.fileio import write_bytes

LEVEL = 0.05
# Calibrations of each site. A site keeps its word if 95 of 100 stated intervals hold the realised share.
CALIBRATIONS, PHOTOGRAPHS = (100, 400) if IS_LONG else (40, 200)
MARGINALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lognormal": lambda normal: np.exp(normal / 2),
    "light tail": lambda normal: stats.norm.cdf(normal),
    "heavy tail": lambda normal: stats.t.ppf(stats.norm.cdf(normal), 5),
}


def photographs(rng: np.random.Generator, marginal: str, correlation: float, shape: tuple[int, int]) -> np.ndarray:
    """Scores (B, T) of the tiles of sound photographs; tiles of one photograph are correlated."""
    return MARGINALS[marginal](correlated(rng, correlation, shape)).astype(np.float32)


def correlated(rng: np.random.Generator, correlation: float, shape: tuple[int, int]) -> np.ndarray:
    """What MARGINALS make scores of, (B, T): standard normal, correlated within a row."""
    shared, own = rng.standard_normal((shape[0], 1)), rng.standard_normal(shape)
    return np.asarray(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)


def calibrated(tiles_GT: np.ndarray, level: float = LEVEL) -> Calibration:
    """A calibration on single tiles, T of each of G groups."""
    scores, groups = tiles_GT.ravel(), np.repeat(np.arange(len(tiles_GT)), tiles_GT.shape[1])
    sample = Sample.of(scores, groups, list(scores[:, None]))
    return Calibration(np.sort(scores), len(tiles_GT), "", conformal(scores, level, None), "m", False, sample)


def flagged(calibration: Calibration, worst_B: np.ndarray, n_tiles: int) -> np.ndarray:
    """Which photographs of so many tiles are flagged, by the score of the worst of them."""
    return calibration.flags(worst_B, calibration.p_values(worst_B, np.full(len(worst_B), n_tiles)))


@pytest.mark.slow
@pytest.mark.parametrize("n_tiles", [1, 20, 600])
@pytest.mark.parametrize(
    ("marginal", "correlation", "groups"),
    [
        ("lognormal", 0.0, (2000, 1)),
        ("lognormal", 0.5, (100, 20)),
        ("light tail", 0.0, (100, 20)),
        ("heavy tail", 0.3, (100, 20)),
    ],
)
def test_the_share_of_sound_photographs_flagged_lies_in_the_stated_interval_in_95_of_100_calibrations(
    marginal: str, correlation: float, groups: tuple[int, int], n_tiles: int
) -> None:
    rng, kept, rates = np.random.default_rng(n_tiles), 0, []
    for _ in range(CALIBRATIONS):
        made = calibrated(photographs(rng, marginal, correlation, groups))
        # Marginals increase, so that the worst tile can be found before: that of a heavy tail takes long.
        worst_B1 = correlated(rng, correlation, (PHOTOGRAPHS, n_tiles)).max(axis=1, keepdims=True)
        rate = flagged(made, MARGINALS[marginal](worst_B1)[:, 0].astype(np.float32), n_tiles).mean()
        promise = made.promise(PHOTOGRAPHS, n_tiles)
        kept += promise["low"] <= rate <= promise["high"]
        rates.append(rate)
    print(f"{marginal}, {correlation}, {groups}, {n_tiles} tiles: {kept}/{CALIBRATIONS}, share {np.mean(rates):.4f}")
    assert kept >= 0.95 * CALIBRATIONS
    assert np.mean(rates) <= LEVEL + 3 * np.std(rates) / np.sqrt(CALIBRATIONS)


def test_a_photograph_of_600_tiles_reaches_p_of_a_thousandth_with_2000_calibration_tiles() -> None:
    made = calibrated(photographs(np.random.default_rng(0), "lognormal", 0.0, (2000, 1)))
    worst = made.scores_N[-1] * np.array([0.5, 1, 2, 3, 6])
    p_values = made.p_values(worst, np.full(5, 600))
    assert (np.diff(p_values) < 0).all() and p_values[0] > 0.5 and p_values[-1] <= 0.001


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 2, 7, 60, 600]), st.floats(0.002, 0.3), st.sampled_from([30, 150, 900])
)
def test_a_flag_is_a_p_value_at_or_below_the_level_and_more_suspicion_never_raises_it(
    seed: int, n_tiles: int, level: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.lognormal(0, 0.5, n).astype(np.float32)
    threshold = float(np.float32(np.quantile(scores, 1 - level)))
    made = Calibration(np.sort(scores), n, "", threshold, "m", leaky=False)
    worst = np.sort(rng.lognormal(0, 1.5, 40)).astype(np.float32)
    p_values = made.p_values(worst, np.full(40, n_tiles))
    is_flagged = made.flags(worst, p_values)
    assert (p_values[is_flagged] <= made.rate * (1 + 1e-9)).all() and (worst[is_flagged] > threshold).all()
    assert (np.diff(p_values) <= 1e-12).all() and ((p_values > 0) & (p_values <= 1)).all()
    assert made.kind(n_tiles) in P_KINDS
    if n_tiles == 1:
        assert np.array_equal(is_flagged, worst > np.float32(threshold))
    if made.kind(n_tiles) == "none":
        assert not is_flagged.any() and made.promise(10, n_tiles)["high"] == 0


def test_whole_sound_photographs_decide_where_there_are_enough_of_them() -> None:
    tiles = photographs(np.random.default_rng(0), "lognormal", 0.4, (60, 50))
    sample = Sample.of(tiles.max(axis=1), np.arange(60), list(tiles))
    scores = np.sort(tiles.max(axis=1))
    made = Calibration(scores, 60, "", conformal(scores, LEVEL, None), "m", leaky=False, sample=sample)
    assert [made.kind(n) for n in (1, 50, 51)] == ["photographs", "photographs", "tiles+tail"]
    worst = np.array([scores[0] - 1, scores[30], scores[-1] + 1], np.float32)
    assert made.p_values(worst, np.full(3, 50)) == pytest.approx([1, 31 / 61, 1 / 61])


@pytest.mark.parametrize("n_tiles", [1, 20])
def test_the_interval_of_a_calibration_on_six_photographs_holds_for_six_others(n_tiles: int) -> None:
    rng, kept = np.random.default_rng(n_tiles), 0
    for _ in range(40):
        made, others = (photographs(rng, "lognormal", 0.2, (6, 60)) for _ in range(2))
        made = calibrated(made)
        share = flagged(made, others.reshape(-1, n_tiles).max(axis=1), n_tiles).mean()
        promise = made.promise(others.size // n_tiles, n_tiles)
        kept += promise["low"] <= share <= promise["high"]
        assert promise["high"] < 0.6
    assert kept >= 38


def test_one_new_structure_is_promised_less_than_many_and_unknown_groups_count_as_independent() -> None:
    made = calibrated(photographs(np.random.default_rng(0), "lognormal", 0.3, (40, 20)))
    widths = [made.promise(400, n_tiles, 1)["high"] - made.promise(400, n_tiles, 40)["high"] for n_tiles in (1, 20)]
    assert min(widths) > 0.05
    one, none = (calibrated(made.scores_N.reshape(groups, -1)).promise(400, 1, 1) for groups in (1, 800))
    assert one == none and one["high"] < 0.09


def test_a_rough_wall_among_smooth_ones_widens_what_is_promised() -> None:
    rng = np.random.default_rng(0)
    alike, mixed = (calibrated(photographs(rng, "lognormal", rho, (100, 20))) for rho in (0.0, 0.6))
    assert mixed.promise(400, 20)["high"] > alike.promise(400, 20)["high"]


def test_the_tiles_of_a_calibration_are_kept_in_its_file_and_under_its_digest(tmp_path) -> None:
    tiles = photographs(np.random.default_rng(0), "lognormal", 0.4, (40, 6))
    sample = Sample.of(tiles.max(axis=1), np.repeat(np.arange(10), 4), list(tiles))
    made = Calibration(np.sort(tiles.max(axis=1)), 10, "", 1.0, "m", leaky=False, sample=sample)
    write_bytes(str(tmp_path / FILE), calibration_file(made))
    loaded = load_calibration(str(tmp_path), "m")
    worst, counts = np.array([2.0, 5.0]), np.array([6, 600])
    assert loaded.digest == made.digest and np.array_equal(loaded.p_values(worst, counts), made.p_values(worst, counts))
    without = Calibration(made.scores_N, 10, "", 1.0, "m", leaky=False)
    assert without.digest != made.digest and "tiles" not in json.loads(calibration_file(without))
