"""The loop of one worker, without Ray."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_spec

from crackvae.errors import ModelError
from crackvae.learning import Epoch, Learning, Place, train_epochs, validate
from crackvae.model import ConvVAE, kl_to_prior, squared_error, to_input

HOW = Learning(epochs=2, batch=8, learning_rate=1e-3, beta=1e-6, seed=0)
# Plain tiles, each of its own grey: easy to learn.
TILES = np.repeat(np.linspace(60, 200, 40).astype(np.uint8), 32 * 32).reshape(40, 32, 32)


def run(how: Learning = HOW, tiles: np.ndarray = TILES) -> tuple[list[Epoch], ConvVAE]:
    torch.manual_seed(how.seed)
    network = ConvVAE(small_spec())
    return list(train_epochs(network, tiles, tiles[:10], how, Place(), lambda tiles: None)), network


def test_the_loss_falls_and_is_its_two_parts() -> None:
    epochs, _ = run(replace(HOW, epochs=30, learning_rate=5e-3))
    assert epochs[-1].val_loss < epochs[0].val_loss / 2
    for epoch in epochs:
        assert epoch.train_loss == pytest.approx(epoch.train_squared_error + HOW.beta * epoch.train_kl)
        assert epoch.val_loss == pytest.approx(epoch.val_squared_error + HOW.beta * epoch.val_kl)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    (_, one), (_, again), (_, other) = run(), run(), run(replace(HOW, seed=1))
    assert torch.equal(one.mu.weight, again.mu.weight)
    assert not torch.equal(one.mu.weight, other.mu.weight)


def test_validation_is_the_mean_over_images_with_z_the_mean() -> None:
    _, network = run()
    inputs = to_input(torch.from_numpy(TILES))
    with torch.no_grad():
        reconstruction, mu, logvar = network(inputs)
    expected = squared_error(inputs, reconstruction).mean().item(), kl_to_prior(mu, logvar).mean().item()
    assert validate(network, TILES, Place()) == pytest.approx(expected, rel=1e-5)


def test_each_epoch_sees_each_image_once_but_for_a_broken_batch() -> None:
    told: list[int] = []
    network = ConvVAE(small_spec())
    list(train_epochs(network, TILES[:37], TILES[:5], HOW, Place(), told.append))
    assert told == [8] * 4 * 2


def test_a_loss_that_is_no_number_stops_with_the_mend() -> None:
    with pytest.raises(ModelError, match="lower --learning-rate"):
        run(replace(HOW, learning_rate=1e20))
