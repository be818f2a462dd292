"""Recall of a model of `crackvae adapt` beside one that `crackvae train` made of the sorted sound images of the site.

    python benchmarks/adapt_recall.py --case NAME ADAPTED TRAINED [BLOCK ...] [--case ...] [--data ../shared/data]

ADAPTED and TRAINED are scores tables of tiles of SDNET2018 that neither model was trained on, in folders crack and
non_crack; BLOCKs limit them. Recall is read at the same false-alarm rate for both: at the threshold that 1 % of the
sound tiles of a surface exceed, so that the ranking alone counts, not where each model has its threshold. The mean is
that of all surfaces of all cases. Intervals of the difference: of each surface blocks are resampled, the same for
both models, or photographs where it has fewer than five blocks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from builtin import visible_cracks
from record import write_result

import crackvae
from crackvae.metrics import INTERVAL, RANKING_NAMES, ranking

METRICS = ("recall_at_1%_false_alarms", "recall_at_5%_false_alarms", "roc_auc")
# With fewer, resampled blocks say nothing of how much blocks differ.
MIN_BLOCKS = 5
RESAMPLES, SEED = 1000, 0


def main() -> None:
    """Compare, print, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", action="append", required=True, metavar="WORD")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--name", default="adapt-recall")
    arguments = parser.parse_args()
    cases, parts = {}, {}
    for name, adapted, trained, *blocks in arguments.case:
        rows = judged(arguments.data, adapted, trained, blocks)
        cases[name] = {column: sorted(rows[column].unique()) for column in ("model", "model_trained", "block")}
        parts |= {f"{name}, {surface}": part for surface, part in rows.groupby("surface")}
    visible = {name: part[~part["is_crack"] | part["is_visible"]] for name, part in parts.items()}
    figures = [
        {"part": name, "cracks": kind} | compared(chosen)
        for kind, of_kind in (("labelled", parts), ("visible", visible))
        for name, chosen in ({"mean": [*of_kind.values()]} | {name: [one] for name, one in of_kind.items()}).items()
    ]
    print(pd.DataFrame([one | one[METRICS[0]] for one in figures]).drop(columns=list(METRICS)).to_string(index=False))
    print(write_result(arguments.name, {"cases": cases, "figures": figures}))


def judged(data: Path, adapted: str, trained: str, blocks: list[str]) -> pd.DataFrame:
    """The tiles that both tables hold, with both scores, their labels, photograph, block and surface."""
    both = [
        crackvae.read_scores(scores, ["image", "score", "status", "model"]).to_pandas() for scores in (adapted, trained)
    ]
    for rows in both:
        rows["image"] = ["/".join(Path(image).parts[-2:]) for image in rows["image"]]
    rows = both[0].merge(both[1], on=["image", "status"], suffixes=("", "_trained"), validate="one_to_one")
    tiles = pd.read_csv(data / "sdnet-dev.csv")
    rows = rows[rows["status"] == "scored"].merge(tiles, on="image", validate="one_to_one")
    rows["is_crack"] = rows["image"].str.startswith("crack/")
    rows["is_visible"] = rows["image"].str.split("/").str[-1].isin(visible_cracks(data))
    return rows[rows["block"].isin(blocks)] if blocks else rows


def compared(parts: list[pd.DataFrame]) -> dict[str, Any]:
    """Means over the parts of the figures of both models, and what the adapted one gains with its interval."""
    rng = np.random.default_rng(SEED)
    units = [part["block" if part["block"].nunique() >= MIN_BLOCKS else "photo"] for part in parts]
    numbers = [np.unique(unit, return_inverse=True)[1] for unit in units]
    values = figures_of(parts, [np.ones(len(part)) for part in parts])
    draws = []
    for _ in range(RESAMPLES):
        drawn = figures_of(parts, [resampled(part, number, rng) for part, number in zip(parts, numbers, strict=True)])
        draws.append(drawn[1] - drawn[0])
    low, high = np.quantile(draws, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    table = pd.DataFrame(
        {"trained": values[0], "adapted": values[1], "difference": values[1] - values[0], "low": low, "high": high},
        index=RANKING_NAMES,
    )
    return {
        "sound": sum(int((~part["is_crack"]).sum()) for part in parts),
        "cracked": sum(int(part["is_crack"].sum()) for part in parts),
        "resampled": ", ".join(f"{unit.nunique()} {unit.name}s" for unit in units),
        **table.loc[list(METRICS)].round(4).to_dict("index"),
    }


def figures_of(parts: list[pd.DataFrame], weights: list[np.ndarray]) -> np.ndarray:
    """Mean over the parts of the metrics of the trained and of the adapted model, float (2, metrics)."""
    return np.mean(
        [
            [ranking(part["is_crack"].to_numpy(), part[name].to_numpy(), weight) for name in ("score_trained", "score")]
            for part, weight in zip(parts, weights, strict=True)
        ],
        axis=0,
    )


def resampled(part: pd.DataFrame, number_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weight of each tile in a resample of the blocks or photographs that has tiles of both labels."""
    n = number_N.max() + 1
    while True:
        weights_N = rng.multinomial(n, np.full(n, 1 / n))[number_N].astype(float)
        if 0 < weights_N @ part["is_crack"] < weights_N.sum():
            return weights_N


if __name__ == "__main__":
    main()
