"""[Ray Train] decode once, train data-parallel, keep the best epoch, calibrate, write the finished model directory.

Shape letters: N images, T tiles, P side of a tile at the input [px].
"""

import contextlib
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, prepare_model
from ray.util.queue import Empty, Queue
from torch import Tensor

from crackvae import calibration, histograms, storage
from crackvae.calibration import Calibration, percentile_threshold
from crackvae.config import Outcome, TrainConfig
from crackvae.damage import MAX_DRAWINGS, draw
from crackvae.errors import ClusterError, CrackvaeError, ManifestError
from crackvae.learning import VAL_BATCH, Epoch, Learning, Place, epochs_of, train_epochs
from crackvae.manifest import Manifest, listing_of, load_manifest
from crackvae.model import Model, ModelSpec, Network, model_digest, model_files
from crackvae.progress import progress, say
from crackvae.scoring import LATENT_NORM, decode_images, score_tiles
from crackvae.session import dataset_of, log_folder, ray_session, require_resources, tables_of

BEST_FILE = "best.pth"
DECODE_BLOCK_IMAGES = 256
# A worker tells how far it is at most this often [s].
TELL_S = 0.5


def _worker(config: dict[str, Any]) -> None:
    """What runs on each worker of Ray Train: train_epochs(), and a checkpoint of each epoch that is the best so far."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    place = Place(rank, context.get_world_size(), "cuda" if config["gpu"] else "cpu")
    torch.manual_seed(config["how"].seed)
    network = Network(config["spec"])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tell = _Teller(config["events"], rank)
    best = float("inf")
    with _no_warning_of_read_only_tiles():
        train_tiles, val_tiles, drawings = ray.get([config["train"], config["val"], config["drawings"]])
        how = replace(config["how"], drawings=drawings)
        for epoch in train_epochs(prepare_model(network), train_tiles, val_tiles, how, place, tell):
            checkpoint = None
            if rank == 0 and epoch.val.loss < best:
                best, folder = epoch.val.loss, tempfile.mkdtemp()
                torch.save(network.state_dict(), Path(folder, BEST_FILE))
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(epoch.row(), checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)
            if rank == 0:
                config["events"].put(epoch)


class _Teller:
    """Tells the driver how many tiles were trained on, from the first worker, not at every step."""

    def __init__(self, events: Queue, rank: int) -> None:
        self.events, self.rank, self.tiles, self.last = events, rank, 0, 0.0

    def __call__(self, tiles: int) -> None:
        self.tiles += tiles
        if self.rank == 0 and time.monotonic() - self.last > TELL_S:
            self.events.put(self.tiles)
            self.tiles, self.last = 0, time.monotonic()


@contextlib.contextmanager
def _no_warning_of_read_only_tiles() -> Iterator[None]:
    """The tiles lie in shared memory that no worker may write to, and none does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


# ---------------------------------------------------------------------------------------------------- driver


@storage.with_s3_endpoint
def train(config: TrainConfig) -> Outcome:
    """Train a ConvVAE on the sound images of a manifest and write its model directory, whole or not at all.

    Returns:
        Outcome with the table `epochs`.

    Raises:
        OutputExists, ManifestError, LeakError, ModelError, CalibrationError, ClusterError: with the mend.
    """
    started = time.perf_counter()
    model_dir = storage.absolute(config.model)
    storage.require_new(model_dir, "--model")
    storage.require_writable(str(PurePosixPath(model_dir).parent) if storage.is_local(model_dir) else model_dir)
    manifest = load_manifest(config.manifest)
    spec = _spec(config, manifest)
    val = manifest.images("val", "non_crack")
    calibration.require_enough(val.num_rows)
    with ray_session(config):
        require_resources(config.workers, gpu=config.gpu)
        train_tiles, _ = _decoded_tiles(manifest.images("train", "non_crack"), "train", spec, config)
        val_tiles, val_images = _decoded_tiles(val, "val", spec, config)
        weights, epochs = _fit(train_tiles, val_tiles, spec, config)
        trained_on = hardware(gpu=config.gpu)
    network = Network(spec)
    network.load_state_dict(weights)
    model = Model(spec, network.eval(), model_digest(spec, weights))
    calibrated, reference = _calibrated(model, val_tiles, val_images, config.percentile)
    summary = {
        "verb": "train",
        "model": model_dir,
        "images": len(train_tiles),
        **_results(model, calibrated, epochs),
        "seconds": round(time.perf_counter() - started, 1),
    }
    training = summary | {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(config),
        "hardware": trained_on,
        "epochs": [epoch.row() for epoch in epochs],
    }
    files = {
        histograms.REFERENCE_FILE: histograms.night_file(reference),
        calibration.FILE: calibration.calibration_file(calibrated),
        **model_files(spec, weights, training),
    }
    storage.write_folder(model_dir, files)
    return Outcome(summary, {"epochs": pd.DataFrame([epoch.row() for epoch in epochs]).set_index("epoch")})


