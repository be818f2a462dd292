"""COCO object detection: polygons and boxes, as pycocotools, FiftyOne and CVAT read them.

Shape letters: N points of polygons, each x, y.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.exports.annotations.outlines import area_of, outlines
from crackvae.exports.rows import known

CATEGORIES = {"crack": 1, "joint": 2, "unclear": 3}


def coco_bytes(rows: pa.Table, prefix: str) -> bytes:
    """One annotation a finding; coordinates are those of the upright image.

    Args:
        prefix: of the names of images.
    """
    listed = rows.to_pylist()
    first_rows = {row["image"]: row for row in reversed(listed)}
    numbers = {image: number for number, image in enumerate(sorted(first_rows), start=1)}
    images = [
        {"id": number, "file_name": prefix + first_rows[image]["name"]} | _size(first_rows[image])
        for image, number in numbers.items()
    ]
    annotations = [
        {"id": number, "image_id": numbers[row["image"]]} | _annotation(row)
        for number, row in enumerate(listed, start=1)
    ]
    categories = [{"id": number, "name": name, "supercategory": "line"} for name, number in CATEGORIES.items()]
    content = {
        "info": {"description": "Findings of crackvae"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _size(row: dict[str, Any]) -> dict[str, int]:
    return {"width": row["width"], "height": row["height"]}


def _box(polygons: list[np.ndarray]) -> list[int]:
    """Left, top, width and height of the whole pixels around some polygons; zeros where a finding has none."""
    points_N2 = np.concatenate(polygons or [np.zeros((1, 2))])
    (left, top), (right, bottom) = np.floor(points_N2.min(axis=0)), np.ceil(points_N2.max(axis=0))
    return [int(value) for value in (left, top, right - left, bottom - top)]


def _annotation(row: dict[str, Any]) -> dict[str, Any]:
    polygons = outlines(row)
    return {
        "category_id": CATEGORIES[row["kind"]],
        "bbox": _box(polygons),
        "segmentation": [[round(float(value), 2) for value in polygon.ravel()] for polygon in polygons],
        "area": round(sum(map(area_of, polygons)), 2),
        "iscrowd": 0,
        "score": round(row["score"], 6),
        "attributes": known(
            row, ("finding", "length_px", "width_mean_px", "width_max_px", "length_mm", "width_mean_mm")
        ),
    }
