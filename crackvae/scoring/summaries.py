"""Summaries of runs and nights: what is written as JSON, and what is accepted when it is read again."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from crackvae.config import flag
from crackvae.model.inference import Scorer
from crackvae.scoring.run_table import RunTable
from crackvae.scoring.threshold_check import ThresholdVoid
from crackvae.storage import fileio, uris
from crackvae.storage.names.run_files import ended_runs, summary_name
from crackvae.storage.records import read_record

# Summaries in which a screened run is looked for; a folder may hold those of years. As the runs after one whose screen
# was of no use go without, this is also how long the screen is left out.
MAX_SUMMARIES = 60

# Settings that rows and findings depend on, beside the model: a finished image keeps what earlier ones made of it.
ROW_SETTINGS = ("group_by", "joints", "mm_per_px", "mm_table", "distance", "width_classes")

Record = TypeVar("Record", bound=BaseModel)


class ScoreSummary(BaseModel):
    """What `score` prints last and writes as `_summary-<run>.json`. None: not asked for, and not written.

    Attributes:
        findings: cracks and joints that were traced in the flagged images.
        threshold_void: why the threshold does not hold for the images of this run.
        threshold_images: images that it was checked on, in this run or in an earlier one for which it held.
        settings: ROW_SETTINGS as they are written after their flags; of --mm-table a digest of its scales.
        screened: of a run in which bfloat16 screened, the number of tiles and of those that float32 scored again.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    verb: str = "score"
    threshold_void: ThresholdVoid | None = None
    run: str
    out: str
    listed: int
    finished_before: int
    unreadable_before: int = 0
    scored: int
    no_surface: int = 0
    unreadable: int
    unreachable: int
    flagged: int
    findings: int = 0
    images: str
    skipped_files: int
    excluded: dict[str, int] = {}
    passed_over: int
    discoveries: int | None = None
    discoveries_file: str | None = None
    fewest_discoveries_possible: int | None = None
    rows_with_an_older_threshold: int
    settings: dict[str, str] | None = None
    model: str
    leaky: bool
    threshold: float
    level: str
    promised_false_alarm_rate: dict[str, float]
    model_dir: str
    csv: list[str]
    threshold_images: int = 0
    screened: dict[str, int] | None = None
    report: str
    page_error: str | None = None
    seconds: float
    images_per_s: float
    drift: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values, in the order of the fields, without those that are None."""
        return self.model_dump(exclude_none=True)


def run_figures(table: RunTable, scorer: Scorer, model_dir: str, seconds: float) -> dict[str, Any]:
    """The entries of a ScoreSummary that follow from the rows of a run, its model and its duration.

    Args:
        table: after its last row was written.
    """
    calibration = scorer.calibration
    return {
        "run": table.run,
        "out": table.out,
        **{status: table.statuses[status] for status in ("scored", "no_surface", "unreadable", "unreachable")},
        "flagged": table.flagged,
        "findings": table.count_findings(),
        "model": scorer.model.digest,
        "leaky": scorer.leaky,
        "threshold": calibration.threshold,
        "level": calibration.level,
        "promised_false_alarm_rate": calibration.promise_of(table.tiles or {1: 1}, len(table.groups)),
        "model_dir": model_dir,
        "seconds": round(seconds, 1),
        "images_per_s": round(table.n / seconds, 3),
    }


def summary_path(out: str, run: str) -> str:
    """Path of the summary of a run, beside its table."""
    return uris.join(out, summary_name(run))


def write_summary(summary: ScoreSummary) -> None:
    """Write the summary of a run, which is the last of its files."""
    content = json.dumps(summary.as_json(), indent=1)
    fileio.write_bytes(summary_path(summary.out, summary.run), content.encode())


def _latest(out: str, record: type[Record], most: int | None = None) -> Iterator[Record]:
    """What the summaries of the latest runs, of `most` or of all, say as a record, the latest first.

    Damaged ones and those of another version are left out.
    """
    for run in list(reversed(ended_runs(fileio.list_files(out))))[:most]:
        try:
            found = record.model_validate_json(fileio.read_bytes(summary_path(out, run)))
        except ValidationError:
            continue
        yield found


class _CheckedThreshold(BaseModel):
    """What a later run reads of a summary: on how many images the threshold was checked, and whether it held."""

    model: str
    threshold: float
    threshold_images: int = 0
    threshold_void: ThresholdVoid | None = None


def images_with_a_valid_threshold(out: str, model: str, threshold: float) -> int:
    """Images on which the last run with this model and threshold found the threshold to hold; 0 if it did not."""
    last = next(_latest(out, _CheckedThreshold, 1), None)
    if last is None or (last.model, last.threshold) != (model, threshold) or last.threshold_void is not None:
        return 0
    return last.threshold_images


class _Screened(BaseModel):
    """What a later run reads of a summary: how many tiles a screen has left to float32."""

    model: str
    threshold: float
    screened: dict[str, int] | None = None


def share_scored_again(out: str, model: str, threshold: float) -> float:
    """Share of the tiles that float32 scored again in the last run that this model screened.

    0 if none of the latest MAX_SUMMARIES runs was one.
    """
    for run in _latest(out, _Screened, MAX_SUMMARIES):
        if run.screened and (run.model, run.threshold) == (model, threshold):
            return run.screened["again"] / max(1, run.screened["tiles"])
    return 0.0


class _WrittenWith(BaseModel):
    """What a later run reads of a summary: with which settings and threshold rows were written, if any were."""

    listed: int
    finished_before: int
    model: str
    threshold: float
    settings: dict[str, str] | None = None


def changed_settings(out: str, settings: Mapping[str, str], model: str, threshold: float) -> list[str]:
    """In words, what the last run of a model (a digest) that wrote rows had otherwise; nothing if no run says so."""
    for run in _latest(out, _WrittenWith, MAX_SUMMARIES):
        if run.settings and run.listed > run.finished_before and run.model == model:
            changed = [flag(name) for name, value in settings.items() if run.settings.get(name) != value]
            return changed + (["the threshold of the model"] if run.threshold != threshold else [])
    return []


class _ScoredWith(BaseModel):
    """What a comparison of visits reads of a summary: the model and where it was."""

    model: str
    model_dir: str = ""


def recorded_model_dir(out: str, model: str) -> str:
    """The model directory that the last run with this model (a digest) names in its summary, or ""."""
    return next((run.model_dir for run in _latest(out, _ScoredWith) if run.model == model), "")


class _GroupVerdict(BaseModel):
    """What a later night reads of the verdict on one group."""

    level: str
    causes: list[str]


class _NightDrift(BaseModel):
    """What a later night reads of a verdict; the first group is that of all images."""

    groups: list[_GroupVerdict]


class NightSummary(BaseModel):
    """What a later night reads of `_nightly-<night>.json`."""

    model_config = ConfigDict(frozen=True)

    started: datetime | None = None  # files of before 0.2 do not say
    runs: list[str]
    runs_of_another_calibration: list[str]
    drift: _NightDrift

    def all_runs(self) -> set[str]:
        """Every run of the night."""
        return {*self.runs, *self.runs_of_another_calibration}

    def is_ordinary(self, causes: frozenset[str]) -> bool:
        """Whether the night had images, and no alarm for a cause other than these."""
        groups = self.drift.groups
        return bool(groups) and (groups[0].level != "alarm" or causes.issuperset(groups[0].causes))


def read_night_summary(path: str) -> NightSummary:
    """Read the summary of a night.

    Raises:
        StorageError: damaged.
    """
    return read_record(path, NightSummary, "Move it away and run again.")
