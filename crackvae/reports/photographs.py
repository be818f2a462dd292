"""Photographs of several tiles, shown whole: tile scores from the table, and anomaly maps where nothing was traced.

Most tiles of a photograph are inconspicuous, and computing their maps would take most of the time of a page.

Shape letters: H, W rows and columns of a photograph; T tiles of it; K tiles that are explained; P side of a tile at the
model's input [px].
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import ndimage

from crackvae.errors import UnreadableImage
from crackvae.images import pictures
from crackvae.images.tiles import Grid, grid_of, resized, stitch_some
from crackvae.model.artifact import Model
from crackvae.model.inference import explain_tiles
from crackvae.reports.views import THUMBNAIL_PX, Box, View, max_pooled, reduced

# Longest side of a whole photograph on the page [px].
PHOTOGRAPH_PX = 1280

# Largest number of tiles of one photograph that are explained: with 11 ms per tile and core, 0.7 s on two cores.
MAX_TILES = 128

# Tiles of one task of the executor.
TASK_TILES = 8


def is_photograph(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row is an image of several tiles."""
    return pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1)


@dataclass(frozen=True)
class Photograph:
    """A photograph of several tiles, shown whole.

    Attributes:
        view: the whole photograph at PHOTOGRAPH_PX; its anomaly map, if any, fades to 0 outside the explained tiles.
        tile_scores: float (rows, cols), NaN for a tile without a surface.
        worst: left edge, top edge [px], score and thumbnail (uint8) of the worst tiles, worst first.
        n_flagged: number of tiles above the threshold.
        n_explained: number of tiles with a map.
    """

    view: View
    tile_scores: np.ndarray
    worst: list[tuple[int, int, float, np.ndarray]]
    n_flagged: int
    n_explained: int


def view_photograph(
    row: dict[str, Any],
    tile_scores_T: np.ndarray,
    with_map: bool,
    model: Model,
    executor: Executor,
    n_worst: int,
) -> Photograph | None:
    """View a photograph; None if its picture has changed, which view_image() has already reported.

    Args:
        row: row of the scores table: image, width, height, rows, cols, threshold.
        tile_scores_T: scores of its tiles, row by row, from the same table; NaN for tiles without a surface, not all.
        with_map: whether to compute an anomaly map, which takes seconds.
        executor: of threads, each with one torch thread.
    """
    try:
        pixels_HW = pictures.read_pixels(row["image"])
    except (UnreadableImage, OSError):
        return None
    if pixels_HW.shape != (row["height"], row["width"]):
        return None
    grid = grid_of(*pixels_HW.shape, model.spec.tile_px, model.spec.stride_px)
    scores = tile_scores_T.reshape(grid.rows, grid.cols)
    picture_hw = reduced(pixels_HW, PHOTOGRAPH_PX)
    map_hw, n_explained = None, 0
    if with_map:
        explained_K = tiles_to_explain(scores, row["threshold"])
        maps_KPP = _maps(model, grid, pixels_HW, explained_K, executor)
        map_hw = max_pooled(stitch_some(maps_KPP, explained_K, grid, *pixels_HW.shape), PHOTOGRAPH_PX)
        n_explained = len(explained_K)
    return Photograph(
        View(picture_hw, None, map_hw, _box(grid, int(np.nanargmax(scores)), pixels_HW.shape)),
        scores,
        _worst(scores, grid, pixels_HW, n_worst),
        int((scores > row["threshold"]).sum()),
        n_explained,
    )


def tiles_to_explain(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the tiles with a map, int (K,), ascending.

    These are the tiles above the threshold, their neighbours, into which a crack may continue, and those with the
    highest scores, up to MAX_TILES.

    Args:
        scores: float (rows, cols).
    """
    if scores.size <= MAX_TILES:
        return np.arange(scores.size)
    is_flagged = scores > threshold
    is_near = ndimage.binary_dilation(is_flagged, np.ones((3, 3), bool))
    order = np.lexsort((-scores.ravel(), ~is_near.ravel(), ~is_flagged.ravel()))
    return np.sort(order[:MAX_TILES])


def _maps(model: Model, grid: Grid, pixels_HW: np.ndarray, explained_K: np.ndarray, executor: Executor) -> np.ndarray:
    """Anomaly maps of some tiles, float32 (K, P, P)."""
    squares = grid.squares(pixels_HW)

    def maps_of(tiles: np.ndarray) -> np.ndarray:
        _, maps_TPP, _ = explain_tiles(model, resized([squares[tile] for tile in tiles], model.spec.input_px))
        return maps_TPP

    tasks = [explained_K[start : start + TASK_TILES] for start in range(0, len(explained_K), TASK_TILES)]
    return np.concatenate(list(executor.map(maps_of, tasks)))


def _box(grid: Grid, tile: int, shape: tuple[int, int]) -> Box:
    height, width = shape
    x, y = grid.corner(tile)
    return Box(x / width, y / height, grid.tile_w / width, grid.tile_h / height)


def _worst(
    scores: np.ndarray, grid: Grid, pixels_HW: np.ndarray, n_worst: int
) -> list[tuple[int, int, float, np.ndarray]]:
    """Left edge, top edge [px], score and thumbnail of the worst tiles that have a score, worst first."""
    squares = grid.squares(pixels_HW)
    n_scored = int(np.isfinite(scores).sum())
    order = np.argsort(-scores, axis=None, kind="stable")[: min(n_worst, n_scored)]  # NaN is sorted last
    return [
        (
            *grid.corner(int(tile)),
            float(scores.flat[tile]),
            reduced(np.ascontiguousarray(squares[tile]), THUMBNAIL_PX),
        )
        for tile in order
    ]
