"""What is fitted to a site after training."""

import numpy as np
import pytest
import torch
from conftest import small_spec

from crackvae.model.network import Network
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


def test_the_darker_the_shadows_of_sound_tiles_the_less_weight_has_darkness(trained: TrainedModel) -> None:
    weights = [fitted_to_site(trained, speckled(grey)).spec.darkness_weight for grey in (199, 170, 120, 20)]
    assert weights == sorted(weights, reverse=True) and weights[0] > 2 * weights[2] and weights[3] < 0.5


def test_the_yardstick_is_of_scores_with_the_fitted_weight(trained: TrainedModel) -> None:
    light, dark = (fitted_to_site(trained, speckled(grey)).spec for grey in (199, 120))
    assert light.yardstick and dark.yardstick and light.yardstick != dark.yardstick


def test_a_model_without_a_segmenter_stays_as_it_is(trained: TrainedModel) -> None:
    plain = TrainedModel(small_spec(head="mse"), trained.weights, [])
    assert fitted_to_site(plain, speckled(120)) is plain
