"""Every way to run the network gives the scores of the reference, to a fraction of the threshold."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_spec, write_model

from crackvae.images.decoding import decode
from crackvae.images.tiles import resized
from crackvae.model.heads import LATENT_NORM, heads_of, scores_of
from crackvae.model.inference import Scorer, load_scorer, score_tiles
from crackvae.model.network import Network
from crackvae.model.runtime import runtime_of

BATCH = 16
# The bound that every way has to keep: |score - float64 score|, as a share of the threshold. On a real model bf16 does
# not (docs/log.md); this network is small enough for it.
BOUND = 0.01


@pytest.fixture(scope="module")
def scorer(model_dir: Path) -> Scorer:
    return load_scorer(str(model_dir))


@pytest.fixture(scope="module")
def tiles_TPP(drawn: Path) -> np.ndarray:
    """90 drawn images, a third of them cracked, as the model's tiles."""
    images = [*sorted((drawn / "crack").iterdir())[:30], *sorted((drawn / "non_crack").iterdir())[:60]]
    return resized([decode(image.read_bytes()) for image in images], small_spec().input_px)


def exact_scores(scorer: Scorer, tiles_TPP: np.ndarray) -> np.ndarray:
    """By the reference in float64, (T,)."""
    network = copy.deepcopy(scorer.model.network).double()
    input_T1PP = torch.from_numpy(tiles_TPP).unsqueeze(1).double() / 255
    with torch.inference_mode():
        return scores_of(scorer.model.spec, scorer.model.spec.head, input_T1PP, network(input_T1PP)).numpy()


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "onnx"])
def test_scores_stay_within_1_percent_of_the_threshold_and_no_flag_changes(
    scorer: Scorer, tiles_TPP: np.ndarray, precision: str
) -> None:
    exact_T = exact_scores(scorer, tiles_TPP)
    threshold = float(np.median(exact_T)) + 1e-6  # the made-up one flags nothing here
    runtime = runtime_of(scorer.model, precision, BATCH)
    scores_T = score_tiles(scorer.model, tiles_TPP, BATCH, runtime=runtime)[:, 0]
    assert np.abs(scores_T - exact_T).max() <= BOUND * threshold
    is_near = np.abs(exact_T - threshold) <= BOUND * threshold
    assert (((scores_T > threshold) == (exact_T > threshold)) | is_near).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "onnx"])
def test_a_score_depends_on_its_tile_alone_in_every_precision(scorer: Scorer, precision: str) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    runtime = runtime_of(scorer.model, precision, BATCH)

    def scores(some: np.ndarray) -> list[list[float]]:
        return score_tiles(scorer.model, some, BATCH, (LATENT_NORM,), runtime).tolist()

    together = scores(tiles)
    assert together == [scores(tiles[n : n + 1])[0] for n in range(40)] == scores(tiles[::-1])[::-1]


@pytest.mark.parametrize(
    "changes", [{}, {"channels": (4, 8, 8)}, {"segmenter": (), "head": "mse", "recipe": "plain"}], ids=str
)
def test_onnx_runtime_gives_every_output_of_any_network(changes: dict[str, object], tmp_path: Path) -> None:
    model = load_scorer(str(write_model(tmp_path / "model", small_spec(**changes)))).model
    input_B1PP = torch.rand(BATCH, 1, 32, 32)
    with torch.inference_mode():
        expected, found = model.network(input_B1PP), runtime_of(model, "onnx", BATCH).forward(input_B1PP)
    for name in ("reconstruction_B1QQ", "mu_BZ", "crack_B1PP"):
        one, other = getattr(expected, name), getattr(found, name)
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, atol=1e-5))


def test_auto_stays_with_fp32_even_where_the_hardware_has_bf16(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert runtime_of(scorer.model, "auto", BATCH).precision == "onnx"


def test_heads_beside_the_own_one_come_from_the_same_pass(scorer: Scorer, tiles_TPP: np.ndarray) -> None:
    runtime = runtime_of(scorer.model, "onnx", BATCH)
    heads = heads_of(scorer.model.spec)
    together = score_tiles(scorer.model, tiles_TPP, BATCH, heads, runtime)
    for number, head in enumerate(heads, start=1):
        model = replace(scorer.model, spec=replace(scorer.model.spec, head=head))
        assert together[:, number] == pytest.approx(score_tiles(model, tiles_TPP, BATCH)[:, 0], rel=1e-4, abs=1e-7)


def test_the_network_itself_is_left_as_it_was(scorer: Scorer) -> None:
    runtime_of(scorer.model, "onnx", BATCH)
    assert isinstance(scorer.model.network, Network) and not scorer.model.network.training
