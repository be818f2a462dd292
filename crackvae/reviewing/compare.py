"""The verb `compare`: champion and challenger on the same images, with intervals of the difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import metrics
from crackvae.config import CompareConfig, JudgedConfig
from crackvae.errors import ManifestError
from crackvae.images.manifest import listing_of, load_manifest
from crackvae.model.image_scores import images_by_tiles
from crackvae.model.inference import Scorer, load_scorer
from crackvae.results import Result
from crackvae.scoring.actors import require_scored, score_all
from crackvae.storage import filesystems, tables, uris
from crackvae.storage.tables.verdicts import logged_verdicts

# Rows of the table of changed decisions, the largest change of score first; the summary counts all.
MAX_CHANGED = 50


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        figures: one row per metric: champion, challenger, difference, low, high (95 % interval of the difference).
        groups: images, cracks, and recall and false alarms of both models, by group.
        changed: the images that only one of the two flags.
        n_changed: number of these images.
        promise: expected share of sound images that are flagged, with its 95 % interval; of both models the stricter.
        images, cracks: number of images, and of those with a crack.
    """

    figures: pd.DataFrame
    groups: pd.DataFrame
    changed: pd.DataFrame
    n_changed: int
    promise: dict[str, float]
    images: int
    cracks: int

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "images": self.images,
            "cracks": self.cracks,
            "changed": self.n_changed,
            "promised_false_alarm_rate": self.promise,
            "figures": self.figures.to_dict(orient="index"),
        }

    def why_not(self) -> str:
        """Why the challenger should not replace the champion, or ""."""
        alarms, recall = self.figures.loc["false_alarm_rate"], self.figures.loc["recall"]
        if alarms["challenger"] > self.promise["high"]:
            return (
                f"it flags {100 * alarms['challenger']:.3g} % of the sound images, and at most "
                f"{100 * self.promise['high']:.3g} % are promised"
            )
        if recall["difference"] < 0:
            return (
                f"its recall is {recall['challenger']:.4g}, and {recall['champion']:.4g} is that of the current model "
                f"(difference {recall['difference']:.3g}, 95 % interval {recall['low']:.3g} to {recall['high']:.3g})"
            )
        return ""


@filesystems.with_s3_endpoint
def compare(config: CompareConfig) -> Result:
    """Score labelled or judged images with both models.

    Raises:
        ManifestError: images of one label only, or images that cannot be scored.
        StorageError, ModelError, ClusterError: the message says how to fix it.
    """
    champion, challenger = load_scorer(config.champion), load_scorer(config.challenger)
    found = compared(champion, challenger, config)
    summary = {
        "verb": "compare",
        "champion": champion.model.digest,
        "challenger": challenger.model.digest,
        **found.as_json(),
        "why_not": found.why_not(),
    }
    return Result(summary, shown(found))


def shown(found: Comparison) -> dict[str, pd.DataFrame]:
    """The tables of a comparison, for people."""
    return {
        "champion and challenger, with 95 % intervals of the difference": found.figures,
        "by group": found.groups,
        "images that only one of the two flags": found.changed,
    }


def compared(champion: Scorer, challenger: Scorer, config: JudgedConfig) -> Comparison:
    """Score the images of the settings with both models."""
    models = {"the champion": champion.model, "the challenger": challenger.model}
    images, is_crack_N = _labelled_images(config, {name: model.spec.manifest for name, model in models.items()})
    rows = [score_all(images, scorer, config) for scorer in (champion, challenger)]
    for one in rows:
        require_scored(one)
    groups_N = np.asarray(images["group"].to_pylist())
    before, after = (metrics.Decisions(one["score"].to_numpy(), np.asarray(one["flagged"].to_pylist())) for one in rows)
    figures = metrics.paired_intervals(is_crack_N, groups_N, before, after, config.resamples, config.seed)
    sound, groups = pa.array(~is_crack_N), len(np.unique(groups_N[~is_crack_N]))
    promises = [  # each from the tiles that the model cuts itself
        scorer.calibration.promise_of(images_by_tiles(one.filter(sound)), groups)
        for scorer, one in zip((champion, challenger), rows, strict=True)
    ]
    changed = _changed(images, is_crack_N, before, after)
    return Comparison(
        figures,
        _by_group(groups_N, is_crack_N, before, after),
        changed.head(MAX_CHANGED),
        len(changed),
        min(promises, key=lambda one: one["high"]),
        len(is_crack_N),
        int(is_crack_N.sum()),
    )


def _labelled_images(config: JudgedConfig, trained_on: Mapping[str, str]) -> tuple[pa.Table, np.ndarray]:
    """A listing with groups, and whether each image has a crack.

    Args:
        trained_on: digest of the manifest of each model.
    """
    if config.manifest:
        manifest = load_manifest(config.manifest)
        manifest.say_if_not_trained_on(trained_on)
        rows = manifest.images(config.split)
        images, is_crack_N = listing_of(rows), np.asarray(rows["label"].to_pylist()) == "crack"
    else:
        images = pa.concat_tables([_judged_images(uris.absolute(folder)) for folder in config.scores])
        images = tables.last_of_each(images)
        is_crack_N = np.asarray(images["verdict"].to_pylist()) == "crack"
    if not 0 < is_crack_N.sum() < len(is_crack_N):
        raise ManifestError(
            f"a comparison needs images with and without cracks, and these are {len(is_crack_N)} images with "
            f"{int(is_crack_N.sum())} cracks: judge or label some of the other kind."
        )
    return images, is_crack_N


def _judged_images(scores: str) -> pa.Table:
    """The images of a folder of scores on which reviewers agree, with `verdict`; joint counts as sound."""
    verdicts = {image: verdict for image, verdict in logged_verdicts(scores).items() if verdict != "unsure"}
    rows = tables.read_scores(scores, ["image", "group", "bytes", "modified", "run"])
    rows = rows.filter(pc.is_in(rows["image"], pa.array(list(verdicts), pa.string())))
    rows = tables.latest_of_each(rows)
    of_images = [verdicts[name] for name in rows["image"].to_pylist()]
    columns = {"error": [""] * rows.num_rows, "verdict": of_images}
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows.drop_columns(["run"])


def _by_group(
    groups_N: np.ndarray, is_crack_N: np.ndarray, champion: metrics.Decisions, challenger: metrics.Decisions
) -> pd.DataFrame:
    table = pd.DataFrame({"group": groups_N, "images": 1, "cracks": is_crack_N.astype(int)})
    for name, one in (("champion", champion), ("challenger", challenger)):
        table[f"{name}_recall"] = np.where(is_crack_N, one.flagged_N, np.nan)
        table[f"{name}_false_alarms"] = np.where(is_crack_N, np.nan, one.flagged_N)
    sums = table.groupby("group")[["images", "cracks"]].sum()
    return sums.join(table.drop(columns=["images", "cracks"]).groupby("group").mean()).reset_index()


def _changed(
    images: pa.Table, is_crack_N: np.ndarray, champion: metrics.Decisions, challenger: metrics.Decisions
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "image": images["image"].to_pylist(),
            "label": np.where(is_crack_N, "crack", "non_crack"),
            "champion_score": champion.scores_N,
            "challenger_score": challenger.scores_N,
            "flagged_by": np.where(challenger.flagged_N, "challenger", "champion"),
        }
    )
    size = (table["challenger_score"] - table["champion_score"]).abs()
    order = size.sort_values(ascending=False, kind="stable").index
    is_changed_N = champion.flagged_N != challenger.flagged_N
    return table.loc[[row for row in order if is_changed_N[row]]].reset_index(drop=True)
