"""Training of the candidate network on synthetic cracks.

Shape letters: B tiles of a batch, G tiles of a group, P side of a tile [px], Q stitched squares, T tiles selected.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .data import SDNET_PX, DataSet, Split, stitchable
from .drawings import Library
from .losses import loss
from .network import Network
from .synthetic_cracks import GROUP, Damaged, damage

# Share of the groups that are stitched from 2 x 2 neighbouring tiles, and of METU in a mixture with SDNET2018.
STITCHED_SHARE, METU_SHARE = 0.25, 0.3
# Share of the steps in which the learning rate rises; then it falls to 0 along a cosine.
WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0
REPORT_STEPS = 25


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training."""

    steps: int
    batch: int
    learning_rate: float
    seed: int


class SoundTiles:
    """Random groups of sound tiles, each surface equally often."""

    def __init__(self, sdnet: DataSet, metu: DataSet, chosen: Split, seed: int) -> None:
        self.sdnet, self.metu, self.rng = sdnet, metu, np.random.default_rng(seed)
        self.metu_T = chosen.metu_train_T
        surface_T = sdnet.labels.surface.to_numpy()[chosen.sdnet_train_T]
        self.by_surface = {name: chosen.sdnet_train_T[surface_T == name] for name in np.unique(surface_T)}
        self.quads_Q4 = stitchable(sdnet.labels, chosen.sdnet_train_T)
        self.metu_share = 0.0 if not len(self.metu_T) else METU_SHARE if self.by_surface else 1.0

    def group(self) -> Tensor:
        """uint8 (G, P, P), or (G, 2 P, 2 P) if stitched."""
        if self.rng.random() < self.metu_share:
            rows_T = np.sort(self.rng.choice(self.metu_T, GROUP, False))
            return resized(torch.from_numpy(self.metu.tiles_NPP[rows_T])).round().to(torch.uint8).squeeze(1)
        if self.rng.random() < STITCHED_SHARE and len(self.quads_Q4) >= GROUP:
            quads = self.sdnet.tiles_NPP[self.rng.choice(self.quads_Q4, GROUP, False)]
            upper, lower = (np.concatenate([quads[:, n], quads[:, n + 1]], 2) for n in (0, 2))
            return torch.from_numpy(np.concatenate([upper, lower], 1))
        surfaces = self.rng.choice(list(self.by_surface), GROUP)
        return torch.from_numpy(self.sdnet.tiles_NPP[[self.rng.choice(self.by_surface[one]) for one in surfaces]])


def resized(tiles_BPP: Tensor) -> Tensor:
    """Images of METU at the side of an SDNET2018 tile, float (B, 1, P, P) in grey levels."""
    return functional.interpolate(tiles_BPP.unsqueeze(1).float(), size=(SDNET_PX, SDNET_PX), mode="bilinear")


def train(network: Network, tiles: SoundTiles, library: Library, settings: TrainSettings) -> dict[str, float]:
    """Train in place with Adam; returns the running means of the loss terms, and the minutes."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / settings.steps, settings.steps))
    network.train()
    started, means = time.perf_counter(), {}
    for step in range(1, settings.steps + 1):
        parts = _step(network, tiles, library, settings.batch, generator, optimizer)
        schedule.step()
        means = {name: 0.98 * means.get(name, part) + 0.02 * part for name, part in parts.items()}
        if step % REPORT_STEPS == 0:
            terms = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            print(f"step {step} of {settings.steps}, {time.perf_counter() - started:.0f} s: {terms}", flush=True)
    return means | {"minutes": (time.perf_counter() - started) / 60}


def _rate(progress: float, steps: int) -> float:
    """Learning rate at this share of the steps, relative to its maximum."""
    risen = min(1.0, (progress + 1 / steps) / WARM_UP_SHARE)
    fallen = max(0.0, (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return risen * 0.5 * (1 + math.cos(math.pi * fallen))


def _step(
    network: Network,
    tiles: SoundTiles,
    library: Library,
    batch: int,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """One step; returns its loss terms."""
    groups = [damage(tiles.group(), library, generator) for _ in range(batch // GROUP)]
    fields = zip(*(vars(one).values() for one in groups), strict=True)
    damaged = Damaged(*(torch.cat(parts) for parts in fields))
    noise_BZ = torch.randn(batch, network.vae.mu.out_features, generator=generator)
    total, parts = loss(network(damaged.input_B1PP, noise_BZ), damaged)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return parts
