"""Photographs put together from tiles of SDNET2018: how many sound ones a calibration on other photographs flags.

    python benchmarks/put_together.py --evaluation FOLDER [--rounds 100]

FOLDER is an evaluation of the built-in model, with images named `PHOTOGRAPH-NUMBER.jpg` and blocks as groups, such as
that on test blocks, which benchmarks/builtin.py writes. In each round a random half of the photographs, or of the
blocks, of a surface calibrates a threshold of 5 %, and photographs of T tiles are put together from the other half: 20
tiles of one photograph, 200 of one block, and no tile twice. Compared are the share of sound ones flagged and the
interval that the calibration states for it; beside them, the share flagged when one tile is replaced by one that is
labelled cracked.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from record import write_result

from crackvae.model.calibration import Calibration, Sample, conformal_threshold

LEVEL = 0.05
# What is divided into halves, the groups of the calibration, and its largest number of tiles.
CALIBRATIONS = (("photograph", 100), ("photograph", 200), ("block", 2000))
# Fewest photographs or blocks to divide.
MIN_UNITS = 4
# Tiles of a photograph, how many photographs are put together in a round at most, and from what.
PHOTOGRAPHS = ((1, 100, "photograph"), (20, 40, "photograph"), (200, 5, "block"))
SURFACES = {"D": "decks", "P": "pavements", "W": "walls"}


def main() -> None:
    """Play the rounds, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", required=True)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    tiles = read(given.evaluation)
    rows = []
    for surface, of_surface in tiles.groupby("surface"):
        for (halves, n), photographs in itertools.product(CALIBRATIONS, PHOTOGRAPHS):
            if of_surface[halves].nunique() < MIN_UNITS:
                continue
            figures = played(of_surface, halves, n, photographs, given.rounds)
            names = {"surface": SURFACES[str(surface)], "halves": halves, "calibration_tiles": n}
            rows.append(names | {"tiles": photographs[0], **figures})
    print(pd.DataFrame(rows).to_string(index=False))
    print(write_result("put-together", {"model": str(tiles.model[0]), "rows": rows}))


def read(evaluation: str, others: str = "") -> pd.DataFrame:
    """Tiles of SDNET2018 with their score, surface, photograph and block; and images of other names, as `others`."""
    tiles = pd.read_parquet(Path(evaluation) / "evaluation.parquet")
    tiles["name"] = [Path(image).stem for image in tiles.image]
    is_one = tiles.name.str.match("[DPW]_")
    surface = tiles.name.str[0].where(is_one, others)
    tiles = tiles.assign(photograph=tiles.name.str.rpartition("-")[0], surface=surface, block=tiles.group)
    return tiles[is_one | bool(others)].reset_index(drop=True)


def played(tiles: pd.DataFrame, halves: str, n: int, made_of: tuple[int, int, str], rounds: int) -> dict[str, float]:
    """Rounds whose stated interval holds the share of sound photographs flagged, and the mean shares."""
    size, photographs, of = made_of
    rng = np.random.default_rng(size)
    sound, cracked = tiles[tiles.label == "non_crack"], tiles[tiles.label == "crack"].score.to_numpy()
    kept, shares, found, highs = [], [], [], []
    for _ in range(rounds):
        is_calibration = sound[halves].isin(rng.permutation(sound[halves].unique())[::2])
        made = calibrated(sound[is_calibration].sample(frac=1, random_state=rng).head(n), halves)
        units = [one.score.to_numpy() for _, one in sound[~is_calibration].groupby(of) if len(one) >= size]
        if not units:
            continue
        worst_B = put_together(units, size, photographs, rng)
        share = flagged(made, worst_B, size)
        promise = made.promise(len(worst_B), size, len(units))
        kept.append(promise["low"] <= share <= promise["high"])
        shares.append(share)
        highs.append(promise["high"])
        found.append(flagged(made, np.maximum(worst_B, rng.choice(cracked, len(worst_B))), size))
    return {
        "rounds": len(kept),
        "interval_holds": int(np.sum(kept)),
        "median_upper_end": round(float(np.median(highs)), 4),
        "sound_flagged": round(float(np.mean(shares)), 4),
        "with_one_cracked_tile": round(float(np.mean(found)), 4),
    }


def put_together(units: list[np.ndarray], size: int, photographs: int, rng: np.random.Generator) -> np.ndarray:
    """Highest score of each of some photographs of `size` tiles of one unit, none of which share a tile."""
    cut = [rng.permutation(one)[: len(one) // size * size].reshape(-1, size) for one in units]
    return np.asarray(rng.permutation(np.concatenate(cut).max(axis=1))[:photographs])


def conformal(scores_N: np.ndarray) -> float:
    """The threshold that flags LEVEL of sound tiles."""
    return conformal_threshold(np.sort(scores_N), LEVEL, None)


def calibrated(
    sound: pd.DataFrame, groups: str, threshold_of: Callable[[np.ndarray], float] = conformal
) -> Calibration:
    """A calibration on single tiles, grouped by a column, with the threshold of their scores, float (N,)."""
    scores_N, groups_N = sound.score.to_numpy(), pd.factorize(sound[groups])[0]
    sample = Sample.of(scores_N, groups_N, list(scores_N[:, None]))
    return Calibration(np.sort(scores_N), int(groups_N.max()) + 1, "", threshold_of(scores_N), "", False, sample)


def flagged(made: Calibration, worst_B: np.ndarray, size: int) -> float:
    """Share of photographs of `size` tiles that are flagged, given the highest score of each."""
    return float(made.flags(worst_B, made.p_values(worst_B, np.full(len(worst_B), size))).mean())


if __name__ == "__main__":
    main()
