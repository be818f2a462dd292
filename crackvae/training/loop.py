"""The training loop of one worker: epochs of Adam on sound tiles, and validation. No Ray.

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
from crackvae.model.network import Output, largest, squared_error, to_input
from crackvae.model.runtime import has_fast_bf16
from crackvae.model.segmenter import FOLD
from crackvae.training.state import Epoch, Losses, State, TrainingTiles, TrainSettings, Worker, is_over, unwrapped
from crackvae.training.synthetic_cracks import MASK_COVERAGE, TrainingBatch, add_synthetic_cracks, augment

# Without a number of epochs, train on about this many tiles: a small set needs more passes than a large one.
DEFAULT_TILES = 120_000
MAX_EPOCHS = 100
# Tiles per pass where nothing is learned: validation and calibration. Changes no number.
VAL_BATCH = 64
# Share of the steps in which a scheduled learning rate rises.
WARM_UP = 0.05
# A missed crack pixel costs as much as this many false ones: cracks are 2 % of the pixels.
CRACK_PIXEL_WEIGHT = 3.0
# A pixel that a crack covers by a share from here to MASK_COVERAGE is neither sound nor cracked, and does not count by
# itself. Its cell is sound unless a pixel of it is cracked.
SOUND_COVERAGE = 0.04
# Weights of the losses of the pixels, of cells of FOLD px (which tolerate a shift by a pixel), and of the mean of the
# tile's highest cells, TOP_CELLS of all.
PIXEL_WEIGHT, CELL_WEIGHT, TOP_WEIGHT, TOP_CELLS = 0.5, 1.0, 0.2, 0.01
# Seed of the synthetic cracks of validation: the same in every epoch, so that its losses are comparable.
VAL_SEED = 7


class Diverged(ModelError):
    """A training whose numbers are not finite any more; the message says which settings to change."""


def default_epochs(n_tiles: int, in_total: int = DEFAULT_TILES) -> int:
    """Number of epochs of `n_tiles` with about so many tiles in total, from 1 to MAX_EPOCHS."""
    return min(MAX_EPOCHS, max(1, round(in_total / n_tiles)))


def train_epochs(
    state: State,
    tiles: TrainingTiles,
    val_TPP: np.ndarray,
    settings: TrainSettings,
    worker: Worker,
    report_tiles: Callable[[int], None],
) -> Iterator[Epoch]:
    """Train the network in place and yield each epoch when it is done; a resumed state continues where it stopped.

    Shuffling, synthetic cracks, sampling noise and learning rate are drawn for the whole batch, of which worker r of w
    takes every w-th tile. One worker and several therefore take the same steps up to rounding. Tiles at the end of a
    window that do not fill a batch are skipped in that epoch.

    Args:
        val_TPP: uint8 (T, P, P).
        report_tiles: called after each step with its number of tiles over all workers.

    Raises:
        Diverged: a gradient or a loss is not finite; the network keeps the weights of the last good step.
    """
    while not is_over(state.epochs, settings):
        epoch = len(state.epochs) + 1
        started, sums = time.perf_counter(), torch.zeros(4)
        for step_sums in training_steps(state, tiles, settings, worker, epoch):
            sums += step_sums
            report_tiles(settings.batch)
        seconds = time.perf_counter() - started
        train_losses, n = _over_all_workers(sums, settings, worker)
        val_losses = validate(state.network, val_TPP, settings, worker)
        if not np.isfinite([train_losses.loss, val_losses.loss]).all():
            raise _diverged(f"the loss is {val_losses.loss} after epoch {epoch}", settings)
        state.epochs.append(Epoch(epoch, train_losses, val_losses, seconds, n / seconds))
        yield state.epochs[-1]


def training_steps(
    state: State, tiles: TrainingTiles, settings: TrainSettings, worker: Worker, epoch: int
) -> Iterator[Tensor]:
    """Take the steps of one epoch.

    Yields:
        float (4,): sums over this worker's tiles of the three parts of the loss, and the number of these tiles.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    latent_dim, steps = unwrapped(state.network).vae.mu.out_features, tiles.n // settings.batch
    step = (epoch - 1) * steps
    state.network.train()
    for window_TPP in tiles.windows(epoch):
        window = torch.from_numpy(window_TPP)
        shown = torch.tensor([*range(len(window)), *tiles.repeats])
        order = shown[torch.randperm(len(shown), generator=generator)]
        for chosen in order.split(settings.batch):
            if len(chosen) < settings.batch:
                break
            _set_learning_rate(state.optimizer, settings, step, settings.epochs * steps)
            noise_BZ = torch.randn(settings.batch, latent_dim, generator=generator)
            batch = _training_batch(window[chosen], settings, generator, worker)
            sums = _backward(state, batch, noise_BZ[worker.share], settings, worker)
            _optimizer_step(state, settings, epoch)
            step += 1
            yield sums


