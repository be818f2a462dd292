"""Images a second in training: our loop against a plain one of PyTorch, and two workers against one.

    python benchmarks/training.py [--rounds 5] [--steps 12] [--threads N]

Both loops have the same network, the same drawn JPEGs of 227 px, the same batch and all threads of this machine, and
take turns in one process, so that a busy machine is busy for both. On a machine that others use as well, `--threads 1`
and the rates by processor time are what can be trusted. The plain loop is what one writes without this project: a
DataLoader, contiguous float32, Adam. It is timed twice, decoding the JPEGs in every epoch and with decoded tiles in
memory. The workers are those of `crackvae train` on a local Ray, one with all threads and two with half of them each,
in turns too; their images/s are those of the steps, without the start of Ray.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import write_result
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset, TensorDataset

from crackvae.config import PartitionConfig, TrainConfig
from crackvae.images.manifest import partition
from crackvae.images.synthetic import write_images
from crackvae.model.network import ModelSpec, Network, kl_to_prior, pooled, squared_error
from crackvae.model.runtime import has_fast_bf16
from crackvae.training.driver import train
from crackvae.training.loop import CRACK_PIXEL_WEIGHT, TILE_WEIGHT, training_steps
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker
from crackvae.training.synthetic_cracks import add_synthetic_cracks, draw, draw_random

N_IMAGES, BATCH = 1024, 64
# Where the hardware has no bf16 one step of so few images says how slow it is, and takes long enough.
SLOW_BATCH = 2


class Photographs(Dataset[torch.Tensor]):
    """The JPEGs of a folder, decoded when they are asked for; uint8 (P, P)."""

    def __init__(self, folder: Path, side_px: int) -> None:
        self.files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
        self.side_px = side_px

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(self.files[index])).convert("L").resize((self.side_px,) * 2)
        return torch.from_numpy(np.array(image))


def spec(recipe: str) -> ModelSpec:
    """The default network, or that of the published recipe."""
    segmenter = (24, 48, 64) if recipe == "repair" else ()
    return ModelSpec(
        input_px=128, channels=(32, 64, 128, 256), latent_dim=128, segmenter=segmenter, recipe=recipe, tile_px=227,
        stride_px=170, head="mse", beta=1e-6, seed=0, manifest="", leaky=False,
    )  # fmt: skip


def plain_loop(dataset: Dataset[Any], recipe: str) -> Iterator[None]:
    """A training loop of PyTorch as its tutorials write it; one step an item."""
    torch.manual_seed(0)
    network = Network(spec(recipe))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    drawings, chance = (draw(0, 128, 200) if recipe == "repair" else None), torch.Generator()
    weight = torch.tensor(CRACK_PIXEL_WEIGHT)
    while True:
        for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True):
            tiles = batch[0] if isinstance(batch, list) else batch
            segmentation = torch.zeros(())
            clean = shown = tiles.unsqueeze(1).float() / 255
            if drawings:
                damaged = add_synthetic_cracks(tiles, drawings, draw_random(chance, BATCH, drawings, 128))
                clean, shown = damaged.clean_B1PP.contiguous(), damaged.input_B1PP.contiguous()
            output = network(shown, torch.randn(BATCH, 128))
            if drawings:
                pixels = binary_cross_entropy_with_logits(output.crack_B1PP, damaged.mask_B1PP, pos_weight=weight)
                whole = binary_cross_entropy_with_logits(pooled(output.crack_B1PP), damaged.is_cracked_B)
                segmentation = pixels + TILE_WEIGHT * whole
            error = squared_error(clean, output.reconstruction_B1PP).mean()
            loss = error + 1e-6 * kl_to_prior(output.mu_BZ, output.logvar_BZ).mean() + segmentation
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield


def our_loop(tiles_TPP: np.ndarray, recipe: str, precision: str, batch: int = BATCH) -> Iterator[None]:
    """The steps that a worker takes; one step an item."""
    settings = TrainSettings(
        epochs=1000, batch=batch, learning_rate=1e-3, schedule=False, beta=1e-6, precision=precision, seed=0,
        drawings=draw(0, 128, 200) if recipe == "repair" else None,
    )  # fmt: skip
    torch.manual_seed(0)
    state = State.new(Network(spec(recipe)).to(memory_format=torch.channels_last), settings)
    for epoch in range(1, settings.epochs):
        for _ in training_steps(state, TrainingTiles.in_memory(tiles_TPP), settings, Worker(), epoch):
            yield


def images_per_s(loop: Iterator[None], steps: int, batch: int = BATCH) -> tuple[float, float]:
    """Of so many steps: a second of the clock, and a second of processor time, which other work does not take."""
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(loop)
    images = steps * batch
    return images / (time.perf_counter() - clock), images / (time.process_time() - processor)


def in_turns(loops: dict[str, Iterator[None]], rounds: int, steps: int) -> dict[str, np.ndarray]:
    """Images/s of each loop in each round (rounds, 2), after one step of each to warm up."""
    for loop in loops.values():
        next(loop)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            rates[name].append(images_per_s(loop, steps))
    return {name: np.array(values) for name, values in rates.items()}


def against(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Median, lowest and highest ratio of two rates over the rounds."""
    ratios = ours / other
    return {"median": float(np.median(ratios)), "lowest": float(ratios.min()), "highest": float(ratios.max())}


