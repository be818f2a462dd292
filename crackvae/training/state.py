"""What a training is told, what it changes, and the checkpoint that keeps this: all that its steps work on. No Ray.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from crackvae.errors import ModelError
from crackvae.model.artifact import numbers_in
from crackvae.model.network import Network
from crackvae.training.synthetic_cracks import Drawings

# Changes whenever an older checkpoint could be misread.
CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class Losses:
    """Means over tiles.

    Attributes:
        squared_error: between the reconstruction and the tile without its drawn cracks [squared grey level].
        kl: divergence of the posterior from the prior [nats].
        segmentation: of the drawn cracks [nats]; 0 for a model without a segmenter.
        loss: squared_error + beta * kl + segmentation.
    """

    squared_error: float
    kl: float
    segmentation: float
    loss: float


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave.

    Attributes:
        epoch: from 1.
        train: of the steps of this epoch, with sampled z.
        val: after it, with z = mu.
        seconds: of the steps alone.
        images_per_s: tiles trained on a second, over all workers.
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


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The first epoch with the lowest validation loss."""
    return min(epochs, key=lambda epoch: epoch.val.loss)


@dataclass(frozen=True)
class TrainSettings:
    """How to train: all that train_epochs() needs besides network and tiles.

    Attributes:
        drawings: cracks to draw on the tiles and to reconstruct them without; None to show them as they are.
        augment: without drawings, turn, mirror and expose the tiles by chance; with drawings that is always done.
        clip_norm: longest gradient over all weights, longer ones are shortened to it; None for any length.
        patience: stop after so many epochs without a lower validation loss; None to train to the end.
        schedule: the learning rate rises and falls; otherwise it stays.
        precision: of the passes through the network, auto, bf16 or fp32; weights and losses stay float32.
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


@dataclass(frozen=True)
class Worker:
    """Which worker this is, and of how many."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class TrainingTiles:
    """The tiles to train on, in windows that fit into memory one after the other.

    Attributes:
        n: tiles of an epoch.
        windows: uint8 (T, P, P) each, of an epoch; the same for every worker.
    """

    n: int
    windows: Callable[[int], Iterable[np.ndarray]]

    @classmethod
    def held(cls, tiles_TPP: np.ndarray) -> "TrainingTiles":
        """All in memory: one window."""
        return cls(len(tiles_TPP), lambda epoch: (tiles_TPP,))


@dataclass
class State:
    """What training changes, and all that a checkpoint has to hold.

    All chance of an epoch is a function of seed and number, and the learning rate is one of the step: neither has a
    state to be kept, and a run that goes on takes the steps of an unbroken one.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    epochs: list[Epoch] = field(default_factory=list)

    @classmethod
    def new(cls, network: torch.nn.Module, how: TrainSettings) -> "State":
        """Before the first epoch. `network` is a Network or its data-parallel wrapper."""
        return cls(network, torch.optim.Adam(network.parameters(), lr=how.learning_rate))

    def checkpoint(self) -> bytes:
        """The state as a file, in numbers and texts only."""
        file = io.BytesIO()
        state = {
            "format": CHECKPOINT_FORMAT,
            "network": unwrapped(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        torch.save(state, file)
        return file.getvalue()

    def go_on_from(self, checkpoint: bytes) -> None:
        """Take up the state of a checkpoint.

        Raises:
            ModelError: it is damaged or of another version.
        """
        state, self.epochs = read_checkpoint(checkpoint)
        unwrapped(self.network).load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def read_checkpoint(checkpoint: bytes) -> tuple[dict[str, Any], list[Epoch]]:
    """The states of network and optimiser, on the CPU, and the epochs so far. A stranger's file runs no code.

    Raises:
        ModelError: it is damaged or of another version.
    """
    try:
        state = numbers_in(checkpoint)
        if state["format"] != CHECKPOINT_FORMAT:
            raise ModelError(
                f"a checkpoint has format {state['format']}, and this crackvae reads {CHECKPOINT_FORMAT}: "
                "delete the folder of the run, and train again."
            )
        epochs = [Epoch(**row | {part: Losses(**row[part]) for part in ("train", "val")}) for row in state["epochs"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            "the last checkpoint of the run is damaged: delete that file, and the run goes on from the one before, "
            "or delete its folder, and it starts again."
        ) from error
    return state, epochs


def is_over(epochs: Sequence[Epoch], how: TrainSettings) -> bool:
    """Whether all epochs are done, or the validation loss has not fallen for as long as patience allows."""
    if len(epochs) >= how.epochs:
        return True
    return how.patience is not None and len(epochs) > 0 and len(epochs) - best_of(epochs).epoch >= how.patience


def unwrapped(network: torch.nn.Module) -> Network:
    """The network inside its data-parallel wrapper, if it has one."""
    bare = getattr(network, "module", network)
    assert isinstance(bare, Network)
    return bare
