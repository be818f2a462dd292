"""The loop of one worker, without Ray."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_spec
from sklearn.metrics import roc_auc_score

from crackvae.damage import damage, draw, draw_chances
from crackvae.errors import ModelError
from crackvae.learning import Epoch, Learning, Place, _set_rate, epochs_of, train_epochs, validate
from crackvae.model import Network, squared_error, to_input

HOW = Learning(
    epochs=2, batch=8, learning_rate=1e-3, schedule=False, beta=1e-6, precision="fp32", seed=0, drawings=draw(0, 32, 20)
)
# Plain tiles, each of its own grey: easy to learn.
TILES = np.repeat(np.linspace(60, 200, 40).astype(np.uint8), 32 * 32).reshape(40, 32, 32)


def run(how: Learning = HOW, tiles: np.ndarray = TILES) -> tuple[list[Epoch], Network]:
    torch.manual_seed(how.seed)
    network = Network(small_spec())
    return list(train_epochs(network, tiles, tiles[:10], how, Place(), lambda tiles: None)), network


def test_the_loss_falls_and_is_its_three_parts() -> None:
    epochs, _ = run(replace(HOW, epochs=30, learning_rate=5e-3, schedule=True))
    assert epochs[-1].val.loss < epochs[0].val.loss / 2
    for losses in (part for epoch in epochs for part in (epoch.train, epoch.val)):
        assert losses.segmentation > 0
        assert losses.loss == pytest.approx(losses.squared_error + HOW.beta * losses.kl + losses.segmentation)


def test_without_drawings_the_tile_itself_is_the_target_and_nothing_is_segmented() -> None:
    torch.manual_seed(0)
    network = Network(small_spec(segmenter=(), recipe="plain", head="mse"))
    (epoch,) = train_epochs(network, TILES, TILES[:10], replace(HOW, epochs=1, drawings=None), Place(), lambda _: None)
    assert epoch.train.segmentation == epoch.val.segmentation == 0
    with torch.no_grad():
        inputs = to_input(torch.from_numpy(TILES[:10]))
        expected = squared_error(inputs, network(inputs).reconstruction_B1PP).mean().item()
    assert epoch.val.squared_error == pytest.approx(expected, rel=1e-5)


def test_the_segmenter_learns_to_find_drawn_cracks_it_was_not_shown() -> None:
    rng = np.random.default_rng(0)
    tiles = np.clip(rng.normal(170, 6, (200, 32, 32)), 0, 255).astype(np.uint8)
    _, network = run(replace(HOW, epochs=12, learning_rate=5e-3, drawings=draw(0, 32, 200), schedule=True), tiles)
    drawings = draw(99, 32, 64)
    unseen = damage(torch.from_numpy(tiles[:64]), drawings, draw_chances(torch.Generator(), 64, drawings, 32))
    with torch.no_grad():
        crack = network(unseen.input_B1PP).crack_B1PP
    assert roc_auc_score(unseen.mask_B1PP.flatten().bool(), crack.flatten()) > 0.9


def test_the_learning_rate_rises_and_falls_with_the_step_alone() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    rates = []
    for step in range(100):
        _set_rate(optimizer, replace(HOW, schedule=True, learning_rate=1.0), step, 100)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1, abs=1e-3) and rates[-1] < 1e-3
    assert int(np.argmax(rates)) in (9, 10) and np.all(np.diff(rates[10:]) < 0)


def test_a_small_set_is_shown_more_often() -> None:
    assert [epochs_of(n) for n in (10, 3_000, 12_000, 1_000_000)] == [100, 20, 5, 1]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    (_, one), (_, again), (_, other) = run(), run(), run(replace(HOW, seed=1))
    assert torch.equal(one.vae.mu.weight, again.vae.mu.weight)
    assert not torch.equal(one.vae.mu.weight, other.vae.mu.weight)


def test_validation_is_the_same_at_every_call_and_for_every_number_of_workers() -> None:
    _, network = run()
    tiles = np.random.default_rng(0).integers(100, 200, (131, 32, 32)).astype(np.uint8)
    whole, again = (validate(network, tiles, HOW, Place()) for _ in range(2))
    assert whole == again
    shares = [validate(network, tiles, HOW, Place(rank=rank, world=2)) for rank in (0, 1)]
    of_two = (66 * shares[0].loss + 65 * shares[1].loss) / 131
    assert of_two == pytest.approx(whole.loss, rel=1e-4)


def test_each_epoch_sees_each_image_once_but_for_a_broken_batch() -> None:
    told: list[int] = []
    network = Network(small_spec())
    list(train_epochs(network, TILES[:37], TILES[:5], HOW, Place(), told.append))
    assert told == [8] * 4 * 2


def test_a_loss_that_is_no_number_stops_with_the_mend() -> None:
    with pytest.raises(ModelError, match="lower --learning-rate"):
        run(replace(HOW, learning_rate=1e20))
