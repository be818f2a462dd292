"""Mergeable histograms of the measures of scored images: those of a run, and those of the calibration images.

Histograms counted with the same edges can be added, so a night may be scored in several runs. drift compares them.

Shape letters: N images, K edges of a histogram, with K + 1 bins: below the first edge, between edges, above the last.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from crackvae.errors import ModelError, StorageError
from crackvae.images.decoded import CAMERA
from crackvae.model import builtin
from crackvae.model.calibration import Calibration
from crackvae.storage.fileio import exists, read_bytes
from crackvae.storage.records import problems
from crackvae.storage.tables import FAILED
from crackvae.storage.uris import join

REFERENCE_FILE = "reference.json"

# The same edges for every model, far finer than any relevant change: 4 grey levels, steps of 8 %, steps of 0.01.
CAMERA_EDGES = {
    "brightness": np.arange(3.5, 252, 4),
    "contrast": np.geomspace(0.005, 4, 87),
    "sharpness": np.arange(0.1, 1.4, 0.01),
}

# Scores and latent norms have no absolute scale: their edges are these quantiles of the calibration images.
QUANTILES = np.append(np.linspace(0, 1, 41), 0.99)

# Groups with their own histograms: 1,000 groups take 2 MB per run. Images of further groups count in `whole` only.
MAX_GROUPS, MIN_GROUP_IMAGES = 1000, 50


@dataclass(frozen=True)
class Tally:
    """Counts over a set of images; tallies of disjoint sets can be added.

    Attributes:
        statuses: number of images by status.
        flagged: number of flagged images: score above the threshold and p-value low enough.
        counts: histogram of each measure, int (K + 1,), over the scored images that have this measure.
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

    def with_failed(self, statuses: Mapping[str, int]) -> "Tally":
        """The tally with other numbers of images that are not decoded."""
        others = {name: n for name, n in self.statuses.items() if name not in FAILED}
        return replace(self, statuses=others | {name: statuses[name] for name in FAILED if statuses.get(name)})

    @property
    def images(self) -> int:
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        return self.statuses.get("scored", 0)


@dataclass(frozen=True)
class NightHistograms:
    """Tallies of all images and of each group, with their common histogram edges.

    Attributes:
        model: digest of the scoring model.
        edges: edges of each measure, float (K,), ascending.
        whole: tally of every image.
        groups: tallies by group name; images of groups beyond the first MAX_GROUPS count in `whole` only.
        cameras: tallies by camera, likewise; without images whose camera is unknown.
    """

    model: str
    edges: Mapping[str, np.ndarray]
    whole: Tally
    groups: Mapping[str, Tally]
    cameras: Mapping[str, Tally] = field(default_factory=dict)

    def __add__(self, other: "NightHistograms") -> "NightHistograms":
        assert self.same_edges(other), "histograms with different edges cannot be added"
        return replace(
            self,
            whole=self.whole + other.whole,
            groups=_added(self.groups, other.groups),
            cameras=_added(self.cameras, other.cameras),
        )

    def with_failed(self, rows: pa.Table) -> "NightHistograms":
        """The histograms with those images that are not decoded of some rows (group, status) instead of their own."""
        of_group: dict[str, Counter[str]] = defaultdict(Counter)
        for one in rows.filter(pc.is_in(rows["status"], value_set=pa.array(FAILED))).to_pylist():
            of_group[one["group"]][one["status"]] += 1
        return replace(
            self,
            whole=self.whole.with_failed(sum(of_group.values(), Counter())),
            groups={name: tally.with_failed(of_group[name]) for name, tally in self.groups.items()},
        )

    def same_edges(self, other: "NightHistograms") -> bool:
        """Whether both were counted for the same calibration."""
        return (
            self.model == other.model
            and self.edges.keys() == other.edges.keys()
            and all(np.array_equal(self.edges[name], other.edges[name]) for name in self.edges)
        )


def _added(tallies: Mapping[str, Tally], others: Mapping[str, Tally]) -> dict[str, Tally]:
    added = dict(tallies)
    for name, tally in others.items():
        if name in added or len(added) < MAX_GROUPS:
            added[name] = added[name] + tally if name in added else tally
    return added


def count(rows: pa.Table, edges: Mapping[str, np.ndarray], model: str) -> NightHistograms:
    """Count scored rows.

    Args:
        rows: SCORES_SCHEMA with a column for each measure in `edges`; NaN where an image has no value.
    """
    groups, whole = _tallies(rows, "group", edges)
    cameras = _tallies(rows, "camera", edges)[0] if "camera" in rows.column_names else {}
    return NightHistograms(model, edges, whole, groups, {name: one for name, one in cameras.items() if name})


def _tallies(rows: pa.Table, by: str, edges: Mapping[str, np.ndarray]) -> tuple[dict[str, Tally], Tally]:
    """Tallies by a column, of the first MAX_GROUPS of its values, and of all rows."""
    codes, names = pd.factorize(rows[by].to_pandas())
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
    return groups, whole


def _histograms(values_N: np.ndarray, codes_N: np.ndarray, n_groups: int, edges_K: np.ndarray) -> np.ndarray:
    """int (groups, K + 1); a value on an edge counts below it, as a score equal to the threshold is not flagged."""
    known_N = np.isfinite(values_N)
    bins = len(edges_K) + 1
    cells_N = codes_N[known_N] * bins + np.searchsorted(edges_K, values_N[known_N].astype(np.float64), side="left")
    return np.bincount(cells_N, minlength=n_groups * bins).reshape(n_groups, bins)


