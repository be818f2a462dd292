"""Label Studio: tasks with predictions, which a reviewer accepts or corrects."""

import itertools
import json
import math
from typing import Any

import pyarrow as pa

from crackvae.exports.annotations.outlines import outlines


def label_studio_bytes(rows: pa.Table, prefix: str) -> bytes:
    """One task an image; coordinates are percentages of the upright image.

    Args:
        prefix: of the names of images, such as /data/local-files/?d=photographs/.
    """
    by_image = itertools.groupby(rows.to_pylist(), key=lambda row: str(row["image"]))
    tasks = [_task(list(of_image), prefix) for _, of_image in by_image]
    return json.dumps(tasks, ensure_ascii=False).encode()


def _task(rows: list[dict[str, Any]], prefix: str) -> dict[str, Any]:
    results = [one for row in rows for one in _results(row)]
    prediction = {"model_version": rows[0]["model"], "result": results}
    if not math.isnan(rows[0]["p_value"]):
        prediction["score"] = 1 - rows[0]["p_value"]  # Label Studio takes 0 to 1
    return {
        "data": {"image": prefix + rows[0]["name"], "group": rows[0]["group"]},
        "predictions": [prediction],
    }


def _results(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One region a branch."""
    width, height = row["width"], row["height"]
    return [
        {
            "id": f"{row['finding']}-{number}",
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "points": [[round(100 * x / width, 4), round(100 * y / height, 4)] for x, y in polygon.tolist()],
                "polygonlabels": [row["kind"]],
                "closed": True,
            },
        }
        for number, polygon in enumerate(outlines(row))
    ]
