"""How often a run is said to have no valid threshold: nights of the calibration's site, and of others.

    python benchmarks/void.py --evaluation FOLDER [FOLDER ...] [--rounds 40] [--night 30 300] [--tiles 1]

FOLDER holds the `evaluation.parquet` of one model, as for put_together.py; images with other names are one more site,
METU. In each round half of the blocks of a surface calibrate the 95th percentile, named by block, by photograph
or not at all. A night has 30 to 300 images, of one tile each or of several of one photograph, cracked ones among them,
of one block or of all blocks of the other half; of another surface; or of the same with all scores multiplied, so that
two or three times as many are flagged as promised.
"""

import argparse

import numpy as np
import pandas as pd
import pyarrow as pa
from put_together import calibrated, read
from record import write_result

from crackvae.model.calibration import Calibration
from crackvae.scoring.threshold_check import ThresholdCheck

GROUPS = ("block", "photograph", "none")
SCALES = (1.6, 2.0, 3.0)


def main() -> None:
    """Play the nights, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", required=True, nargs="+")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--night", type=int, nargs=2, default=(30, 300), help="fewest and most images of a night")
    parser.add_argument("--tiles", type=int, default=1, help="tiles of an image")
    given = parser.parse_args()
    rows = []
    for folder in given.evaluation:
        tiles = read(folder, others="metu").assign(none="")
        for site, of_site in tiles.groupby("surface"):
            for groups in GROUPS if site != "metu" else ("group",):
                found = played(of_site, tiles[tiles.surface != site], groups, given)
                shown = found.groupby("night", sort=False).agg(
                    nights=("void", "size"), void=("void", "mean"), sound_flagged=("flagged", "mean")
                )
                names = {"model": str(tiles.model[0])[:12], "calibration": site, "groups": groups}
                rows += [names | row for row in shown.round(4).reset_index().to_dict("records")]
    print(pd.DataFrame(rows).to_string(index=False))
    name = "void" if given.night[1] > 20 and given.tiles == 1 else f"void-{given.night[1]}-images-{given.tiles}-tiles"
    print(write_result(name, {"night": given.night, "tiles": given.tiles, "rows": rows}))


def played(site: pd.DataFrame, others: pd.DataFrame, groups: str, given: argparse.Namespace) -> pd.DataFrame:
    """One row a night: whose it is, whether the threshold was said to be void, and the share of sound tiles flagged."""
    rng, found = np.random.default_rng(0), []
    for _ in range(given.rounds):
        calibrates = site.block.isin(rng.permutation(site.block.unique())[::2])
        made = calibrated(site[calibrates & (site.label == "non_crack")], groups, percentile_95)
        rest = site[~calibrates]
        nights = {"same site, one block": (rest[rest.block == rng.choice(rest.block.unique())], 1.0)}
        nights |= {"same site": (rest, 1.0)} | {f"same site, scores x {scale}": (rest, scale) for scale in SCALES}
        nights |= {f"{name}": (one, 1.0) for name, one in others.groupby("surface")}
        for name, (tiles, scale) in nights.items():
            night = drawn(tiles, int(rng.integers(*given.night)), given.tiles, rng)
            if night.empty:
                continue
            scores_NT = (night.score.to_numpy() * scale).astype(np.float32).reshape(-1, given.tiles)
            flagged = (scores_NT.ravel() > made.threshold)[night.label == "non_crack"].mean()
            found.append({"night": name, "void": is_void(made, scores_NT), "flagged": flagged})
    return pd.DataFrame(found)


def drawn(tiles: pd.DataFrame, n_images: int, n_tiles: int, rng: np.random.Generator) -> pd.DataFrame:
    """The tiles of some images, in their order; those of one image are tiles of one photograph, if any has so many."""
    if n_tiles == 1:
        return tiles.sample(min(len(tiles), n_images), random_state=rng)
    by_photograph = [one for _, one in tiles.groupby("photograph") if len(one) >= n_tiles]
    chosen = rng.integers(len(by_photograph), size=n_images) if by_photograph else []
    return pd.concat([tiles[:0], *(by_photograph[number].sample(n_tiles, random_state=rng) for number in chosen)])


def percentile_95(scores_N: np.ndarray) -> float:
    """The 95th percentile of the scores of sound tiles."""
    return float(np.quantile(scores_N, 0.95))


def is_void(made: Calibration, scores_NT: np.ndarray) -> bool:
    """Whether a run of these images is said to have no valid threshold."""
    check = ThresholdCheck(made, "model")
    tiles = pa.array(scores_NT.tolist(), pa.list_(pa.float32()))
    check.add(pa.table({"status": ["scored"] * len(scores_NT), "tile_scores": tiles}))
    return check.result() is not None


if __name__ == "__main__":
    main()
