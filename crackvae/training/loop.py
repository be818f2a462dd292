"""What one worker does in training: epochs of Adam on sound tiles, and validation. No Ray.

Shape letters: T tiles, B tiles of one step over all workers, b of them on this worker, P side of a tile at the input
[px], Z latent dimensions.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.errors import ModelError
from crackvae.model.network import Output, kl_to_prior, pooled, squared_error, to_input
from crackvae.model.runtime import has_fast_bf16
from crackvae.training.state import Epoch, Losses, State, TrainingTiles, TrainSettings, Worker, is_over, unwrapped
from crackvae.training.synthetic_cracks import Damaged, augment, damage, draw_random

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


def epochs_of(n_tiles: int) -> int:
    """Epochs that show about TILES_SHOWN tiles, 1 to MAX_EPOCHS."""
    return min(MAX_EPOCHS, max(1, round(TILES_SHOWN / n_tiles)))


def train_epochs(
    state: State,
    tiles: TrainingTiles,
    val_TPP: np.ndarray,
    how: TrainSettings,
    place: Worker,
    tell: Callable[[int], None],
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
        train_losses, n = _over_all_workers(sums, how, place)
        val_losses = validate(state.network, val_TPP, how, place)
        if not np.isfinite([train_losses.loss, val_losses.loss]).all():
            raise _diverged(f"the loss is {val_losses.loss} after epoch {epoch}", how)
        state.epochs.append(Epoch(epoch, train_losses, val_losses, seconds, n / seconds))
        yield state.epochs[-1]


def _steps(state: State, tiles: TrainingTiles, how: TrainSettings, place: Worker, epoch: int) -> Iterator[Tensor]:
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


def _diverged(what: str, how: TrainSettings) -> ModelError:
    return ModelError(f"{what}: lower --learning-rate (now {how.learning_rate:g}), or give --clip-norm 1.")


def _set_rate(optimizer: torch.optim.Optimizer, how: TrainSettings, step: int, steps: int) -> None:
    """Linear rise, then half a cosine down to 0: a function of the step alone, so that nothing has to be kept of it.

    Source: Loshchilov & Hutter, SGDR (2017), without restarts.
    """
    risen = min(1.0, (step + 1) / (WARM_UP * steps))
    fallen = max(0.0, (step / steps - WARM_UP) / (1 - WARM_UP))
    factor = risen * 0.5 * (1 + math.cos(math.pi * fallen)) if how.schedule else 1.0
    for group in optimizer.param_groups:
        group["lr"] = how.learning_rate * factor


def _damaged(tiles_BPP: Tensor, how: TrainSettings, chance: torch.Generator, place: Worker) -> Damaged:
    """This worker's share of a batch with drawn damage, or as it is; the chances are those of the whole batch."""
    mine = slice(place.rank, None, place.world)
    tiles_bPP = tiles_BPP[mine].to(place.device)
    if how.drawings is None:
        clean = augment(tiles_BPP, chance, mine).to(place.device) if how.augment else to_input(tiles_bPP)
        return Damaged(clean, clean, torch.zeros_like(clean), torch.zeros(len(clean), device=clean.device))
    chances = draw_random(chance, len(tiles_BPP), how.drawings, tiles_BPP.shape[-1])
    return damage(tiles_bPP, how.drawings, chances.of(mine))


def _gradient(state: State, damaged: Damaged, noise_bZ: Tensor, how: TrainSettings, place: Worker) -> Tensor:
    """The gradient of one step; sums over this worker's tiles of the three parts of the loss, and of 1."""
    with _precision(how, place):
        output = state.network(damaged.input_B1PP, noise_bZ.to(place.device))
    error, kl, segmentation = _losses(output, damaged)
    state.optimizer.zero_grad()
    # Data-parallel workers average their gradients; times `world` it is the mean over the batch, however it is shared.
    ((error + how.beta * kl + segmentation) * (place.world / how.batch)).backward()
    return torch.tensor([error.item(), kl.item(), segmentation.item(), len(noise_bZ)])


def _descend(state: State, how: TrainSettings, epoch: int) -> None:
    """One step of the optimiser, unless it would ruin the weights. All workers have the same gradient, so all agree."""
    parameters = list(state.network.parameters())
    norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if not torch.isfinite(norm):
        raise _diverged(f"the gradient is {norm.item()} in epoch {epoch}", how)
    if how.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, how.clip_norm, norm)
    state.optimizer.step()


def _precision(how: TrainSettings, place: Worker) -> AbstractContextManager[object]:
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
def validate(network: torch.nn.Module, tiles_TPP: np.ndarray, how: TrainSettings, place: Worker) -> Losses:
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
    return _over_all_workers(sums, how, place)[0]


def _over_all_workers(sums: Tensor, how: TrainSettings, place: Worker) -> tuple[Losses, float]:
    """Means of the first three sums, and the count, over all workers."""
    sums = sums.to(place.device)  # nccl adds up on GPUs only
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    *parts, n = sums.tolist()
    error, kl, segmentation = (part / n for part in parts)
    return Losses(error, kl, segmentation, error + how.beta * kl + segmentation), n
