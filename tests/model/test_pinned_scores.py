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
from crackvae.model.network import Network
from crackvae.model.runtime import runtime_of
from crackvae.model.spec import ModelSpec

PRECISIONS = ("onnx", "fp32")
BOUND = 4e-6
# Columns: every head of the model in the order of heads_of(), then BASELINE and LATENT_NORM. Rows: four tiles.
REPAIR = np.array(
    [
        [0.0451400504, 0.0301993042, 0.3209804, 0.18922767],
        [0.0793229491, 0.0287894104, 0.0901960731, 0.194812745],
        [0.0757999122, 0.0351667926, 0.511921585, 0.201688319],
        [0.0153018218, 0.0227029379, 0.0666666627, 0.178955123],
    ]
)
PLAIN = np.array(
    [
        [0.0371273831, 0.3209804, 0.0284150243],
        [0.0675664395, 0.0901960731, 0.0314310603],
        [0.0652790144, 0.511921585, 0.0299925432],
        [0.0105521306, 0.0666666627, 0.0294543132],
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
