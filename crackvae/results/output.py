"""Results of the verbs that show or convert what exists: report, findings, export, info and doctor."""

from dataclasses import dataclass

from crackvae.results.base import Result


@dataclass(frozen=True)
class ReportResult(Result):
    """Result of `report`.

    Attributes:
        page: path or URI of the written page.
        bytes: its size.
    """

    page: str
    bytes: int


@dataclass(frozen=True)
class FindingsResult(Result):
    """Result of `findings`.

    Attributes:
        out: path or URI of the written file.
        format: csv, geojson, kml, coco, label-studio, cvat or pdf.
        findings: number of findings in it.
        views: number of those that show a crack of another photograph again, as far as it was asked for.
        with_place: number of those whose place is known and not left out.
        bytes: its size.
    """

    out: str
    format: str
    findings: int
    views: int
    with_place: int
    bytes: int


@dataclass(frozen=True)
class ExportResult(Result):
    """Result of `export`.

    Attributes:
        out: path or URI of the written ONNX file.
        bytes: its size.
        model: digest of the model.
        largest_difference: largest difference of a score from that of the model.
        flags_that_differ: number of tiles that only one of the two flags.
    """

    out: str
    bytes: int
    model: str
    largest_difference: float
    flags_that_differ: int


@dataclass(frozen=True)
class InfoResult(Result):
    """Result of `info`.

    Attributes:
        kind: model, scores or manifest.
        path: its absolute path or URI.
    """

    kind: str
    path: str


@dataclass(frozen=True)
class DoctorResult(Result):
    """Result of `doctor`.

    Attributes:
        found: what was found, by check.
        advice: one line for each check that needs attention.
    """

    found: dict[str, str]
    advice: list[str]
