"""One of several data-parallel workers without Ray, for a test: `two_workers.py RANK WORLD FILE` prints its losses."""

import json
import sys

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from crackvae.model.network import Network
from crackvae.model.spec import ModelSpec
from crackvae.training.loop import training_steps
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker
from crackvae.training.synthetic_cracks.drawings import draw

BATCH, STEPS = 64, 20
SETTINGS = TrainSettings(
    epochs=2,
    batch=BATCH,
    learning_rate=1e-3,
    schedule=True,
    beta=1e-6,
    precision="fp32",
    seed=0,
    drawings=draw(0, 32, 20),
)
SPEC = ModelSpec(
    input_px=32, channels=(4, 8), latent_dim=4, segmenter=(4, 8, 8, 8), recipe="repair", tile_px=64, stride_px=48,
    head="evidence", beta=1e-6, seed=0, manifest="", leaky=False,
)  # fmt: skip


def step_losses(rank: int, world: int) -> list[list[float]]:
    """Sums of the parts of the loss over the tiles of this worker, of each of the first steps."""
    tiles_TPP = np.random.default_rng(0).integers(80, 200, (BATCH * STEPS, 32, 32)).astype(np.uint8)
    torch.manual_seed(0)
    network: torch.nn.Module = Network(SPEC).to(memory_format=torch.channels_last)
    if world > 1:
        network = DistributedDataParallel(network)
    state = State.new(network, SETTINGS)
    return [
        sums.tolist()
        for sums in training_steps(state, TrainingTiles.in_memory(tiles_TPP), SETTINGS, Worker(rank, world), 1)
    ]


def joined(rank: int, world: int, rendezvous: str) -> list[list[float]]:
    """The same as a member of a process group with a new file as its rendezvous."""
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        return step_losses(rank, world)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)  # both wait for each other, so neither may take the other's core
    print(json.dumps(joined(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
