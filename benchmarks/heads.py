"""What the score heads cost beside the network: score_tiles() against the bare pass, one thread, in turn.

    python benchmarks/heads.py

Weights and tiles are random: no number here depends on them.
"""

import time
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import torch
from record import write_result

from crackvae.config import TrainConfig
from crackvae.model.artifact import Model
from crackvae.model.inference import score_tiles
from crackvae.model.network import ModelSpec, Network, to_input

TILES, BATCH, ROUNDS = 64, 32, 9


def main() -> None:
    """Write the median of the ratios of ROUNDS rounds, in each of which both ways run once."""
    torch.set_num_threads(1)
    model = network()
    tiles_TPP = np.random.default_rng(0).integers(0, 255, (TILES, 128, 128), dtype=np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "network alone": lambda: bare(model.network, tiles_TPP),
        "its ConvVAE alone": lambda: bare(model.network.vae, tiles_TPP),
    }
    for head in ("crack", "dark", "top", "mse"):
        chosen = replace(model, spec=replace(model.spec, head=head))
        ways[head] = lambda chosen=chosen: score_tiles(chosen, tiles_TPP, BATCH)
    seconds = {name: np.array(times) for name, times in timed(ways).items()}
    rates = {name: round(float(TILES / np.median(times)), 1) for name, times in seconds.items()}
    alone = seconds["network alone"]
    ratios = {name: round(float(np.median(times / alone)), 3) for name, times in seconds.items()}
    print(write_result("heads", {"tiles_per_s": rates, "times_the_network_alone": ratios, "rounds": ROUNDS}))
    print(rates, ratios)


def network() -> Model:
    """The default network with random weights."""
    config = TrainConfig(manifest="", model="")
    values = {one.name: getattr(config, one.name, "") for one in fields(ModelSpec)} | {"leaky": False}
    spec = ModelSpec(**values)
    return Model(spec, Network(spec).eval(), "")


@torch.inference_mode()
def bare(network: torch.nn.Module, tiles_TPP: np.ndarray) -> None:
    """The passes of score_tiles(), and nothing after them."""
    for start in range(0, len(tiles_TPP), BATCH):
        network(to_input(torch.from_numpy(tiles_TPP[start : start + BATCH])))


def timed(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of processor time of each way in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


if __name__ == "__main__":
    main()
