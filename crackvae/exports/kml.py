"""KML 2.2 (OGC 07-147r2): one placemark a finding of a known place, in one folder a group."""

import itertools
import math
from typing import Any

import pyarrow as pa

from crackvae.exports.georeferenced import lines_of
from crackvae.exports.rows import known, taken_text
from crackvae.exports.xml_text import Element, add, element, xml_bytes
from crackvae.reports.colours import KIND_COLOURS

LINE_WIDTH_PX = 3

PLACES = "a line where the image is georeferenced, otherwise the place of the photograph"


def kml_bytes(rows: pa.Table) -> bytes:
    """A document; findings of an unknown place are counted in its description."""
    placed = [row for row in rows.to_pylist() if not math.isnan(row["lat"])]
    root = element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = add(root, "Document")
    add(document, "name", "Findings")
    add(document, "description", f"{len(placed)} of {rows.num_rows} findings have a place: {PLACES}.")
    for kind, colour in KIND_COLOURS.items():
        line = add(add(document, "Style", id=kind), "LineStyle")
        red, green, blue = colour[1:3], colour[3:5], colour[5:7]
        add(line, "color", f"ff{blue}{green}{red}")  # opaque
        add(line, "width", LINE_WIDTH_PX)
    placed.sort(key=lambda row: str(row["group"]))
    for group, of_group in itertools.groupby(placed, key=lambda row: str(row["group"])):
        folder = add(document, "Folder")
        add(folder, "name", group or "(no group)")
        for row in of_group:
            _add_placemark(folder, row)
    return xml_bytes(root)


def _add_placemark(folder: Element, row: dict[str, Any]) -> None:
    placemark = add(folder, "Placemark", id=f"f{row['finding']}")
    add(placemark, "name", f"{row['kind']} {row['name']}")
    if row["taken"] is not None:
        add(add(placemark, "TimeStamp"), "when", taken_text(row))
    add(placemark, "styleUrl", f"#{row['kind']}")
    extended = add(placemark, "ExtendedData")
    for name, value in known(row).items():
        add(add(extended, "Data", name=name), "value", value)
    lines = lines_of(row)
    if not lines:
        add(add(placemark, "Point"), "coordinates", f"{row['lon']:.7f},{row['lat']:.7f}")
        return
    geometry = add(placemark, "MultiGeometry")
    for line in lines:
        add(add(geometry, "LineString"), "coordinates", " ".join(f"{lon:.9f},{lat:.9f}" for lon, lat in line))
