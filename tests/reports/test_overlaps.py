"""Findings in overlapping photographs of one wall are one crack."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from crackvae.images.synthetic import draw_concrete, draw_crack
from crackvae.reports.overlaps import views_of
from crackvae.storage.tables.findings import FINDINGS_SCHEMA

SHIFT_PX, HEIGHT, WIDTH = 300, 500, 900
NORTH = 1 / 111_320  # degrees of a metre


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photographs of one wall, the second 300 px to the right, and one of another wall."""
    folder = tmp_path_factory.mktemp("wall")
    rng = np.random.default_rng(5)
    surface, _ = draw_crack(rng, draw_concrete(rng, HEIGHT, WIDTH + SHIFT_PX))
    pictures = [surface[:, :WIDTH], surface[:, SHIFT_PX:], draw_concrete(rng, HEIGHT, WIDTH)]
    paths = [folder / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return paths


def line(name: str, image: Path, left: float, right: float, y: float = 200.0, **values: Any) -> dict[str, Any]:
    """A finding from left to right."""
    x = np.arange(left, right)
    made = {"finding": name, "image": str(image), "group": "wall", "x_px": x, "y_px": np.full(len(x), y)}
    return made | {"length_px": right - left, "lat": 47.0, "lon": 8.0} | values


def views(rows: list[dict[str, Any]]) -> list[str]:
    return views_of(pa.Table.from_pylist(rows, FINDINGS_SCHEMA)).view_of


def test_a_crack_in_two_overlapping_photographs_is_a_view_of_the_longer_one(wall: list[Path]) -> None:
    first = line("a", wall[0], 350, 850), line("other", wall[0], 350, 850, y=400)
    second = line("b", wall[1], 0, 550, lat=47.0 + 2 * NORTH), line("elsewhere", wall[1], 650, 850)
    assert views([*first, *second]) == ["b", "", "", ""]


@pytest.mark.parametrize(
    "changed",
    [{"lat": 47.0 + 20 * NORTH}, {"lat": math.nan, "lon": math.nan}, {"group": "other"}, {"image": "gone.png"}],
    ids=["far", "no place", "other structure", "file is gone"],
)
def test_only_photographs_of_one_structure_near_each_other_are_compared(
    wall: list[Path], changed: dict[str, Any]
) -> None:
    assert views([line("a", wall[0], 350, 850), line("b", wall[1], 50, 550) | changed]) == ["", ""]


def test_two_walls_share_no_finding(wall: list[Path]) -> None:
    assert views([line("a", wall[0], 350, 850), line("b", wall[2], 350, 850)]) == ["", ""]


def test_no_findings_have_no_views() -> None:
    assert views([]) == []
