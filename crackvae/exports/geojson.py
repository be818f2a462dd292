"""GeoJSON (RFC 7946): one feature a finding, as a line where its pixels have places, else at that of its photograph."""

import json
import math
from typing import Any

import pyarrow as pa

from crackvae.exports.georeferenced import lines_of
from crackvae.exports.rows import known


def geojson_bytes(rows: pa.Table) -> bytes:
    """A feature collection; a finding of an unknown place has no geometry."""
    features = [_feature(row) for row in rows.to_pylist()]
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, indent=1).encode()


def _feature(row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "id": row["finding"], "geometry": _geometry(row), "properties": known(row)}


def _geometry(row: dict[str, Any]) -> dict[str, Any] | None:
    lines = lines_of(row)
    if lines:
        is_one = len(lines) == 1
        return {"type": "LineString" if is_one else "MultiLineString", "coordinates": lines[0] if is_one else lines}
    if math.isnan(row["lat"]):
        return None
    return {"type": "Point", "coordinates": [round(row["lon"], 7), round(row["lat"], 7)]}
