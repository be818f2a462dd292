"""What one worker does in training: epochs of Adam on sound tiles, and validation. No Ray.

Shape letters: T tiles, B tiles of one step over all workers, b of them on this worker, P side of a tile at the input
[px], Z latent dimensions.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crackvae.errors import ModelError
from crackvae.model import ConvVAE, kl_to_prior, squared_error, to_input

# Tiles of one pass where nothing is learned: validation, calibration. Changes no number.
VAL_BATCH = 64


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave; losses are means over images.

    Attributes:
        epoch: from 1.
        train_loss, train_squared_error, train_kl: of the steps of this epoch, with sampled z.
        val_loss, val_squared_error, val_kl: after it, with z = mu.
        seconds: of the steps alone.
        images_per_s: tiles trained on a second, over all workers.
    """

    epoch: int
    train_loss: float
    train_squared_error: float
    train_kl: float
    val_loss: float
    val_squared_error: float
    val_kl: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class Learning:
    """How to train: all that train_epochs() needs besides network and tiles."""

    epochs: int
    batch: int
    learning_rate: float
    beta: float
    seed: int


@dataclass(frozen=True)
class Place:
    """Which worker this is, and of how many."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def train_epochs(
    network: torch.nn.Module,
    train_TPP: np.ndarray,
    val_TPP: np.ndarray,
    how: Learning,
    place: Place,
    tell: Callable[[int], None],
) -> Iterator[Epoch]:
    """Train the network in place, an epoch a step of the iterator.

    Shuffle, sampling noise and learning rate are those of the whole batch, of which worker r of w takes every w-th
    tile: one worker and several take the same steps but for rounding. The last tiles of an epoch that fill no batch
    wait for the next shuffle.

    Args:
        network: ConvVAE, or its data-parallel wrapper.
        train_TPP, val_TPP: uint8 (T, P, P).
        tell: takes the number of tiles, over all workers, of the step just done.

    Raises:
        ModelError: the loss is no longer a number.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=how.learning_rate)
    train, latent_dim = torch.from_numpy(train_TPP), _unwrapped(network).mu.out_features
    for epoch in range(1, how.epochs + 1):
        chance = torch.Generator().manual_seed(how.seed * 1_000_003 + epoch)
        order = torch.randperm(len(train), generator=chance)
        started, sums = time.perf_counter(), torch.zeros(3)
        network.train()
        for step in order.split(how.batch):
            if len(step) < how.batch:
                break
            noise = torch.randn(how.batch, latent_dim, generator=chance)
            mine = slice(place.rank, None, place.world)
            sums += _step(network, optimizer, train[step[mine]], noise[mine], how, place)
            tell(how.batch)
        seconds = time.perf_counter() - started
        train_error, train_kl, n = _over_all_workers(sums)
        val_error, val_kl = validate(network, val_TPP, place)
        train_loss, val_loss = train_error + how.beta * train_kl, val_error + how.beta * val_kl
        if not np.isfinite([train_loss, val_loss]).all():
            raise ModelError(
                f"the loss is {train_loss} after epoch {epoch}: lower --learning-rate (now {how.learning_rate:g})."
            )
        yield Epoch(epoch, train_loss, train_error, train_kl, val_loss, val_error, val_kl, seconds, n / seconds)


def _step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tiles_bPP: Tensor,
    noise_bZ: Tensor,
    how: Learning,
    place: Place,
) -> Tensor:
    """One step of the optimiser; sums over this worker's tiles of squared error, KL divergence and 1."""
    input_b1PP = to_input(tiles_bPP.to(place.device))
    reconstruction, mu, logvar = network(input_b1PP, noise_bZ.to(place.device))
    error, kl = squared_error(input_b1PP, reconstruction).sum(), kl_to_prior(mu, logvar).sum()
    optimizer.zero_grad()
    # Data-parallel workers average their gradients; times `world` it is the mean over the batch, however it is shared.
    ((error + how.beta * kl) * (place.world / how.batch)).backward()
    optimizer.step()
    return torch.tensor([error.item(), kl.item(), len(tiles_bPP)])


@torch.no_grad()
def validate(network: torch.nn.Module, tiles_TPP: np.ndarray, place: Place) -> tuple[float, float]:
    """Mean squared error and KL divergence with z = mu, over the tiles of all workers."""
    network.eval()
    bare, sums = _unwrapped(network), torch.zeros(3)
    for tiles_bPP in torch.from_numpy(tiles_TPP)[place.rank :: place.world].split(VAL_BATCH):
        input_b1PP = to_input(tiles_bPP.to(place.device))
        reconstruction, mu, logvar = bare(input_b1PP)
        error, kl = squared_error(input_b1PP, reconstruction).sum(), kl_to_prior(mu, logvar).sum()
        sums += torch.tensor([error.item(), kl.item(), len(tiles_bPP)])
    mean_error, mean_kl, _ = _over_all_workers(sums)
    return mean_error, mean_kl


def _over_all_workers(sums: Tensor) -> tuple[float, float, float]:
    """Means of the first two sums, and the count, over all workers."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    error, kl, n = sums.tolist()
    return error / n, kl / n, n


def _unwrapped(network: torch.nn.Module) -> ConvVAE:
    bare = getattr(network, "module", network)
    assert isinstance(bare, ConvVAE)
    return bare
