"""What a training run is given, what it changes, and the checkpoint that stores the latter. No Ray.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from crackvae.model.artifact import numbers_in
from crackvae.model.network import Network
from crackvae.model.spec import ModelSpec
from crackvae.training.checkpoints import DamagedCheckpoint
from crackvae.training.synthetic_cracks.drawings import Drawings

# Changes whenever an older checkpoint could be misread.
CHECKPOINT_FORMAT = 2


@dataclass(frozen=True)
class Losses:
    """Means over tiles.

    Attributes:
        squared_error: between the reconstruction and the tile without its synthetic cracks [squared grey level].
        kl: divergence of the posterior from the prior [nats].
        segmentation: of the synthetic cracks [nats]; 0 for a model without a segmenter.
        loss: squared_error + beta * kl + segmentation.
    """

    squared_error: float
    kl: float
    segmentation: float
    loss: float


@dataclass(frozen=True)
class Epoch:
    """Results of one pass over the training images.

    Attributes:
        epoch: counted from 1.
        train: mean losses of the steps of this epoch, with sampled z.
        val: validation losses after the epoch, with z = mu, or for the recipe `plain` the average over the posterior.
        seconds: duration of the training steps alone.
        images_per_s: training tiles per second, over all workers.
    """

    epoch: int
    train: Losses
    val: Losses
    seconds: float
    images_per_s: float

    def row(self) -> dict[str, float]:
        """The epoch as one row of a table."""
        losses = {
            f"{name}_{part}": value for name in ("train", "val") for part, value in vars(getattr(self, name)).items()
        }
        return {"epoch": self.epoch, **losses, "seconds": self.seconds, "images_per_s": self.images_per_s}


_EPOCHS = TypeAdapter(list[Epoch])


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The first epoch with the lowest validation loss."""
    return min(epochs, key=lambda epoch: epoch.val.loss)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that train_epochs() needs besides the network and the tiles.

    Attributes:
        schedule: whether the learning rate follows a warm-up and a cosine decay; otherwise it is constant.
        beta: weight of the KL divergence.
        precision: of the passes through the network, auto, bf16 or fp32; weights and losses stay float32.
        drawings: cracks and blemishes to add to the tiles; None to train on the tiles as they are.
        augment: without drawings, random rotation, flip and exposure; with drawings these are always applied.
        clip_norm: maximum gradient norm over all weights; None for no limit.
        patience: stop after this many epochs without a lower validation loss; None to run all epochs.
        can_clip: whether the verb has a flag for clip_norm.
    """

    epochs: int
    batch: int
    learning_rate: float
    schedule: bool
    beta: float
    precision: str
    seed: int
    drawings: Drawings | None = None
    augment: bool = False
    clip_norm: float | None = None
    patience: int | None = None
    can_clip: bool = True


@dataclass(frozen=True)
class Worker:
    """Rank of a data-parallel worker, the number of workers, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def share(self) -> slice:
        """This worker's share of a batch: every `world`-th tile."""
        return slice(self.rank, None, self.world)


@dataclass(frozen=True)
class TrainingTiles:
    """The tiles of an epoch, in windows of which each fits into memory.

    Attributes:
        n: number of tiles that an epoch shows.
        windows: epoch number to arrays of uint8 (T, P, P); the same for every worker.
        repeats: numbers of the tiles of each window that an epoch shows once more, as often as they are named.
    """

    n: int
    windows: Callable[[int], Iterable[np.ndarray]]
    repeats: Sequence[int] = ()

    @classmethod
    def in_memory(cls, tiles_TPP: np.ndarray, repeats: Sequence[int] = ()) -> "TrainingTiles":
        """All tiles in a single window."""
        return cls(len(tiles_TPP) + len(repeats), lambda epoch: (tiles_TPP,), repeats)


def new_network(spec: ModelSpec, seed: int, initial: Mapping[str, Tensor] | None) -> Network:
    """The network before a training, from random weights of the seed and a pretrained backbone, or from the initial."""
    torch.manual_seed(seed)
    network = Network(spec)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if initial is not None:
        network.load_state_dict(initial)
    elif network.segmenter and network.segmenter.context:
        network.segmenter.context.backbone.load_pretrained()
    return network


@dataclass
class State:
    """What training changes: the content of a checkpoint.

    Randomness is a function of the seed and the epoch, and the learning rate one of the step. Neither has a state of
    its own, so a resumed run takes the same steps as an uninterrupted one.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    epochs: list[Epoch] = field(default_factory=list)

    @classmethod
    def new(cls, network: torch.nn.Module, settings: TrainSettings) -> "State":
        """The state before the first epoch. `network` is a Network or its data-parallel wrapper."""
        return cls(network, torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True))

    def to_checkpoint(self) -> bytes:
        """The state as a file that holds only numbers and strings."""
        file = io.BytesIO()
        state = {
            "format": CHECKPOINT_FORMAT,
            "network": unwrapped(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        torch.save(state, file)
        return file.getvalue()

    def load_checkpoint(self, checkpoint: bytes) -> None:
        """Replace this state by that of a checkpoint.

        Raises:
            DamagedCheckpoint: the checkpoint is damaged or has another format.
        """
        state, self.epochs = read_checkpoint(checkpoint)
        unwrapped(self.network).load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def read_checkpoint(checkpoint: bytes) -> tuple[dict[str, Any], list[Epoch]]:
    """States of network and optimizer, on the CPU, and the completed epochs. Loading runs no code from the file.

    Raises:
        DamagedCheckpoint: the checkpoint is damaged or has another format.
    """
    try:
        state = numbers_in(checkpoint)
        if state["format"] != CHECKPOINT_FORMAT:
            raise DamagedCheckpoint(
                f"a checkpoint has format {state['format']}, and this crackvae reads {CHECKPOINT_FORMAT}: "
                "delete the folder of the run, and train again."
            )
        epochs = _EPOCHS.validate_python(state["epochs"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(
            "the last checkpoint of the run is damaged: delete that file (epoch-*.pth) to resume from the one before, "
            "or delete the folder to start again."
        ) from error
    return state, epochs


def is_over(epochs: Sequence[Epoch], settings: TrainSettings) -> bool:
    """Whether all epochs are done, or the validation loss has not fallen for `patience` epochs."""
    if len(epochs) >= settings.epochs:
        return True
    patience = settings.patience
    return patience is not None and len(epochs) > 0 and len(epochs) - best_of(epochs).epoch >= patience


def unwrapped(network: torch.nn.Module) -> Network:
    """The network inside its data-parallel wrapper, if it has one."""
    bare = getattr(network, "module", network)
    assert isinstance(bare, Network)
    return bare