def _diverged(what: str, settings: TrainSettings) -> Diverged:
    """The error, with advice that fits the flags of the verb and what they are set to."""
    advice = f"lower --learning-rate (now {settings.learning_rate:g})"
    if settings.can_clip and settings.clip_norm is None:
        advice += ", or give --clip-norm 1"
    elif settings.can_clip and settings.clip_norm is not None and settings.clip_norm > 1:
        advice += f", or --clip-norm (now {settings.clip_norm:g})"
    return Diverged(f"{what}: {advice}.")


def _set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int, steps: int) -> None:
    """Linear warm-up, then half a cosine down to 0; a function of the step alone, so it needs no state.

    Source: Loshchilov & Hutter, SGDR (2017), without restarts.
    """
    warm_up = min(1.0, (step + 1) / (WARM_UP * steps))
    decayed = max(0.0, (step / steps - WARM_UP) / (1 - WARM_UP))
    factor = warm_up * 0.5 * (1 + math.cos(math.pi * decayed)) if settings.schedule else 1.0
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


def _training_batch(
    tiles_BPP: Tensor, settings: TrainSettings, generator: torch.Generator, worker: Worker
) -> TrainingBatch:
    """This worker's share of a batch; everything random is drawn for the whole batch."""
    if settings.drawings is not None:
        return add_synthetic_cracks(tiles_BPP.to(worker.device), settings.drawings, generator, worker.share)
    if settings.augment:
        clean = augment(tiles_BPP, generator, worker.share).to(worker.device)
    else:
        clean = to_input(tiles_BPP[worker.share].to(worker.device))
    return TrainingBatch(clean, clean, torch.zeros_like(clean), torch.zeros(len(clean), device=clean.device))


def _backward(state: State, batch: TrainingBatch, noise_bZ: Tensor, settings: TrainSettings, worker: Worker) -> Tensor:
    """Compute the gradient of one step; returns the sums that training_steps() yields."""
    with _autocast(settings, worker):
        output = state.network(batch.input_B1PP, noise_bZ.to(worker.device))
    error, kl, segmentation = _loss_sums(output, batch)
    state.optimizer.zero_grad()
    # Data-parallel workers average their gradients; times `world` it is the mean over the batch, however it is shared.
    ((error + settings.beta * kl + segmentation) * (worker.world / settings.batch)).backward()
    return torch.tensor([error.item(), kl.item(), segmentation.item(), len(noise_bZ)])


def _optimizer_step(state: State, settings: TrainSettings, epoch: int) -> None:
    """Update the weights, unless the gradient is not finite. All workers have the same gradient, so all agree."""
    parameters = list(state.network.parameters())
    norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if not torch.isfinite(norm):
        raise _diverged(f"the gradient is {norm.item()} in epoch {epoch}", settings)
    if settings.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    state.optimizer.step()


def _autocast(settings: TrainSettings, worker: Worker) -> AbstractContextManager[object]:
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bf16(worker.device))
    return torch.autocast(worker.device, torch.bfloat16, enabled=bf16)


