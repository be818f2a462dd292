"""Results of the verbs that score: score, live and nightly."""

from dataclasses import dataclass, field
from typing import Any

from crackvae.results.base import Result


@dataclass(frozen=True)
class ScoreResult(Result):
    """Result of `score`.

    Attributes:
        run: name of this run, which starts the names of its files.
        out: folder of the scores table; `crackvae.read_scores(out)` reads it.
        images: number of images listed.
        finished_before: number of those that this model had finished before.
        unreadable_before: number of these whose bytes are damaged.
        scored: number of images scored in this run.
        flagged: number of those that are flagged: score above the threshold and p-value low enough.
        findings: number of cracks and joints traced in flagged images.
        unreadable: number of images whose bytes are damaged.
        unreachable: number of images that could not be fetched from storage; the next run tries them again.
        threshold: score that an image must exceed to be flagged.
        model: digest of the model.
        page: path or URI of the page of this run; "" if none was written.
    """

    run: str
    out: str
    images: int = field(metadata={"path": "listed"})
    finished_before: int
    unreadable_before: int
    scored: int
    flagged: int
    findings: int
    unreadable: int
    unreachable: int
    threshold: float
    model: str
    page: str = field(metadata={"path": "report"})


@dataclass(frozen=True)
class LiveResult(Result):
    """Result of `live`.

    Attributes:
        run: name of this run, which starts the names of its files.
        out: folder of the scores table; `crackvae.read_scores(out)` reads it.
        received: number of frames or files that came.
        scored: number of those that were scored.
        flagged: number of those that are flagged: score above the threshold and p-value low enough.
        dropped: number of frames that came while another one was scored.
        passed_over: number of frames left out because of `every`.
        reconnects: number of times that the connection was made again.
    """

    run: str
    out: str
    received: int
    scored: int
    flagged: int
    dropped: int
    passed_over: int
    reconnects: int


@dataclass(frozen=True)
class NightlyResult(Result):
    """Result of `nightly`.

    Attributes:
        night: date of the night.
        out: folder of the scores table.
        images: number of images scored for this night, over all its runs.
        level: drift of the night: ok, watch or alarm; few or none if too few images were compared.
        causes: what the drift looks like: a darker camera, more cracks, ...
        broken: limits that the night broke, in words.
        page: path or URI of the page; "" if none was written.
        changes: the summary of the comparison with the visits before, as `change` has it; empty if there was none.
        score: the summary of `score`.
    """

    night: str
    out: str
    images: int
    level: str = field(metadata={"path": "drift.level"})
    causes: list[str] = field(metadata={"path": "drift.causes"})
    broken: list[str]
    page: str = field(metadata={"path": "report"})
    changes: dict[str, Any]
    score: dict[str, Any]
