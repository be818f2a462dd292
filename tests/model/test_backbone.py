"""The pretrained backbone: its weights, what the segmenter sees of it, and that every runtime does the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_spec, write_model

from crackvae.cli.info import info
from crackvae.config import ExportConfig, InfoConfig, TrainConfig
from crackvae.errors import ConfigError
from crackvae.model.artifact import Model, assembled, load_model, model_digest
from crackvae.model.backbone import Backbone
from crackvae.model.export import export
from crackvae.model.inference import explain_tiles, score_tiles
from crackvae.model.network import to_input
from crackvae.model.runtime import runtime_of
from crackvae.model.screen import drawn_tiles
from crackvae.training.learn.last_layer import cells_of
from crackvae.training.loop import training_steps
from crackvae.training.starting import NETWORK
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker, new_network
from crackvae.training.synthetic_cracks.drawings import draw

pytestmark = pytest.mark.usefixtures("one_thread")

TILES = drawn_tiles(256, 6)
SPEC = small_spec(input_px=256, segmenter=(4, 8, 8, 8), backbone="imagenet")
SETTINGS = TrainSettings(1, 4, 1e-2, schedule=False, beta=0.0, precision="fp32", seed=0, drawings=draw(0, 64, 8))


@pytest.fixture(scope="module")
def model() -> Model:
    """Random weights beside the pretrained backbone; cracks are likelier than in a new network, so that scores vary."""
    network = new_network(SPEC, 0, None)
    assert network.segmenter
    with torch.no_grad():
        network.segmenter.logits.weight *= 20
    return assembled(SPEC, network.state_dict())


@torch.no_grad()
def test_its_maps_are_of_the_pretrained_weights_and_do_not_depend_on_the_brightness_of_a_tile() -> None:
    backbone, tiles = Backbone(), to_input(torch.from_numpy(TILES))[:, :, ::2, ::2]
    random = backbone(tiles)
    backbone.load_pretrained()
    found = backbone(tiles)
    assert [maps.shape[1:] for maps in found] == [(24, 32, 32), (40, 16, 16), (112, 8, 8), (320, 4, 4)]
    assert all(
        maps.isfinite().all() and maps.std() > 10 * other.std() for maps, other in zip(found, random, strict=True)
    )
    assert all(
        torch.allclose(a, b, atol=1e-3)
        for a, b in zip(backbone(tiles * 0.5 + 0.25), backbone(tiles * 0.5), strict=True)
    )


@torch.no_grad()
def test_a_score_does_not_depend_on_the_other_tiles_of_the_pass(model: Model) -> None:
    together = model.network(to_input(torch.from_numpy(TILES))).crack_B1PP
    alone = [model.network(to_input(torch.from_numpy(TILES[n : n + 1]))).crack_B1PP for n in range(len(TILES))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-3)


def test_every_runtime_scores_alike(model: Model, tmp_path: Path) -> None:
    wanted = score_tiles(model, TILES, 2)[:, 0]
    assert wanted.std() > 0.01
    assert np.allclose(score_tiles(model, TILES, 2, runtime=runtime_of(model, "onnx", 2))[:, 0], wanted, rtol=1e-3)
    assert np.allclose(score_tiles(model, TILES, 2, runtime=runtime_of(model, "bf16", 2))[:, 0], wanted, rtol=0.15)
    assert np.allclose(explain_tiles(model, TILES)[2], wanted, rtol=1e-3)
    without = replace(SPEC, backbone="none")
    weights = {name: values for name, values in model.network.state_dict().items() if ".context." not in name}
    assert not np.allclose(score_tiles(assembled(without, weights), TILES, 2)[:, 0], wanted, rtol=0.01)


@torch.no_grad()
def test_mirror_images_are_seen_by_it_too(model: Model) -> None:
    looks = assembled(replace(SPEC, mirrors=4), model.network.state_dict())
    tiles = to_input(torch.from_numpy(TILES))
    straight, mirrored = looks.network(tiles).crack_B1PP, looks.network(tiles.flip(3)).crack_B1PP
    # The ConvVAE sees one of them alone, and bits differ.
    assert (mirrored.flip(3) - straight).abs().median() < 0.1 * straight.std()
    assert cells_of(looks, TILES).n_pixels > 0


def test_training_changes_what_the_segmenter_makes_of_it_and_not_the_backbone() -> None:
    network = new_network(small_spec(input_px=64, backbone="imagenet"), 0, None)
    pretrained = Backbone()
    pretrained.load_pretrained()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    tiles = TrainingTiles.in_memory(TILES[:, :64, :64].repeat(2, 0))
    assert len(list(training_steps(State.new(network, SETTINGS), tiles, SETTINGS, Worker(), 1))) == 3
    changed = {name for name, values in network.state_dict().items() if not torch.equal(values, before[name])}
    assert not any("segmenter.context.backbone" in name for name in changed)
    assert {f"segmenter.context.projections.{n}.weight" for n in range(4)} <= changed
    assert network.segmenter and network.segmenter.context
    for name, values in network.segmenter.context.backbone.state_dict().items():
        assert torch.equal(values, pretrained.state_dict()[name])


def test_weights_that_a_training_starts_from_replace_the_pretrained_ones() -> None:
    spec = small_spec(input_px=64, backbone="imagenet")
    initial = {name: values + 1 for name, values in new_network(spec, 0, None).state_dict().items()}
    assert all(
        torch.equal(values, initial[name]) for name, values in new_network(spec, 1, initial).state_dict().items()
    )
    assert "backbone" in NETWORK


def test_models_without_one_keep_their_digest_and_export_and_info_know_it(tmp_path: Path) -> None:
    plain, other = small_spec(), small_spec(input_px=64, backbone="imagenet")
    assert "backbone" not in plain.as_json() and other.as_json()["backbone"] == "imagenet"
    assert model_digest(plain, {}) != model_digest(other, {})
    folder = write_model(tmp_path / "model", other)
    assert load_model(str(folder)).spec == other
    assert info(InfoConfig(path=str(folder))).summary["backbone"] == "imagenet"
    assert "backbone" not in info(InfoConfig(path=str(write_model(tmp_path / "plain", plain)))).summary
    assert export(ExportConfig(model=str(folder), out=str(tmp_path / "model.onnx"))).summary["flags_that_differ"] == 0


def test_it_needs_a_segmenter() -> None:
    with pytest.raises(ConfigError, match="backbone=imagenet is for the segmenter"):
        TrainConfig(manifest="m", model="m", backbone="imagenet", segmenter=(), head="mse")
    with pytest.raises(ConfigError, match="backbone=vgg"):
        TrainConfig(manifest="m", model="m", backbone="vgg")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="input_px=96 must be a positive multiple of 64"):
        TrainConfig(manifest="m", model="m", backbone="imagenet", input_px=96)
