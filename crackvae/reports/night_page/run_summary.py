"""What the page of a night reads of the summaries of runs."""

from pydantic import BaseModel, ConfigDict

# Numbers of images of a run by what became of them; those of the shards of a round add up.
COUNTS = ("listed", "finished_before", "scored", "no_surface", "unreadable", "unreachable")


class DriftRow(BaseModel):
    """One comparison of a night; `usual` is missing in summaries of early versions."""

    group: str
    measure: str
    value: float | str | None
    usual: float | str | None = None
    verdict: str


class DriftSummary(BaseModel):
    """The drift of a night, as `nightly` adds it to the summary of the run."""

    verdict: str
    causes: list[str] = []
    where: str = ""
    rows: list[DriftRow] = []


class ThresholdVoid(BaseModel):
    """Why the threshold is not valid for the scored images."""

    reason: str


class RunSummary(BaseModel):
    """What the page needs of `_summary-<run>.json`.

    Attributes:
        images: URI that was scored.
        finished_before: images listed that earlier runs had finished.
        excluded: number of files that are not inspection images, by kind.
        passed_over: number of images left out by --prefix or --since.
        level: the rule that set the threshold, in words.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    run: str
    listed: int
    scored: int
    unreadable: int
    unreachable: int
    flagged: int
    no_surface: int = 0
    finished_before: int = 0
    skipped_files: int = 0
    excluded: dict[str, int] = {}
    passed_over: int = 0
    threshold_void: ThresholdVoid | None = None
    images: str = ""
    model: str = ""
    model_dir: str = ""
    leaky: bool = False
    threshold: float = float("nan")
    level: str = ""
    seconds: float | None = None
    images_per_s: float | None = None
    drift: DriftSummary | None = None
