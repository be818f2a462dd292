"""What cracked tiles among the unlabelled ones do to the threshold of `crackvae adapt`, on labelled images.

    crackvae score --images TILES --model MODEL --out SCORES
    python benchmarks/adapt.py --scores SCORES --model MODEL --groups TILES.csv [--block-column block] [...]

TILES holds images of one tile each, in folders crack and non_crack or Positive and Negative. The CSV gives the group
(photograph) of each image, and optionally a coarser block and the part of the images that it belongs to, such as the
kind of surface. In each of ten splits of each part and of all, half of the blocks set the threshold with 0, 1 or 5 %
cracked tiles among their sound ones, and with all of their tiles, unsorted. The other half is judged: the realised
false-alarm rate, whether it lies in the stated interval, and the recall. Beside it: a quantile of the sound tiles,
as if somebody had sorted them, and a quantile of the mixture, as if nobody had thought of cracks. `quick` uses all
tiles of our half, as `adapt --quick` does; `default` those of the photographs on which `adapt` does not train, with the
scores of the starting model, which it keeps unless the fine-tuned one finds more drawn cracks.

The threshold's own uncertainty is half the 95 % interval of thresholds from resampled groups without cracked tiles.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write_result

import crackvae
from crackvae.model.calibration import load_calibration
from crackvae.model.registry import model_folder
from crackvae.training.adapt.site import sides_of
from crackvae.training.adapt.threshold import SoundTail, ThresholdRule, site_threshold

SHARES: dict[str, float | None] = {"0 %": 0.0, "1 %": 0.01, "5 %": 0.05, "unsorted": None}
SPLITS, RESAMPLES = 10, 100
RATE, MAX_CRACKED = 0.01, 0.05
CRACK_FOLDERS = ("crack", "Positive")


def labelled_scores(scores: str, arguments: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Columns score, is_crack, group, block and part of every scored image that the CSV names, and the model."""
    rows = crackvae.read_scores(scores, ["image", "score", "status", "model"]).to_pandas()
    rows = rows[rows["status"] == "scored"]
    rows["image"] = ["/".join(Path(image.replace("!", "/")).parts[-2:]) for image in rows["image"]]
    rows["is_crack"] = [image.split("/")[0] in CRACK_FOLDERS for image in rows["image"]]
    table = pd.read_csv(arguments.groups)
    named = pd.DataFrame({"image": table["image"], "group": table[arguments.group_column]})
    named["block"] = table[arguments.block_column or arguments.group_column]
    named["part"] = table[arguments.part_column] if arguments.part_column else "all"
    (model,) = rows["model"].unique()
    return rows.merge(named, on="image", validate="one_to_one"), str(model)


def mixture_of(ours: pd.DataFrame, share: float | None, seed: int) -> pd.DataFrame:
    """Sound tiles with a share of cracked ones among them; all tiles for None."""
    if share is None:
        return ours
    sound, cracks = ours[~ours["is_crack"]], ours[ours["is_crack"]]
    n_cracks = min(len(cracks), round(len(sound) * share / (1 - share)))
    return pd.concat([sound, cracks.sample(n_cracks, random_state=seed)])


def calibrating(rows: pd.DataFrame, quick: bool, seed: int) -> pd.DataFrame:
    """The rows that set the threshold."""
    groups = rows["group"].tolist()
    return rows[sides_of(groups, np.ones(len(rows)), quick=quick, salt=str(seed)) == "calibration"]