def loops(folder: Path, recipe: str, rounds: int, steps: int) -> dict[str, Any]:
    """Our loop and the plain one, on one network."""
    photographs = Photographs(folder, 128)
    tiles = torch.stack([photographs[n] for n in range(len(photographs))])
    running = {
        "ours fp32": our_loop(tiles.numpy(), recipe, "fp32"),
        "plain fp32, JPEGs": plain_loop(photographs, recipe),
        "plain fp32, tiles in memory": plain_loop(TensorDataset(tiles), recipe),
    }
    rates = in_turns(running, rounds, steps)
    steps, batch = (steps, BATCH) if has_fast_bf16("cpu") else (1, SLOW_BATCH)
    bf16 = images_per_s(our_loop(tiles.numpy(), recipe, "bf16", batch), steps, batch)
    figures: dict[str, Any] = {}
    for column, clock in enumerate(("clock", "processor")):
        ours, jpegs, held = (rates[name][:, column] for name in running)
        figures[f"by {clock} time"] = {
            "images_per_s": {name: float(np.median(values[:, column])) for name, values in rates.items()},
            "images_per_s, ours bf16": bf16[column],
            "ours fp32 / plain, JPEGs": against(ours, jpegs),
            "ours fp32 / plain, tiles in memory": against(ours, held),
            "ours bf16 / plain, JPEGs": bf16[column] / float(np.median(jpegs)),
        }
    return figures


def workers(folder: Path, rounds: int) -> dict[str, Any]:
    """`crackvae train` with one worker and with two, in turns; the second epoch of each, when all is warm."""
    images, out = str(folder / "images"), folder / "data"
    partition(PartitionConfig(images=images, out=str(out), external=(0, 0), group_by="none", quiet=True))
    same = {"manifest": str(out / "manifest.parquet"), "epochs": 2, "precision": "fp32", "quiet": True}
    rates: dict[str, list[float]] = {"1": [], "2": []}
    for number in range(rounds):
        for count, measured in rates.items():
            model = folder / f"model-{number}-{count}"
            train(TrainConfig(model=str(model), workers=(int(count),), **same))  # type: ignore[arg-type]
            written = json.loads((model / "training.json").read_text())
            measured.append(written["epochs"][1]["images_per_s"])
    return {"images_per_s": rates, "two workers / one": against(np.array(rates["2"]), np.array(rates["1"]))}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker-rounds", type=int, default=2, help="0 leaves out the comparison of workers")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of both loops, not of the workers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", N_IMAGES, 8, workers=os.cpu_count() or 1)
        sound = folder / "images" / "non_crack"
        figures: dict[str, Any] = {
            "fast_bf16": has_fast_bf16("cpu"),
            "threads": torch.get_num_threads(),
            "batch": BATCH,
            "load_average": os.getloadavg()[0],
            "published network": loops(sound, "plain", options.rounds, options.steps),
            "default network": loops(sound, "repair", options.rounds, options.steps),
        }
        if options.worker_rounds:
            figures["workers, default network"] = workers(folder, options.worker_rounds)
    print(json.dumps(figures, indent=1))
    print(write_result("training", figures))


if __name__ == "__main__":
    main()
