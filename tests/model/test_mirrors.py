"""Mirror images of a tile: what they are averaged over, and that every runtime does the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_spec, write_model
from torch.nn import functional

from crackvae.cli.info import info
from crackvae.config import CalibrateConfig, ExportConfig, InfoConfig, TrainConfig
from crackvae.errors import ConfigError, ModelError
from crackvae.images.synthetic import write_images
from crackvae.model import builtin
from crackvae.model.artifact import assembled, load_model, model_digest
from crackvae.model.export import export
from crackvae.model.inference import explain_tiles, score_tiles
from crackvae.model.network import to_input
from crackvae.model.runtime import runtime_of
from crackvae.model.screen import drawn_tiles
from crackvae.model.segmenter import FOLD
from crackvae.scoring.calibrate import calibrate
from crackvae.training.learn.last_layer import cells_of

TILES = drawn_tiles(256, 6)


@pytest.fixture(scope="module")
def builtin_model():
    return load_model(builtin.FOLDER)


def with_mirrors(model, mirrors):
    return assembled(replace(model.spec, mirrors=mirrors), model.network.state_dict())


def test_one_image_is_the_network_of_before_and_has_its_digest(builtin_model):
    assert "mirrors" not in builtin_model.spec.as_json()
    assert with_mirrors(builtin_model, 1).digest == builtin_model.digest
    digests = {model_digest(replace(builtin_model.spec, mirrors=n), {}) for n in (1, 2, 3, 4)}
    assert len(digests) == 4


@torch.no_grad()
def test_the_answer_for_a_mirrored_tile_is_the_mirrored_answer(builtin_model):
    # Bits differ: what is summed first depends on the order of the images, and the ConvVAE sees one of them alone.
    network, tiles = with_mirrors(builtin_model, 4).network, to_input(torch.from_numpy(TILES))
    reconstruction = network.vae(functional.avg_pool2d(tiles, 4))[0]
    network.vae.forward = lambda squares, noise=None: (reconstruction.flip(flipped), *[torch.zeros(6, 128)] * 2)
    flipped = ()
    straight = network(tiles).crack_B1PP
    for flipped in ((2,), (3,), (2, 3)):
        mirrored = network(tiles.flip(flipped)).crack_B1PP
        assert torch.allclose(mirrored.flip(flipped), straight, atol=1e-3)
    alone = builtin_model.network(tiles).crack_B1PP
    assert not torch.allclose(alone, straight, atol=0.1)


@pytest.mark.parametrize("mirrors", [2, 4])
def test_every_runtime_scores_them_alike(builtin_model, mirrors):
    model = with_mirrors(builtin_model, mirrors)
    wanted = score_tiles(model, TILES, 2)[:, 0]
    assert np.allclose(score_tiles(model, TILES, 2, runtime=runtime_of(model, "onnx", 2))[:, 0], wanted, rtol=1e-4)
    rough = score_tiles(model, TILES, 2, runtime=runtime_of(model, "bf16", 2))[:, 0]
    assert np.allclose(rough, wanted, rtol=0.05, atol=0.05)
    assert np.allclose(explain_tiles(model, TILES)[2], wanted, rtol=1e-4)
    assert not np.allclose(score_tiles(builtin_model, TILES, 2)[:, 0], wanted, rtol=0.01)


def test_the_network_looks_once_while_it_is_trained(builtin_model):
    model = with_mirrors(builtin_model, 4)
    tiles, noise = to_input(torch.from_numpy(TILES[:2])), torch.zeros(2, model.spec.latent_dim)
    model.network.train()
    once = model.network(tiles, noise).crack_B1PP
    assert torch.allclose(once, builtin_model.network(tiles, noise).crack_B1PP, atol=1e-4)


@torch.no_grad()
def test_features_of_the_last_layer_are_averaged_over_them(builtin_model):
    model = with_mirrors(builtin_model, 4)
    network, cells = model.network, cells_of(model, TILES)
    layer = network.segmenter.logits
    # The mean over the pixels of a cell does not depend on how the cell is turned.
    expected = torch.einsum("tcl,c->tl", cells.features_TCL, layer.weight.mean(dim=(0, 2, 3))) + layer.bias.mean()
    logits = network(to_input(torch.from_numpy(TILES))).crack_B1PP
    found = functional.avg_pool2d(logits, FOLD).flatten(1)
    assert (found - expected).abs().median() < 0.1


def test_calibrate_makes_a_model_of_the_same_weights_that_looks_at_them(tmp_path: Path):
    write_images(tmp_path / "drawn", 25, 1, side_px=64)
    source = write_model(tmp_path / "model", small_spec())
    common = {"images": str(tmp_path / "drawn" / "non_crack"), "model": str(source)}
    result = calibrate(CalibrateConfig(**common, mirrors=4, out=str(tmp_path / "four"), percentile=90))
    made, before = load_model(str(tmp_path / "four")), load_model(str(source))
    assert made.spec == replace(before.spec, mirrors=4) and made.digest != before.digest
    assert result.summary["threshold"] > 0
    described = [info(InfoConfig(path=path)).summary for path in (str(tmp_path / "four"), str(source))]
    assert described[0]["mirrors"] == 4 and "mirrors" not in described[1]
    summary = export(ExportConfig(model=str(tmp_path / "four"), out=str(tmp_path / "four.onnx"))).summary
    assert summary["flags_that_differ"] == 0
    again = calibrate(CalibrateConfig(images=common["images"], model=str(tmp_path / "four"), percentile=90))
    assert again.summary["threshold"] == result.summary["threshold"]


def test_mirrors_need_the_head_evidence_and_a_new_directory(tmp_path: Path):
    with pytest.raises(ConfigError, match="--mirrors makes another model"):
        CalibrateConfig(images="sound", model="model", mirrors=2)
    with pytest.raises(ConfigError, match="mirrors=2 has no effect on head=mse"):
        TrainConfig(manifest="m", model="m", mirrors=2, head="mse")
    with pytest.raises(ConfigError, match="mirrors=5"):
        TrainConfig(manifest="m", model="m", mirrors=5)
    write_images(tmp_path / "drawn", 25, 1, side_px=64)
    plain = write_model(tmp_path / "model", small_spec(segmenter=(), head="mse", recipe="plain"))
    with pytest.raises(ModelError, match="--mirrors has no effect"):
        calibrate(CalibrateConfig(images=str(tmp_path), model=str(plain), mirrors=2, out=str(tmp_path / "out")))