def one_split(rows: pd.DataFrame, rule: ThresholdRule, quick: bool, seed: int) -> pd.DataFrame:
    """Figures of one split of the blocks, a row per share of cracked tiles among those that set the threshold."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.array(sorted(rows["block"].unique()), dtype=object))
    is_ours = rows["block"].isin(blocks[: len(blocks) // 2])
    ours, others = calibrating(rows[is_ours], quick, seed), rows[~is_ours]
    clean = rule.threshold(ours["score"][~ours["is_crack"]].to_numpy())
    uncertainty = threshold_uncertainty(ours[~ours["is_crack"]], rule, rng)
    figures = []
    for name, share in SHARES.items():
        mixture = mixture_of(ours, share, seed)
        found = site_threshold(mixture["score"].to_numpy(), mixture["group"].to_numpy(), rule, seed=0)
        row = {"cracked": name, "cracked_share": mixture["is_crack"].mean(), "low": found.low, "high": found.high}
        row |= judged("adapt", found.threshold, others) | judged(
            "naive", float(mixture["score"].quantile(1 - RATE)), others
        )
        row |= judged("sorted", float(ours["score"][~ours["is_crack"]].quantile(1 - RATE)), others)
        row |= {"moved": abs(found.threshold - clean), "uncertainty": uncertainty}
        figures.append(row)
    table = pd.DataFrame(figures).set_index("cracked")
    table["inside"] = table["adapt_false_alarms"].between(table["low"], table["high"])
    table["moved_less"] = table["moved"] <= table["uncertainty"]
    return table


def threshold_uncertainty(sound: pd.DataFrame, rule: ThresholdRule, rng: np.random.Generator) -> float:
    """Half the 95 % interval of the threshold over resampled groups."""
    by_group = [scores.to_numpy() for _, scores in sound.groupby("group")["score"]]
    thresholds = []
    for _ in range(RESAMPLES):
        chosen = [by_group[number] for number in rng.integers(len(by_group), size=len(by_group))]
        thresholds.append(rule.threshold(np.concatenate(chosen)))
    low, high = np.quantile(thresholds, [0.025, 0.975])
    return float(high - low) / 2


def judged(name: str, threshold: float, others: pd.DataFrame) -> dict[str, float]:
    """A threshold, and its false-alarm rate and recall on the other blocks."""
    flagged = others["score"] > threshold
    return {
        f"{name}_threshold": threshold,
        f"{name}_false_alarms": flagged[~others["is_crack"]].mean(),
        f"{name}_recall": flagged[others["is_crack"]].mean(),
    }


def figures_of(rows: pd.DataFrame, rule: ThresholdRule, quick: bool) -> dict[str, Any]:
    """Sums of `inside` and `moved_less` over the splits and means of the rest, by share of cracked tiles."""
    splits = pd.concat([one_split(rows, rule, quick, seed) for seed in range(SPLITS)])
    means = splits.groupby(level=0, sort=False).mean().astype(float)
    counts = splits[["inside", "moved_less"]].groupby(level=0, sort=False).sum()
    means[["inside", "moved_less"]] = counts
    print(means.T.round(4).to_string())
    return {
        "images": len(rows), "cracked": int(rows["is_crack"].sum()), "groups": int(rows["group"].nunique()),
        "blocks": int(rows["block"].nunique()), "by_cracked_share": means.round(4).to_dict("index"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--model", default="builtin", help="that of the scores; its calibration says how the tail lies")
    parser.add_argument("--groups", required=True)
    parser.add_argument("--group-column", default="group")
    parser.add_argument("--block-column", default="")
    parser.add_argument("--part-column", default="")
    parser.add_argument("--name", default="adapt")
    arguments = parser.parse_args()
    rows, model = labelled_scores(arguments.scores, arguments)
    sample = load_calibration(model_folder(arguments.model), model).sample
    assert sample, "a calibration of this version keeps its tile scores"
    rule = ThresholdRule(SoundTail.of(sample.tile_scores_M), RATE, MAX_CRACKED)
    parts = {"all": rows} | ({str(name): part for name, part in rows.groupby("part")} if arguments.part_column else {})
    result: dict[str, Any] = {
        "model": model, "tail": asdict(rule.tail), "rate": RATE, "max_cracked": MAX_CRACKED, "splits": SPLITS,
        "parts": {name: figures_of(part, rule, quick=True) for name, part in parts.items()},
        "parts_default": {name: figures_of(part, rule, quick=False) for name, part in parts.items()},
    }  # fmt: skip
    print(write_result(arguments.name, result))


if __name__ == "__main__":
    main()
