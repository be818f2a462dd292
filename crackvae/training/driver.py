"""[Ray Train] train data-parallel through the deaths of workers, keep the best epoch, calibrate, write the model.

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
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer, prepare_model
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from torch import Tensor

from crackvae.config import TrainConfig
from crackvae.console import Started, TrainingProgress, say
from crackvae.errors import ClusterError, CrackvaeError, ManifestError
from crackvae.images.manifest import Manifest, load_manifest
from crackvae.model import calibration
from crackvae.model.artifact import Model, model_digest, model_files
from crackvae.model.calibration import Calibration, percentile_threshold
from crackvae.model.heads import LATENT_NORM
from crackvae.model.inference import score_tiles
from crackvae.model.network import ModelSpec, Network
from crackvae.monitoring import histograms
from crackvae.reports import charts
from crackvae.results import Result
from crackvae.session import log_folder, on_this_node, ray_session, require_resources
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.lock import locked
from crackvae.storage.tables import new_run
from crackvae.training import checkpoints
from crackvae.training.checkpoints import CheckpointActor, Checkpoints
from crackvae.training.loop import VAL_BATCH, epochs_of, train_epochs
from crackvae.training.state import Epoch, State, TrainSettings, Worker, best_of, is_over, read_checkpoint
from crackvae.training.synthetic_cracks import MAX_DRAWINGS, draw
from crackvae.training.tile_loader import decoded_tiles, tile_counts, training_tiles

CURVE_FILE = "loss.png"


# A worker tells how far it is at most this often [s]; the driver asks as often.
TELL_S = 0.5


# With --workers MIN,MAX: how often Ray looks for nodes that have come [s]. A resize begins the running epoch again.
RESIZE_S = 60.0


# Without a place for the workers for so long [min], a run ends; Ray itself would wait for ever.
START_MINUTES = 30


def _worker(config: dict[str, Any]) -> None:
    """What runs on each worker of Ray Train: train_epochs() from the last checkpoint, and a checkpoint of each epoch.

    A mistake that a new start would only repeat is told to the keeper, on which all workers end at the same step;
    anything that is raised here is a death, after which Ray starts all of them again.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    place = Worker(rank, world, "cuda" if config["gpu"] else "cpu")
    keeper = config["keeper"]
    torch.manual_seed(config["how"].seed)
    network = Network(config["spec"])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with _no_warning_of_read_only_tiles():
            val_tiles, drawings = ray.get([config["val"], config["drawings"]])
            how = replace(config["how"], drawings=drawings)
            state = State.new(prepare_model(network), how)
            if checkpoint := ray.get(keeper.last.remote()):
                state.go_on_from(checkpoint)
            tell = _ProgressReporter(keeper, rank, Started(world, len(state.epochs)))
            for epoch in train_epochs(state, config["tiles"](), val_tiles, how, place, tell):
                kept = True
                if rank == 0:
                    best = best_of(state.epochs).epoch
                    kept = ray.get(keeper.keep.remote(epoch.row(), best, state.checkpoint()))
                if not _all_agree(kept, place):
                    return
    except CrackvaeError as error:
        if rank == 0:
            ray.get(keeper.fail.remote(error.cause if isinstance(error, RayTaskError) else error))


def _all_agree(yes: bool, place: Worker) -> bool:
    """Whether all workers say yes; it also keeps them from running ahead of a checkpoint that is being written."""
    votes = torch.tensor([float(yes)], device=place.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN)
    return bool(votes.item())


class _ProgressReporter:
    """Tells the driver how many tiles were trained on, from the first worker, not at every step."""

    def __init__(self, keeper: Any, rank: int, started: Started) -> None:
        self.keeper, self.rank, self.tiles, self.last = keeper, rank, 0, time.monotonic()
        if rank == 0:
            keeper.tell.remote(started)

    def __call__(self, tiles: int) -> None:
        self.tiles += tiles
        if self.rank == 0 and time.monotonic() - self.last > TELL_S:
            self.keeper.tell.remote(self.tiles)
            self.tiles, self.last = 0, time.monotonic()


