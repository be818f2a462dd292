"""A threshold from elsewhere is said to be void; cracks, chance and places of the same kind do not make it so."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crackvae.model.calibration import Calibration, Sample
from crackvae.scoring.summaries import images_with_a_valid_threshold
from crackvae.scoring.threshold_check import ThresholdCheck

RNG = np.random.default_rng(0)
SOUND_N = np.sort(RNG.gamma(4, 0.01, 300).astype(np.float32))
CALIBRATION = Calibration(SOUND_N, 300, "made up", float(SOUND_N[284]), "model", leaky=False)


def rows(images: list[np.ndarray], status: str = "scored") -> pa.Table:
    tiles = pa.array([image.tolist() for image in images], pa.list_(pa.float32()))
    return pa.table({"status": [status] * len(images), "tile_scores": tiles})


def checked(*parts: pa.Table) -> bool:
    check = ThresholdCheck(CALIBRATION, "/models/m")
    for part in parts:
        check.add(part)
    return check.result() is not None


@pytest.mark.parametrize("n", [5, 10, 20, 60, 2000])
def test_sound_images_of_the_site_do_not_void_the_threshold(n: int) -> None:
    rng = np.random.default_rng(n)
    assert sum(checked(rows(list(rng.gamma(4, 0.01, (n, 1))))) for _ in range(50)) <= (1 if n < 20 else 0)


@pytest.mark.parametrize("tiles", [1, 20])
def test_images_of_another_site_void_it_and_cracks_do_not(tiles: int) -> None:
    rng = np.random.default_rng(1)
    own = [*rng.gamma(4, 0.01, (100, tiles)), *rng.uniform(0.2, 0.9, (300, tiles))]
    assert not checked(rows(own))
    assert checked(rows(list(rng.gamma(4, 0.02, (400, tiles)))))


def test_a_dozen_photographs_of_another_site_void_it_and_those_of_the_site_do_not() -> None:
    rng, n_void = np.random.default_rng(2), {1.0: 0, 3.0: 0}
    sound_N = np.sort(rng.lognormal(0, 0.6, 300).astype(np.float32))
    made = Calibration(sound_N, 300, "made up", float(sound_N[284]), "model", leaky=False)
    for scale in [*n_void] * 20:
        places_N1 = np.exp(0.3 * rng.standard_normal((12, 1)))
        check = ThresholdCheck(made, "/models/m")
        check.add(rows(list(scale * places_N1 * rng.lognormal(0, 0.5, (12, 20)))))
        n_void[scale] += check.result() is not None
    assert n_void[1.0] <= 1 and n_void[3.0] >= 18


@pytest.mark.parametrize(("scale", "alerts"), [(1.0, (0, 3)), (4.0, (54, 60))])
@pytest.mark.parametrize("size", [40, 3])
def test_places_that_differ_as_those_of_the_calibration_do_keep_it(
    scale: float, alerts: tuple[int, int], size: int
) -> None:
    rng, n_void = np.random.default_rng(size), 0
    for _ in range(60):
        places_G1, scores_GT = rng.gamma(25, 1 / 25, (240 // size, 1)), rng.lognormal(0, 1, (240 // size, size))
        tiles_T = (places_G1 * scores_GT).ravel().astype(np.float32)
        sample = Sample.of(tiles_T, np.repeat(np.arange(240 // size), size), list(tiles_T[:, None]))
        made = Calibration(np.sort(tiles_T), 240 // size, "", float(np.quantile(tiles_T, 0.95)), "", False, sample)
        check = ThresholdCheck(made, "/models/m")
        check.add(rows(list(scale * rng.gamma(25, 1 / 25) * rng.lognormal(0, 1, (150, 1)))))
        n_void += check.result() is not None
    assert alerts[0] <= n_void <= alerts[1]


def test_the_reason_names_the_shares_and_what_to_do() -> None:
    check = ThresholdCheck(CALIBRATION, "/models/m")
    check.add(rows([np.array([0.9 * CALIBRATION.threshold])] * 40))
    check.add(rows([np.empty(0)] * 40, "unreadable"))
    void = check.result()
    assert void is not None and void.images == 40 and void.low < 0.25 < void.high < void.share == 1
    assert f"100% score above the {void.level:.0%} quantile of the calibration" in void.reason
    assert "does not hold" in void.reason and "crackvae calibrate --model /models/m" in void.reason


def test_too_few_images_and_none_at_all_are_no_reason() -> None:
    assert not checked() and not checked(rows([np.array([0.001])] * 4)) and not checked(rows([np.array([9.0])] * 99))


def test_a_run_whose_images_all_lie_above_the_threshold_is_not_taken_for_checked() -> None:
    check = ThresholdCheck(CALIBRATION, "/models/m")
    check.add(rows([np.array([9.0])] * 40))
    assert "cannot be told: 40 of 40 have no tile below it. Unless they are all cracked, run" in check.untold(40)
    assert check.result() is None and check.untold(19) == ""
    check.add(rows([np.array([9.0, 0.01])] * 5))
    assert check.untold(45) == ""


def test_a_threshold_that_has_held_is_not_checked_again_and_a_void_one_is(tmp_path: Path) -> None:
    out, void = str(tmp_path), {"reason": "", "level": 0.5, "share": 0.9, "low": 0.2, "high": 0.8, "images": 40}
    assert images_with_a_valid_threshold(out, "m", 0.5) == 0
    for run, changes, found in (
        ("1", {}, 40),
        ("2", {"threshold_void": void}, 0),
        ("3", {"threshold": 0.6}, 0),
        ("4", {"model": "other"}, 0),
        ("5", {"threshold_images": "many"}, 0),
        ("6", {}, 40),
    ):
        content = {"model": "m", "threshold": 0.5, "threshold_images": 40} | changes
        (tmp_path / f"_summary-{run}.json").write_text(json.dumps(content))
        assert images_with_a_valid_threshold(out, "m", 0.5) == found