def _loss_sums(output: Output, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over tiles of squared error, KL divergence and segmentation loss."""
    error = squared_error(batch.clean_B1PP, output.reconstruction_B1QQ.float()).sum()
    kl = kl_to_prior(output.mu_BZ.float(), output.logvar_BZ.float()).sum()
    if output.crack_B1PP is None:
        return error, kl, torch.zeros_like(kl)
    return error, kl, _segmentation_loss(output.crack_B1PP.float(), batch)


def _segmentation_loss(logits_B1PP: Tensor, batch: TrainingBatch) -> Tensor:
    """Sum over tiles of the weighted losses of pixels, cells and highest cells, a scalar [nats]."""
    mask = (batch.coverage_B1PP > MASK_COVERAGE).float()
    is_known = ((batch.coverage_B1PP <= SOUND_COVERAGE) | (mask > 0)).float()
    pixels = (logits_B1PP, mask, is_known)
    cells = tuple(functional.max_pool2d(maps, FOLD) for maps in pixels)
    tiles = _tile_loss(logits_B1PP, batch.is_cracked_B)
    return PIXEL_WEIGHT * _cross_entropy(*pixels) + CELL_WEIGHT * _cross_entropy(*cells) + tiles


def kl_to_prior(mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL divergence of each tile's posterior N(mu, diag(exp(logvar))) from N(0, I), float (B,) [nats].

    Never negative; 0 exactly where mu = 0 and logvar = 0.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2014), appendix B.
    """
    return 0.5 * (mu_BZ.square() + logvar_BZ.exp() - 1 - logvar_BZ).sum(dim=1)


def _tile_loss(logits_B1PP: Tensor, is_cracked_B: Tensor) -> Tensor:
    """Sum over tiles of the weighted cross-entropy of the mean of each tile's highest cells, a scalar [nats]."""
    top_B = largest(functional.max_pool2d(logits_B1PP, FOLD), TOP_CELLS).mean(dim=1)
    return TOP_WEIGHT * functional.binary_cross_entropy_with_logits(top_B, is_cracked_B, reduction="sum")


def _cross_entropy(logits: Tensor, mask: Tensor, is_known: Tensor) -> Tensor:
    """Sum over tiles of the mean binary cross-entropy over pixels, of which the unknown ones count as 0."""
    weight = torch.tensor(CRACK_PIXEL_WEIGHT, device=logits.device)
    each = functional.binary_cross_entropy_with_logits(logits, mask, is_known, pos_weight=weight, reduction="none")
    return each.mean(dim=(1, 2, 3)).sum()


@torch.no_grad()
def validate(network: torch.nn.Module, tiles_TPP: np.ndarray, settings: TrainSettings, worker: Worker) -> Losses:
    """Losses without sampling over the tiles of all workers, with the same synthetic cracks at every call.

    z is mu; the recipe `plain` reconstructs from the average over the posterior.
    """
    network.eval()
    bare, sums, settings = unwrapped(network), torch.zeros(4), replace(settings, augment=False)
    generator = torch.Generator().manual_seed(VAL_SEED)
    for tiles_BPP in torch.from_numpy(tiles_TPP).split(VAL_BATCH):
        if worker.rank >= len(tiles_BPP):
            break  # fewer tiles than workers are left
        batch = _training_batch(tiles_BPP, settings, generator, worker)
        with _autocast(settings, worker):
            output = bare(batch.input_B1PP)
        sums += torch.tensor([*(part.item() for part in _loss_sums(output, batch)), len(output.mu_BZ)])
    return _over_all_workers(sums, settings, worker)[0]


def _over_all_workers(sums: Tensor, settings: TrainSettings, worker: Worker) -> tuple[Losses, float]:
    """Means of the first three sums, and the number of tiles, over all workers."""
    sums = sums.to(worker.device)  # nccl reduces tensors on GPUs only
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    *parts, n = sums.tolist()
    error, kl, segmentation = (part / n for part in parts)
    return Losses(error, kl, segmentation, error + settings.beta * kl + segmentation), n
