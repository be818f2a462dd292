"""Training from the weights of another model, in which hard tiles are shown more often."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, small_spec, write_model

import crackvae
from crackvae.api import run, settings_of
from crackvae.config import TrainConfig
from crackvae.errors import ConfigError, ManifestError, ModelError, StorageError
from crackvae.model.artifact import load_model
from crackvae.model.heads import TEXTURE
from crackvae.model.inference import score_tiles
from crackvae.training import starting, tile_loader
from crackvae.training.loop import training_steps
from crackvae.training.starting import TEXTURES, hardest, shown_tiles, starting_model, with_start
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker, new_network

PLAIN: dict[str, Any] = {"batch": 16, "epochs": 1, "precision": "fp32", "quiet": True}


def test_hard_tiles_are_those_that_score_highest_among_the_same_texture() -> None:
    rng, texture_T = np.random.default_rng(0), np.repeat(np.arange(TEXTURES), 40).astype(np.float32)
    shuffled_T = rng.permutation(len(texture_T))
    texture_T = texture_T[shuffled_T]
    scores_T = rng.random(len(texture_T)) + 100 * texture_T
    numbers = hardest(scores_T, texture_T)
    assert np.bincount(texture_T[numbers].astype(int)).tolist() == [2] * TEXTURES
    for texture in range(TEXTURES):
        same = np.flatnonzero(texture_T == texture)
        assert set(same[np.argsort(scores_T[same])[-2:]]) <= set(numbers)
    assert numbers.tolist() == sorted(set(numbers))


def test_an_epoch_shows_every_tile_once_and_hard_ones_as_often_as_is_asked_for() -> None:
    tiles_TPP = np.arange(40, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    shown: list[int] = []

    class Recorder(torch.nn.Module):
        """Stands in for the network's ConvVAE, and writes down which tiles it is shown."""

        def __init__(self, vae: torch.nn.Module) -> None:
            super().__init__()
            self.vae, self.mu = vae, vae.mu

        def forward(self, squares: torch.Tensor, noise: torch.Tensor) -> object:
            shown.extend((squares[:, 0, 0, 0] * 255).round().int().tolist())
            return self.vae(squares, noise)

    settings = TrainSettings(1, 10, 1e-3, schedule=False, beta=0.0, precision="fp32", seed=0)
    network = new_network(small_spec(segmenter=(), head="mse", recipe="plain"), 0, None)
    network.vae = Recorder(network.vae)  # type: ignore[assignment]
    tiles = TrainingTiles.in_memory(tiles_TPP, [3, 3, 3, 7, 7, 7, 9, 9, 9, 11])
    assert tiles.n == 50
    assert len(list(training_steps(State.new(network, settings), tiles, settings, Worker(), 1))) == 5
    assert np.bincount(shown).tolist() == [{3: 4, 7: 4, 9: 4, 11: 2}.get(number, 1) for number in range(40)]


def test_the_length_of_a_training_counts_hard_tiles_as_often_as_they_are_shown() -> None:
    assert [shown_tiles(1_000, hard) for hard in (1, 2, 8)] == [1_000, 1_050, 1_350]


def test_the_kind_of_network_is_that_of_the_model_and_other_settings_may_be_given(model_dir: Path) -> None:
    given = {"manifest": "data", "model": "new", "from_": str(model_dir), "tile_px": 128, "stride_px": 128}
    config = settings_of("train", given)
    assert isinstance(config, TrainConfig)
    assert (config.input_px, config.channels, config.segmenter, config.backbone) == tuple(
        SMALL[name] for name in SMALL if name != "latent_dim"
    )
    assert (config.tile_px, config.learning_rate) == (128, starting.LEARNING_RATE)
    assert settings_of("train", given | {"learning_rate": 0.01}).learning_rate == 0.01  # type: ignore[attr-defined]
    model = starting_model(config)
    assert model and model.digest == load_model(str(model_dir)).digest
    assert starting_model(TrainConfig(manifest="data", model="new")) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"segmenter": (8, 8, 8, 8)}, "segmenter=8,8,8,8 is not that of the model to start from, 4,8,8,8: leave it"),
        ({"preset": "published"}, "channels=32,64,128,256 is not that of the model"),
    ],
)
def test_another_kind_of_network_is_refused(model_dir: Path, given: dict[str, object], message: str) -> None:
    config = settings_of("train", {"manifest": "data", "model": "new", "from_": str(model_dir)} | given)
    with pytest.raises(ConfigError, match=message):
        starting_model(config)  # type: ignore[arg-type]


