"""A folder of scores with findings made up for tests of exports."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.storage import tables
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, folder_of

RUN = "20261101T000000_000000"


def blank(schema: pa.Schema) -> dict[str, Any]:
    """Values that say nothing, by column."""
    kinds = {pa.string(): "", pa.bool_(): False, pa.int32(): 0, pa.int64(): 0}
    return {
        one.name: None
        if pa.types.is_timestamp(one.type)
        else []
        if pa.types.is_list(one.type)
        else kinds.get(one.type, math.nan)
        for one in schema
    }


def finding(name: str, image: str, **values: Any) -> dict[str, Any]:
    """A crack of 100 px that wanders from left to right, 3 px wide, unless values say otherwise."""
    x = np.arange(10.0, 111.0)
    made = {
        "finding": name,
        "image": image,
        "run": RUN,
        "model": "m",
        "kind": "crack",
        "x_px": x,
        "y_px": 50 + 5 * np.sin(x / 15),
        "widths_px": np.full(len(x), 3.0),
        "left_px": 8,
        "top_px": 43,
        "right_px": 113,
        "bottom_px": 58,
        "length_px": 104.2,
        "length_sigma_px": 1.5,
        "width_mean_px": 3.0,
        "width_max_px": 3.4,
        "width_sigma_px": 0.2,
        "score": 7.5,
        "p_value": 0.001,
    }
    return blank(FINDINGS_SCHEMA) | made | values


def write_scores(out: Path, findings: list[dict[str, Any]], images: dict[str, dict[str, Any]]) -> Path:
    """A scores table with one row for each image, by path, and its findings."""
    row = blank(tables.SCORES_SCHEMA) | {"run": RUN, "model": "m", "status": "scored", "flagged": True}
    row |= {"width": 200, "height": 100}
    rows = [row | {"image": image} | values for image, values in images.items()]
    of_image = {one["image"]: one for one in rows}
    found = [
        one | {name: of_image[one["image"]][name] for name in ("group", "taken", "lat", "lon")} for one in findings
    ]
    tables.write_part(folder_of(str(out)), pa.Table.from_pylist(found, FINDINGS_SCHEMA), RUN, 0)
    tables.write_part(str(out), pa.Table.from_pylist(rows, tables.SCORES_SCHEMA), RUN, 0)
    return out


def bridge(out: Path, folder: str = "/photographs") -> Path:
    """Four findings on three photographs of two structures: one without a place, one of a hostile name."""
    taken = datetime(2026, 5, 4, 8, 30, tzinfo=UTC)
    images = {
        f"{folder}/pier/a.jpg": {"group": "pier", "taken": taken, "lat": 47.3769123, "lon": 8.5417321, "alt_m": 412.0},
        f"{folder}/pier/b.jpg": {
            "group": "pier",
            "taken": taken,
            "taken_is_local": True,
            "lat": 47.3771,
            "lon": 8.5421,
            "camera": "DJI FC6310",
        },
        f'{folder}/=1+1 <&"\x0b>.jpg': {"group": "deck & <rail>"},
    }
    a, b, c = images
    branches = {"x_px": [20.0, 60.0, math.nan, 40.0, 40.0], "y_px": [30.0, 30.0, math.nan, 30.0, 70.0]}
    found = [
        finding("f1", a, mm_per_px=0.5, mm_source="--mm-per-px", length_mm=52.1, width_mean_mm=1.5),
        finding("f2", a, kind="joint"),
        finding("f3", b, **branches, widths_px=[2.0, math.nan, math.nan, 4.0, 4.0], kind="unclear"),
        finding("f4", c, x_px=[199.0], y_px=[99.0], widths_px=[math.nan], width_mean_px=math.nan),
    ]
    return write_scores(out, found, images)
