"""The published protocol on the METU archive, end to end: splits and leaks, training, figures with intervals.

    python benchmarks/metu.py --archive metu.zip --groups metu-groups.csv --work FOLDER

Each step is a `crackvae` command in FOLDER and is left out where its result is there already, so a run that was
interrupted goes on. `--groups` is a CSV with the columns image and same_picture: the truth for the search of copies.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write_result

from crackvae import metrics
from crackvae.imaging import cut, decode
from crackvae.manifest import load_manifest
from crackvae.storage import read_image

HEADS = ("mse", "top")


def main() -> None:
    """Run what is missing, then write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    work = options.work
    figures: dict[str, Any] = {}
    for group_by in ("none", "near-duplicate"):
        figures[f"partition {group_by}"] = partition(options.archive, group_by, work / group_by)
    figures["same pictures kept together"] = kept_together(work / "near-duplicate", options.groups)
    manifest = work / "none" / "manifest.parquet"
    for head in HEADS:
        model, out = work / "models" / head, work / "evaluation" / head
        if not model.exists():
            crackvae("train", "--manifest", manifest, "--model", model, "--head", head)
        if not out.exists():
            crackvae("evaluate", "--manifest", manifest, "--model", model, "--out", out)
        training = json.loads((model / "training.json").read_text())
        metrics = json.loads((out / "metrics.json").read_text())
        figures[head] = {
            "train_seconds": training["seconds"],
            "train_images_per_s": training["images_per_s"],
            "best_epoch": training["best_epoch"],
            "evaluate_seconds": metrics["seconds"],
            **metrics["sets"]["internal"],
        }
    figures["one line of numpy"] = one_line_of_numpy(manifest)
    print(write_result("metu", figures))


def partition(archive: Path, group_by: str, out: Path) -> dict[str, Any]:
    """Counts and leaks of one way of splitting; always run, it takes seconds."""
    (out / "manifest.parquet").unlink(missing_ok=True)
    started = time.perf_counter()
    command = ("partition", "--images", archive, "--external", "0,0", "--group-by", group_by, "--out", out)
    summary = json.loads(crackvae(*command).splitlines()[-1])
    seconds = round(time.perf_counter() - started, 1)
    return {"seconds": seconds} | {name: summary[name] for name in ("counts", "leaky", "leaking_images", "groups")}


def kept_together(folder: Path, groups: Path) -> dict[str, float]:
    """Share of the pictures with copies whose copies all lie on one side of the split."""
    table = load_manifest(str(folder / "manifest.parquet")).table.select(["image", "split"]).to_pandas()
    table["image"] = table["image"].str.split("!/").str[1]
    sides = table.merge(pd.read_csv(groups), on="image").groupby("same_picture")["split"].agg(["nunique", "size"])
    copied = sides[sides["size"] > 1]
    return {"pictures_with_copies": len(copied), "share_on_one_side": float((copied["nunique"] == 1).mean())}


def one_line_of_numpy(manifest: Path) -> dict[str, dict[str, float]]:
    """What any model must beat, on the same test images: median minus 1st percentile of the 128x128 grey pixels."""
    images = load_manifest(str(manifest)).images("test")
    tiles = (cut(decode(read_image(image)), 227, 170, 128).pixels_TPP for image in images["image"].to_pylist())
    scores_N = np.array([np.median(pixels) - np.percentile(pixels, 1) for pixels in tiles])
    is_crack_N = images["label"].to_numpy() == "crack"
    scored = metrics.Scored(is_crack_N, scores_N, images["group"].to_numpy(), threshold=np.inf)
    return metrics.judge(scored, resamples=1000, seed=0).loc[list(metrics.RANKING_NAMES)].to_dict(orient="index")


def crackvae(*arguments: object) -> str:
    """Standard output of one command; its progress goes to the terminal."""
    command = [sys.executable, "-m", "crackvae.cli", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
