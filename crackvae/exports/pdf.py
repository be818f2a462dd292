"""A PDF for a client: cover, summary by structure with a map, and every finding with picture, place and size."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.platypus import BaseDocTemplate, Flowable, Frame, PageBreak, PageTemplate, Spacer, Table

from crackvae.exports import pdf_text
from crackvae.exports.pdf_pictures import ASPECT, Crop, Map
from crackvae.exports.pdf_text import BODY, FONT, GREY, HEADING, PALE, SMALL, TITLE, paragraph
from crackvae.images import pictures

MARGIN = 16 * mm
PICTURE_WIDTH, MAP_WIDTH = 66 * mm, 34 * mm
TEXT_WIDTH = A4[0] - 2 * MARGIN - PICTURE_WIDTH - MAP_WIDTH

# More findings would make a file of over 50 MB, which nobody reads.
MAX_FINDINGS = 500

METHOD = (
    "Cracks were found and measured by a program in photographs. Lengths and widths are estimates, with the interval "
    "that is meant to cover 90 % of true values. Hidden, wet or painted cracks can be missed, and lines that are no "
    "cracks can be shown. Nothing here says whether a structure is safe: that is for an engineer who has seen it."
)


def pdf_bytes(rows: pa.Table, images: pa.Table, title: str, gps_precision: str) -> bytes:
    """The file.

    Args:
        rows: EXPORT_SCHEMA.
        images: one row for each image of the table: group, status, flagged, taken.
        gps_precision: as it was asked for.
    """
    pdf_text.register_fonts()
    every, rows = rows.to_pylist(), rows.filter(pc.equal(rows["view_of"], ""))
    others: dict[str, list[str]] = {}
    for row in every:
        others.setdefault(row["view_of"], []).append(row["name"])
    main = [row for row in every if not row["view_of"]]
    listed = [row | {"also_on": others.get(row["finding"], [])} for row in _chosen(main)]
    file = io.BytesIO()
    document = BaseDocTemplate(file, pagesize=A4, title=title, author="crackvae", invariant=1)
    frame = Frame(MARGIN, MARGIN, A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN, 0, 0, 0, 0)

    def footer(canvas: Any, _: Any) -> None:
        canvas.setFont(FONT, 7)
        canvas.setFillColor(GREY)
        canvas.drawString(MARGIN, 9 * mm, title[:90])
        canvas.drawRightString(A4[0] - MARGIN, 9 * mm, str(canvas.getPageNumber()))

    document.addPageTemplates(PageTemplate("page", [frame], onPage=footer))
    document.build([*_cover(rows, images, title, gps_precision), *_summary(main, images), *_findings(listed)])
    return file.getvalue()


def _chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The MAX_FINDINGS longest, by structure; those of one photograph together, the longest first."""
    length = "length_mm" if all(row["length_mm"] == row["length_mm"] for row in rows) else "length_px"
    longest = sorted(rows, key=lambda row: -row[length])[:MAX_FINDINGS]
    return sorted(longest, key=lambda row: (row["group"] == "", row["group"], row["image"], -row["length_px"]))


def _cover(rows: pa.Table, images: pa.Table, title: str, gps_precision: str) -> Iterator[Flowable]:
    yield Spacer(0, 45 * mm)
    yield paragraph(title, TITLE)
    yield Spacer(0, 6 * mm)
    kinds = Counter(rows["kind"].to_pylist())
    counts = ", ".join(f"{n} {name}{'s' if n != 1 and name != 'unclear' else ''}" for name, n in kinds.most_common())
    statuses = Counter(images["status"].to_pylist())
    failed, untraced = images.num_rows - statuses["scored"], sum(images["untraced"].to_pylist())
    yield paragraph(f"{rows.num_rows} findings: {counts}." if counts else "No findings.", BODY)
    yield paragraph(
        f"{images.num_rows} photographs, of which {statuses['scored']} were assessed"
        f"{f' and {failed} could not be' if failed else ''}; {sum(images['flagged'].to_pylist())} are flagged."
        f"{f' In {untraced} of these no crack was traced, by request.' if untraced else ''}",
        BODY,
    )
    taken = [one for one in images["taken"].to_pylist() if one]
    if taken:
        first, last = (f"{one.day} {one:%B %Y}" for one in (min(taken), max(taken)))
        yield paragraph(f"Taken on {first}." if first == last else f"Taken from {first} to {last}.", BODY)
    sources = Counter(source or "not known" for source in rows["mm_source"].to_pylist())
    scales = "; ".join(f"{name} ({n})" for name, n in sources.most_common())
    yield paragraph(f"Source of the scale, by number of findings: {scales}." if scales else "", BODY)
    places = {"": "exact, as the photographs say", "off": "left out"}.get(gps_precision, f"rounded to {gps_precision}")
    yield paragraph(f"Places are {places}.", BODY)
    if rows.num_rows > MAX_FINDINGS:
        yield paragraph(f"This document shows the {MAX_FINDINGS} longest findings; the CSV has all.", BODY)
    yield Spacer(0, 10 * mm)
    yield paragraph(METHOD, SMALL)
    yield PageBreak()


