"""Both protocols on the METU archive, end to end: splits and leaks, training, figures beside one line of numpy.

    python benchmarks/metu.py --archive metu.zip --groups metu-groups.csv --work FOLDER

`random` is the published random split (leaky); `clean` keeps each leak_group on one side and judges one image a
group. `--random` and `--clean` list their seeds, each with its own split and weights; "" leaves a protocol out.
`--published` adds the published recipe on the random split of seed 1.

Each step is a `crackvae` command in FOLDER and is left out where its result is there already, so a run that was
interrupted goes on. `--groups` is a CSV with the columns image, same_picture and leak_group: the truth for the search
of copies, and the groups of the clean protocol.
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
from crackvae.images.manifest import load_manifest

# Images whose names the log and the method page give: the worst of each kind.
N_WORST = 10


def main() -> None:
    """Run what is missing, then write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--random", default="1,2,3", help="seeds (default: %(default)s)")
    parser.add_argument("--clean", default="1,2,3", help="seeds (default: %(default)s)")
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--name", default="metu", help="name of the result (default: %(default)s)")
    options = parser.parse_args()
    work, archive, groups = options.work, options.archive, options.groups
    figures: dict[str, Any] = {
        "partition near-duplicate": partition(archive, work / "near-duplicate", "--group-by", "near-duplicate"),
        "same pictures kept together": kept_together(work / "near-duplicate", groups),
    }
    splits = {
        "random": ("--group-by", "none"),
        "clean": ("--groups", groups, "--group-column", "leak_group"),
    }
    for protocol, split in splits.items():
        folders = {int(seed): work / f"{protocol}-{seed}" for seed in getattr(options, protocol).split(",") if seed}
        if not folders:
            continue
        runs = {seed: run(folder, archive, protocol, split, seed) for seed, folder in folders.items()}
        figures[protocol] = {"seeds": runs, "mean": means(list(runs.values())), "pooled": pooled([*folders.values()])}
    if options.published:
        figures["published"] = trained(work / "random-1", "published", ("--preset", "published"), ())
    print(write_result(options.name, figures))


def run(folder: Path, archive: Path, protocol: str, split: tuple[object, ...], seed: int) -> dict[str, Any]:
    """Partition, train and evaluate with one seed."""
    counts = partition(archive, folder, *split, "--seed", seed)
    judge = ("--one-per-group",) if protocol == "clean" else ()
    return {"partition": counts, **trained(folder, "default", ("--seed", seed), judge)}


def partition(archive: Path, out: Path, *split: object) -> dict[str, Any]:
    """Counts and leaks of one way of splitting."""
    result = out / "partition.json"
    if not result.exists():
        (out / "manifest.parquet").unlink(missing_ok=True)
        started = time.perf_counter()
        command = ("partition", "--images", archive, "--external", "0,0", *split, "--out", out)
        summary = json.loads(crackvae(*command).splitlines()[-1])
        result.write_text(json.dumps(summary | {"seconds": round(time.perf_counter() - started, 1)}))
    summary = json.loads(result.read_text())
    return {name: summary[name] for name in ("seconds", "counts", "leaky", "leaking_images", "groups")}


def kept_together(folder: Path, groups: Path) -> dict[str, float]:
    """Share of the pictures with copies whose copies all lie on one side of the split."""
    table = load_manifest(str(folder / "manifest.parquet")).table.select(["image", "split"]).to_pandas()
    table["image"] = table["image"].str.split("!/").str[1]
    sides = table.merge(pd.read_csv(groups), on="image").groupby("same_picture")["split"].agg(["nunique", "size"])
    copied = sides[sides["size"] > 1]
    return {"pictures_with_copies": len(copied), "share_on_one_side": float((copied["nunique"] == 1).mean())}


def trained(folder: Path, name: str, train: tuple[object, ...], judge: tuple[str, ...]) -> dict[str, Any]:
    """Train on the folder's manifest where that was not done, evaluate on its test split, and give the figures."""
    manifest, model, out = folder / "manifest.parquet", folder / f"model-{name}", folder / f"evaluation-{name}"
    if not model.exists():
        crackvae("train", "--manifest", manifest, "--model", model, *train)
    if not out.exists():
        crackvae("evaluate", "--manifest", manifest, "--model", model, "--out", out, *judge)
    training = json.loads((model / "training.json").read_text())
    judged = json.loads((out / "metrics.json").read_text())
    return {
        "train_seconds": training["seconds"],
        "train_images_per_s": training["images_per_s"],
        "epochs": len(training["epochs"]),
        "evaluate_seconds": judged["seconds"],
        **judged["sets"]["internal"],
        "worst": worst(out),
    }


def worst(out: Path) -> dict[str, list[str]]:
    """Names of the cracks that score lowest and of the sound images that score highest, worst first."""
    rows = pd.read_parquet(out / "evaluation.parquet", columns=["image", "label", "score"]).sort_values("score")
    names = rows["image"].str.split("!/").str[1]
    is_crack = rows["label"] == "crack"
    return {"misses": list(names[is_crack][:N_WORST]), "false_alarms": list(names[~is_crack][::-1][:N_WORST])}


def means(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over the seeds of every ranking figure of every head."""
    return {
        head: {name: float(np.mean([one["heads"][head][name]["value"] for one in runs])) for name in table}
        for head, table in runs[0]["heads"].items()
    }


def pooled(folders: list[Path]) -> dict[str, float]:
    """Ranking figures on the test images of all seeds together, made comparable as p-values.

    A p-value ends at 1 / (N + 1): images beyond every calibration score are ranked by score over threshold.
    """
    rows = pd.concat([pd.read_parquet(folder / "evaluation-default" / "evaluation.parquet") for folder in folders])
    order = np.lexsort((rows["score"] / rows["threshold"], -rows["p_value"]))
    ranks_N = np.empty(len(rows))
    ranks_N[order] = np.arange(len(rows))
    found = metrics.ranking((rows["label"] == "crack").to_numpy(), ranks_N, np.ones(len(rows)))
    return dict(zip(metrics.RANKING_NAMES, found.tolist(), strict=True))


def crackvae(*arguments: object) -> str:
    """Standard output of one command; its progress goes to the terminal."""
    command = [sys.executable, "-m", "crackvae", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
