"""Training: seeded, the same for any number of workers and deaths, whole or not at all."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.fs as pafs
import pytest
import torch
from conftest import HOUSE, SMALL, SOON_DEAD, small_spec
from PIL import Image
from ray.cluster_utils import Cluster

import crackvae
from crackvae.cli import main
from crackvae.config import EvaluateConfig, PartitionConfig, TrainConfig
from crackvae.errors import (
    ClusterError,
    ConfigError,
    FolderInUse,
    ManifestError,
    ModelError,
    OutputExists,
    StorageError,
)
from crackvae.evaluation import evaluate
from crackvae.images.decoded import decode_images, surface_counts
from crackvae.images.manifest import listing_of, load_manifest, partition
from crackvae.images.synthetic import draw_image
from crackvae.model.artifact import load_model
from crackvae.model.inference import load_scorer
from crackvae.model.network import Network
from crackvae.storage import fileio, tables
from crackvae.storage.lock import locked
from crackvae.training import driver, tile_loader
from crackvae.training.checkpoints import Checkpoints, require_unfinished, run_folder, with_run
from crackvae.training.driver import train
from crackvae.training.fit import is_completed
from crackvae.training.loop import train_epochs
from crackvae.training.run import resume_advice
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker
from crackvae.training.synthetic_cracks.drawings import draw

SETTINGS = TrainSettings(
    epochs=4, batch=16, learning_rate=1e-3, schedule=True, beta=1e-6, precision="fp32", seed=0, clip_norm=1.0
)
MODEL_FILES = ["calibration.json", "loss.png", "model.json", "reference.json", "training.json", "vae_concrete.pth"]


def losses(epochs: list[dict[str, float]]) -> list[float]:
    return [epoch[name] for epoch in epochs for name in ("train_loss", "val_loss", "train_kl", "val_segmentation")]


def config(manifest: Path, model: Path, **changes: object) -> TrainConfig:
    values = {"manifest": str(manifest), "model": str(model), "batch": 16, "epochs": 2, "tile_px": 64, "stride_px": 48}
    values |= {"precision": "fp32", "learning_rate": 1e-3}
    return TrainConfig(**values | SMALL | {"quiet": True} | changes)


def written_by(model: Path) -> dict[str, object]:
    return json.loads((model / "training.json").read_text())  # type: ignore[no-any-return]


def kill_when(ready: Callable[[], bool], killed: list[int]) -> None:
    """SIGKILL one worker process of Ray Train as soon as `ready` says so."""
    while not ready():
        time.sleep(0.005)
    children = psutil.Process().children(recursive=True)
    worker = next(child for child in children if child.name().startswith("ray::RayTrainW"))
    killed.append(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.usefixtures("ray_session", "in_process")
def test_two_workers_of_which_one_is_killed_take_the_same_steps_as_one_worker(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    checkpoints, killed, done = Checkpoints(str(tmp_path / "model.training")), list[int](), list[list[int]]()

    def in_epoch_two() -> bool:
        return bool(checkpoints.epochs()) and not done.append(checkpoints.epochs())

    killer = threading.Thread(target=kill_when, args=(in_epoch_two, killed), daemon=True)
    killer.start()
    outcome = train(config(manifest, tmp_path / "model", workers=(2,), epochs=4))
    killer.join()
    assert killed and done == [[1]]
    spec = load_model(str(tmp_path / "model")).spec
    tables = [listing_of(load_manifest(str(manifest)).images(split, "non_crack")) for split in ("train", "val")]
    decoded = [itertools.chain.from_iterable(t["tiles"].to_pylist() for t in decode_images(x, spec)) for x in tables]
    tiles, val = (np.frombuffer(bytearray(b"".join(part)), np.uint8).reshape(-1, 32, 32) for part in decoded)
    settings = replace(SETTINGS, drawings=draw(0, 32, len(tiles)))
    torch.manual_seed(0)
    state = State.new(Network(spec), settings)
    in_memory = TrainingTiles.in_memory(tiles)
    one = [epoch.row() for epoch in train_epochs(state, in_memory, val, settings, Worker(), lambda tiles: None)]
    two = written_by(tmp_path / "model")["epochs"]
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert outcome.summary["best_epoch"] == min(two, key=lambda epoch: epoch["val_loss"])["epoch"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == MODEL_FILES
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "the checkpoints are gone"
    calibrated_like_the_pipeline(manifest, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_run_whose_checkpoint_cannot_be_written_keeps_the_earlier_ones_and_resumes_to_the_same_model(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, folder = config(manifest, tmp_path / "broken", epochs=3), tmp_path / "broken.training"
    (folder / "epoch-00002.pth").mkdir(parents=True)  # no file can take the place of a folder
    with pytest.raises(StorageError, match=r"epoch-00002.* Epoch 1 is kept: go on with crackvae train --resume .*ing"):
        train(broken)
    assert not (tmp_path / "broken").exists() and Checkpoints(str(folder)).epochs() == [1]
    (folder / "epoch-00002.pth").rmdir()
    for changed, message in (({"batch": 8}, "batch 16, now 8"), ({"seed": 1}, "seed 0, now 1")):
        with pytest.raises(ConfigError, match=f"interrupted in .* after epoch 1 .*{message}.*--resume .* or delete"):
            train(replace(broken, **changed))
    with pytest.raises(ConfigError, match="learning-rate"):
        train(replace(broken, learning_rate=1e-4))
    assert main(["train", "--resume", str(folder)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["resumed_after_epoch"] == 1 and not folder.exists()
    train(config(manifest, tmp_path / "whole", epochs=3))
    digests = [load_model(str(tmp_path / name)).digest for name in ("broken", "whole")]
    assert digests[0] == digests[1], "the weights differ in some bit"
    with pytest.raises(ConfigError, match=r"no interrupted run lies there .* A run that has finished leaves its model"):
        with_run({"resume": str(folder)})


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_a_diverging_run_says_how_to_fix_it_and_resumes_from_the_last_good_epoch(
    manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"the gradient is \w+ in epoch 1: lower --learning-rate"):
        train(config(manifest, tmp_path / "model", learning_rate=1e20))
    assert not list(tmp_path.iterdir()), "no epoch was good"
    folder = tmp_path / "model.training"
    (folder / "epoch-00002.pth").mkdir(parents=True)
    with pytest.raises(StorageError):
        train(config(manifest, tmp_path / "model"))
    (folder / "epoch-00002.pth").rmdir()
    train(TrainConfig(**with_run({"resume": str(folder), "learning_rate": 5e-4, "clip_norm": 0.5})))
    written = written_by(tmp_path / "model")
    assert written["changes"] == [{"after_epoch": 1, "learning_rate": 5e-4, "clip_norm": 0.5}]
    assert written["settings"]["learning_rate"] == 5e-4


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_tiles_that_do_not_fit_into_memory_are_streamed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tile_loader, "IN_MEMORY_SHARE", 3 * 50 * 32**2 / tile_loader._smallest_store_bytes())
    train(config(manifest, tmp_path / "model", quiet=False))
    printed = capsys.readouterr().err
    assert "decoded again in every epoch, 50 tiles at a time" in printed
    assert "epoch 2/2: loss " in printed and " images/s, 0:00 min left" in printed
    assert len(written_by(tmp_path / "model")["epochs"]) == 2
    with Image.open(tmp_path / "model" / "loss.png") as curve:
        assert curve.format == "PNG" and curve.width > 300


@pytest.mark.usefixtures("ray_session")
def test_windows_are_decoded_by_tasks_of_ray(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_manifest(str(manifest)).images("train", "non_crack")
    spec = small_spec()
    held = tile_loader.training_tiles(images, spec, 16, 0, quiet=True)()
    monkeypatch.setattr(tile_loader, "IN_MEMORY_SHARE", (3 * 50 * 32**2 + 1) / tile_loader._smallest_store_bytes())
    streamed = tile_loader.training_tiles(images, spec, 16, 0, quiet=True)()
    windows = list(streamed.windows(1))
    assert streamed.n == held.n == images.num_rows
    assert [len(window) for window in windows] == [50, 50, 50, held.n - 150]
    (whole,) = held.windows(1)
    assert sorted(tile.tobytes() for window in windows for tile in window) == sorted(tile.tobytes() for tile in whole)


def test_windows_hold_every_image_once_in_an_order_of_their_epoch() -> None:
    counts = np.array([1] * 40 + [30, 4, 4, 4])
    epochs = [tile_loader.windows_of(counts, 16, seed=0, epoch=epoch) for epoch in (1, 1, 2)]
    for windows in epochs:
        assert sorted(np.concatenate(windows)) == list(range(44))
        assert all(counts[window].sum() <= 16 or len(window) == 1 for window in windows)
    assert [list(window) for window in epochs[0]] == [list(window) for window in epochs[1]]
    assert list(np.concatenate(epochs[0])) != list(np.concatenate(epochs[2]))


def test_the_best_checkpoint_and_the_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(str(tmp_path / "run"))
    assert checkpoints.last() is None
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(epoch, best, b"%d" % epoch)
    assert checkpoints.epochs() == [2, 4] and checkpoints.last() == b"4"
    real = os.replace

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        checkpoints.save(5, 5, b"5")
    monkeypatch.setattr(os, "replace", real)
    assert (
        checkpoints.epochs() == [2, 4] and checkpoints.last() == b"4" and len(list((tmp_path / "run").iterdir())) == 2
    )


def test_an_empty_checkpoint_is_damaged_and_not_the_beginning_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "epoch-00002.pth").touch()
    checkpoints = Checkpoints(str(tmp_path))
    with (
        pytest.raises(ModelError, match=r"last checkpoint of the run is damaged.* to start again\.$"),
        resume_advice(checkpoints, "go on with --resume"),
    ):
        is_completed(checkpoints, SETTINGS, quiet=True)
    with pytest.raises(StorageError, match=r"Epoch 2 is kept: go on"), resume_advice(checkpoints, "go on"):
        raise StorageError("no space.")


def test_train_does_not_resume_the_run_of_another_verb(tmp_path: Path) -> None:
    record = {"format": 2, "settings": {"images": ["/site"], "quick": False, "seed": 0}, "spec": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"train does not have \(images, quick\): repeat the command that began it"):
        with_run({"resume": str(tmp_path)})


def test_a_run_of_a_version_with_other_defaults_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "settings": {"seed": 0}, "spec": {}}))
    with pytest.raises(ConfigError, match=r"run\.json is that of another version of crackvae: delete the folder"):
        with_run({"resume": str(tmp_path)})


def test_checkpoints_work_in_object_storage_as_on_a_disk(bucket: pafs.FileSystem) -> None:
    bucket.create_dir("bucket/models/site.training")
    folder = run_folder("s3://bucket/models/site?region=eu-central-1")
    assert folder == "s3://bucket/models/site.training?region=eu-central-1"
    checkpoints = Checkpoints("s3://bucket/models/site.training")
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, 1, b"%d" % epoch)
    assert checkpoints.epochs() == [1, 3] and checkpoints.read(1) == b"1"


def test_a_run_that_was_killed_while_its_model_was_written_to_object_storage_is_not_called_finished(
    bucket: pafs.FileSystem,
) -> None:
    bucket.create_dir("bucket/model")
    fileio.write_bytes("s3://bucket/model/calibration.json", b"{}")
    with pytest.raises(OutputExists, match=r"^s3://bucket/model exists already: delete it, or choose another --model"):
        require_unfinished("s3://bucket/model", "s3://bucket/model.training")
    fileio.write_bytes("s3://bucket/model/model.json", b"{}")
    with pytest.raises(OutputExists, match="has finished and written s3://bucket/model"):
        require_unfinished("s3://bucket/model", "s3://bucket/model.training")


def test_a_run_is_written_by_one_training_at_a_time(manifest: Path, tmp_path: Path) -> None:
    with (
        locked(str(tmp_path / "model.training"), "20260101T000000_000000", quiet=True),
        pytest.raises(FolderInUse, match=r"is being written by run 20260101T.* or choose another --model"),
    ):
        train(config(manifest, tmp_path / "model"))


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


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_sound_images_alone_are_enough_and_validation_names_its_cracks_synthetic(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "non_crack").symlink_to(drawn / "non_crack")
    partition(PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path / "data"), quiet=True))
    result = train(config(tmp_path / "data" / "manifest.parquet", tmp_path / "model"))
    validation = result.summary["validation"]
    assert validation["cracks"] == "synthetic" and validation["tiles"] == 24
    assert 0 <= validation["recall"] <= 1 and 0 <= validation["roc_auc"] <= 1
    assert written_by(tmp_path / "model")["validation"] == validation
    assert any("no real crack was used" in title for title in result.tables)


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_labelled_cracks_of_val_choose_the_weight_of_the_darkness_if_there_are_enough(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_val = load_manifest(str(manifest)).images("val", "crack").num_rows
    for enough, chose in ((in_val, in_val), (in_val + 1, 0)):
        monkeypatch.setattr(driver, "MIN_VAL_CRACKS", enough)
        assert train(config(manifest, tmp_path / str(enough), epochs=1)).summary["val_cracks"] == chose
    told = [crackvae.info(path=tmp_path / str(enough)).summary["darkness_weight"] for enough in (in_val, in_val + 1)]
    assert f"{in_val} labelled cracked images of val" in told[0] and told[1].endswith(", chosen on sound tiles of val")


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_photographs_larger_than_a_tile_are_cut_into_training_tiles(tmp_path: Path) -> None:
    (tmp_path / "images" / "non_crack").mkdir(parents=True)
    for number in range(40):
        surface, _ = draw_image(0, number, False, 200)
        Image.fromarray(surface).save(tmp_path / "images" / "non_crack" / f"{number}.png")
    images, data = str(tmp_path / "images"), str(tmp_path / "data")
    partition(PartitionConfig(images=images, out=data, non_crack_split=(40, 50, 10), quiet=True))
    train(config(tmp_path / "data" / "manifest.parquet", tmp_path / "model", epochs=1))
    written = written_by(tmp_path / "model")
    assert written["images"] == 16 and written["validation"]["tiles"] == 300 < 20 * 4 * 4


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_what_shows_no_surface_is_neither_trained_on_nor_calibrated_with(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "non_crack"
    folder.mkdir(parents=True)
    for number in range(60):
        surface, _ = draw_image(0, number, False, 200)
        surface[:, : 80 if number >= 10 else 200] = 0  # the left of it is black, and of some all
        Image.fromarray(surface).save(folder / f"{number}.png")
    settings = PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path / "data"), quiet=True)
    done = partition(replace(settings, non_crack_split=(40, 55, 5)))
    assert done.summary["images"] == 50 and done.summary["left_out"] == 10
    manifest = tmp_path / "data" / "manifest.parquet"
    images = load_manifest(str(manifest)).images("train", "non_crack")
    tiles, rows = tile_loader.decoded_tiles(images, "train", small_spec(), quiet=True)
    assert len(tiles) == surface_counts(rows).sum() < 16 * rows.num_rows
    assert (tiles.reshape(len(tiles), -1).mean(axis=1) > 20).all()
    train(config(manifest, tmp_path / "model", epochs=1))
    assert len(written_by(tmp_path / "model")["epochs"]) == 1


def test_an_existing_model_is_never_overwritten(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputExists, match="choose another --model"):
        train(config(manifest, tmp_path / "model"))


@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_trained_is_refused_before_the_first_epoch(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--workers 9 needs as many CPUs, and the cluster has 2: give --workers 2"):
        train(config(manifest, tmp_path / "a", workers=(9,)))
    with pytest.raises(ClusterError, match="--workers 3 needs as many CPUs"):
        train(config(manifest, tmp_path / "a", workers=(3, 4)))
    with pytest.raises(ClusterError, match="--workers 2 needs as many GPUs, and the cluster has 1"):
        train(config(manifest, tmp_path / "b", gpu=True, workers=(2,)))
    with pytest.raises(ManifestError, match="fewer than --batch 60000"):
        train(config(manifest, tmp_path / "c", batch=60_000))
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


def wait_for(line: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return when a line of the log holds a text; fail when the process ends before, or takes minutes."""
    deadline = time.monotonic() + 300
    while line not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, f"no {line!r} in:\n{log.read_text()}"
        time.sleep(0.1)


