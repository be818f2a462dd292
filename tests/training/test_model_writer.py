"""What is fitted to a site after training."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_spec

from crackvae.model.artifact import Model
from crackvae.model.heads import DARKNESS_WEIGHTS
from crackvae.model.inference import evidence_by_weight, score_tiles
from crackvae.model.network import Network
from crackvae.training import model_writer
from crackvae.training.model_writer import TrainedModel, fitted_to_site


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    torch.manual_seed(3)
    spec = small_spec()
    return TrainedModel(spec, Network(spec).state_dict(), [])


def speckled(grey: int) -> np.ndarray:
    """Eighty light tiles, of which one pixel in twenty has another grey level."""
    rng = np.random.default_rng(6)
    tiles_TPP = rng.integers(198, 203, (80, 32, 32))
    return np.where(rng.random(tiles_TPP.shape) < 0.05, grey, tiles_TPP).astype(np.uint8)


def cracked_images(n: int, grey: int = 118, share: float = 0.05) -> tuple[np.ndarray, pa.Table]:
    """Images of one light tile each with a vertical crack that is as dark as the speckles of speckled(120)."""
    tiles_TPP = np.random.default_rng(7).integers(198, 203, (n, 32, 32))
    tiles_TPP[:, :, : max(1, int(share * 32))] = grey
    return tiles_TPP.astype(np.uint8), pa.table({"rows": [1] * n, "cols": [1] * n, "blank": [[]] * n})


def test_the_darker_the_shadows_of_sound_tiles_the_less_weight_has_darkness(trained: TrainedModel) -> None:
    weights = [fitted_to_site(trained, speckled(grey)).spec.darkness_weight for grey in (199, 170, 120, 20)]
    assert weights == sorted(weights, reverse=True) and weights[0] > 2 * weights[2] and weights[3] < 0.5


def test_labelled_cracks_choose_the_weight_that_ranks_them_highest(trained: TrainedModel) -> None:
    rough, gaping = speckled(120), cracked_images(30)
    by_cracks, by_sound = fitted_to_site(trained, rough, gaping), fitted_to_site(trained, rough)
    assert by_cracks.spec.darkness_weight > by_sound.spec.darkness_weight
    assert (by_cracks.val_cracks, by_sound.val_cracks) == (30, 0)


def test_of_weights_that_rank_cracks_alike_the_smallest_is_chosen(trained: TrainedModel) -> None:
    found_by_all = cracked_images(30, grey=0, share=0.5)
    assert fitted_to_site(trained, speckled(199), found_by_all).spec.darkness_weight == DARKNESS_WEIGHTS[0]


@pytest.mark.parametrize(("faintest", "chosen"), [(0.999, DARKNESS_WEIGHTS[0]), (0.5, DARKNESS_WEIGHTS[-1])])
def test_a_larger_weight_has_to_find_a_crack_more(
    trained: TrainedModel, faintest: float, chosen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evidence(_: Model, tiles_TPP: np.ndarray, weights: tuple[float, ...], __: int) -> np.ndarray:
        if 0.0 in weights:  # the sound tiles
            return np.repeat(np.linspace(0, 1, len(tiles_TPP))[:, None], len(weights), axis=1)
        found_TW = np.full((len(tiles_TPP), len(weights)), 2.0)
        found_TW[0, :-1] = faintest  # of 1,600 sound tiles two score above .999, and half of them above .5
        return found_TW

    monkeypatch.setattr(model_writer, "evidence_by_weight", evidence)
    fitted = fitted_to_site(trained, np.tile(speckled(199), (20, 1, 1)), cracked_images(400))
    assert fitted.spec.darkness_weight == chosen


def test_weights_from_one_pass_score_as_models_with_each_weight(trained: TrainedModel) -> None:
    tiles_TPP = speckled(120)[:5]
    found_TW = evidence_by_weight(trained.model, tiles_TPP, (0.0, 3.0), 4)
    for column, weight in enumerate((0.0, 3.0)):
        model = replace(trained, spec=replace(trained.spec, darkness_weight=weight)).model
        np.testing.assert_allclose(found_TW[:, column], score_tiles(model, tiles_TPP, 4)[:, 0], rtol=1e-6)


def test_the_yardstick_is_of_scores_with_the_fitted_weight(trained: TrainedModel) -> None:
    light, dark = (fitted_to_site(trained, speckled(grey)).spec for grey in (199, 120))
    assert light.yardstick and dark.yardstick and light.yardstick != dark.yardstick


def test_a_model_without_a_segmenter_stays_as_it_is(trained: TrainedModel) -> None:
    plain = TrainedModel(small_spec(head="mse"), trained.weights, [])
    assert fitted_to_site(plain, speckled(120)) is plain