def _summary(rows: list[dict[str, Any]], images: pa.Table) -> Iterator[Flowable]:
    """A line for each structure, and where the findings are: all of them, not only those that are shown."""
    yield paragraph("Summary by structure", HEADING)
    photographs = Counter(images["group"].to_pylist())
    by_group: dict[str, list[dict[str, Any]]] = {group: [] for group in photographs}
    for row in rows:
        by_group[row["group"]].append(row)
    head = ["structure", "photographs", "cracks", "unclear", "joints", "total length of cracks", "widest crack"]
    cells: list[list[Any]] = [[paragraph(text) for text in head]]
    for group in sorted(by_group, key=lambda name: (-len(by_group[name]), name)):
        kinds = Counter(row["kind"] for row in by_group[group])
        counts = [photographs[group], kinds["crack"], kinds["unclear"], kinds["joint"]]
        sizes = _sizes([row for row in by_group[group] if row["kind"] == "crack"])
        cells.append([paragraph(group or "(no group)"), *map(paragraph, counts), *map(paragraph, sizes)])
    table = Table(cells, [45 * mm, 22 * mm, 16 * mm, 16 * mm, 16 * mm, 32 * mm, 31 * mm], repeatRows=1)
    table.setStyle([("LINEBELOW", (0, 0), (-1, -1), 0.4, PALE), ("VALIGN", (0, 0), (-1, -1), "TOP")])
    yield table
    if any(row["lat"] == row["lat"] for row in rows):
        yield paragraph("Where the photographs with findings were taken", HEADING)
        yield Map(rows, (A4[0] - 2 * MARGIN, 90 * mm))
        yield pdf_text.legend()
    yield PageBreak()


def _sizes(cracks: list[dict[str, Any]]) -> tuple[str, str]:
    """Total length and largest width; in millimetres where the scale of all of them is known."""
    if not cracks:
        return "–", "–"
    unit = "mm" if all(row["length_mm"] == row["length_mm"] for row in cracks) else "px"
    widths = [row[f"width_max_{unit}"] for row in cracks if row[f"width_max_{unit}"] == row[f"width_max_{unit}"]]
    digits = 2 if unit == "mm" else 1
    total = sum(row[f"length_{unit}"] for row in cracks)
    length = f"{total / 1000:,.1f} m" if unit == "mm" and total >= 10_000 else f"{total:,.0f} {unit}"
    return length, f"{max(widths):.{digits}f} {unit}" if widths else "–"


def _findings(rows: list[dict[str, Any]]) -> Iterator[Flowable]:
    """One row a finding: picture, what is known, and map."""
    for group, of_group in itertools.groupby(rows, key=lambda row: str(row["group"])):
        members = list(of_group)
        yield paragraph(group or "(no group)", HEADING)
        for image, of_image in itertools.groupby(members, key=lambda row: str(row["image"])):
            pixels_HW = pictures.pixels_if_readable(image)
            for row in of_image:
                fits = pixels_HW is not None and pixels_HW.shape == (row["height"], row["width"])
                crop = Crop(pixels_HW if fits else None, row, PICTURE_WIDTH - 4 * mm)
                place = Map(members, (MAP_WIDTH - 2 * mm, PICTURE_WIDTH * ASPECT - 4 * mm), row)
                table = Table([[crop, pdf_text.facts(row), place]], [PICTURE_WIDTH, TEXT_WIDTH, MAP_WIDTH])
                table.setStyle(
                    [
                        ("VALIGN", (0, 0), (-1, -1), "TOP"),
                        ("LEFTPADDING", (0, 0), (0, -1), 0),
                        ("LEFTPADDING", (-1, 0), (-1, -1), 2 * mm),
                        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
                        ("LINEBELOW", (0, 0), (-1, -1), 0.4, PALE),
                    ]
                )
                yield table
