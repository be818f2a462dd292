"""What `crackvae learn` makes of 20 to 1,000 verdicts: recall on blocks of SDNET2018 that nobody has judged.

    python benchmarks/learn.py --work FOLDER [--model MODEL] [--name learn] [--seeds 1 2 3] [--parts all decks ...]

The labels stand in for a reviewer who judges the 100 most suspicious images of a night, by the model to start from,
night by night. A part is all surfaces together, or one of them alone: its nights and its held-out blocks are of that
surface. Blocks of neighbouring photographs are held out, one of four folds by seed; of these a sample of sound and of
cracked images is scored. The group of an image is its photograph.

The steps of the verb are taken in one process. All images are scored once by the model to start from, which is kept in
the work folder; a challenger scores the held-out ones, with the whole network. SDNET2018: Maguire, Dorafshan & Thomas,
doi 10.15142/T3TD19, CC BY 4.0.

The result is benchmarks/results/NAME-DATE.json, and the curve docs/images/NAME.png. Intervals: bootstrap over
photographs; of several seeds, over those of each, of their mean.
"""

import argparse
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
from builtin import SURFACES, visible_cracks
from concrete import N_FOLDS, folds
from PIL import Image
from record import write_result

from crackvae import metrics
from crackvae.model.artifact import Model
from crackvae.model.inference import Scorer, load_scorer, score_tiles
from crackvae.training.adapt.calibrating import rule_from
from crackvae.training.adapt.site import sides_of
from crackvae.training.adapt.threshold import judged_threshold, site_threshold
from crackvae.training.learn import learned_weights
from crackvae.training.learn.held_out import HeldOutCracks
from crackvae.training.learn.judged import CALIBRATION_SHARE
from crackvae.training.loop import VAL_BATCH

NIGHT_IMAGES, JUDGED_A_NIGHT = 400, 100
VERDICTS = (20, 100, 300, 1000)
HELD_OUT_SOUND, HELD_OUT_CRACKED = 700, 300
MAX_CRACKED = 0.05  # the default of the verb
RESAMPLES = 500
CURVES = Path(__file__).parents[1] / "docs" / "images"
FIGURES = ("recall_at_5%_false_alarms", "recall_at_1%_false_alarms", "recall", "false_alarm_rate")
PARTS = ("all", *SURFACES.values())


def listed(data: Path) -> pd.DataFrame:
    """Columns image, group (the photograph), part, is_crack and fold, in the order of sdnet-dev.csv."""
    rows = pd.read_csv(data / "sdnet-dev.csv")
    fold_of = folds(rows.assign(part=rows.surface, group=rows.block))
    return pd.DataFrame(
        {
            "image": rows.image,
            "group": rows.photo,
            "part": rows.surface.str[0].map(SURFACES),
            "is_crack": rows.image.str.startswith("crack/"),
            "fold": rows.block.map(fold_of),
        }
    )


def tiles_of(images: pd.DataFrame, data: Path) -> np.ndarray:
    """The images, uint8 (N, 256, 256)."""
    with zipfile.ZipFile(data / "sdnet-dev.zip") as members:
        names = {"/".join(name.split("/")[-2:]): name for name in members.namelist()}
        pictures = (Image.open(BytesIO(members.read(names[image]))).convert("L") for image in images.image)
        return np.stack([np.asarray(picture) for picture in pictures])


