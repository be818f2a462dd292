"""What one worker does in training: epochs of Adam on sound tiles, and validation. No Ray.

Shape letters: T tiles, B tiles of one step over all workers, b of them on this worker, P side of a tile at the input
[px], Z latent dimensions.
"""

import io
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.damage import Damaged, Drawings, augment, damage, draw_chances
from crackvae.errors import ModelError
from crackvae.model import Network, Output, kl_to_prior, pooled, squared_error, to_input

# Without a number of epochs, a training shows about this many tiles: a small set needs more passes than a large one.
TILES_SHOWN = 60_000
MAX_EPOCHS = 100
# TrainingTiles of one pass where nothing is learned: validation, calibration. Changes no number.
VAL_BATCH = 64
# Share of the steps in which the learning rate rises, where it follows a schedule.
WARM_UP = 0.1
# A missed crack pixel costs as much as this many false ones: cracks are 2 % of the pixels.
CRACK_PIXEL_WEIGHT = 3.0
# Weight of the tile's own loss beside that of its pixels.
TILE_WEIGHT = 0.3
# Seed of the damage drawn on val, the same in every epoch so that its losses compare.
VAL_SEED = 7
# Changes whenever an older checkpoint could be misread.
CHECKPOINT_FORMAT = 1


def epochs_of(n_tiles: int) -> int:
    """Epochs that show about TILES_SHOWN tiles, 1 to MAX_EPOCHS."""
    return min(MAX_EPOCHS, max(1, round(TILES_SHOWN / n_tiles)))


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32; elsewhere it is emulated, and slower."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
class Learning:
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
class Place:
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
    def new(cls, network: torch.nn.Module, how: Learning) -> "State":
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
        state = torch.load(io.BytesIO(checkpoint), weights_only=True, map_location="cpu")
        if state["format"] != CHECKPOINT_FORMAT:
            raise ModelError(
                f"a checkpoint has format {state['format']}, and this crackvae reads {CHECKPOINT_FORMAT}: "
                "delete the folder of the run, and train again."
            )
        epochs = [Epoch(**row | {part: Losses(**row[part]) for part in ("train", "val")}) for row in state["epochs"]]
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ModelError(
            "the last checkpoint of the run is damaged: delete that file, and the run goes on from the one before, "
            "or delete its folder, and it starts again."
        ) from error
    return state, epochs


def is_over(epochs: Sequence[Epoch], how: Learning) -> bool:
    """Whether all epochs are done, or the validation loss has not fallen for as long as patience allows."""
    if len(epochs) >= how.epochs:
        return True
    return how.patience is not None and len(epochs) > 0 and len(epochs) - best_of(epochs).epoch >= how.patience


def train_epochs(
    state: State, tiles: TrainingTiles, val_TPP: np.ndarray, how: Learning, place: Place, tell: Callable[[int], None]
) -> Iterator[Epoch]:
    """Train the network in place, an epoch a step of the iterator, from where the state is.

    Shuffle, drawn damage, sampling noise and learning rate are those of the whole batch, of which worker r of w takes
    every w-th tile: one worker and several take the same steps but for rounding. The last tiles of a window that fill
    no batch wait for the next shuffle.

    Args:
        val_TPP: uint8 (T, P, P).
        tell: takes the number of tiles, over all workers, of the step just done.

    Raises:
        ModelError: a gradient or a loss is no longer a number; the network is as it was after the last good step.
    """
    while not is_over(state.epochs, how):
        epoch = len(state.epochs) + 1
        started, sums = time.perf_counter(), torch.zeros(4)
        for step_sums in _steps(state, tiles, how, place, epoch):
            sums += step_sums
            tell(how.batch)
        seconds = time.perf_counter() - started
        train_losses, n = _over_all_workers(sums, how)
        val_losses = validate(state.network, val_TPP, how, place)
        if not np.isfinite([train_losses.loss, val_losses.loss]).all():
            raise _diverged(f"the loss is {val_losses.loss} after epoch {epoch}", how)
        state.epochs.append(Epoch(epoch, train_losses, val_losses, seconds, n / seconds))
        yield state.epochs[-1]


def _steps(state: State, tiles: TrainingTiles, how: Learning, place: Place, epoch: int) -> Iterator[Tensor]:
    """The steps of an epoch; sums over this worker's tiles of the three parts of the loss, and of 1."""
    chance = torch.Generator().manual_seed(how.seed * 1_000_003 + epoch)
    latent_dim, steps = unwrapped(state.network).vae.mu.out_features, tiles.n // how.batch
    step = (epoch - 1) * steps
    state.network.train()
    for window_TPP in tiles.windows(epoch):
        window = torch.from_numpy(window_TPP)
        order = torch.randperm(len(window), generator=chance)
        for batch in order.split(how.batch):
            if len(batch) < how.batch:
                break
            _set_rate(state.optimizer, how, step, how.epochs * steps)
            noise = torch.randn(how.batch, latent_dim, generator=chance)
            damaged = _damaged(window[batch], how, chance, place)
            sums = _gradient(state, damaged, noise[place.rank :: place.world], how, place)
            _descend(state, how, epoch)
            step += 1
            yield sums


def _diverged(what: str, how: Learning) -> ModelError:
    return ModelError(f"{what}: lower --learning-rate (now {how.learning_rate:g}), or give --clip-norm 1.")


