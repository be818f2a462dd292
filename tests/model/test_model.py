"""The ConvVAE, its loss, and the model directory."""

import json
import pickle
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import small_spec, write_model
from torch import Tensor, nn
from torch.nn import functional

from crackvae import config
from crackvae.config import TrainConfig, with_preset
from crackvae.errors import ModelError
from crackvae.model.artifact import FORMAT, MODEL_FILE, WEIGHTS_FILE, load_model, model_digest
from crackvae.model.heads import HEADS
from crackvae.model.network import HALF_SCALE_WEIGHT, ConvVAE, Network, reduced, squared_error, to_input, views
from crackvae.model.spec import ModelSpec
from crackvae.training.loop import kl_to_prior


def published_spec() -> ModelSpec:
    config = TrainConfig(**with_preset({"manifest": "m", "model": "m", "preset": "published"}))
    names = [one.name for one in fields(ModelSpec) if hasattr(config, one.name)]
    return ModelSpec(**{name: getattr(config, name) for name in names} | {"manifest": "", "leaky": False})


def test_the_preset_has_the_published_network() -> None:
    published = Network(published_spec())
    network = published.vae
    assert published.segmenter is None and published_spec().input_px == 128
    layers = [layer for layer in [*network.encoder, *network.decoder] if hasattr(layer, "kernel_size")]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [
        (1, 32), (32, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 32), (32, 1),
    ]  # fmt: skip
    assert all(layer.stride == (2, 2) for layer in layers)
    assert network.mu.out_features == network.logvar.out_features == 128


@pytest.mark.parametrize("input_px", [32, 96, 128, 256])
def test_a_reconstruction_has_the_size_of_its_tile_and_lies_in_0_to_1(input_px: int) -> None:
    network = ConvVAE(small_spec(input_px=input_px, segmenter=(), recipe="plain", head="mse"))
    reconstruction, mu, logvar = network(torch.rand(3, 1, input_px, input_px))
    assert reconstruction.shape == (3, 1, input_px, input_px)
    assert mu.shape == logvar.shape == (3, 4)
    assert reconstruction.min() > 0 and reconstruction.max() < 1


def test_without_noise_the_same_tile_has_the_same_reconstruction() -> None:
    network, tile = Network(small_spec()), torch.rand(1, 1, 32, 32)
    assert torch.equal(network(tile)[0], network(tile)[0])
    assert not torch.equal(network(tile)[0], network(tile, torch.ones(1, 4))[0])


def test_the_logits_are_the_mean_of_two_scales() -> None:
    network, tiles = Network(small_spec(input_px=64)), torch.rand(2, 1, 64, 64)
    seen = []
    network.segmenter = Recorder(seen)
    logits = network(tiles).crack_B1PP
    assert [shown.shape[-1] for shown in seen] == [64, 32]
    half = views(functional.avg_pool2d(tiles, 2), network(tiles).reconstruction_B1QQ)
    assert torch.equal(seen[1], half)
    # The recorder answers with the side of its input, in pixels.
    assert logits.shape == tiles.shape
    assert torch.allclose(logits, torch.tensor(64 * (1 - HALF_SCALE_WEIGHT) + 32 * HALF_SCALE_WEIGHT))


class Recorder(nn.Module):
    """In place of a segmenter without a backbone: keeps what it is shown."""

    context = None

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, views_BCPP: Tensor, context: None) -> Tensor:
        self.seen.append(views_BCPP)
        return torch.full_like(views_BCPP[:, :1], views_BCPP.shape[-1])


def test_sampling_moves_z_by_the_standard_deviation() -> None:
    network, tile = Network(small_spec()), torch.rand(1, 1, 32, 32)
    mu, logvar = network.vae.encode(reduced(tile, 8))
    expected = network.vae.decode(mu + 2 * (0.5 * logvar).exp())
    assert torch.allclose(network(tile, torch.full((1, 4), 2.0))[0], expected)


def test_a_plain_model_reconstructs_from_the_mean_of_what_samples_make_of_its_first_layer() -> None:
    vae = ConvVAE(small_spec(recipe="plain", segmenter=(), head="mse"))
    painted: list[torch.Tensor] = []
    vae.decoder.register_forward_pre_hook(lambda _module, inputs: painted.append(inputs[0].flatten()))
    mu, logvar = torch.randn(1, 4), torch.randn(1, 4)
    vae.average(mu, logvar)
    samples = mu + torch.randn(100_000, 4) * (0.5 * logvar).exp()
    expected = torch.stack([vae.expand(part).relu().mean(dim=0) for part in samples.split(10_000)]).mean(dim=0)
    assert torch.allclose(painted[0], expected, atol=0.02)


