"""Fitting a model to the unlabelled photographs of a site."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_spec
from PIL import Image

from crackvae.config import AdaptConfig, ScoreConfig
from crackvae.errors import CalibrationError, ConfigError, OutputExists, StorageError
from crackvae.images.synthetic import draw_image
from crackvae.model.artifact import Model, load_model
from crackvae.model.inference import load_scorer
from crackvae.model.network import Network
from crackvae.scoring.verb import score
from crackvae.training.adapt import Site, _settings, _ways_on, adapt, site
from crackvae.training.adapt.choosing import Choice, choose, compared
from crackvae.training.adapt.site import read_site, sides_of, some_images
from crackvae.training.adapt.threshold import SoundTail, ThresholdRule
from crackvae.training.checkpoints import Checkpoints
from crackvae.training.loop import Diverged, _diverged
from crackvae.training.run import resume_advice

PHOTOGRAPHS, TILES, CRACKED = 12, 60, 6


@pytest.fixture(scope="module")
def photographs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unsorted: 12 photographs of 16 tiles each, 60 tiles, 6 of them cracked, a copy, and a file that is no image."""
    folder = tmp_path_factory.mktemp("site") / "march"
    folder.mkdir()
    for number in range(PHOTOGRAPHS):
        surface, _ = draw_image(7, number, False, 200)
        Image.fromarray(surface).save(folder / f"photograph-{number}.png")
    sound, cracked = (sorted((drawn / label).iterdir()) for label in ("non_crack", "crack"))
    for path in (*sound[: TILES - CRACKED], *cracked[:CRACKED]):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    Image.open(folder / "photograph-0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
    (folder / "broken.jpg").write_text("not an image")
    return folder


def config(photographs: Path, model_dir: Path, out: Path, **changes: object) -> AdaptConfig:
    values = {"images": str(photographs), "model": str(out), "from_": str(model_dir), "max_false_alarm": 0.05}
    return AdaptConfig(**values | {"epochs": 2, "quiet": True} | changes)


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process", "in_process")
def test_quick_keeps_the_weights_and_sets_a_threshold_that_scoring_uses(
    photographs: Path, model_dir: Path, tmp_path: Path
) -> None:
    result = adapt(config(photographs, model_dir, tmp_path / "site", quick=True))
    summary, scorer = result.summary, load_scorer(str(tmp_path / "site"))
    assert scorer.model.digest == load_model(str(model_dir)).digest == summary["digest"]
    assert summary["images"] == PHOTOGRAPHS + TILES and (summary["duplicates"], summary["unreadable"]) == (1, 1)
    assert summary["tiles"] == {"train": 0, "val": 0, "calibration": 16 * PHOTOGRAPHS + TILES}
    assert scorer.calibration.threshold == summary["threshold"] and scorer.calibration.groups == PHOTOGRAPHS + TILES
    assert summary["false_alarms"]["low"] <= 0.05 <= summary["false_alarms"]["high"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]
    done = score(ScoreConfig(images=(str(photographs),), model=str(tmp_path / "site"), out=str(tmp_path / "scores")))
    assert done.summary["scored"] == PHOTOGRAPHS + TILES + 1


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_fine_tuning_starts_from_the_model_and_says_what_it_assumed(
    photographs: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Choice, "is_fine_tuned", True)
    result = adapt(config(photographs, model_dir, tmp_path / "site", quiet=False))
    base, new = load_model(str(model_dir)), load_model(str(tmp_path / "site"))
    assert new.digest != base.digest and new.spec == replace(base.spec, manifest=new.spec.manifest)
    distance = max(
        float((weights - new.network.state_dict()[name]).abs().max())
        for name, weights in base.network.state_dict().items()
    )
    assert 0 < distance < 0.1, "the weights moved a little from those of the starting model"
    written = json.loads((tmp_path / "site" / "training.json").read_text())
    assert len(written["epochs"]) == 2 and written["from"] == base.digest and written["validation"]["tiles"] > 20
    printed = capsys.readouterr().err
    assert result.summary["meaning"] in printed and "at most 0.05 of the tiles show cracks" in printed
    assert "epoch 2/2" in printed and "score calibration" in printed and "Kept the fine-tuned model" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_starting_model_that_is_not_improved_is_kept_and_both_figures_are_recorded(
    photographs: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Choice, "is_fine_tuned", False)
    result = adapt(config(photographs, model_dir, tmp_path / "site", epochs=1, quiet=False))
    assert load_model(str(tmp_path / "site")).digest == load_model(str(model_dir)).digest == result.summary["digest"]
    choice = json.loads((tmp_path / "site" / "training.json").read_text())["choice"]
    assert choice["kept"] == "starting" and set(choice["recall_on_synthetic_cracks"]) == {"starting", "fine-tuned"}
    assert "Kept the starting model: on tiles of this site that neither was trained on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_nothing_is_trained_where_too_few_photographs_would_compare_the_models(
    photographs: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "six").mkdir()
    for path in sorted(photographs.glob("photograph-*"))[:6]:
        shutil.copy(path, tmp_path / "six")
    summary = adapt(config(tmp_path / "six", model_dir, tmp_path / "site", quiet=False)).summary
    assert summary["quick"] and summary["choice"] is None
    assert summary["tiles"] == {"train": 0, "val": 0, "calibration": 6 * 16}, "all of them set the threshold"
    assert summary["digest"] == load_model(str(model_dir)).digest
    assert "comparing it with a fine-tuned one takes 5 groups of images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_an_interrupted_run_resumes_with_the_same_command_to_the_same_weights(
    photographs: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choice, "is_fine_tuned", True)
    settings, folder = config(photographs, model_dir, tmp_path / "site"), tmp_path / "site.training"
    (folder / "epoch-00002.pth").mkdir(parents=True)  # no file can take the place of a folder
    with pytest.raises(StorageError, match=r"epoch-00002.* Epoch 1 is kept: run the same command again to resume"):
        adapt(settings)
    assert Checkpoints(str(folder)).epochs() == [1] and not (tmp_path / "site").exists()
    (folder / "epoch-00002.pth").rmdir()
    with pytest.raises(ConfigError, match=r"interrupted in .* \(--seed 0, now 1\): give the same settings and images"):
        adapt(replace(settings, seed=1))
    assert adapt(settings).summary["resumed_after_epoch"] == 1 and not folder.exists()
    adapt(replace(settings, model=str(tmp_path / "whole")))
    digests = [load_model(str(tmp_path / name)).digest for name in ("site", "whole")]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_run_that_diverges_is_told_of_flags_that_the_verb_has(
    photographs: Path, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match=r"lower --learning-rate \(now 1e\+20\)\.$"):
        adapt(config(photographs, model_dir, tmp_path / "site", learning_rate=1e20))


