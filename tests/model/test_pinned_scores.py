"""Scores of drawn images by random weights, as an earlier version computed them: a refactor must not move them.

Float32 sums differ in their last bits between processors and runtimes (1.5e-6 between the two below), hence a bound.
"""

import numpy as np
import pytest
import torch
from conftest import small_spec

from crackvae.images.synthetic import draw_image
from crackvae.images.tiles import resized
from crackvae.model.artifact import Model, model_digest
from crackvae.model.heads import BASELINE, LATENT_NORM, heads_of
from crackvae.model.inference import score_tiles
from crackvae.model.network import ModelSpec, Network
from crackvae.model.runtime import runtime_of

PRECISIONS = ("onnx", "fp32")
BOUND = 4e-6
# Columns: every head of the model in the order of heads_of(), then BASELINE and LATENT_NORM. Rows: four tiles.
REPAIR = np.array(
    [
        [0.0371341035, 0.0892227367, 0.396470577, 0.189936072, 0.784142077, 0.3209804, 0.0284150243],
        [0.0676074326, 0.166733131, 0.108388521, 0.0515103452, 0.785848737, 0.0901960731, 0.0314310603],
        [0.0652618632, 0.149149224, 0.56383431, 0.260624796, 0.786560237, 0.511921585, 0.0299925432],
        [0.0105582504, 0.0277679227, 0.102133319, 0.0473439544, 0.781820893, 0.0666666627, 0.0294543132],
    ]
)
PLAIN = np.array(
    [
        [0.0371273831, 0.088905409, 0.396470577, 0.3209804, 0.0284150243],
        [0.0675664395, 0.168261856, 0.108388521, 0.0901960731, 0.0314310603],
        [0.0652790144, 0.150070056, 0.56383431, 0.511921585, 0.0299925432],
        [0.0105521306, 0.0280997343, 0.102133319, 0.0666666627, 0.0294543132],
    ]
)


def scores_of(spec: ModelSpec, precision: str) -> np.ndarray:
    torch.manual_seed(1)
    network = Network(spec).eval()
    model = Model(spec, network, model_digest(spec, network.state_dict()))
    tiles = resized([draw_image(0, number, number % 2 == 0, 64)[0][:, :, 0] for number in range(4)], spec.input_px)
    heads = (*heads_of(spec), BASELINE, LATENT_NORM)
    return score_tiles(model, tiles, 4, heads, runtime_of(model, precision, 4))[:, 1:]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_with_a_segmenter_scores_as_before(precision: str) -> None:
    np.testing.assert_allclose(scores_of(small_spec(), precision), REPAIR, rtol=BOUND)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plain_model_scores_as_before(precision: str) -> None:
    plain = small_spec(recipe="plain", segmenter=(), head="mse")
    np.testing.assert_allclose(scores_of(plain, precision), PLAIN, rtol=BOUND)
