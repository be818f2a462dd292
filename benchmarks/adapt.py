"""What cracked tiles among the unlabelled ones do to the threshold of `crackvae adapt --quick`, on labelled images.

    crackvae score --images TILES --model MODEL --out SCORES
    python benchmarks/adapt.py --scores SCORES --groups TILES.csv [--block-column block] [--name adapt-SITE]

TILES holds images of one tile each, in folders crack and non_crack or Positive and Negative. The CSV gives the group
(photograph) of each image, and optionally a coarser block. In each of ten splits, half of the blocks set the threshold
with 0, 1, 2 or 5 % cracked tiles among their sound ones, and the other half is judged: the realised false-alarm rate,
whether it lies in the stated interval, and the recall. Beside it: a quantile of the sound tiles alone, as if somebody
had sorted them, and a quantile of the mixture, as if nobody had thought of cracks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write_result

import crackvae
from crackvae.training.adapt.threshold import site_threshold

SHARES, SPLITS = (0.0, 0.01, 0.02, 0.05), 10
RATE, MAX_CRACKED = 0.01, 0.05
CRACK_FOLDERS = ("crack", "Positive")


def labelled_scores(scores: str, groups: str, group_column: str, block_column: str) -> pd.DataFrame:
    """Columns score, is_crack, group and block of every scored image that the CSV names."""
    rows = crackvae.read_scores(scores, ["image", "score", "status"]).to_pandas()
    rows = rows[rows["status"] == "scored"]
    rows["image"] = ["/".join(Path(image.replace("!", "/")).parts[-2:]) for image in rows["image"]]
    rows["is_crack"] = [image.split("/")[0] in CRACK_FOLDERS for image in rows["image"]]
    named = pd.read_csv(groups).rename(columns={group_column: "group"})
    named["block"] = named[block_column] if block_column else named["group"]
    return rows.merge(named[["image", "group", "block"]], on="image", validate="one_to_one")


def one_split(rows: pd.DataFrame, share: float, seed: int) -> dict[str, float]:
    """Figures of one split of the blocks, with a share of cracked tiles among those that set the threshold."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.array(sorted(rows["block"].unique()), dtype=object))
    is_ours = rows["block"].isin(blocks[: len(blocks) // 2])
    ours, others = rows[is_ours], rows[~is_ours]
    sound, cracks = ours[~ours["is_crack"]], ours[ours["is_crack"]]
    n_cracks = min(len(cracks), round(len(sound) * share / (1 - share)))
    mixture = pd.concat([sound, cracks.sample(n_cracks, random_state=seed)])
    found = site_threshold(mixture["score"].to_numpy(), mixture["group"].to_numpy(), RATE, MAX_CRACKED, seed=0)
    thresholds = {
        "adapt": found.threshold,
        "sorted": float(sound["score"].quantile(1 - RATE)),
        "naive": float(mixture["score"].quantile(1 - RATE)),
    }
    figures: dict[str, float] = {"low": found.low, "high": found.high}
    for name, threshold in thresholds.items():
        flagged = others["score"] > threshold
        figures |= {
            f"{name}_threshold": threshold,
            f"{name}_false_alarms": float(flagged[~others["is_crack"]].mean()),
            f"{name}_recall": float(flagged[others["is_crack"]].mean()),
        }
    return figures | {"inside": float(found.low <= figures["adapt_false_alarms"] <= found.high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--groups", required=True)
    parser.add_argument("--group-column", default="group")
    parser.add_argument("--block-column", default="")
    parser.add_argument("--name", default="adapt")
    arguments = parser.parse_args()
    rows = labelled_scores(arguments.scores, arguments.groups, arguments.group_column, arguments.block_column)
    table = pd.DataFrame(
        {share: pd.DataFrame(one_split(rows, share, k) for k in range(SPLITS)).mean() for share in SHARES}
    )
    print(table.T.rename_axis("cracked share").round(4).to_string())
    result: dict[str, Any] = {
        "images": len(rows), "cracked": int(rows["is_crack"].sum()), "blocks": int(rows["block"].nunique()),
        "rate": RATE, "max_cracked": MAX_CRACKED, "splits": SPLITS,
        "by_cracked_share": {str(share): table[share].to_dict() for share in SHARES},
    }  # fmt: skip
    print(write_result(arguments.name, result))


if __name__ == "__main__":
    main()
