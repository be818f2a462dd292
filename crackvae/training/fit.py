"""[Ray Train] Fit a network with data-parallel workers that may fail, with a checkpoint of each epoch.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import contextlib
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, prepare_model
from torch import Tensor

from crackvae.console import TrainingProgress, WorkersStarted, say
from crackvae.errors import ClusterError, CrackvaeError
from crackvae.model.spec import ModelSpec
from crackvae.session import last_line, log_folder, on_this_node
from crackvae.storage.tables import new_run
from crackvae.training.checkpoints import CheckpointActor, Checkpoints
from crackvae.training.loop import train_epochs
from crackvae.training.state import (
    State,
    TrainingTiles,
    TrainSettings,
    Worker,
    best_of,
    is_over,
    new_network,
    read_checkpoint,
)

# Interval between progress reports of the workers, and between the driver's requests for them [s].
REPORT_INTERVAL_S = 0.5
# With --workers MIN,MAX: interval at which Ray looks for new nodes [s]. A resize restarts the running epoch.
RESIZE_INTERVAL_S = 60.0
# A run fails if its workers cannot be placed for this long [min]; Ray itself would wait without a limit.
START_TIMEOUT_MINUTES = 30


@dataclass(frozen=True)
class WorkerPlan:
    """Number and kind of the workers.

    Attributes:
        fewest, most: equal, unless the number may change with the nodes of the cluster.
        gpu: whether each worker has a GPU.
        max_failures: worker failures to tolerate.
    """

    fewest: int
    most: int
    gpu: bool
    max_failures: int

    def __str__(self) -> str:
        count = str(self.most) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        return f"{count} worker{'s' if self.most > 1 else ''}"


@dataclass(frozen=True)
class FitJob:
    """What to fit.

    Attributes:
        tiles: loads the training tiles on a worker.
        n_tiles: number of training tiles per epoch.
        val_TPP: uint8 (T, P, P), the validation tiles.
        initial: weights to start from; None for random weights.
    """

    spec: ModelSpec
    settings: TrainSettings
    tiles: Callable[[], TrainingTiles]
    n_tiles: int
    val_TPP: np.ndarray
    initial: dict[str, Tensor] | None = None


def is_completed(checkpoints: Checkpoints, settings: TrainSettings, *, quiet: bool) -> bool:
    """Whether a run has no epoch left to train; tells the user where it resumes."""
    last = checkpoints.last()
    epochs = read_checkpoint(last)[1] if last is not None else []
    if epochs:
        say(f"resuming after epoch {len(epochs)} of {settings.epochs}, from {checkpoints.folder}", quiet=quiet)
    return is_over(epochs, settings)


def fit(job: FitJob, plan: WorkerPlan, checkpoints: Checkpoints, *, quiet: bool) -> None:
    """Train from the last checkpoint, if there is one, until the last epoch has its checkpoint; not if is_completed().

    Raises:
        CrackvaeError: the first error that a restart would only repeat, or too many worker failures. The checkpoints
            stay.
    """
    settings = job.settings
    actor: Any = ray.remote(CheckpointActor).options(max_restarts=3, **on_this_node()).remote(checkpoints)
    worker_input = _WorkerInput(
        spec=job.spec,
        settings=replace(settings, drawings=None),
        device="cuda" if plan.gpu else "cpu",
        tiles=job.tiles,
        shared=[ray.put(one) for one in (job.initial, settings.drawings, job.val_TPP)],
        checkpoint_actor=actor,
    )
    say(f"train {settings.epochs} epochs on {job.n_tiles} tiles, {plan}", quiet=quiet)
    view = TrainingProgress(job.n_tiles // settings.batch * settings.batch, settings.epochs, quiet=quiet)
    try:
        with tempfile.TemporaryDirectory() as scratch, _progress_shown(actor, view):
            _trainer(worker_input, plan, scratch).fit()
        failure = ray.get(actor.failure.remote())
    except TrainingFailedError as error:
        failure = ClusterError(
            f"training failed: {last_line(error)}. Logs: {log_folder()}. Fix the cause and run it again."
        )
        failure.__cause__ = error
    finally:
        ray.kill(actor)
    if failure:
        raise failure


# ---------------------------------------------------------------------------------------------------- worker


@dataclass(frozen=True)
class _WorkerInput:
    """What each worker receives.

    Attributes:
        shared: references to the initial weights, the drawings and the validation tiles in the object store.
    """

    spec: ModelSpec
    settings: TrainSettings
    device: str
    tiles: Callable[[], TrainingTiles]
    shared: list[Any]
    checkpoint_actor: Any


def _train_on_worker(config: dict[str, _WorkerInput]) -> None:
    """Run train_epochs() from the last checkpoint, and save a checkpoint after each epoch.

    An error that a restart would only repeat is passed to the checkpoint actor, and all workers end at the same step.
    Any exception raised here counts as a worker failure, after which Ray restarts all workers.
    """
    given = config["input"]
    context, actor = ray.train.get_context(), given.checkpoint_actor
    worker = Worker(context.get_world_rank(), context.get_world_size(), given.device)
    try:
        with _read_only_tiles_allowed():
            initial, drawings, val_TPP = ray.get(given.shared)
            settings = replace(given.settings, drawings=drawings)
            state = State.new(prepare_model(new_network(given.spec, settings.seed, initial)), settings)
            if (checkpoint := ray.get(actor.last.remote())) is not None:
                state.load_checkpoint(checkpoint)
            report = _ProgressReporter(actor, worker, len(state.epochs))
            for epoch in train_epochs(state, given.tiles(), val_TPP, settings, worker, report):
                saved = True
                if worker.rank == 0:
                    best = best_of(state.epochs).epoch
                    saved = ray.get(actor.save.remote(epoch.row(), best, state.to_checkpoint()))
                if not _true_on_all_workers(saved, worker):
                    return
    except CrackvaeError as error:
        if worker.rank == 0:
            ray.get(actor.fail.remote(error.cause if isinstance(error, RayTaskError) else error))


def _true_on_all_workers(value: bool, worker: Worker) -> bool:
    """Whether a value is true on all workers. Also keeps workers from training on while a checkpoint is written."""
    votes = torch.tensor([float(value)], device=worker.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN)
    return bool(votes.item())


class _ProgressReporter:
    """Reports the number of tiles trained on from the first worker, every REPORT_INTERVAL_S."""

    def __init__(self, checkpoint_actor: Any, worker: Worker, after_epoch: int) -> None:
        self.actor, self.is_first, self.tiles, self.last = checkpoint_actor, worker.rank == 0, 0, time.monotonic()
        if self.is_first:
            self.actor.report.remote(WorkersStarted(worker.world, after_epoch))

    def __call__(self, tiles: int) -> None:
        self.tiles += tiles
        if self.is_first and time.monotonic() - self.last > REPORT_INTERVAL_S:
            self.actor.report.remote(self.tiles)
            self.tiles, self.last = 0, time.monotonic()


@contextlib.contextmanager
def _read_only_tiles_allowed() -> Iterator[None]:
    """Without torch's warning about read-only arrays: the tiles lie in shared memory, and no worker writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


