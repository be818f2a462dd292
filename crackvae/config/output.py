"""Settings of the verbs that show or convert what exists: report, findings, review, compact, export, info, doctor."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from crackvae.config.common import BUILTIN, GPS_PRECISION, MODEL, VerbConfig
from crackvae.config.registry import user_name
from crackvae.config.settings import Location, metres_of, setting

# With more images a page would exceed 15 MB, or each image would be too small to assess.
MAX_SHOWN = 200
SHOWN_LIMIT = ": a page stays under 15 MB"

# Longest name of a reviewer [characters]: it stands beside each verdict.
MAX_REVIEWER = 80


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
    gps_precision: str = setting(GPS_PRECISION, "")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        metres_of(self.gps_precision)
        if bool(self.scores) == bool(self.evaluation):
            yield "give either --scores or --evaluation."


# Formats of exported findings by the ending of their file; a .json is COCO or Label Studio.
FORMAT_OF_ENDING = {".csv": "csv", ".geojson": "geojson", ".kml": "kml", ".xml": "cvat", ".pdf": "pdf"}


@dataclass(frozen=True, kw_only=True)
class FindingsConfig(VerbConfig):
    """Write the cracks that scoring has traced as a file for a map, a spreadsheet, a labelling program or a client."""

    scores: Location = setting("folder of a scores table")
    out: Location = setting(
        "file to write; an existing one is replaced. Its ending is the format: .csv, .geojson, .kml, .xml (CVAT), .pdf"
    )
    format: Literal["", "csv", "geojson", "kml", "coco", "label-studio", "cvat", "pdf"] = setting(
        "csv, geojson, kml, coco, label-studio, cvat or pdf; default: by the ending of --out", ""
    )
    kind: tuple[Literal["crack", "joint", "unclear"], ...] = setting(
        "kinds of findings: crack,joint,unclear",
        ("crack", "unclear"),
        lengths=range(1, 4),
        must="be of crack,joint,unclear",
    )
    gps_precision: str = setting(GPS_PRECISION, "")
    views: bool = setting(
        "compare photographs of a group that were taken within 6 m of each other, half a second each: one crack "
        "in several of them is one finding, and the others name it in the column view_of",
        False,
    )
    image_prefix: str = setting(
        "text before the names of images in COCO, CVAT and Label Studio, such as /data/local-files/?d=photographs/", ""
    )

    title: str = setting("title of the PDF", "Findings")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.format:
            object.__setattr__(self, "format", FORMAT_OF_ENDING[PurePosixPath(self.out).suffix.lower()])

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if not self.format and PurePosixPath(self.out).suffix.lower() not in FORMAT_OF_ENDING:
            yield f"the ending of --out {self.out} names no format: add --format, such as coco or label-studio."
        metres_of(self.gps_precision)


# Shortest token that a person may choose [characters].
MIN_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(VerbConfig):
    """Serve the page of any night to one or several reviewers; verdicts are stored beside the scores as they are given.

    Whoever has the printed address, with its token, may see the images and judge. Ends with Ctrl-C.
    """

    scores: Location = setting("folder of a scores table; the verdicts are written to _verdicts/ in it")
    host: str = setting("address to listen on; 0.0.0.0 for every network of this machine", "127.0.0.1")
    port: int = setting("port to listen on; 0 for any free one", 8790, ge=0, le=65_535)
    token: str = setting("secret that the address must contain, of 16 characters or more; default: a random one", "")
    certificate: Location = setting("certificate for https, a PEM file", "")
    key: Location = setting("key of the certificate, a PEM file", "")
    reviewer: str = setting("name of the reviewer until another one is entered on the page; default: the user", "")
    import_: Location = setting("add the verdicts.csv of a page to the verdicts of --reviewer, and end", "")
    model: Location = setting("model directory; default: the one that made the scores, if it still exists", "")
    worst: int = setting("most suspicious images in the review queue", 200, ge=1, le=MAX_SHOWN, why=SHOWN_LIMIT)
    passed: int = setting("random sample of unflagged images", 12, ge=0, le=MAX_SHOWN, why=SHOWN_LIMIT)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reviewer", self.reviewer.strip() or user_name())

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if bool(self.certificate) != bool(self.key):
            yield "--certificate and --key belong together: give both, or neither."
        if len(self.reviewer) > MAX_REVIEWER:
            yield f"the name of a reviewer has at most {MAX_REVIEWER} characters: shorten --reviewer."
        if self.token and len(self.token) < MIN_TOKEN:
            yield f"the token must have {MIN_TOKEN} characters or more: omit --token for a random one."


@dataclass(frozen=True, kw_only=True)
class CompactConfig(VerbConfig):
    """Merge the parts of many nights into a few, keeping the latest row of each image and model."""

    scores: Location = setting("folder of the scores table; no other run may write to it at the same time")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(VerbConfig):
    """Write a model as an ONNX file for programs that do not use this package, and verify that the scores agree."""

    model: Location = setting(MODEL, BUILTIN)
    out: Location = setting("ONNX file to write, replaced if it exists; with --kind edge a new folder")
    kind: Literal["onnx", "edge"] = setting(
        "onnx: one file, from tiles to scores; edge: a folder that scores photographs with numpy, Pillow and ONNX "
        "Runtime alone",
        "onnx",
        must="be onnx or edge",
    )


@dataclass(frozen=True, kw_only=True)
class InfoConfig(VerbConfig):
    """Describe a model, a scores table or a manifest in about ten lines, and verify that it is intact."""

    path: Location = setting(
        "model directory, builtin, folder of a scores table, or manifest.parquet", BUILTIN, positional=True
    )


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(VerbConfig):
    """Check what this machine has and lacks for the other verbs; exit code 2 if anything needs attention."""

    out: Location = setting("folder that results will be written to; its disk and permissions are checked", ".")
