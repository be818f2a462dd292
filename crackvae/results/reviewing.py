"""Results of the verbs that judge images and models: review, learn, compare, promote and rollback."""

from dataclasses import dataclass, field
from typing import Any

from crackvae.results.base import Result


@dataclass(frozen=True)
class ReviewResult(Result):
    """Result of `review`.

    Attributes:
        scores: folder of the scores table, with the log of verdicts in `_verdicts/`.
        address: address of the server, without its token; "" after an import.
        given: number of verdicts that were added to the log.
        not_found: number of imported verdicts on images that are not in the table, and were left out.
        verdicts: number of verdicts in the log, including those that were replaced.
    """

    scores: str
    address: str
    given: int
    not_found: int
    verdicts: int


@dataclass(frozen=True)
class LearnResult(Result):
    """Result of `learn`.

    Attributes:
        model: directory of the challenger.
        digest: digest of its weights and of all that changes a score.
        verdicts: number of images by what they were used for (train, calibration) and verdict.
        threshold: score above which a tile is flagged.
        false_alarm_low: lower end of the 95 % interval of the false-alarm rate on sound tiles of the same site.
        false_alarm_high: its upper end.
        meaning: what the threshold means and what it assumes, in a sentence.
    """

    model: str
    digest: str
    verdicts: dict[str, Any]
    threshold: float
    false_alarm_low: float = field(metadata={"path": "false_alarms.low"})
    false_alarm_high: float = field(metadata={"path": "false_alarms.high"})
    meaning: str


@dataclass(frozen=True)
class CompareResult(Result):
    """Result of `compare`.

    Attributes:
        images: number of images that both models scored.
        cracks: number of those with a crack.
        changed: number of images that only one of the two flags.
        figures: champion, challenger, difference and its 95 % interval, by metric.
        why_not: why the challenger should not replace the champion, or "".
    """

    images: int
    cracks: int
    changed: int
    figures: dict[str, Any]
    why_not: str


@dataclass(frozen=True)
class PromoteResult(Result):
    """Result of `promote`.

    Attributes:
        registry: folder of the registry.
        model: digest of the model that is current now.
        before: digest of the model that it replaced; "" for the first one.
    """

    registry: str
    model: str
    before: str


@dataclass(frozen=True)
class RollbackResult(PromoteResult):
    """Result of `rollback`.

    Attributes:
        registry: folder of the registry.
        model: digest of the model that is current again.
        before: digest of the model that was current.
    """
