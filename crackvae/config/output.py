"""Settings of the verbs that show or convert what exists: report, export, info and doctor."""

from collections.abc import Iterator
from dataclasses import dataclass

from crackvae.config.common import VerbConfig
from crackvae.config.settings import Location, setting

# With more images a page would exceed 15 MB, or each image would be too small to assess.
MAX_SHOWN = 200
SHOWN_LIMIT = ": a page stays under 15 MB"


@dataclass(frozen=True, kw_only=True)
class ReportConfig(VerbConfig):
    """Write one HTML page of a night's scores or of an evaluation; it opens offline in any browser."""

    scores: Location = setting("folder of a scores table", "")
    evaluation: Location = setting("alternatively, the folder of an evaluation", "")
    out: Location = setting("HTML file to write; an existing file is replaced")
    run: str = setting("run to show, or all; default: the latest that scored anything", "")
    model: Location = setting("model directory; default: the one that made the scores, if it still exists", "")
    worst: int = setting(
        "most suspicious images in the review queue; for an evaluation: images in each gallery",
        48,
        ge=0,
        le=MAX_SHOWN,
        why=SHOWN_LIMIT,
    )
    passed: int = setting(
        "random sample of unflagged images, to look for missed cracks", 12, ge=0, le=MAX_SHOWN, why=SHOWN_LIMIT
    )
    photographs: int = setting("large photographs shown whole, with every tile", 4, ge=0, le=MAX_SHOWN, why=SHOWN_LIMIT)
    mm_per_px: float | None = setting("scale of the images, for crack sizes in millimetres", None, gt=0)
    full_size: bool = setting("also write full-size PNGs of the shown images to a folder beside the page", False)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if bool(self.scores) == bool(self.evaluation):
            yield "give either --scores or --evaluation."


@dataclass(frozen=True, kw_only=True)
class ExportConfig(VerbConfig):
    """Write a model as an ONNX file for programs that do not use this package, and verify that the scores agree."""

    model: Location = setting("model directory written by train")
    out: Location = setting("ONNX file to write; an existing file is replaced")


@dataclass(frozen=True, kw_only=True)
class InfoConfig(VerbConfig):
    """Describe a model, a scores table or a manifest in about ten lines, and verify that it is intact."""

    path: Location = setting("model directory, folder of a scores table, or manifest.parquet", positional=True)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(VerbConfig):
    """Check what this machine has and lacks for the other verbs; exit code 2 if anything needs attention."""

    out: Location = setting("folder that results will be written to; its disk and permissions are checked", ".")
