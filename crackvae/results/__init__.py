"""Results of verbs: the summary, tables, and a type per verb that names the most important entries."""

from dataclasses import dataclass, field
from typing import Any

from crackvae.results.base import AnyResult, Result, typed
from crackvae.results.output import DoctorResult, ExportResult, FindingsResult, InfoResult, ReportResult
from crackvae.results.reviewing import CompareResult, LearnResult, PromoteResult, ReviewResult, RollbackResult
from crackvae.results.scoring import LiveResult, NightlyResult, ScoreResult

__all__ = [
    "AdaptResult",
    "AnyResult",
    "CalibrateResult",
    "ChangeResult",
    "CompactResult",
    "CompareResult",
    "DemoResult",
    "DoctorResult",
    "EvaluateResult",
    "ExportResult",
    "FindingsResult",
    "InfoResult",
    "LearnResult",
    "LiveResult",
    "NightlyResult",
    "PartitionResult",
    "PromoteResult",
    "ReportResult",
    "Result",
    "ReviewResult",
    "RollbackResult",
    "ScoreResult",
    "TrainResult",
    "typed",
]


@dataclass(frozen=True)
class PartitionResult(Result):
    """Result of `partition`.

    Attributes:
        manifest: path or URI of the written manifest.parquet.
        images: number of images in the manifest.
        groups: number of groups.
        left_out: number of images that are not in the manifest; left_out.csv says why.
        leaky: whether the split allows leaks (`group_by="none"`).
        leaking_images: number of images with a copy on another side of a split.
    """

    manifest: str
    images: int
    groups: int
    left_out: int
    leaky: bool
    leaking_images: int


@dataclass(frozen=True)
class TrainResult(Result):
    """Result of `train`.

    Attributes:
        model: the written model directory.
        digest: digest of the weights and of all that changes a score.
        images: number of sound images in the training split.
        best_epoch: epoch whose weights were kept, the one with the lowest validation loss.
        val_loss: its validation loss.
        threshold: score that an image must exceed to be flagged.
        level: what the threshold guarantees, in words.
        leaky: whether the manifest allowed leaks.
    """

    model: str
    digest: str
    images: int
    best_epoch: int
    val_loss: float
    threshold: float
    level: str
    leaky: bool


@dataclass(frozen=True)
class AdaptResult(Result):
    """Result of `adapt`.

    Attributes:
        model: the written model directory.
        digest: digest of the weights and of all that changes a score.
        images: number of images used, without duplicates.
        threshold: score above which a tile is flagged.
        false_alarm_low: lower end of the 95 % interval of the false-alarm rate on sound tiles of the same site.
        false_alarm_high: its upper end.
        meaning: what the threshold means and what it assumes, in a sentence.
    """

    model: str
    digest: str
    images: int
    threshold: float
    false_alarm_low: float = field(metadata={"path": "false_alarms.low"})
    false_alarm_high: float = field(metadata={"path": "false_alarms.high"})
    meaning: str


@dataclass(frozen=True)
class CalibrateResult(Result):
    """Result of `calibrate`.

    Attributes:
        model: the model directory.
        threshold: score that an image must exceed to be flagged.
        level: what the threshold guarantees, in words.
        images: number of sound images that set it.
        groups: number of their groups.
        left_out: number of images without a score.
    """

    model: str
    threshold: float
    level: str
    images: int = field(metadata={"path": "n"})
    groups: int
    left_out: int


@dataclass(frozen=True)
class EvaluateResult(Result):
    """Result of `evaluate`.

    Attributes:
        out: folder of the metrics, the predictions and the page.
        split: the internal split that was evaluated.
        head: the score head of the model.
        threshold: score that an image must exceed to be flagged.
        sets: metrics with 95 % intervals of the internal split and of the external set, by name.
        leaky: whether the manifest, or that of the model's training or calibration, allowed leaks.
    """

    out: str
    split: str
    head: str
    threshold: float
    sets: dict[str, Any]
    leaky: bool


@dataclass(frozen=True)
class ChangeResult(Result):
    """Result of `change`.

    Attributes:
        out: folder of the table of changes.
        pairs: number of pairs of photographs.
        compared: number of those that were registered and compared.
        new: number of findings that the visit before did not have.
        grown: number of findings that are longer or wider beyond the uncertainty of both visits.
        static: number of findings that are not.
        gone: number of earlier findings that the later visit does not have.
        not_seen: number of findings whose place the other photograph does not show.
        unmatched: number of findings on photographs that could not be registered.
        csv: path or URI of the rows of this comparison as a CSV.
        page: path or URI of the page; "" if none was written.
    """

    out: str
    pairs: int
    compared: int
    new: int
    grown: int
    static: int
    gone: int
    not_seen: int
    unmatched: int
    csv: str
    page: str = field(metadata={"path": "report"})


@dataclass(frozen=True)
class CompactResult(Result):
    """Result of `compact`.

    Attributes:
        scores: folder of the scores table.
        parts_before: number of Parquet parts before.
        parts: number of parts now.
        rows: number of rows now.
        superseded: number of rows removed because the same image and model has a later one.
    """

    scores: str
    parts_before: int
    parts: int
    rows: int
    superseded: int


@dataclass(frozen=True)
class DemoResult(Result):
    """Result of `demo`.

    Attributes:
        folder: the new folder with the drawn images, the scores, and with `train` the model and its evaluation.
        score: the summary of `score`.
        page: path of its page.
    """

    folder: str
    score: dict[str, Any]
    page: str = field(metadata={"path": "score.report"})