def _calibrated(
    model: Model, val_tiles: np.ndarray, val_images: pa.Table, percentile: float
) -> tuple[Calibration, histograms.Night]:
    """The published rule on the sound images of val, and what drift compares with; `val_images` as decoded."""
    tile_scores, tile_norms = score_tiles(model, val_tiles, VAL_BATCH, others=(LATENT_NORM,)).T
    counts_N = val_images["rows"].to_numpy() * val_images["cols"].to_numpy()
    starts_N = np.cumsum(counts_N) - counts_N
    scores_N = np.maximum.reduceat(tile_scores, starts_N)
    calibrated = Calibration(
        scores_N=np.sort(scores_N),
        groups=len(set(val_images["group"].to_pylist())),
        level=f"{percentile:g}th percentile of {len(scores_N)} val non_crack scores",
        threshold=percentile_threshold(scores_N, percentile),
        model=model.digest,
        leaky=model.spec.leaky,
    )
    measured = {
        "score": scores_N,
        "latent_norm": np.add.reduceat(tile_norms, starts_N) / counts_N,
    }
    for name, values in measured.items():
        val_images = val_images.append_column(name, pa.array(values))
    return calibrated, histograms.reference_of(val_images, calibrated)


def _results(model: Model, calibrated: Calibration, epochs: list[Epoch]) -> dict[str, Any]:
    best = min(epochs, key=lambda epoch: epoch.val.loss)
    return {
        "digest": model.digest,
        "leaky": model.spec.leaky,
        "head": model.spec.head,
        "best_epoch": best.epoch,
        "val_loss": best.val.loss,
        "threshold": calibrated.threshold,
        "level": calibrated.level,
        "images_per_s": round(float(np.mean([epoch.images_per_s for epoch in epochs])), 1),
    }


def _spec(config: TrainConfig, manifest: Manifest) -> ModelSpec:
    values: dict[str, Any] = {"manifest": manifest.digest, "leaky": manifest.leaky}
    values |= {spec.name: getattr(config, spec.name) for spec in fields(ModelSpec) if spec.name not in values}
    return ModelSpec(**values)


def _decoded_tiles(images: pa.Table, split: str, spec: ModelSpec, config: TrainConfig) -> tuple[np.ndarray, pa.Table]:
    """All tiles of the images, decoded once on the cluster: uint8 (T, P, P); and the images as decoded, without tiles.

    Raises:
        ManifestError: no image, fewer tiles than a batch, or images that cannot be read (named).
    """
    if not images.num_rows:
        raise ManifestError(f"{config.manifest} has no non_crack image in {split}: partition again.")
    decode: Any = partial(decode_images, spec=spec, read=storage.image_reader())
    dataset = dataset_of(listing_of(images), DECODE_BLOCK_IMAGES).map_batches(
        decode, batch_size=None, batch_format="pyarrow"
    )
    tiles, rows, bad = [], [], []
    with progress(f"decode {split}", images.num_rows, "images", quiet=config.quiet) as bar:
        for decoded in tables_of(dataset):
            bad += decoded.filter(pc.field("status") != "scored").select(["image", "error"]).to_pylist()
            tiles.append(np.frombuffer(b"".join(decoded["tiles"].to_pylist()), np.uint8))
            rows.append(decoded.drop_columns(["tiles"]))
            bar.update(decoded.num_rows)
    if bad:
        raise ManifestError(
            f"{len(bad)} of {images.num_rows} images of {split} cannot be read, the first {bad[0]['image']}: "
            f"{bad[0]['error']}. Bring them back, or partition again."
        )
    tiles_TPP = np.concatenate(tiles).reshape(-1, spec.input_px, spec.input_px)
    if split == "train" and len(tiles_TPP) < config.batch:
        raise ManifestError(
            f"{len(tiles_TPP)} training images are fewer than --batch {config.batch}: give a smaller batch."
        )
    return tiles_TPP, pa.concat_tables(rows)