def kept_scores(tiles: np.ndarray, scorer: Scorer, path: Path) -> np.ndarray:
    """Scores of all tiles by the model to start from, computed once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_tiles(scorer.model, tiles, VAL_BATCH)[:, 0])
    return np.load(path)


@dataclass(frozen=True)
class Site:
    """The images of one part and one seed, by their numbers: those of each night, and the held-out ones."""

    nights: list[np.ndarray]
    held_out: np.ndarray

    @classmethod
    def of(cls, images: pd.DataFrame, part: str, seed: int) -> "Site":
        """Shuffled nights of the other folds, and a sample of the fold of the seed."""
        of_part = images[(images.part == part) | (part == "all")]
        is_held_out = of_part.fold == seed % N_FOLDS
        n_nights = max(VERDICTS) // JUDGED_A_NIGHT
        size = min(NIGHT_IMAGES, int((~is_held_out).sum()) // n_nights)
        shuffled = of_part[~is_held_out].sample(n_nights * size, random_state=seed).index.to_numpy()
        samples = [
            rows.sample(min(HELD_OUT_CRACKED if is_crack else HELD_OUT_SOUND, len(rows)), random_state=seed).index
            for is_crack, rows in of_part[is_held_out].groupby("is_crack")
        ]
        return cls(np.split(shuffled, n_nights), np.concatenate(samples))

    def judged(self, n_verdicts: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images of the nights with so many verdicts, and whether each of them is judged."""
        nights = self.nights[: -(-n_verdicts // JUDGED_A_NIGHT)]
        rank = [np.argsort(np.argsort(-scores[night], kind="stable")) for night in nights]
        most = [min(JUDGED_A_NIGHT, n_verdicts - number * JUDGED_A_NIGHT) for number in range(len(nights))]
        return np.concatenate(nights), np.concatenate([one < n for one, n in zip(rank, most, strict=True)])


@dataclass(frozen=True)
class Learned:
    """What the verb makes of some verdicts: a model, its reasons, the threshold and what that promises."""

    model: Model
    held_out: HeldOutCracks
    threshold: float
    promise: tuple[float, float, float]
    judged: dict[str, int]


def learned(
    images: pd.DataFrame, tiles: np.ndarray, scorer: Scorer, numbers: np.ndarray, judged: np.ndarray, seed: int
) -> Learned:
    """The steps of `crackvae learn` on the images of some nights."""
    rows = images.loc[numbers].assign(judged=judged)
    groups = rows.group.tolist()
    sides = sides_of(groups, np.ones(len(rows)), quick=False, salt=str(seed), calibration=CALIBRATION_SHARE)
    apart = rows[(sides == "calibration") & ~(rows.judged & rows.is_crack)]
    taught = rows[(sides != "calibration") & rows.judged]
    verdicts = taught.is_crack.map({True: "crack", False: "sound"})
    table = pa.table({"group": taught.group.to_numpy(str), "verdict": verdicts.to_numpy(str)})
    kept, held_out = learned_weights(
        scorer.model, scorer.model.spec, tiles[taught.index], table, tiles[apart.index], seed
    )
    model, rate, groups_T = kept.model, scorer.calibration.rate, apart.group.to_numpy()
    scores_T = score_tiles(model, tiles[apart.index], VAL_BATCH)[:, 0]
    found = judged_threshold(scores_T, groups_T, apart.judged.to_numpy(), rate)
    rule = rule_from(scorer.calibration, rate, SimpleNamespace(max_cracked=MAX_CRACKED))  # type: ignore[arg-type]
    found = found or site_threshold(scores_T, groups_T, rule, seed)
    counts = {"cracks": int(taught.is_crack.sum()), "sound": int((~taught.is_crack).sum()), "apart": len(apart)}
    return Learned(model, held_out, found.threshold, (rate, found.low, found.high), counts)


def measured(rows: pd.DataFrame, one: metrics.Decisions, weights_N: np.ndarray) -> np.ndarray:
    """The FIGURES of some weighted images, float (4,)."""
    labels = rows.is_crack.to_numpy()
    ranks = dict(zip(metrics.RANKING_NAMES, metrics.ranking(labels, one.scores_N, weights_N), strict=True))
    rates = dict(zip(metrics.THRESHOLD_NAMES, metrics.at_threshold(labels, one.flagged_N, weights_N), strict=True))
    return np.array([(ranks | rates)[name] for name in FIGURES])


def over_seeds(curves: list[tuple[pd.DataFrame, metrics.Decisions, metrics.Decisions]]) -> dict[str, Any]:
    """Mean over seeds of each figure before and after learning, with 95 % intervals over photographs."""
    rng, draws = np.random.default_rng(0), []
    groups = [np.unique(rows.group, return_inverse=True)[1] for rows, _, _ in curves]
    ones = [np.ones(len(rows)) for rows, _, _ in curves]
    while len(draws) <= RESAMPLES:
        weights = ones  # the first are the figures themselves
        if draws:
            sizes = [group_N.max() + 1 for group_N in groups]
            weights = [
                rng.multinomial(n, np.full(n, 1 / n))[g].astype(float) for n, g in zip(sizes, groups, strict=True)
            ]
        pairs = zip(curves, weights, strict=True)
        draws.append(np.mean([[measured(c[0], one, w) for one in c[1:]] for c, w in pairs], axis=0))
    before_RF, after_RF = np.moveaxis(np.array(draws), 1, 0)
    found: dict[str, Any] = {}
    for number, name in enumerate(FIGURES):
        kinds = {"before": before_RF, "after": after_RF, "difference": after_RF - before_RF}
        found[name] = {
            kind: np.round([of_kind[0, number], *np.nanquantile(of_kind[1:, number], (0.025, 0.975))], 4).tolist()
            for kind, of_kind in kinds.items()
        }
    return found


def points(of_seeds: dict[int, tuple[Learned, Any]], visible: set[str]) -> dict[str, Any]:
    """The figures after a number of verdicts: of all labels and of visible cracks, and what each seed promised."""
    curves = [curve for _, curve in of_seeds.values()]
    kinds = {"labels": curves, "visible cracks": [without(curve, visible) for curve in curves]}
    seeds: dict[str, Any] = {}
    for seed, (new, (rows, before, after)) in of_seeds.items():
        is_sound = ~rows.is_crack.to_numpy()
        flagged, (rate, low, high) = float(after.flagged_N[is_sound].mean()), new.promise
        seeds[str(seed)] = {
            "judged": new.judged,
            "held_out": new.held_out.summary(),
            "sound": int(is_sound.sum()),
            "cracked": int((~is_sound).sum()),
            "promised": {"expected": round(rate, 4), "low": round(low, 4), "high": round(high, 4)},
            "flagged_sound": round(flagged, 4),
            "flagged_sound_before": round(float(before.flagged_N[is_sound].mean()), 4),
            "promise_is_kept": bool(low <= flagged <= high),
        }
    return {kind: over_seeds(of_kind) for kind, of_kind in kinds.items()} | {"seeds": seeds}


def without(curve: Any, visible: set[str]) -> Any:
    """Without the images that are labelled cracked and show no crack that a reviewer sees plainly."""
    rows, *both = curve
    names = rows.image.str.rpartition("/")[2]
    chosen = (~rows.is_crack | names.isin(visible)).to_numpy()
    return rows[chosen], *(metrics.Decisions(one.scores_N[chosen], one.flagged_N[chosen]) for one in both)


def plot(parts: dict[str, Any], path: Path) -> None:
    """Recall by the number of verdicts, a panel for each part."""
    figure, panels = plt.subplots(1, len(parts), figsize=(3 * len(parts), 3), sharey=True, squeeze=False)
    for axes, (part, counts) in zip(panels[0], parts.items(), strict=True):
        for name in FIGURES[:2]:
            first = next(iter(counts.values()))["labels"][name]["before"]
            values = np.array([first, *(one["labels"][name]["after"] for one in counts.values())])
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            axes.errorbar(range(len(values)), values[:, 0], errors, capsize=3, label=name.replace("_", " "))
        axes.set(title=part, xlabel="verdicts", xticks=range(len(counts) + 1), xticklabels=["0", *counts], ylim=(0, 1))
    panels[0][0].set_ylabel("recall, mean of three seeds")
    panels[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Learn for each part, seed and number of verdicts, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed once")
    parser.add_argument("--model", default="builtin", help="to start from (default: %(default)s)")
    parser.add_argument("--name", default="learn", help="of the result (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of nights, held-out blocks, training")
    parser.add_argument("--verdicts", type=int, nargs="+", default=list(VERDICTS), help="how many (default: each)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which surfaces (default: each)")
    options = parser.parse_args()
    scorer, images = load_scorer(options.model), listed(options.data)
    tiles = tiles_of(images, options.data)
    scores = kept_scores(tiles, scorer, options.work / f"scores-{scorer.model.digest[:12]}.npy")
    visible = visible_cracks(options.data)
    result: dict[str, Any] = {"model": scorer.model.digest, "seeds": options.seeds, "parts": {}}
    for part in options.parts:
        curves: dict[int, dict[int, Any]] = {n_verdicts: {} for n_verdicts in options.verdicts}
        for seed in options.seeds:
            site = Site.of(images, part, seed)
            held_out, old_scores = images.loc[site.held_out], scores[site.held_out]
            before = metrics.Decisions(old_scores, old_scores > scorer.calibration.threshold)
            for n_verdicts in options.verdicts:
                new = learned(images, tiles, scorer, *site.judged(n_verdicts, scores), seed)
                new_scores = old_scores
                if new.held_out.are_found_better:
                    new_scores = score_tiles(new.model, tiles[site.held_out], VAL_BATCH)[:, 0]
                after = metrics.Decisions(new_scores, new_scores > new.threshold)
                curves[n_verdicts][seed] = (new, (held_out, before, after))
        result["parts"][part] = {str(n): points(of_seeds, visible) for n, of_seeds in curves.items()}
        print(part, write_result(options.name, result), flush=True)
    plot(result["parts"], CURVES / f"{options.name}.png")


if __name__ == "__main__":
    main()