def test_hard_tiles_need_a_model_and_a_model_that_exists() -> None:
    with pytest.raises(ConfigError, match=r"hard=8 needs a model .* --from builtin"):
        TrainConfig(manifest="data", model="new", hard=8)
    with pytest.raises(ModelError, match="nowhere is no model directory"):
        with_start({"from_": "nowhere"})


@pytest.mark.parametrize("name", ["from_", "resume"])
def test_what_is_no_path_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=5 must be text"):
        settings_of("train", {"manifest": "data", "model": "new", name: 5})


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_training_starts_from_the_weights_of_the_model_and_says_so(
    manifest: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[int]] = []
    repeats = starting.repeats

    def recorded(*arguments: object, **options: object) -> list[int]:
        found.append(repeats(*arguments, **options))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr("crackvae.training.driver.repeats", recorded)
    start, kept = load_model(str(model_dir)), tmp_path / "kept"
    # Steps of no size.
    crackvae.train(manifest=manifest, model=kept, from_=model_dir, hard=3, **PLAIN | {"learning_rate": 1e-30})
    for name, weights in load_model(str(kept)).network.state_dict().items():
        torch.testing.assert_close(weights, start.network.state_dict()[name], rtol=0, atol=1e-20)
    training = json.loads((kept / "training.json").read_text())
    assert training["from"] == start.digest and training["settings"]["hard"] == 3
    (numbers,) = found
    assert numbers and all(numbers.count(number) == 2 for number in numbers)
    monkeypatch.setattr(tile_loader, "IN_MEMORY_SHARE", 1e-9)
    with pytest.raises(ManifestError, match=r"MB for them, which --hard needs: .*leave out --hard"):
        crackvae.train(manifest=manifest, model=tmp_path / "large", from_=model_dir, hard=3, **PLAIN)


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_training_is_resumed_from_the_same_model_alone(manifest: Path, tmp_path: Path) -> None:
    start, folder = write_model(tmp_path / "start", small_spec()), tmp_path / "new.training"
    (folder / "epoch-00002.pth").mkdir(parents=True)  # no file can take the place of a folder
    with pytest.raises(StorageError, match="Epoch 1 is kept"):
        crackvae.train(manifest=manifest, model=tmp_path / "new", from_=start, **PLAIN | {"epochs": 2})
    (folder / "epoch-00002.pth").rmdir()
    shutil.rmtree(start)
    write_model(start, small_spec(seed=5))
    with pytest.raises(ConfigError, match=r"after epoch 1 .another model to start from.: go on with --resume"):
        run("train", settings_of("train", {"resume": folder}))


@pytest.mark.usefixtures("train_in_process")
def test_tiles_are_scored_in_parts_as_at_once(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = load_model(str(model_dir)), np.random.default_rng(4)
    tiles_TPP = rng.integers(0, 255, (200, 32, 32)).astype(np.uint8)
    monkeypatch.setattr(starting, "TASK_TILES", 60)
    numbers = starting.repeats(model, 4, tiles_TPP, len(tiles_TPP), quiet=True)
    expected = hardest(*score_tiles(model, tiles_TPP, 64, extra_heads=(TEXTURE,)).T)
    assert numbers == np.repeat(expected, 3).tolist()