@contextlib.contextmanager
def _no_warning_of_read_only_tiles() -> Iterator[None]:
    """The tiles lie in shared memory that no worker may write to, and none does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


# ---------------------------------------------------------------------------------------------------- driver


@filesystems.with_s3_endpoint
def train(config: TrainConfig) -> Result:
    """Train a ConvVAE on the sound images of a manifest and write its model directory, whole or not at all.

    A run that was interrupted leaves its checkpoints in `<model>.training`; the same call goes on from there.

    Returns:
        Result with the table `epochs`.

    Raises:
        OutputExists, ManifestError, LeakError, ModelError, CalibrationError, ClusterError, FolderInUse, ConfigError:
            with the mend.
    """
    started = time.perf_counter()
    model_dir = uris.absolute(config.model)
    checkpoints.require_unfinished(config, model_dir)
    fileio.require_writable(str(PurePosixPath(model_dir).parent) if uris.is_local(model_dir) else model_dir)
    manifest = load_manifest(config.manifest)
    spec = _spec(config, manifest)
    images, val = (manifest.images(split, "non_crack") for split in ("train", "val"))
    _require_enough(images, val, spec, config)
    folder = uris.absolute(config.resume) if config.resume else checkpoints.folder_of(model_dir)
    with _own_folder(folder, config) as kept:
        done = checkpoints.begin(folder, config, asdict(spec))
        with ray_session(config):
            require_resources(config.workers[0], gpu=config.gpu)
            val_tiles, val_images = decoded_tiles(val, "val", spec, config)
            _fit(images, val_tiles, spec, config, kept)
            trained_on = hardware(gpu=config.gpu)
        weights, epochs = _result(kept)
        network = Network(spec)
        network.load_state_dict(weights)
        model = Model(spec, network.eval(), model_digest(spec, weights))
        calibrated, reference = _calibrated(model, val_tiles, val_images, config.percentile)
        summary = {
            "verb": "train",
            "model": model_dir,
            "images": images.num_rows,
            **_results(model, calibrated, epochs),
            "resumed_after_epoch": done,
            "seconds": round(time.perf_counter() - started, 1),
        }
        training = summary | {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": asdict(config),
            "changes": checkpoints.changes(folder),
            "hardware": trained_on,
            "epochs": [epoch.row() for epoch in epochs],
        }
        table = pd.DataFrame([epoch.row() for epoch in epochs]).set_index("epoch")
        files = {
            histograms.REFERENCE_FILE: histograms.histograms_file(reference),
            calibration.FILE: calibration.calibration_file(calibrated),
            CURVE_FILE: charts.loss_curve(table),
            **model_files(spec, weights, training),
        }
        fileio.write_folder(model_dir, files)
        fileio.delete_folder(folder)
    return Result(summary, {"epochs": table})


@contextlib.contextmanager
def _own_folder(folder: str, config: TrainConfig) -> Iterator[Checkpoints]:
    """The folder of this run, for it alone. Where no epoch has been kept in it, it is gone when the block ends."""
    kept = Checkpoints(folder, filesystems.s3_endpoint())
    with locked(folder, new_run(), quiet=config.quiet, flag="--model"):
        try:
            yield kept
        finally:
            if not kept.epochs():
                fileio.delete_folder(folder)


def _require_enough(images: pa.Table, val: pa.Table, spec: ModelSpec, config: TrainConfig) -> None:
    """Raise at once for what would fail after the images have been decoded.

    Raises:
        ManifestError: no image, or fewer tiles than a batch; CalibrationError: too few to calibrate with.
    """
    for split, found in (("train", images), ("val", val)):
        if not found.num_rows:
            raise ManifestError(f"{config.manifest} has no non_crack image in {split}: partition again.")
    calibration.require_enough(val.num_rows)
    tiles = int(tile_counts(images, spec).sum())
    if tiles < config.batch:
        raise ManifestError(f"{tiles} training images are fewer than --batch {config.batch}: give a smaller batch.")


def _result(kept: Checkpoints) -> tuple[dict[str, Tensor], list[Epoch]]:
    """Weights of the epoch with the lowest validation loss, and all epochs."""
    _, epochs = read_checkpoint(kept.read(kept.epochs()[-1]))
    state, _ = read_checkpoint(kept.read(best_of(epochs).epoch))
    return state["network"], epochs


def _calibrated(
    model: Model, val_tiles: np.ndarray, val_images: pa.Table, percentile: float
) -> tuple[Calibration, histograms.NightHistograms]:
    """The published rule on the sound images of val, and what drift compares with; `val_images` as decoded."""
    tile_scores, tile_norms = score_tiles(model, val_tiles, VAL_BATCH, extra_heads=(LATENT_NORM,)).T
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
    best = best_of(epochs)
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


def _learning(config: TrainConfig, n_tiles: int) -> TrainSettings:
    return TrainSettings(
        epochs=config.epochs or epochs_of(n_tiles),
        batch=config.batch,
        learning_rate=config.learning_rate,
        schedule=config.schedule == "cosine",
        beta=config.beta,
        precision=config.precision,
        seed=config.seed,
        augment=config.augment,
        clip_norm=config.clip_norm,
        patience=config.patience,
    )


def _fit(images: pa.Table, val_tiles: np.ndarray, spec: ModelSpec, config: TrainConfig, kept: Checkpoints) -> None:
    """Train until the last epoch has its checkpoint.

    Raises:
        CrackvaeError: a mistake that a worker told, or that ended them too often; what was kept stays.
    """
    n_tiles = int(tile_counts(images, spec).sum())
    how = _learning(config, n_tiles)
    last = kept.last()
    epochs = read_checkpoint(last)[1] if last else []
    if epochs:
        say(f"go on after epoch {len(epochs)} of {how.epochs}, from {kept.folder}", quiet=config.quiet)
    if is_over(epochs, how):
        return
    tiles = training_tiles(images, spec, config)
    drawings = None
    if config.recipe == "repair":
        say("draw the cracks to learn from", quiet=config.quiet)
        drawings = draw(config.seed, config.input_px, min(MAX_DRAWINGS, n_tiles))
    keeper: Any = ray.remote(CheckpointActor).options(max_restarts=3, **on_this_node()).remote(kept)
    loop_config = {
        "spec": spec,
        "how": how,
        "gpu": config.gpu,
        "drawings": ray.put(drawings),
        "tiles": tiles,
        "val": ray.put(val_tiles),
        "keeper": keeper,
    }
    say(f"train {how.epochs} epochs on {n_tiles} tiles, {_workers_text(config)}", quiet=config.quiet)
    try:
        with tempfile.TemporaryDirectory() as scratch, _watched(keeper, n_tiles, how, quiet=config.quiet):
            # A name of its own for every start: Ray Train would take up an earlier one under the same name.
            run: Any = RunConfig(name=new_run(), storage_path=scratch, failure_config=_failures(config))
            _Trainer(_worker, train_loop_config=loop_config, scaling_config=_scaling(config), run_config=run).fit()
        failure = ray.get(keeper.failure.remote())
    except TrainingFailedError as error:
        last_line = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        failure = ClusterError(f"training failed: {last_line[:300]}. Logs: {log_folder()}. Mend that.")
        failure.__cause__ = error
    finally:
        ray.kill(keeper)
    if failure:
        raise _with_what_is_kept(failure, kept)


def _with_what_is_kept(failure: CrackvaeError, kept: Checkpoints) -> CrackvaeError:
    epochs = kept.epochs()
    if epochs:
        failure.args = (f"{failure} Epoch {epochs[-1]} is kept: go on with crackvae train --resume {kept.folder}.",)
    return failure


class _Trainer(TorchTrainer):
    """A TorchTrainer that leaves Ctrl-C to its caller: Ray's own handler would end the process with exit code 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def fit(self) -> ray.train.Result:
        """As the trainer does; where it is interrupted the workers end, also on a cluster that goes on."""
        try:
            return super().fit()
        except KeyboardInterrupt:
            with contextlib.suppress(RayActorError, AttributeError):
                ray.get(self.controller.abort.remote())
            raise