def test_where_the_posterior_is_narrow_a_plain_model_reconstructs_from_its_mean() -> None:
    vae, tile = ConvVAE(small_spec(recipe="plain", segmenter=(), head="mse")), torch.rand(1, 1, 32, 32)
    torch.nn.init.constant_(vae.logvar.bias, -20)
    reconstruction, mu, _ = vae(tile)
    assert torch.allclose(reconstruction, vae.decode(mu), atol=1e-4)


def test_squared_error_is_the_mean_over_the_pixels_of_each_tile() -> None:
    black, half = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    half[1, 0, :2] = 0.5
    assert squared_error(black, half).tolist() == [0.0, 0.125]


def test_kl_is_zero_for_the_prior_and_agrees_with_torch_elsewhere() -> None:
    assert kl_to_prior(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0
    mu, logvar = torch.randn(5, 3), torch.randn(5, 3)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_to_prior(mu, logvar), expected, atol=1e-5)


def test_the_input_is_black_0_and_white_1() -> None:
    tiles = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert to_input(tiles).flatten().tolist() == [0.0, 1.0]


def test_a_saved_model_comes_back_with_the_same_weights_and_digest(tmp_path: Path) -> None:
    spec = small_spec(seed=3)
    model = load_model(str(write_model(tmp_path / "model", spec)))
    torch.manual_seed(3)
    expected = Network(spec).state_dict()
    assert model.spec == spec and model.digest == model_digest(spec, expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.network.state_dict().items())


def test_whatever_changes_a_score_changes_the_digest() -> None:
    weights = Network(small_spec()).state_dict()
    digests = {model_digest(small_spec(**change), weights) for change in ({}, {"head": "mse"}, {"tile_px": 65})}
    weights["vae.mu.bias"] = weights["vae.mu.bias"] + 1
    assert len(digests | {model_digest(small_spec(), weights)}) == 4


def change_json(model: Path, **changes: object) -> None:
    file = model / MODEL_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("payload-ran"),)


def test_a_broken_model_directory_is_refused_in_one_line_with_the_fix(tmp_path: Path) -> None:
    breaks = {
        "no model directory": lambda model: (model / WEIGHTS_FILE).unlink(),
        "format 99": lambda model: change_json(model, format=99),
        "was altered": lambda model: change_json(model, head="mse"),
        "is damaged: ": lambda model: change_json(model, channels=[4, 16]),
        "is damaged": lambda model: (model / WEIGHTS_FILE).write_bytes(b"\0" * 100),
        "json is damaged": lambda model: (model / MODEL_FILE).write_text("{"),
        "damaged: input_px: Field required": lambda model: (model / MODEL_FILE).write_text(f'{{"format": {FORMAT}}}'),
    }
    for number, (message, damage) in enumerate(breaks.items()):
        model = write_model(tmp_path / str(number), small_spec())
        damage(model)
        with pytest.raises(ModelError, match=message) as error:
            load_model(str(model))
        assert "\n" not in str(error.value) and "rain" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"recipe": "other"}, {"head": "other"}, {"tile_px": 0}, {"channels": [4, "x"]}, {"manifest": None}],
    ids=str,
)
def test_a_value_that_no_model_has_is_named(changes: dict[str, object], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec())
    change_json(model, **changes)
    with pytest.raises(ModelError, match=f"is damaged: {next(iter(changes))}"):
        load_model(str(model))


def test_each_head_of_the_settings_is_defined() -> None:
    assert tuple(HEADS) == config.HEADS


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec())
    weights = torch.load(model / WEIGHTS_FILE, weights_only=True)
    weights["vae.mu.bias"][0] += 1e-3
    torch.save(weights, model / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="was altered"):
        load_model(str(model))


def test_a_pickle_in_the_place_of_weights_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "model", small_spec())
    (model / WEIGHTS_FILE).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match="weights are not only numbers"):
        load_model(str(model))
    assert not Path("payload-ran").exists()


def test_a_missing_model_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_model(str(tmp_path / "nowhere"))
