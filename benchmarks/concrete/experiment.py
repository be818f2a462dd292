"""Train the candidate detector on synthetic cracks and evaluate it on SDNET2018 and METU.

    python benchmarks/concrete/run.py --cache FOLDER --protocol own-site --fold 0 1 --steps 1600 --batch 16 --seed 1

Protocols: `own-site` trains on the sound SDNET2018 tiles of the other folds and evaluates the given folds, and METU as
a site that the network has not seen; `unseen-site` trains on two surfaces and METU and evaluates the held-out surface;
`metu` trains and evaluates on METU only, with groups of overlapping crops on one side of the split.

The data folder contains sdnet-dev.zip, sdnet-dev.csv, sdnet-visible.csv, metu-internal.zip and metu-groups.csv. Tiles
are decoded once into the cache folder (1.9 GB), which also receives the library of drawings, the weights and the
scores. The result is benchmarks/results/concrete-PROTOCOL-...-DATE.json.

With glibc, set MALLOC_MMAP_THRESHOLD_=4294967296, MALLOC_TRIM_THRESHOLD_=8589934592 and MALLOC_TOP_PAD_=268435456, so
that freed memory is reused: preparing a training tile took 54 ms without these settings and 4.5 ms with them.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from . import data, evaluation, training
from .drawings import Library, draw_library
from .network import Network
from .synthetic_cracks import GROUP

PROTOCOLS = ("own-site", "unseen-site", "metu")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded tiles, drawings and weights")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="own-site")
    folds = range(data.N_FOLDS)
    parser.add_argument("--fold", type=int, nargs="+", default=[0, 1], choices=folds, help="own-site: evaluated folds")
    parser.add_argument("--holdout", choices=data.SURFACES, default="Decks", help="unseen-site: evaluated surface")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16, help=f"tiles per step, a multiple of {GROUP}")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="maximum, of Adam")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drawings", type=int, default=4000, help="cracks and blemishes in the library")
    parser.add_argument("--max-sound", type=int, help="limit of sound tiles evaluated per surface and of METU")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    missing = data.missing_file(options.data)
    if missing:
        raise SystemExit(f"run.py: {options.data / missing} not found; pass the folder of the data sets with --data")
    if options.steps < 1 or options.batch < GROUP or options.batch % GROUP:
        parser.error(f"--steps must be positive and --batch a positive multiple of {GROUP}")
    if len(set(options.fold)) == data.N_FOLDS:
        parser.error("--fold names all folds, which leaves no tile for training; omit at least one")
    return options


def library(cache: Path, n: int, seed: int) -> Library:
    """The drawings of this number and seed, from the cache if it has them."""
    cached = cache / f"drawings-{n}-{seed}.npz"
    if not cached.exists():
        drawn = draw_library(seed, data.SDNET_PX, n)
        np.savez(cached, cracks=drawn.cracks_NPP, blemishes=drawn.blemishes_NPP)
    stored = np.load(cached)
    return Library(stored["cracks"], stored["blemishes"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one variant; returns the figures."""
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sdnet, metu = data.read_sdnet(options.data, options.cache), data.read_metu(options.data, options.cache)
    chosen = data.split(sdnet, metu, options.protocol, options.fold, options.holdout)
    network = Network(data.SDNET_PX).to(memory_format=torch.channels_last)
    tiles = training.SoundTiles(sdnet, metu, chosen, options.seed)
    settings = training.TrainSettings(options.steps, options.batch, options.learning_rate, options.seed)
    trained = training.train(network, tiles, library(options.cache, options.drawings, options.seed), settings)
    torch.save(network.state_dict(), options.cache / f"{variant(options)}.pth")
    n_train = {"sdnet": len(chosen.sdnet_train_T), "metu": len(chosen.metu_train_T)}
    return {"training_tiles": n_train, "training": trained} | evaluate(network, sdnet, metu, chosen, options)


def evaluate(
    network: Network, sdnet: data.DataSet, metu: data.DataSet, chosen: data.Split, options: argparse.Namespace
) -> dict[str, Any]:
    """Score and evaluate the tiles of the protocol."""
    figures: dict[str, Any] = {}
    sdnet_rows, metu_rows = chosen.sdnet_test_T, chosen.metu_test_T
    if options.max_sound is not None:
        sdnet_rows = data.limit_sound(sdnet.labels, sdnet_rows, options.max_sound)
        metu_rows = data.limit_sound(metu.labels, metu_rows, options.max_sound)
    if len(sdnet_rows):
        scored = evaluation.score(network, sdnet, sdnet_rows)
        scored.to_csv(options.cache / f"{variant(options)}-sdnet.csv", index=False)
        figures["sdnet2018"] = evaluation.evaluate_sdnet(scored, options.seed)
        figures["sound tiles flagged, 5 % of a mixture"] = evaluation.mixture_false_alarms(scored)
    scored = evaluation.score(network, metu, metu_rows)
    scored.to_csv(options.cache / f"{variant(options)}-metu.csv", index=False)
    return figures | {"metu": evaluation.evaluate_metu(scored, options.seed)}


def variant(options: argparse.Namespace) -> str:
    """Name of this variant in file names."""
    folds = "-".join(map(str, options.fold))
    evaluated = {"own-site": f"-folds-{folds}", "unseen-site": f"-{options.holdout.lower()}", "metu": ""}
    return f"concrete-{options.protocol}{evaluated[options.protocol]}-seed-{options.seed}"


def processor_flags() -> list[str]:
    """Vector extensions of the processor, as Linux names them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma")))


def main() -> None:
    """Run, write the result, print its path."""
    options, started = parse(), time.perf_counter()
    chosen = {name: value for name, value in vars(options).items() if name not in ("data", "cache")}
    figures = {"command": chosen, "processor_flags": processor_flags(), "torch": torch.__version__} | run(options)
    figures["seconds"] = round(time.perf_counter() - started)
    print(write_result(variant(options), figures))