@pytest.mark.ray
def test_elastic_training_continues_when_a_node_leaves_and_when_it_returns_and_ends_with_ctrl_c(
    manifest: Path, tmp_path: Path
) -> None:
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    head = node | {"include_dashboard": False, "_system_config": SOON_DEAD}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    log = tmp_path / "log"
    settings = config(manifest, tmp_path / "model", workers=(1, 2), epochs=999, quiet=False)
    script = (
        "import signal\nfrom crackvae.training import driver, fit\nfrom crackvae.config import TrainConfig\n"
        "fit.RESIZE_INTERVAL_S = 1.0\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"driver.train({settings!r})"
    )
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(HOUSE)}
    # Ray still counts a node that has just left, and tries a minute long to start a worker there.
    environment |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    try:
        second = cluster.add_node(**node)
        with (
            log.open("wb") as stderr,
            subprocess.Popen([sys.executable, "-c", script], stderr=stderr, env=environment) as driver,
        ):
            try:
                wait_for("epoch 2/999", log, driver)
                cluster.remove_node(second, allow_graceful=False)
                wait_for("restarted with 1 worker(s), after epoch", log, driver)
                cluster.add_node(**node)
                wait_for("restarted with 2 worker(s), after epoch", log, driver)
                driver.send_signal(signal.SIGINT)
                assert driver.wait(60) != 0 and "KeyboardInterrupt" in log.read_text()
            finally:
                driver.kill()
    finally:
        cluster.shutdown()
    assert Checkpoints(str(tmp_path / "model.training")).epochs()[-1] >= 2 and not (tmp_path / "model").exists()
