"""Bfloat16 screens, float32 decides: no flag, no finding and no p-value below SURE_P can tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from conftest import small_spec, write_model
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crackvae.images.decoded import decode_images
from crackvae.images.groups import with_groups
from crackvae.images.synthetic import draw_image
from crackvae.model import builtin, network, screen
from crackvae.model.artifact import Model
from crackvae.model.calibration import Calibration, Sample
from crackvae.model.inference import Scorer, load_scorer, score_tiles
from crackvae.model.runtime import bfloat16, runtime_of
from crackvae.model.screen import BFLOAT16, FLOAT32, MAX_ERROR, SURE_P, Screen, level_of, may_screen
from crackvae.scoring.actors import ScoringSettings
from crackvae.storage.listing import list_images

LEVEL = 1.0


def numbered(n: int) -> np.ndarray:
    """Tiles whose first pixel is their number."""
    tiles_TPP = np.zeros((n, 2, 2), np.uint8)
    tiles_TPP[:, 0, 0] = np.arange(n)
    return tiles_TPP


def scores_by_number(scores: list[float]) -> screen.Score:
    return lambda tiles_TPP: np.array(scores, np.float32)[tiles_TPP[:, 0, 0]][:, None]


@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(-0.99, 0.99)), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_what_is_decided_above_the_margin_is_float32_if_the_error_keeps_its_bound(
    tiles: list[tuple[float, float]], per_image: int
) -> None:
    exact = np.array([score for score, _ in tiles], np.float32)
    rough = np.array([score + share * MAX_ERROR * max(score, LEVEL) for score, share in tiles], np.float32)
    counts = np.array([len(part) for part in np.split(exact, range(per_image, len(exact), per_image))])
    found_TS, is_exact_T = Screen(scores_by_number(rough.tolist()), LEVEL).scores(
        numbered(len(tiles)), counts, scores_by_number(exact.tolist())
    )
    assert (found_TS[:, 0] == np.where(is_exact_T, exact, rough)).all()
    assert is_exact_T[exact > LEVEL / (1 - MAX_ERROR)].all() and not is_exact_T[rough <= LEVEL].any()


def test_an_image_on_which_the_first_pass_errs_too_much_is_scored_without_it() -> None:
    rough, exact = [0.5, 2.0, 0.5, 0.6, 2.0, 0.7], [0.9, 3.0, 0.9, 0.8, 2.0, 0.8]
    found_TS, is_exact_T = Screen(scores_by_number(rough), LEVEL).scores(
        numbered(6), np.array([3, 3]), scores_by_number(exact)
    )
    assert found_TS[:, 0] == pytest.approx([0.9, 3.0, 0.9, 0.6, 2.0, 0.7])
    assert is_exact_T.tolist() == [True] * 3 + [False, True, False]


def test_a_score_that_is_not_a_number_is_computed_again() -> None:
    found_TS, is_exact_T = Screen(scores_by_number([np.nan, 0.1]), LEVEL).scores(
        numbered(2), np.array([1, 1]), scores_by_number([0.2, 0.1])
    )
    assert found_TS[:, 0] == pytest.approx([0.2, 0.1]) and is_exact_T.tolist() == [True, False]


@pytest.mark.parametrize("tiles_of_an_image", [1, 2, 30])
@pytest.mark.parametrize("seed", range(4))
def test_no_p_value_below_the_promised_one_belongs_to_a_screened_score(tiles_of_an_image: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tile_scores = [rng.lognormal(0, 0.7, tiles_of_an_image).astype(np.float32) for _ in range(200)]
    scores_N = np.array([scores.max() for scores in tile_scores], np.float32)
    groups_N = np.arange(200) // 5
    threshold = float(np.sort(scores_N)[190])
    sample = Sample.of(scores_N, groups_N, tile_scores)
    made = Calibration(np.sort(scores_N), 40, "", threshold, "", False, sample)
    highest = level_of(made) / (1 - MAX_ERROR)
    for n_tiles in (1, 2, 5, tiles_of_an_image, 600):
        assert made.p_values(np.array([highest]), np.array([n_tiles]))[0] >= SURE_P


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(builtin.FOLDER)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn images, every other one cracked, and a file that is none."""
    folder = tmp_path_factory.mktemp("drawings")
    for number in range(12):
        Image.fromarray(draw_image(3, number, number % 2 == 0)[0]).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def rows_of(drawings: Path, scorer: Scorer, precision: str) -> pa.Table:
    images = with_groups(list_images(str(drawings)), "none")
    decoded = pa.concat_tables(decode_images(images, scorer.model.spec))
    return ScoringSettings("run", 8, precision, (), 1_000_000).row_function(scorer)(decoded)


