"""CVAT for images 1.1: polygons as annotations of a task with the same images."""

import itertools
from typing import Any

import pyarrow as pa

from crackvae.exports.annotations.coco import CATEGORIES
from crackvae.exports.annotations.outlines import outlines
from crackvae.exports.xml_text import Element, add, element, xml_bytes


def cvat_bytes(rows: pa.Table, prefix: str) -> bytes:
    """One polygon a branch; coordinates are those of the upright image.

    Args:
        prefix: of the names of images.
    """
    by_image = [list(one) for _, one in itertools.groupby(rows.to_pylist(), key=lambda row: str(row["image"]))]
    root = element("annotations")
    add(root, "version", "1.1")
    task = add(add(root, "meta"), "task")
    add(task, "name", "findings")
    add(task, "size", len(by_image))
    add(task, "mode", "annotation")
    labels = add(task, "labels")
    for name in CATEGORIES:
        label = add(labels, "label")
        add(label, "name", name)
        add(label, "type", "polygon")
        add(label, "attributes")
    for number, of_image in enumerate(by_image):
        _add_image(root, number, of_image, prefix)
    return xml_bytes(root)


def _add_image(root: Element, number: int, rows: list[dict[str, Any]], prefix: str) -> None:
    first = rows[0]
    image = add(root, "image", id=number, name=prefix + first["name"], width=first["width"], height=first["height"])
    for group, row in enumerate(rows, start=1):
        for polygon in outlines(row):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon.tolist())
            add(
                image, "polygon", label=row["kind"], source="auto", occluded=0, points=points, z_order=0, group_id=group
            )
