"""The loop of one worker, without Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import two_workers
from conftest import HOUSE, small_spec
from sklearn.metrics import roc_auc_score

from crackvae.errors import ModelError
from crackvae.model.network import Network, squared_error, to_input
from crackvae.training.loop import _diverged, _set_learning_rate, default_epochs, train_epochs, validate
from crackvae.training.state import Epoch, State, TrainingTiles, TrainSettings, Worker, read_checkpoint
from crackvae.training.synthetic_cracks import MASK_COVERAGE, add_cracks_only, augment
from crackvae.training.synthetic_cracks.drawings import draw

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = TrainSettings(
    epochs=2, batch=8, learning_rate=1e-3, schedule=False, beta=1e-6, precision="fp32", seed=0, drawings=draw(0, 32, 20)
)
# Plain tiles, each of its own grey: easy to learn.
TILES = np.repeat(np.linspace(60, 200, 40).astype(np.uint8), 32 * 32).reshape(40, 32, 32)


def new_state(settings: TrainSettings = SETTINGS, **spec: object) -> State:
    torch.manual_seed(settings.seed)
    return State.new(Network(small_spec(**spec)), settings)


def train_on(state: State, settings: TrainSettings = SETTINGS, tiles: np.ndarray = TILES) -> Iterator[Epoch]:
    return train_epochs(state, TrainingTiles.in_memory(tiles), tiles[:10], settings, Worker(), lambda _: None)


def run(settings: TrainSettings = SETTINGS, tiles: np.ndarray = TILES) -> tuple[list[Epoch], Network]:
    state = new_state(settings)
    epochs = list(train_on(state, settings, tiles))
    assert isinstance(state.network, Network) and epochs == state.epochs
    return epochs, state.network


@pytest.mark.slow
def test_the_loss_falls_and_is_its_three_parts() -> None:
    epochs, _ = run(replace(SETTINGS, epochs=45, learning_rate=5e-3, schedule=True))
    assert epochs[-1].val.loss < epochs[0].val.loss / 2
    for losses in (part for epoch in epochs for part in (epoch.train, epoch.val)):
        assert losses.segmentation > 0
        assert losses.loss == pytest.approx(losses.squared_error + SETTINGS.beta * losses.kl + losses.segmentation)


def test_without_drawings_the_tile_itself_is_the_target_and_nothing_is_segmented() -> None:
    state = new_state(segmenter=(), recipe="plain", head="mse")
    network = state.network
    (epoch,) = train_on(state, replace(SETTINGS, epochs=1, drawings=None))
    assert epoch.train.segmentation == epoch.val.segmentation == 0
    with torch.no_grad():
        inputs = to_input(torch.from_numpy(TILES[:10]))
        expected = squared_error(inputs, network(inputs).reconstruction_B1QQ).mean().item()
    assert epoch.val.squared_error == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_segmenter_finds_synthetic_cracks_that_it_was_not_trained_on() -> None:
    rng = np.random.default_rng(0)
    tiles = np.clip(rng.normal(170, 6, (200, 32, 32)), 0, 255).astype(np.uint8)
    _, network = run(replace(SETTINGS, epochs=12, learning_rate=5e-3, drawings=draw(0, 32, 200), schedule=True), tiles)
    drawings = draw(99, 32, 64)
    unseen = add_cracks_only(torch.from_numpy(tiles[:64]), drawings, torch.Generator())
    with torch.no_grad():
        crack = network(unseen.input_B1PP).crack_B1PP
    assert roc_auc_score(unseen.coverage_B1PP.flatten() > MASK_COVERAGE, crack.flatten()) > 0.8


def test_the_learning_rate_depends_on_the_step_alone() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    rates = []
    for step in range(100):
        _set_learning_rate(optimizer, replace(SETTINGS, schedule=True, learning_rate=1.0), step, 100)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(1, abs=1e-3) and rates[-1] < 1e-3
    assert int(np.argmax(rates)) in (4, 5) and np.all(np.diff(rates[5:]) < 0)


def test_a_small_set_gets_more_epochs() -> None:
    assert [default_epochs(n) for n in (10, 3_000, 12_000, 1_000_000)] == [100, 40, 10, 1]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    (_, one), (_, again), (_, other) = run(), run(), run(replace(SETTINGS, seed=1))
    assert torch.equal(one.vae.mu.weight, again.vae.mu.weight)
    assert not torch.equal(one.vae.mu.weight, other.vae.mu.weight)


def test_validation_is_the_same_at_every_call_and_for_every_number_of_workers() -> None:
    _, network = run()
    tiles = np.random.default_rng(0).integers(100, 200, (131, 32, 32)).astype(np.uint8)
    whole, again = (validate(network, tiles, SETTINGS, Worker()) for _ in range(2))
    assert whole == again
    shares = [validate(network, tiles, SETTINGS, Worker(rank=rank, world=2)) for rank in (0, 1)]
    of_two = (66 * shares[0].loss + 65 * shares[1].loss) / 131
    assert of_two == pytest.approx(whole.loss, rel=1e-4)


def test_each_epoch_sees_each_image_once_but_for_a_broken_batch() -> None:
    reported: list[int] = []
    list(train_epochs(new_state(), TrainingTiles.in_memory(TILES[:37]), TILES[:5], SETTINGS, Worker(), reported.append))
    assert reported == [8] * 4 * 2


def test_a_gradient_that_is_not_finite_leaves_the_weights_unchanged_and_says_how_to_fix_it() -> None:
    state = new_state(replace(SETTINGS, learning_rate=1e20))
    with pytest.raises(ModelError, match=r"the gradient is (nan|inf) in epoch 1: lower --learning-rate .* --clip-norm"):
        list(train_on(state, replace(SETTINGS, learning_rate=1e20)))
    assert all(weights.isfinite().all() for weights in state.network.parameters())


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"clip_norm": None}, ", or give --clip-norm 1."),
        ({"clip_norm": 50.0}, ", or --clip-norm (now 50)."),
        ({"clip_norm": 1.0}, "."),
        ({"clip_norm": None, "can_clip": False}, "."),
    ],
)
def test_a_training_that_diverges_advises_what_its_verb_has_and_is_not_set(
    settings: dict[str, object], advice: str
) -> None:
    error = _diverged("the loss is nan after epoch 2", replace(SETTINGS, **settings))
    assert str(error) == f"the loss is nan after epoch 2: lower --learning-rate (now 0.001){advice}"


def test_clipping_changes_large_gradients_only() -> None:
    (_, free), (_, wide), (_, narrow) = (run(replace(SETTINGS, clip_norm=norm)) for norm in (None, 1e6, 1e-3))
    assert torch.equal(free.vae.mu.weight, wide.vae.mu.weight)
    assert not torch.equal(free.vae.mu.weight, narrow.vae.mu.weight)


def test_a_run_resumed_from_any_checkpoint_ends_with_the_weights_of_an_uninterrupted_one() -> None:
    settings = replace(SETTINGS, epochs=4, schedule=True, clip_norm=1.0)
    uninterrupted, files = new_state(settings), []
    for _ in train_on(uninterrupted, settings):
        files.append(uninterrupted.to_checkpoint())
    for file in files[:-1]:
        resumed = new_state(replace(settings, seed=5))  # other weights, which the checkpoint replaces
        resumed.load_checkpoint(file)
        list(train_on(resumed, settings))
        assert [replace(epoch, seconds=0, images_per_s=0) for epoch in resumed.epochs] == [
            replace(epoch, seconds=0, images_per_s=0) for epoch in uninterrupted.epochs
        ]
        for name, weights in uninterrupted.network.state_dict().items():
            assert torch.equal(weights, resumed.network.state_dict()[name]), f"{name} differs in the last bit"


@pytest.mark.parametrize("corrupt", [lambda file: file[:1000], lambda file: b"", lambda file: b"x" + file[1:]])
def test_a_damaged_checkpoint_says_how_to_fix_it(corrupt) -> None:
    with pytest.raises(ModelError, match="last checkpoint of the run is damaged: delete that file"):
        read_checkpoint(corrupt(new_state().to_checkpoint()))


def test_training_stops_when_validation_has_not_improved_for_as_long_as_patience_allows() -> None:
    settings = replace(
        SETTINGS, epochs=50, learning_rate=1e-9, patience=3
    )  # learns nothing, so that epoch 1 stays the best
    noise = np.random.default_rng(0).integers(0, 255, (16, 32, 32)).astype(np.uint8)
    state = new_state(settings)
    for _ in train_on(state, settings, noise):
        worse = replace(state.epochs[-1], val=replace(state.epochs[-1].val, loss=float(len(state.epochs))))
        state.epochs[-1] = worse
    assert len(state.epochs) == 4
    assert not list(train_on(state, settings, noise)), "a run that has stopped does not continue when it is resumed"


@pytest.mark.slow
def test_one_worker_and_two_have_the_same_losses_in_the_first_twenty_steps(tmp_path: Path) -> None:
    alone = np.array(two_workers.step_losses(rank=0, world=1))
    meeting = tmp_path / "meeting"
    command = [sys.executable, two_workers.__file__, "1", "2", str(meeting)]
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as second:
        try:
            first = np.array(two_workers.joined(0, 2, str(meeting)))
            printed, _ = second.communicate(timeout=60)
        finally:
            second.kill()
    together = first + np.array(json.loads(printed))
    assert alone.shape == (two_workers.STEPS, 4) and (first[:, 3] == 32).all()
    assert together == pytest.approx(alone, rel=1e-4)


def test_each_tile_of_every_window_is_used_once_per_epoch() -> None:
    seen: list[np.ndarray] = []

    def windows(epoch: int) -> Iterator[np.ndarray]:
        for part in (TILES[:16], TILES[16:40]):
            seen.append(part)
            yield part

    reported: list[int] = []
    list(train_epochs(new_state(), TrainingTiles(40, windows), TILES[:5], SETTINGS, Worker(), reported.append))
    assert sum(reported) == 2 * 40 and len(seen) == 4


def test_augmented_tiles_are_randomly_rotated_flipped_and_exposed_and_equal_for_any_share() -> None:
    tile = np.zeros((32, 32), np.uint8)
    tile[:8, :16] = 100
    batch = torch.from_numpy(np.repeat(tile[None], 64, axis=0))
    whole = augment(batch, torch.Generator().manual_seed(1), slice(None))
    share = augment(batch, torch.Generator().manual_seed(1), slice(1, None, 2))
    assert torch.equal(whole[1::2], share) and whole.shape == (64, 1, 32, 32)
    shapes = {(one > 0).numpy().tobytes() for one in whole}
    exposures = {round(one.max().item(), 6) for one in whole}
    assert len(shapes) == 8 and len(exposures) > 30
    assert (whole > 0).sum() == 64 * 8 * 16 and 0.74 * 100 / 255 < min(exposures) < max(exposures) < 1.16 * 100 / 255


def test_augmentation_applies_to_training_only_and_repeats_with_the_seed() -> None:
    plain = {"segmenter": (), "recipe": "plain", "head": "mse"}
    settings = replace(SETTINGS, drawings=None, augment=True)
    one, again, without = (new_state(**plain) for _ in range(3))
    (
        list(train_on(one, settings)),
        list(train_on(again, settings)),
        list(train_on(without, replace(settings, augment=False))),
    )
    losses = [[epoch.train.loss for epoch in state.epochs] for state in (one, again, without)]
    assert losses[0] == losses[1] != losses[2]
    assert validate(one.network, TILES, settings, Worker()) == validate(
        one.network, TILES, replace(settings, augment=False), Worker()
    )