# ---------------------------------------------------------------------------------------------------- driver


class _Trainer(TorchTrainer):
    """A TorchTrainer that leaves Ctrl-C to its caller: Ray's own handler would end the process with exit code 0.

    Ray passes the controller, which alone can abort a run, to this private method and nowhere else. A trainer in
    another thread registers no handler, but then nothing could end its workers on a cluster that goes on.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def fit(self) -> ray.train.Result:
        """Train; if interrupted, end the workers too, because the cluster may outlive this process."""
        try:
            return super().fit()
        except KeyboardInterrupt:
            with contextlib.suppress(RayActorError, AttributeError):
                ray.get(self.controller.abort.remote())
            raise


def _trainer(worker_input: _WorkerInput, plan: WorkerPlan, scratch: str) -> _Trainer:
    # Under the same name Ray Train would resume from state of its own.
    run = RunConfig(name=new_run(), storage_path=scratch, failure_config=_failures(plan))
    return _Trainer(
        _train_on_worker, train_loop_config={"input": worker_input}, scaling_config=_scaling(plan), run_config=run
    )


def _scaling(plan: WorkerPlan) -> ScalingConfig:
    # mypy finds the classes of Ray Train V1 under the names ScalingConfig and FailureConfig.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=plan.most if plan.fewest == plan.most else (plan.fewest, plan.most),  # type: ignore[arg-type]
        use_gpu=plan.gpu,
        resources_per_worker={"CPU": 1, "GPU": 1} if plan.gpu else {"CPU": _cpus_per_worker(plan.most)},
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


def _failures(plan: WorkerPlan) -> FailureConfig:
    """Failures to tolerate. Each minute in which the workers cannot be placed is one failure of the controller."""
    return FailureConfig(  # type: ignore[call-arg]
        max_failures=plan.max_failures, controller_failure_limit=START_TIMEOUT_MINUTES
    )


def _cpus_per_worker(workers: int) -> int:
    """The largest number of CPUs that all workers can have, on the nodes as they are."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for share in range(max(nodes), 1, -1):
        if sum(cpus // share for cpus in nodes) >= workers:
            return share
    return 1


@contextlib.contextmanager
def _progress_shown(checkpoint_actor: Any, view: TrainingProgress) -> Iterator[None]:
    """Show the progress of the workers while the block runs."""
    finished = threading.Event()

    def watch() -> None:
        while True:
            was_finished = finished.wait(REPORT_INTERVAL_S)
            with contextlib.suppress(RayError):  # the actor is restarting, or the session is ending
                view.show(ray.get(checkpoint_actor.new_events.remote()))
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
