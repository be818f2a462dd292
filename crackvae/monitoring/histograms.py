"""Mergeable histograms of what scoring measures on each image: those of a run, and those of the calibration.

Two nights counted with the same edges add up, so one may be scored in many runs. See drift for what they are for.

Shape letters: N images, K edges of a histogram, with K + 1 bins: up to the first edge, between two, above the last one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import ModelError, StorageError
from crackvae.model.calibration import Calibration
from crackvae.storage.fileio import exists, read_bytes
from crackvae.storage.uris import join

REFERENCE_FILE = "reference.json"


CAMERA = ("brightness", "contrast", "sharpness")


# The same edges for every model, far finer than any change that matters: grey levels, steps of 8 %, steps of 0.01.
CAMERA_EDGES = {
    "brightness": np.arange(3.5, 252, 4),
    "contrast": np.geomspace(0.005, 4, 87),
    "sharpness": np.arange(0.1, 1.4, 0.01),
}


# Scores and latent norms have no scale of their own: edges at these quantiles of the calibration images.
QUANTILES = np.append(np.linspace(0, 1, 41), 0.99)


# Groups with histograms of their own: 1,000 groups are 2 MB a run. The images of all others count in the whole night.
MAX_GROUPS, MIN_GROUP_IMAGES = 1000, 50


@dataclass(frozen=True)
class Tally:
    """What was counted over some images; tallies of disjoint images add up.

    Attributes:
        statuses: images by status.
        flagged: images over the threshold.
        counts: for each measure int (K + 1,), of the scored images that have that measure.
    """

    statuses: Mapping[str, int]
    flagged: int
    counts: Mapping[str, np.ndarray]

    def __add__(self, other: "Tally") -> "Tally":
        names = sorted({*self.statuses, *other.statuses})
        return Tally(
            {name: self.statuses.get(name, 0) + other.statuses.get(name, 0) for name in names},
            self.flagged + other.flagged,
            {name: self.counts[name] + other.counts[name] for name in self.counts},
        )

    @property
    def images(self) -> int:
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        return self.statuses.get("scored", 0)


@dataclass(frozen=True)
class Night:
    """Tallies of all images and of each group, with the edges that their histograms share.

    Attributes:
        model: digest of the model that scored.
        edges: for each measure float (K,), ascending.
        whole: every image.
        groups: by name; images of a group beyond the first MAX_GROUPS count in `whole` alone.
    """

    model: str
    edges: Mapping[str, np.ndarray]
    whole: Tally
    groups: Mapping[str, Tally]

    def __add__(self, other: "Night") -> "Night":
        assert self.same_edges(other), "histograms with other edges do not add up"
        groups = dict(self.groups)
        for name, tally in other.groups.items():
            if name in groups or len(groups) < MAX_GROUPS:
                groups[name] = groups[name] + tally if name in groups else tally
        return replace(self, whole=self.whole + other.whole, groups=groups)

    def same_edges(self, other: "Night") -> bool:
        """Whether the two were counted for one and the same calibration."""
        return (
            self.model == other.model
            and self.edges.keys() == other.edges.keys()
            and all(np.array_equal(self.edges[name], other.edges[name]) for name in self.edges)
        )


def count(rows: pa.Table, edges: Mapping[str, np.ndarray], model: str) -> Night:
    """Tally scored rows.

    Args:
        rows: SCORES_SCHEMA with a column for each measure in `edges`; NaN where an image has none.
    """
    codes, names = pd.factorize(rows["group"].to_pandas())
    status_N, statuses = pd.factorize(rows["status"].to_pandas(), sort=True)
    by_status = np.bincount(codes * len(statuses) + status_N, minlength=len(names) * len(statuses))
    by_status = by_status.reshape(len(names), len(statuses))
    flagged = np.bincount(codes, rows["flagged"].to_numpy(), len(names)).astype(int)
    counts = {name: _histograms(rows[name].to_numpy(), codes, len(names), edges[name]) for name in edges}
    groups = {
        str(name): Tally(
            dict(zip(map(str, statuses), by_status[code].tolist(), strict=True)),
            int(flagged[code]),
            {measure: table[code] for measure, table in counts.items()},
        )
        for code, name in enumerate(names[:MAX_GROUPS])
    }
    whole = Tally(
        dict(zip(map(str, statuses), by_status.sum(axis=0).tolist(), strict=True)),
        int(flagged.sum()),
        {measure: table.sum(axis=0) for measure, table in counts.items()},
    )
    return Night(model, edges, whole, groups)


def _histograms(values_N: np.ndarray, codes_N: np.ndarray, n_groups: int, edges_K: np.ndarray) -> np.ndarray:
    """int (groups, K + 1); a value on an edge counts below it, as a score on the threshold is not flagged."""
    known_N = np.isfinite(values_N)
    bins = len(edges_K) + 1
    cells_N = codes_N[known_N] * bins + np.searchsorted(edges_K, values_N[known_N].astype(np.float64), side="left")
    return np.bincount(cells_N, minlength=n_groups * bins).reshape(n_groups, bins)


# -------------------------------------------------------------------------------------------------- reference


def reference_of(rows: pa.Table, calibration: Calibration) -> Night:
    """The calibration images as a night to compare with; only groups of MIN_GROUP_IMAGES or more keep their own."""
    edges = dict(CAMERA_EDGES)
    scores_N = np.asarray(rows["score"].to_numpy(), np.float64)
    # The threshold is an edge, so that what lies below it can be compared alone.
    edges["score"] = np.unique([*np.quantile(scores_N, QUANTILES), np.float64(np.float32(calibration.threshold))])
    latent_N = np.asarray(rows["latent_norm"].to_numpy(), np.float64)
    if np.isfinite(latent_N).all():
        edges["latent_norm"] = np.unique(np.quantile(latent_N, QUANTILES))
    flagged = pc.greater(rows["score"], np.float32(calibration.threshold))
    others = [name for name in rows.column_names if name != "flagged"]
    night = count(rows.select(others).append_column("flagged", flagged), edges, calibration.model)
    return replace(
        night, groups={name: tally for name, tally in night.groups.items() if tally.scored >= MIN_GROUP_IMAGES}
    )


def night_file(night: Night, **more: Any) -> bytes:
    """A night as JSON, with a digest of all of it."""

    def plain(tally: Tally) -> dict[str, Any]:
        counts = {name: counts.tolist() for name, counts in tally.counts.items()}
        return {"statuses": dict(tally.statuses), "flagged": tally.flagged, "counts": counts}

    content = {
        **more,
        "model": night.model,
        "edges": {name: edges.tolist() for name, edges in night.edges.items()},
        "whole": plain(night.whole),
        "groups": {name: plain(tally) for name, tally in night.groups.items()},
    }
    return json.dumps(content | {"digest": _digest(content)}).encode()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_night(place: str) -> Night:
    """A night from its file.

    Raises:
        StorageError: missing, damaged or altered.
    """
    mend = "Move it away; the night is then judged without it."
    try:
        content = json.loads(read_bytes(place))
        digest = content.pop("digest")
        edges = {str(name): np.asarray(values, np.float64) for name, values in content["edges"].items()}

        def tally(part: dict[str, Any]) -> Tally:
            counts = {name: np.asarray(part["counts"][name], np.int64) for name in edges}
            if any(len(counts[name]) != len(edges[name]) + 1 for name in edges):
                raise ValueError("a histogram does not fit its edges")
            return Tally({str(name): int(n) for name, n in part["statuses"].items()}, int(part["flagged"]), counts)

        groups = {str(name): tally(part) for name, part in content["groups"].items()}
        night = Night(str(content["model"]), edges, tally(content["whole"]), groups)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StorageError(f"{place} is no whole file of histograms ({error}). {mend}") from error
    if digest != _digest(content):
        raise StorageError(f"{place} was altered: its digest does not fit. {mend}")
    return night


def load_reference(model_dir: str, model: str) -> Night | None:
    """What the model directory remembers of its calibration images; None where they were not measured as they are now.

    Raises:
        ModelError: damaged, altered, or of another model.
    """
    place = join(model_dir, REFERENCE_FILE)
    if not exists(place):
        return None
    again = f"Run crackvae calibrate --model {model_dir} again."
    try:
        reference = load_night(place)
    except StorageError as error:
        raise ModelError(f"{place} is damaged or altered. {again}") from error
    if reference.model != model:
        raise ModelError(f"{place} was made with other weights than the model's. {again}")
    is_todays = all(np.array_equal(reference.edges.get(name, ()), CAMERA_EDGES[name]) for name in CAMERA)
    return reference if is_todays else None
