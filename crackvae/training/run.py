"""What the verbs that train share: a locked run folder, advice on how to resume, and the hardware of a run."""

import contextlib
import platform
from collections.abc import Iterator

import ray
import torch

from crackvae.errors import CrackvaeError
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.lock import locked
from crackvae.storage.tables import new_run
from crackvae.training.checkpoints import Checkpoints, DamagedCheckpoint
from crackvae.training.loop import Diverged


@contextlib.contextmanager
def locked_run(folder: str, *, quiet: bool) -> Iterator[Checkpoints]:
    """The checkpoints of a run, locked for it alone; the folder is deleted if it holds none at the end of the block."""
    checkpoints = Checkpoints(folder, filesystems.s3_endpoint())
    with locked(folder, new_run(), quiet=quiet, flag="--model"):
        try:
            yield checkpoints
        finally:
            if not checkpoints.epochs():
                fileio.delete_folder(folder)


def require_writable_beside(model_dir: str) -> None:
    """Raise StorageError where a model directory cannot be made: on a disk, in the folder that it will lie in."""
    fileio.require_writable(uris.parent(model_dir) if uris.is_local(model_dir) else model_dir)


@contextlib.contextmanager
def resume_advice(checkpoints: Checkpoints, advice: str, if_diverged: str = "") -> Iterator[None]:
    """Add to a user-facing error how to resume the run, if it has a checkpoint that is not the reason.

    Args:
        if_diverged: instead of `advice` for a run that has diverged, if other settings cannot resume it.
    """
    try:
        yield
    except CrackvaeError as error:
        if (epochs := checkpoints.epochs()) and not isinstance(error, DamagedCheckpoint):
            way_on = if_diverged if if_diverged and isinstance(error, Diverged) else advice
            error.args = (f"{error} Epoch {epochs[-1]} is kept: {way_on}.",)
        raise


def hardware(*, gpu: bool) -> str:
    """Description of the hardware, for the figures of a run."""
    name = torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else platform.machine()
    resources = ray.cluster_resources()
    return f"{name}, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