def test_a_run_that_has_diverged_is_deleted_before_it_is_begun_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(small_spec(), 100, config(tmp_path, tmp_path, tmp_path / "site"))
    monkeypatch.setattr(Checkpoints, "epochs", lambda _: [1])
    said = r"lower --learning-rate \(now 0.001\)\. Epoch 1 is kept: delete .*site\.training first, because a run"
    ways_on = _ways_on(str(tmp_path / "site.training"))
    with pytest.raises(Diverged, match=said), resume_advice(Checkpoints(str(tmp_path)), *ways_on):
        raise _diverged("the loss is nan after epoch 2", settings)
    with pytest.raises(StorageError, match="run the same"), resume_advice(Checkpoints(str(tmp_path)), *ways_on):
        raise StorageError("the disk is full.")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_two_workers_adapt_a_model(photographs: Path, model_dir: Path, tmp_path: Path) -> None:
    result = adapt(config(photographs, model_dir, tmp_path / "site", workers=(2,), epochs=1))
    assert load_model(str(tmp_path / "site")).digest == result.summary["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_model_that_finds_more_drawn_cracks_is_chosen_and_of_equal_ones_the_starting_model() -> None:
    tiles = np.random.default_rng(0).normal(150, 5, (120, 32, 32)).clip(0, 255).astype(np.uint8)
    groups, rule = np.arange(120) // 10, ThresholdRule(SoundTail(1.0, 0.6), max_false_alarm=0.05, max_cracked=0.05)
    sees_dark, sees_nothing = blind_model(darkness_weight=3.0), blind_model(darkness_weight=0.0)
    found = choose(sees_nothing, sees_dark, tiles, groups, rule, quiet=True)
    assert found.is_fine_tuned and found.fine_tuned > 0.3 and found.starting == 0.0 and found.better == 1.0
    assert found.meaning.startswith("Kept the fine-tuned model") and "0.05 of the sound tiles flagged" in found.meaning
    assert not choose(sees_dark, sees_nothing, tiles, groups, rule, quiet=True).is_fine_tuned
    assert choose(sees_dark, sees_dark, tiles, groups, rule, quiet=True).summary()["kept"] == "starting"


def test_a_gain_on_one_photograph_of_six_does_not_choose_the_fine_tuned_model() -> None:
    groups, number = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
    sound = np.linspace(0, 1, 120)
    starting, fine_tuned = (np.where(found, 2.0, 0.0) for found in ((groups > 0) & (number == 0), groups == 0))
    scores = [np.concatenate([sound, cracks]) for cracks in (starting, fine_tuned)]
    found = compared(scores, np.arange(240) >= 120, np.tile(groups, 2), rate=0.05)
    assert (found.starting, found.fine_tuned) == (5 / 120, 20 / 120) and 0.5 < found.better < 0.8
    assert not found.is_fine_tuned and "(95% are needed)" in found.meaning
    assert found.meaning.startswith("Kept the starting model")
    everywhere = [scores[0], np.concatenate([sound, np.where(number < 2, 2.0, 0.0)])]
    assert compared(everywhere, np.arange(240) >= 120, np.tile(groups, 2), rate=0.05).is_fine_tuned


@pytest.mark.parametrize("n_groups", [1, 2, 4, 5])
def test_fewer_than_five_photographs_keep_the_starting_model_and_it_is_said(n_groups: int) -> None:
    groups, sound = np.arange(100) % n_groups, np.linspace(0, 1, 100)
    scores = [np.concatenate([sound, np.full(100, cracks)]) for cracks in (0.0, 2.0)]
    found = compared(scores, np.arange(200) >= 100, np.tile(groups, 2), rate=0.05)
    assert (found.better, found.groups) == (1.0, n_groups) and found.is_fine_tuned == (n_groups >= 5)
    assert found.summary()["kept"] == ("fine-tuned" if n_groups >= 5 else "starting")
    needed = "Kept the starting model: comparing it with a fine-tuned one takes 5 groups of images"
    said = f"{needed}, and this site has {n_groups} for that" if n_groups < 5 else "Kept the fine-tuned model"
    assert found.meaning.startswith(said)


def blind_model(darkness_weight: float) -> Model:
    """A model whose segmenter says the same of every pixel."""
    spec = small_spec(darkness_weight=darkness_weight)
    network = Network(spec)
    assert network.segmenter is not None
    for weights in network.segmenter.parameters():
        torch.nn.init.zeros_(weights)
    return Model(spec, network.eval(), "")


@pytest.mark.parametrize(("quick", "needed"), [(True, 22), (False, 55)])
def test_ten_small_images_are_refused_with_the_number_needed(
    photographs: Path, model_dir: Path, tmp_path: Path, quick: bool, needed: int
) -> None:
    (tmp_path / "ten").mkdir()
    for path in sorted(photographs.glob("non_crack-*"))[:10]:
        shutil.copy(path, tmp_path / "ten")
    with pytest.raises(CalibrationError, match=rf"10 tiles from 10 groups .* at least {needed} tiles from 5 or more"):
        adapt(config(tmp_path / "ten", model_dir, tmp_path / "site", quick=quick))
    assert not (tmp_path / "site").exists()


def test_what_cannot_be_adapted_is_refused_before_any_image_is_read(
    photographs: Path, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputExists, match="--model"):
        adapt(config(photographs, model_dir, tmp_path / "empty"))
    with pytest.raises(CalibrationError, match="holds no images"):
        adapt(config(tmp_path / "empty", model_dir, tmp_path / "site"))


def test_photographs_of_a_group_are_used_on_one_side_and_the_sides_have_their_shares() -> None:
    groups, tiles = [f"bridge-{number % 40}" for number in range(400)], np.full(400, 5)
    sides = sides_of(groups, tiles, quick=False, salt="0")
    for group in set(groups):
        assert len({side for name, side in zip(groups, sides, strict=True) if name == group}) == 1
    shares = {side: (sides == side).mean() for side in ("calibration", "val", "train")}
    assert shares["calibration"] == pytest.approx(0.4, abs=0.05) and shares["val"] == pytest.approx(0.06, abs=0.03)
    assert not np.array_equal(sides, sides_of(groups, tiles, quick=False, salt="1"))
    assert set(sides_of(groups, tiles, quick=True, salt="0")) == {"calibration"}


def test_the_most_crack_like_tiles_are_not_counted_for_training() -> None:
    table = pa.table({"image": ["a", "b", "c"]})
    chosen = Site(table, sides_N=np.array(["train"] * 3), tiles_N=np.array([40, 40, 20]))
    assert chosen.training_tiles(0.05) == 95 and chosen.training_tiles(0.0) == 100


def test_images_are_chosen_at_random_up_to_a_number_of_tiles() -> None:
    tiles = np.array([10, 700, 10, 700, 10])
    some = some_images(tiles, 750, seed=0)
    assert tiles[some].sum() <= 750 and list(some) == sorted(some)
    assert len(some_images(tiles, 5, seed=0)) == 1
    assert list(some_images(tiles, 10_000, seed=0)) == [0, 1, 2, 3, 4]


def test_the_digest_of_a_site_depends_on_the_bytes_and_groups_of_its_images(photographs: Path) -> None:
    one = read_site(str(photographs), "none", small_spec(), quiet=True)
    other = read_site(str(photographs), "parent", small_spec(), quiet=True)
    assert one.digest != other.digest
    assert site.MIN_GROUPS > len(set(other.table["group"].to_pylist())) == 1