# -------------------------------------------------------------------------------------------------- reference


def reference_of(rows: pa.Table, calibration: Calibration) -> NightHistograms:
    """Histograms of the calibration images; only groups of MIN_GROUP_IMAGES or more have their own."""
    edges = dict(CAMERA_EDGES)
    scores_N = np.asarray(rows["score"].to_numpy(), np.float64)
    # The threshold is an edge, so that the scores below it can be compared separately.
    edges["score"] = np.unique([*np.quantile(scores_N, QUANTILES), np.float64(np.float32(calibration.threshold))])
    latent_N = np.asarray(rows["latent_norm"].to_numpy(), np.float64)
    if np.isfinite(latent_N).all():
        edges["latent_norm"] = np.unique(np.quantile(latent_N, QUANTILES))
    flagged = pc.greater(rows["score"], np.float32(calibration.threshold))
    unchanged = rows.select([name for name in rows.column_names if name != "flagged"])
    night = count(unchanged.append_column("flagged", flagged), edges, calibration.model)
    return replace(night, groups=_large(night.groups), cameras=_large(night.cameras))


def _large(tallies: Mapping[str, Tally]) -> dict[str, Tally]:
    return {name: tally for name, tally in tallies.items() if tally.scored >= MIN_GROUP_IMAGES}


class _TallyFile(BaseModel):
    """A Tally as JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")
    statuses: dict[str, int]
    flagged: int
    counts: dict[str, list[int]]

    @classmethod
    def of(cls, tally: Tally) -> "_TallyFile":
        counts = {name: counts.tolist() for name, counts in tally.counts.items()}
        return cls(statuses=dict(tally.statuses), flagged=tally.flagged, counts=counts)

    def tally(self, edges: Mapping[str, np.ndarray]) -> Tally:
        """Raises ValueError where the histograms do not match the edges."""
        if {name: len(counts) for name, counts in self.counts.items()} != {n: len(e) + 1 for n, e in edges.items()}:
            raise ValueError("a histogram does not match its edges")
        return Tally(self.statuses, self.flagged, {name: np.asarray(self.counts[name], np.int64) for name in edges})


class _HistogramsFile(BaseModel):
    """NightHistograms as JSON, with a digest of everything before it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    run: str = ""
    model: str
    edges: dict[str, list[float]]
    whole: _TallyFile
    groups: dict[str, _TallyFile]
    cameras: dict[str, _TallyFile] = {}
    digest: str = ""

    def unset(self) -> set[str]:
        """Fields that are not written: the reference of a calibration belongs to no run, and cameras may be unknown."""
        return {name for name in ("run", "cameras") if not getattr(self, name)}

    def computed_digest(self) -> str:
        content = self.model_dump(exclude={"digest", *self.unset()})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def histograms_file(night: NightHistograms, run: str = "") -> bytes:
    """Histograms as JSON, with a digest of the content; `run` is the run that counted them, if any."""
    content = _HistogramsFile(
        run=run,
        model=night.model,
        edges={name: edges.tolist() for name, edges in night.edges.items()},
        whole=_TallyFile.of(night.whole),
        groups={name: _TallyFile.of(tally) for name, tally in night.groups.items()},
        cameras={name: _TallyFile.of(tally) for name, tally in night.cameras.items()},
    )
    content.digest = content.computed_digest()
    return json.dumps(content.model_dump(exclude=content.unset())).encode()


def load_histograms(uri: str) -> NightHistograms:
    """Histograms from their file.

    Raises:
        StorageError: missing, damaged or altered.
    """
    advice = "Move it away; the night is then judged without it."
    try:
        content = _HistogramsFile.model_validate_json(read_bytes(uri))
        edges = {name: np.asarray(values, np.float64) for name, values in content.edges.items()}
        groups = {name: tally.tally(edges) for name, tally in content.groups.items()}
        cameras = {name: tally.tally(edges) for name, tally in content.cameras.items()}
        night = NightHistograms(content.model, edges, content.whole.tally(edges), groups, cameras)
    except ValueError as error:  # pydantic's ValidationError is one
        why = problems(error) if isinstance(error, ValidationError) else error
        raise StorageError(f"{uri} is not a complete file of histograms ({why}). {advice}") from error
    if content.digest != content.computed_digest():
        raise StorageError(f"{uri} was altered: its digest does not match. {advice}")
    return night


def load_reference(model_dir: str, model: str) -> NightHistograms | None:
    """Histograms of the calibration images of a model directory; None if there are none with the current measures.

    Raises:
        ModelError: damaged, altered, or of another model.
    """
    uri = join(builtin.folder_of(model_dir), REFERENCE_FILE)
    if not exists(uri):
        return None
    advice = f"To replace it, {builtin.calibrate_advice(model_dir)}."
    try:
        reference = load_histograms(uri)
    except StorageError as error:
        raise ModelError(f"{uri} is damaged or altered. {advice}") from error
    if reference.model != model:
        raise ModelError(f"{uri} was made with other weights than the model's. {advice}")
    is_current = all(np.array_equal(reference.edges.get(name, ()), CAMERA_EDGES[name]) for name in CAMERA)
    return reference if is_current else None
