"""What tests of changes share: photographs of drawn concrete at several visits, and the tables that scoring writes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from crackvae.images import synthetic
from crackvae.storage import tables
from crackvae.storage.content import content_key
from crackvae.storage.tables import findings

# A line: finding, y, first x, length, width, all in pixels of the first visit.
Line = tuple[str, int, int, int, float]


BLANK = {"string": "", "bool": False, str(pa.list_(pa.float32())): [0.5]}


def surface(seed: int) -> np.ndarray:
    """A surface, uint8 (300, 400)."""
    return synthetic.draw_concrete(np.random.default_rng(seed), 300, 400)[..., 0]


def photograph(path: Path, seed: int, lines: list[Line], shift: tuple[int, int] = (0, 0)) -> None:
    """Write a photograph of a surface with dark lines on it, moved by some pixels."""
    picture = surface(seed).copy()
    for _, y, x, length, width in lines:
        picture[y - int(width) // 2 : y + int(width) // 2 + 1, x : x + length] //= 3
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], float)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cv2.warpAffine(picture, matrix, (400, 300), borderMode=cv2.BORDER_REFLECT)).save(path)


def found(image: Path, run: str, model: str, line: Line, shift: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """A row of FINDINGS_SCHEMA."""
    name, y, x, length, width = line
    xs = [*(x + shift[0] + np.arange(length, dtype=float)), float("nan")]
    row: dict[str, Any] = {"finding": name, "image": str(image), "run": run, "model": model, "kind": "crack"}
    row |= {"x_px": xs, "y_px": [float(y + shift[1])] * len(xs), "widths_px": [width] * len(xs), "mm_per_px": 0.5}
    row |= {"length_px": length, "length_sigma_px": 2.0, "width_mean_px": width, "width_sigma_px": 0.2}
    return row | {"taken": datetime(int(run[:4]), 5, 1, tzinfo=UTC), "lat": float("nan"), "lon": float("nan")}


def score(
    out: Path,
    run: str,
    photographs: dict[Path, list[dict[str, Any]]],
    *,
    model: str = "m",
    threshold: float = 1.0,
    status: str = "scored",
) -> Path:
    """Write what scoring writes of some photographs with these findings."""
    rows = []
    for image in photographs:
        row: dict[str, Any] = {field.name: BLANK.get(str(field.type), 0) for field in tables.SCORES_SCHEMA}
        row |= {"image": str(image), "group": image.parent.name, "status": status, "model": model, "run": run}
        rows.append(row | {"threshold": threshold, "content": content_key(image.read_bytes())})
    tables.write_part(str(out), pa.Table.from_pylist(rows, tables.SCORES_SCHEMA), run, 0)
    every = [one for found_there in photographs.values() for one in found_there]
    part = pa.Table.from_pylist(every, findings.FINDINGS_SCHEMA)
    tables.write_part(findings.folder_of(str(out)), part, run, 0)
    return out


def visit(
    folder: Path,
    year: str,
    photographs: dict[str, tuple[int, list[Line]]],
    shift: tuple[int, int] = (0, 0),
    *,
    model: str = "m",
    out: Path | None = None,
) -> Path:
    """Photographs of a visit, by name the seed of the surface and its lines, and their scores; returns the latter."""
    images: dict[Path, list[dict[str, Any]]] = {}
    for name, (seed, lines) in photographs.items():
        image = folder / f"{year}-05-01" / name
        photograph(image, seed, lines, shift)
        images[image] = [found(image, f"{year}0501T000000_000000", model, line, shift) for line in lines]
    return score(out or folder / f"scores-{year}", f"{year}0501T000000_000000", images, model=model)
