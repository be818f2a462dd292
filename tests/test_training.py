"""Training: seeded, the same for any number of workers, whole or not at all."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from crackvae import tables
from crackvae.config import EvaluateConfig, TrainConfig
from crackvae.damage import draw
from crackvae.errors import ClusterError, ManifestError, ModelError, OutputExists
from crackvae.evaluation import evaluate
from crackvae.learning import Learning, Place, train_epochs
from crackvae.manifest import listing_of, load_manifest
from crackvae.model import Network, load_model
from crackvae.scoring import decode_images, load_scorer
from crackvae.training import train

HOW = Learning(epochs=2, batch=16, learning_rate=1e-3, schedule=True, beta=1e-6, precision="fp32", seed=0)


def losses(epochs: list[dict[str, float]]) -> list[float]:
    return [epoch[name] for epoch in epochs for name in ("train_loss", "val_loss", "train_kl", "val_segmentation")]


def config(manifest: Path, model: Path, **changes: object) -> TrainConfig:
    values = {"manifest": str(manifest), "model": str(model), "batch": 16, "epochs": 2, "tile_px": 64, "stride_px": 48}
    values |= {"precision": "fp32", "learning_rate": 1e-3}
    return TrainConfig(**values | SMALL | {"quiet": True} | changes)


@pytest.mark.usefixtures("ray_session", "in_process")
def test_two_workers_take_the_steps_of_one_and_leave_a_whole_model(manifest: Path, tmp_path: Path) -> None:
    outcome = train(config(manifest, tmp_path / "model", workers=2))
    spec = load_model(str(tmp_path / "model")).spec
    tables = [listing_of(load_manifest(str(manifest)).images(split, "non_crack")) for split in ("train", "val")]
    decoded = [itertools.chain.from_iterable(t["tiles"].to_pylist() for t in decode_images(x, spec)) for x in tables]
    tiles, val = (np.frombuffer(bytearray(b"".join(part)), np.uint8).reshape(-1, 32, 32) for part in decoded)
    how = replace(HOW, drawings=draw(0, 32, len(tiles)))
    torch.manual_seed(0)
    one = [epoch.row() for epoch in train_epochs(Network(spec), tiles, val, how, Place(), lambda tiles: None)]
    written = json.loads((tmp_path / "model" / "training.json").read_text())
    two = written["epochs"]
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert outcome.summary["best_epoch"] == min(two, key=lambda epoch: epoch["val_loss"])["epoch"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "calibration.json", "model.json", "reference.json", "training.json", "vae_concrete.pth",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "the checkpoints are gone"
    calibrated_like_the_pipeline(manifest, tmp_path)


def calibrated_like_the_pipeline(manifest: Path, tmp_path: Path) -> None:
    """The scores kept at the end of training are those that scoring gives the same images."""
    evaluate(
        EvaluateConfig(
            manifest=str(manifest),
            model=str(tmp_path / "model"),
            out=str(tmp_path / "val"),
            split="val",
            resamples=100,
            quiet=True,
        )
    )
    rows = tables.read_table(
        str(tmp_path / "val" / "evaluation.parquet"), tables.SCORES_SCHEMA.append(tables.MANIFEST_SCHEMA.field(1))
    ).to_pandas()
    internal = rows.iloc[: len(rows) - 40]  # the external set comes last
    sound = np.sort(internal[internal["label"] == "non_crack"]["score"].to_numpy())
    kept = load_scorer(str(tmp_path / "model")).calibration
    assert kept.scores_N == pytest.approx(sound, rel=1e-5)  # the driver has more threads than an actor
    assert kept.threshold == np.float32(np.percentile(kept.scores_N, 95))


def test_an_existing_model_is_never_overwritten(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputExists, match="choose another --model"):
        train(config(manifest, tmp_path / "model"))


@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_trained_is_refused_before_the_first_epoch(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--workers 99 needs as many CPUs, and the cluster has 2: give --workers 2"):
        train(config(manifest, tmp_path / "a", workers=99))
    with pytest.raises(ClusterError, match="--workers 2 needs as many GPUs, and the cluster has 1"):
        train(config(manifest, tmp_path / "b", gpu=True, workers=2))
    with pytest.raises(ManifestError, match="fewer than --batch 100000"):
        train(config(manifest, tmp_path / "c", batch=100_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ray_session")
def test_a_missing_image_is_named_and_nothing_is_left_behind(manifest: Path, tmp_path: Path) -> None:
    table = load_manifest(str(manifest)).table
    images = table["image"].to_pylist()
    gone = table["split"].to_pylist().index("train")
    images[gone] = str(tmp_path / "gone.jpg")
    tables.write_table(str(tmp_path / "m.parquet"), table.set_column(0, "image", [images]))
    with pytest.raises(ManifestError, match=r"1 of \d+ images of train cannot be read, the first .*gone.jpg"):
        train(config(tmp_path / "m.parquet", tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


@pytest.mark.usefixtures("ray_session")
def test_a_diverging_loss_on_a_worker_is_the_same_plain_error(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lower --learning-rate"):
        train(config(manifest, tmp_path / "model", learning_rate=1e20))
    assert not list(tmp_path.iterdir())
