"""Where the traces of findings lie on the Earth: in GeoTIFFs, each of whose pixels has a place.

Shape letters: N points of a trace.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.exports.annotations.outlines import TOLERANCE_PX, simplified
from crackvae.images.decoding.windows import places_in
from crackvae.storage.tables.traces import branches_of, trace_of

# A trace without the points that its neighbours imply, in degrees (WGS 84) with NaN between two branches; empty where
# the image has no geotransform or can no longer be read. `place_of` says what `lat` and `lon` are the place of.
LINES_SCHEMA = pa.schema(
    [
        ("place_of", pa.string()),  # finding | photograph | ""
        ("lat_trace", pa.list_(pa.float64())),
        ("lon_trace", pa.list_(pa.float64())),
    ]
)


def with_lines(rows: pa.Table) -> pa.Table:
    """Findings with LINES_SCHEMA; where a line is known, `lat` and `lon` become those of its middle.

    Args:
        rows: FINDINGS_SCHEMA, sorted by image.
    """
    found = rows.select(["image", "x_px", "y_px", "lat", "lon"]).to_pylist()
    by_image = itertools.groupby(found, key=lambda row: str(row["image"]))
    placed = [one for image, of_image in by_image for one in _placed(image, list(of_image))]
    for name in ("lat", "lon"):
        column = pa.array([one[name] for one in placed], pa.float64())
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    for field in LINES_SCHEMA:
        rows = rows.append_column(field, pa.array([one[field.name] for one in placed], field.type))
    return rows


def _placed(image: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Place and line of each finding of an image."""
    lines = [_thinned(trace_of(row)) for row in rows]
    lat_N, lon_N = places_in(image, *(np.concatenate(lines) + 0.5).T)
    ends = np.cumsum([len(line) for line in lines])[:-1]
    for row, lats, lons in zip(rows, np.split(lat_N, ends), np.split(lon_N, ends), strict=True):
        known = np.flatnonzero(np.isfinite(lats))
        if len(known):
            middle = known[len(known) // 2]
            place = {"lat": lats[middle], "lon": lons[middle], "place_of": "finding"}
            yield place | {"lat_trace": lats, "lon_trace": lons}
        else:
            place = {"lat": row["lat"], "lon": row["lon"], "place_of": "" if math.isnan(row["lat"]) else "photograph"}
            yield place | {"lat_trace": [], "lon_trace": []}


def _thinned(trace_N2: np.ndarray) -> np.ndarray:
    """A trace without the points that lie close to the line between their neighbours."""
    parts = [trace_N2[part][simplified(trace_N2[part], TOLERANCE_PX)] for part in branches_of(trace_N2)]
    gap = np.full((1, 2), math.nan)
    return np.concatenate([one for part in parts for one in (part, gap)][:-1] or [gap])


def lines_of(row: dict[str, Any]) -> list[list[list[float]]]:
    """The branches of a finding as longitude and latitude, rounded to a tenth of a millimetre; none if unknown."""
    line_N2 = np.stack([np.asarray(row["lon_trace"], float), np.asarray(row["lat_trace"], float)], axis=1)
    branches = [line_N2[part].round(9).tolist() for part in branches_of(line_N2)]
    return [branch for branch in branches if len(branch) > 1]