def test_the_built_in_model_flags_the_same_and_the_rows_say_their_precision(drawings: Path, scorer: Scorer) -> None:
    screened, exact, rough = (rows_of(drawings, scorer, precision) for precision in ("screen", "onnx", "bf16"))
    assert exact["precision"].to_pylist() == [FLOAT32] * 12 + [""]
    assert rough["precision"].to_pylist() == [BFLOAT16] * 12 + [""]
    is_exact = np.array([one == FLOAT32 for one in screened["precision"].to_pylist()])
    assert 0 < is_exact.sum() < 12
    tiles = pc.sum(pc.multiply(screened["rows"], screened["cols"])).as_py()
    assert pc.sum(screened["screened"]).as_py() == tiles > pc.sum(screened["again"]).as_py() >= is_exact.sum()
    assert pc.sum(exact["screened"]).as_py() == pc.sum(rough["screened"]).as_py() == 0
    found, wanted = screened["score"].to_numpy(), exact["score"].to_numpy()
    assert (found[is_exact] == wanted[is_exact]).all()
    assert np.allclose(found[:12], wanted[:12], rtol=MAX_ERROR, atol=MAX_ERROR * level_of(scorer.calibration))
    assert screened["flagged"].equals(exact["flagged"])
    assert (is_exact | ~(screened["p_value"].to_numpy() < SURE_P)).all()


def test_a_model_whose_errors_are_too_large_in_bfloat16_falls_back(
    drawings: Path, scorer: Scorer, capsys: pytest.CaptureFixture[str]
) -> None:
    poisoned = load_scorer(builtin.FOLDER)
    with torch.no_grad():
        poisoned.model.network.segmenter.logits.bias -= 60.0  # eight bits of such logits leave a quarter of a unit
    scores_T = score_tiles(poisoned.model, screen.drawn_tiles(256, 8), 8)[:, 0]
    made = replace(scorer.calibration, scores_N=np.full(99, scores_T.mean(), np.float32), sample=None)
    poisoned = Scorer(poisoned.model, replace(made, threshold=float(scores_T.mean())))
    assert may_screen(poisoned, "screen", (), "cpu")
    rows = rows_of(drawings, poisoned, "screen")
    assert set(rows["precision"].to_pylist()) == {FLOAT32, ""} and pc.sum(rows["screened"]).as_py() == 0
    assert "precision: bfloat16 errs by" in capsys.readouterr().err


@pytest.mark.parametrize("has_amx", [True, False])
def test_auto_screens_models_without_a_backbone_on_processors_with_a_matrix_unit(
    scorer: Scorer, has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx, "avx512_bf16": True})
    plain = replace(scorer, model=replace(scorer.model, spec=replace(scorer.model.spec, backbone="none")))
    assert may_screen(plain, "auto", ("latent_norm",), "cpu") == has_amx
    assert not may_screen(scorer, "auto", ("latent_norm",), "cpu")
    assert may_screen(scorer, "screen", (), "cpu")
    for precision in ("onnx", "fp32", "bf16"):
        assert not may_screen(scorer, precision, (), "cpu")


def test_nothing_is_screened_without_a_threshold_a_segmenter_or_for_other_heads(scorer: Scorer, tmp_path: Path) -> None:
    blank = replace(scorer.calibration, threshold=float("inf"))
    plain = load_scorer(str(write_model(tmp_path / "model", small_spec(segmenter=(), head="mse", recipe="plain"))))
    assert not may_screen(Scorer(scorer.model, blank), "screen", (), "cpu")
    assert not may_screen(plain, "screen", (), "cpu")
    assert not may_screen(scorer, "screen", ("mse",), "cpu")
    assert not may_screen(scorer, "screen", (), "cuda")


def test_what_the_segmenter_sees_is_the_same_in_bfloat16() -> None:
    tiles_B1PP, reconstruction_B1QQ = torch.rand(3, 1, 64, 64), torch.rand(3, 1, 16, 16)
    local_B1SS = torch.nn.functional.avg_pool2d(tiles_B1PP + network.BLACK, network.LOCAL_PX)
    found = bfloat16.views(tiles_B1PP + network.BLACK, local_B1SS, reconstruction_B1QQ).float()
    assert torch.allclose(found, network.views(tiles_B1PP, reconstruction_B1QQ), rtol=2**-8, atol=2**-8)


def test_a_network_without_a_segmenter_runs_in_bfloat16(tmp_path: Path) -> None:
    spec = small_spec(segmenter=(), head="mse", recipe="plain")
    model: Model = load_scorer(str(write_model(tmp_path / "model", spec))).model
    tiles_TPP = np.random.default_rng(0).integers(0, 256, (4, spec.input_px, spec.input_px), np.uint8)
    rough_T = score_tiles(model, tiles_TPP, 4, runtime=runtime_of(model, "bf16", 4))
    assert rough_T == pytest.approx(score_tiles(model, tiles_TPP, 4), rel=0.02)