def _scaling(config: TrainConfig) -> ScalingConfig:
    fewest, most = config.workers[0], config.workers[-1]
    return ScalingConfig(
        num_workers=fewest if fewest == most else (fewest, most),
        use_gpu=config.gpu,
        resources_per_worker={"CPU": 1, "GPU": 1} if config.gpu else {"CPU": _cpus_a_worker(most)},
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def _failures(config: TrainConfig) -> FailureConfig:
    """A start that finds no room within a minute is one failure of the controller."""
    return FailureConfig(max_failures=config.max_failures, controller_failure_limit=START_MINUTES)


def _workers_text(config: TrainConfig) -> str:
    return f"{' to '.join(map(str, config.workers))} worker{'s' if config.workers[-1] > 1 else ''}"


def _cpus_a_worker(workers: int) -> int:
    """An equal share of the CPUs of a node; all of them for one worker on one node."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for share in range(max(nodes), 1, -1):
        if sum(cpus // share for cpus in nodes) >= workers:
            return share
    return 1


@contextlib.contextmanager
def _watched(keeper: Any, n_tiles: int, how: TrainSettings, *, quiet: bool) -> Iterator[None]:
    """Show what the workers tell while the block runs."""
    finished = threading.Event()
    view = TrainingProgress(n_tiles // how.batch * how.batch, how.epochs, quiet=quiet)

    def watch() -> None:
        while True:
            was_finished = finished.wait(TELL_S)
            with contextlib.suppress(RayError):  # the keeper starts again, or the session is ending
                view.show(ray.get(keeper.news.remote()))
            if was_finished:
                break
        view.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def hardware(*, gpu: bool) -> str:
    """What the numbers of a run were measured on."""
    name = torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else platform.machine()
    resources = ray.cluster_resources()
    return f"{name}, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
