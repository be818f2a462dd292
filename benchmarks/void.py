"""How often a run is said to have no valid threshold: nights of the calibration's site, and of others.

    python benchmarks/void.py --evaluation FOLDER [FOLDER ...] [--rounds 40]

FOLDER holds the `evaluation.parquet` of one model, as for put_together.py; images with other names are one more site,
METU. In each round half of the blocks of a surface calibrate the 95th percentile, named by block, by photograph
or not at all. A night has 30 to 300 tiles, cracked ones among them, of one block or of all blocks of the other half; of
another surface; or of the same with all scores multiplied, so that two or three times as many are flagged as promised.
"""

import argparse

import numpy as np
import pandas as pd
import pyarrow as pa
from put_together import read
from record import write_result

from crackvae.model.calibration import Calibration, Sample
from crackvae.scoring.threshold_check import ThresholdCheck

GROUPS = ("block", "photograph", "none")
NIGHT = (30, 300)
SCALES = (1.6, 2.0, 3.0)


def main() -> None:
    """Play the nights, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", required=True, nargs="+")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    rows = []
    for folder in given.evaluation:
        tiles = read(folder, others="metu").assign(none="")
        for site, of_site in tiles.groupby("surface"):
            for groups in GROUPS if site != "metu" else ("group",):
                found = played(of_site, tiles[tiles.surface != site], groups, given.rounds)
                shown = found.groupby("night", sort=False).agg(
                    nights=("void", "size"), void=("void", "mean"), sound_flagged=("flagged", "mean")
                )
                names = {"model": str(tiles.model[0])[:12], "calibration": site, "groups": groups}
                rows += [names | row for row in shown.round(4).reset_index().to_dict("records")]
    print(pd.DataFrame(rows).to_string(index=False))
    print(write_result("void", {"rows": rows}))


def played(site: pd.DataFrame, others: pd.DataFrame, groups: str, rounds: int) -> pd.DataFrame:
    """One row a night: whose it is, whether the threshold was said to be void, and the share of sound tiles flagged."""
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        calibrates = site.block.isin(rng.permutation(site.block.unique())[::2])
        made = calibrated(site[calibrates & (site.label == "non_crack")], groups)
        rest = site[~calibrates]
        nights = {"same site, one block": (rest[rest.block == rng.choice(rest.block.unique())], 1.0)}
        nights |= {"same site": (rest, 1.0)} | {f"same site, scores x {scale}": (rest, scale) for scale in SCALES}
        nights |= {f"{name}": (one, 1.0) for name, one in others.groupby("surface")}
        for name, (tiles, scale) in nights.items():
            night = tiles.sample(min(len(tiles), int(rng.integers(*NIGHT))), random_state=rng)
            scores_T = (night.score.to_numpy() * scale).astype(np.float32)
            flagged = (scores_T > made.threshold)[night.label == "non_crack"].mean()
            found.append({"night": name, "void": is_void(made, scores_T), "flagged": flagged})
    return pd.DataFrame(found)


def calibrated(sound: pd.DataFrame, groups: str) -> Calibration:
    """A calibration on single tiles at the 95th percentile."""
    scores_N, groups_N = sound.score.to_numpy(np.float32), pd.factorize(sound[groups])[0]
    sample = Sample.of(scores_N, groups_N, list(scores_N[:, None]))
    n_groups, threshold = int(groups_N.max()) + 1, float(np.quantile(scores_N, 0.95))
    return Calibration(np.sort(scores_N), n_groups, "", threshold, "", False, sample)


def is_void(made: Calibration, scores_T: np.ndarray) -> bool:
    """Whether a run of these single tiles is said to have no valid threshold."""
    check = ThresholdCheck(made, "model")
    tiles = pa.array(scores_T[:, None].tolist(), pa.list_(pa.float32()))
    check.add(pa.table({"status": ["scored"] * len(scores_T), "tile_scores": tiles}))
    return check.result() is not None


if __name__ == "__main__":
    main()