def _fit(
    train_tiles: np.ndarray, val_tiles: np.ndarray, spec: ModelSpec, config: TrainConfig
) -> tuple[dict[str, Tensor], list[Epoch]]:
    """Weights of the epoch with the lowest validation loss, and all epochs."""
    drawings = None
    if config.recipe == "repair":
        say("draw the cracks to learn from", quiet=config.quiet)
        drawings = draw(config.seed, config.input_px, min(MAX_DRAWINGS, len(train_tiles)))
    how = Learning(
        epochs=config.epochs or epochs_of(len(train_tiles)),
        batch=config.batch,
        learning_rate=config.learning_rate,
        schedule=config.schedule == "cosine",
        beta=config.beta,
        precision=config.precision,
        seed=config.seed,
    )
    events = Queue(actor_options={"num_cpus": 0})
    loop_config = {
        "spec": spec,
        "how": how,
        "gpu": config.gpu,
        "drawings": ray.put(drawings),
        "train": ray.put(train_tiles),
        "val": ray.put(val_tiles),
        "events": events,
    }
    # A name of its own for every run: Ray Train would take up an earlier one under the same name.
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    staging = f"{storage.absolute(config.model)}.training-{run}"
    # The file system is made here, so that workers of another machine write to the S3 server of this process.
    filesystem, path = (None, staging) if storage.is_local(staging) else storage.filesystem(staging)
    checkpoints = CheckpointConfig(num_to_keep=1)
    trainer = TorchTrainer(
        _worker,
        train_loop_config=loop_config,
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if config.gpu else {"CPU": _cpus_a_worker(config.workers)},
        ),
        run_config=RunConfig(name=run, storage_path=path, storage_filesystem=filesystem, checkpoint_config=checkpoints),
    )
    total = len(train_tiles) // config.batch * config.batch * how.epochs
    say(f"train {how.epochs} epochs on {len(train_tiles)} images, {config.workers} worker(s)", quiet=config.quiet)
    try:
        with _watched(events, total, quiet=config.quiet) as epochs:
            result = trainer.fit()
        assert result.checkpoint is not None, "the first epoch is always the best so far"
        with result.checkpoint.as_directory() as folder:
            weights = torch.load(Path(folder, BEST_FILE), weights_only=True, map_location="cpu")
    except TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        storage.delete_folder(staging)
    return weights, epochs


def _cpus_a_worker(workers: int) -> int:
    """An equal share of the CPUs of a node; all of them for one worker on one node."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for share in range(max(nodes), 1, -1):
        if sum(cpus // share for cpus in nodes) >= workers:
            return share
    return 1


def _cause(error: TrainingFailedError) -> Exception:
    """A user's mistake on a worker as it is; else a ClusterError that names the logs."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, CrackvaeError):
            return cause
    last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    return ClusterError(f"training failed: {last[:300]}. Mend that and run it again. Logs: {log_folder()}.")


@contextlib.contextmanager
def _watched(events: Queue, total: int, *, quiet: bool) -> Iterator[list[Epoch]]:
    """Show what the workers tell while the block runs; the list fills with the epochs they finish."""
    epochs: list[Epoch] = []
    finished = threading.Event()

    def watch() -> None:
        bar = None  # opened by the first event: the workers need seconds to start, which are no training
        while not (finished.is_set() and events.empty()):
            with contextlib.suppress(Empty):
                event = events.get(timeout=0.2)
                bar = bar or progress("train", total, "images", quiet=quiet)
                if isinstance(event, Epoch):
                    epochs.append(event)
                    bar.set_postfix_str(f"epoch {event.epoch}, val loss {event.val.loss:.6f}", refresh=False)
                else:
                    bar.update(event)
        if bar:
            bar.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield epochs
    finally:
        finished.set()
        thread.join()


def hardware(*, gpu: bool) -> str:
    """What the numbers of a run were measured on."""
    name = torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else platform.machine()
    resources = ray.cluster_resources()
    return f"{name}, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