def _set_rate(optimizer: torch.optim.Optimizer, how: Learning, step: int, steps: int) -> None:
    """Linear rise, then half a cosine down to 0: a function of the step alone, so that nothing has to be kept of it.

    Source: Loshchilov & Hutter, SGDR (2017), without restarts.
    """
    risen = min(1.0, (step + 1) / (WARM_UP * steps))
    fallen = max(0.0, (step / steps - WARM_UP) / (1 - WARM_UP))
    factor = risen * 0.5 * (1 + math.cos(math.pi * fallen)) if how.schedule else 1.0
    for group in optimizer.param_groups:
        group["lr"] = how.learning_rate * factor


def _damaged(tiles_BPP: Tensor, how: Learning, chance: torch.Generator, place: Place) -> Damaged:
    """This worker's share of a batch with drawn damage, or as it is; the chances are those of the whole batch."""
    mine = slice(place.rank, None, place.world)
    tiles_bPP = tiles_BPP[mine].to(place.device)
    if how.drawings is None:
        clean = augment(tiles_BPP, chance, mine).to(place.device) if how.augment else to_input(tiles_bPP)
        return Damaged(clean, clean, torch.zeros_like(clean), torch.zeros(len(clean), device=clean.device))
    chances = draw_chances(chance, len(tiles_BPP), how.drawings, tiles_BPP.shape[-1])
    return damage(tiles_bPP, how.drawings, chances.of(mine))


def _gradient(state: State, damaged: Damaged, noise_bZ: Tensor, how: Learning, place: Place) -> Tensor:
    """The gradient of one step; sums over this worker's tiles of the three parts of the loss, and of 1."""
    with _precision(how, place):
        output = state.network(damaged.input_B1PP, noise_bZ.to(place.device))
    error, kl, segmentation = _losses(output, damaged)
    state.optimizer.zero_grad()
    # Data-parallel workers average their gradients; times `world` it is the mean over the batch, however it is shared.
    ((error + how.beta * kl + segmentation) * (place.world / how.batch)).backward()
    return torch.tensor([error.item(), kl.item(), segmentation.item(), len(noise_bZ)])


def _descend(state: State, how: Learning, epoch: int) -> None:
    """One step of the optimiser, unless it would ruin the weights. All workers have the same gradient, so all agree."""
    parameters = list(state.network.parameters())
    norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if not torch.isfinite(norm):
        raise _diverged(f"the gradient is {norm.item()} in epoch {epoch}", how)
    if how.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, how.clip_norm, norm)
    state.optimizer.step()


def _precision(how: Learning, place: Place) -> AbstractContextManager[object]:
    bf16 = how.precision == "bf16" or (how.precision == "auto" and has_fast_bf16(place.device))
    return torch.autocast(place.device, torch.bfloat16, enabled=bf16)


def _losses(output: Output, damaged: Damaged) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over tiles of squared error, KL divergence and segmentation loss."""
    error = squared_error(damaged.clean_B1PP, output.reconstruction_B1PP.float()).sum()
    kl = kl_to_prior(output.mu_BZ.float(), output.logvar_BZ.float()).sum()
    if output.crack_B1PP is None:
        return error, kl, torch.zeros_like(kl)
    crack_B1PP, weight = output.crack_B1PP.float(), torch.tensor(CRACK_PIXEL_WEIGHT, device=kl.device)
    pixels = functional.binary_cross_entropy_with_logits(
        crack_B1PP, damaged.mask_B1PP, pos_weight=weight, reduction="none"
    )
    tiles = functional.binary_cross_entropy_with_logits(pooled(crack_B1PP), damaged.is_cracked_B, reduction="sum")
    return error, kl, pixels.mean(dim=(1, 2, 3)).sum() + TILE_WEIGHT * tiles


@torch.no_grad()
def validate(network: torch.nn.Module, tiles_TPP: np.ndarray, how: Learning, place: Place) -> Losses:
    """Losses with z = mu over the tiles of all workers, with the same drawn damage at every call."""
    network.eval()
    bare, sums, how = unwrapped(network), torch.zeros(4), replace(how, augment=False)
    chance = torch.Generator().manual_seed(VAL_SEED)
    for tiles_BPP in torch.from_numpy(tiles_TPP).split(VAL_BATCH):
        if place.rank >= len(tiles_BPP):
            break  # fewer tiles than workers are left
        damaged = _damaged(tiles_BPP, how, chance, place)
        with _precision(how, place):
            output = bare(damaged.input_B1PP)
        sums += torch.tensor([*(part.item() for part in _losses(output, damaged)), len(output.mu_BZ)])
    return _over_all_workers(sums, how)[0]


def _over_all_workers(sums: Tensor, how: Learning) -> tuple[Losses, float]:
    """Means of the first three sums, and the count, over all workers."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    *parts, n = sums.tolist()
    error, kl, segmentation = (part / n for part in parts)
    return Losses(error, kl, segmentation, error + how.beta * kl + segmentation), n


def unwrapped(network: torch.nn.Module) -> Network:
    """The network inside its data-parallel wrapper, if it has one."""
    bare = getattr(network, "module", network)
    assert isinstance(bare, Network)
    return bare
