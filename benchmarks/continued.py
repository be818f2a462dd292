"""Continue the training of a model on the sound images of a manifest, and write the result as a model directory.

    python benchmarks/continued.py --model MODEL --manifest MANIFEST --out NEW [--tiles 48000] [--seed 5] [--hard 8]
        [--blend | --fresh]

`crackvae train` starts from random weights, and `crackvae adapt` takes minutes for the photographs of a site. This is
for what lies between them: new drawings for a model that took an hour to train. It takes the steps of `crackvae
train`, on one thread and with one peak of the learning rate over all tiles. With `--blend` the result is the mean of
the weights before and the new ones, as by `crackvae adapt`. With `--fresh` nothing is continued: a network like that
of the model starts from random weights, as by `crackvae train` without Ray. With `--hard 8` the HARD_SHARE of the
tiles of each surface in which the model sees most of a crack are shown eight times as often: joints, tears and edges
that a network has learned least. A cracked tile among them would be unlearned, so the images have to be sorted with
care. The weight of the darkness, the yardstick and the threshold are fitted on val, as by `crackvae train`, and
training.json names the model that was continued.
"""

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from crackvae.config import TrainConfig
from crackvae.images.decoded import decode_images
from crackvae.images.manifest import listing_of, load_manifest
from crackvae.model.artifact import Model, load_model
from crackvae.model.inference import evidence_by_weight
from crackvae.training.driver import MIN_VAL_CRACKS
from crackvae.training.loop import VAL_BATCH, train_epochs
from crackvae.training.model_writer import (
    TrainedModel,
    blended,
    calibrated_on,
    fitted_to_site,
    training_summary,
    write_model,
)
from crackvae.training.state import State, TrainingTiles, TrainSettings, Worker, new_network
from crackvae.training.synthetic_cracks import MAX_DRAWINGS
from crackvae.training.synthetic_cracks.drawings import draw
from crackvae.training.tile_loader import surface_counts, surface_tiles
from crackvae.training.validation import some_tiles, validate_on_synthetic_cracks

REPORT_TILES = 1_600
# Share of the tiles of each surface that --hard repeats; a surface is the part of a group's name before its slash.
HARD_SHARE = 0.05


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="to continue")
    parser.add_argument("--manifest", required=True, help="its train and val images")
    parser.add_argument("--out", required=True, help="new model directory")
    parser.add_argument("--tiles", type=int, default=48_000, help="to train on (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--hard", type=int, default=1, help="times that a hard tile is shown (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="from random weights; the model lends its shape alone")
    parser.add_argument("--seed", type=int, default=5, help="of drawings and order (default: %(default)s)")
    parser.add_argument("--blend", action="store_true", help="the mean of the weights before and the new ones")
    return parser.parse_args()


def decoded(images: pa.Table, model: Model) -> tuple[np.ndarray, pa.Table]:
    """Tiles uint8 (T, P, P) that show a surface, and the decoded images without them, in this process."""
    tiles, rows = [], []
    for table in decode_images(listing_of(images), model.spec):
        tiles.append(surface_tiles(table, model.spec.input_px))
        rows.append(table.drop_columns(["tiles"]))
    return np.concatenate(tiles), pa.concat_tables(rows)


def with_hard_repeated(tiles_TPP: np.ndarray, images: pa.Table, model: Model, times: int) -> np.ndarray:
    """The tiles, those that are hard for the model `times` times, in a random order."""
    evidence_T = evidence_by_weight(model, tiles_TPP, (0.0,), VAL_BATCH)[:, 0]
    surface_T = np.repeat([group.split("/")[0] for group in images["group"].to_pylist()], surface_counts(images))
    limits = pd.Series(evidence_T).groupby(surface_T).transform(lambda evidence: evidence.quantile(1 - HARD_SHARE))
    shown_T = np.where(evidence_T > limits, times, 1)
    return tiles_TPP[np.random.default_rng(0).permutation(np.repeat(np.arange(len(tiles_TPP)), shown_T))]


def continued(model: Model, tiles_TPP: np.ndarray, val_TPP: np.ndarray, options: argparse.Namespace) -> TrainedModel:
    """The model after the training, a single epoch of its own length."""
    settings = TrainSettings(
        epochs=1,
        batch=TrainConfig.batch,
        learning_rate=options.learning_rate,
        schedule=True,
        beta=model.spec.beta,
        precision="auto",
        seed=options.seed,
        drawings=draw(options.seed, model.spec.input_px, MAX_DRAWINGS),
        clip_norm=TrainConfig.clip_norm,
    )
    network = new_network(model.spec, options.seed, None if options.fresh else model.network.state_dict())
    state, report = State.new(network, settings), Progress()
    list(train_epochs(state, shown(tiles_TPP, options.tiles), val_TPP, settings, Worker(), report))
    return TrainedModel(replace(model.spec, seed=options.seed), network.state_dict(), state.epochs)


class Progress:
    """Prints a line every REPORT_TILES."""

    def __init__(self) -> None:
        self.tiles, self.started = 0, time.perf_counter()

    def __call__(self, tiles: int) -> None:
        self.tiles += tiles
        if self.tiles % REPORT_TILES == 0:
            print(f"{self.tiles} tiles, {time.perf_counter() - self.started:.0f} s", flush=True)


def shown(tiles_TPP: np.ndarray, n: int) -> TrainingTiles:
    """The tiles again and again, and at the end an even part of them, until there are `n`, as one epoch."""

    def windows(epoch: int) -> Iterator[np.ndarray]:
        for start in range(0, n, len(tiles_TPP)):
            yield tiles_TPP[some_tiles(len(tiles_TPP), n - start)]

    return TrainingTiles(n, windows)


def main() -> None:
    """Continue the training, calibrate on val, and write the model directory."""
    options = parse()
    torch.set_num_threads(1)
    started = time.perf_counter()
    model, manifest = load_model(options.model), load_manifest(options.manifest)
    train_TPP, images = decoded(manifest.images("train", "non_crack"), model)
    if options.hard > 1:
        train_TPP = with_hard_repeated(train_TPP, images, model, options.hard)
    val_TPP, val = decoded(manifest.images("val", "non_crack"), model)
    cracked = manifest.images("val", "crack")
    trained = continued(model, train_TPP, val_TPP, options)
    trained = blended(model, trained) if options.blend else trained
    spec = replace(trained.spec, manifest=manifest.digest, leaky=manifest.leaky)
    has_cracks = cracked.num_rows >= MIN_VAL_CRACKS
    trained = fitted_to_site(replace(trained, spec=spec), val_TPP, decoded(cracked, model) if has_cracks else None)
    made = calibrated_on(trained.model, val_TPP, val, TrainConfig.percentile)
    record = training_summary(trained, made) | {
        "verb": "continued",
        "continued": "" if options.fresh else model.digest,
        "images": images.num_rows,
        "darkness_weight": trained.spec.darkness_weight,
        "val_cracks": trained.val_cracks,
        "validation": validate_on_synthetic_cracks(trained.model, val_TPP, made.calibration.threshold).summary(),
        "settings": vars(options),
        "hardware": platform.machine(),
        "epochs": [epoch.row() for epoch in trained.epochs],
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_model(str(Path(options.out).absolute()), trained, made, record)
    print(options.out, record["digest"])


if __name__ == "__main__":
    main()
