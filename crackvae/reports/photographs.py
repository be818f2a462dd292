"""Photographs of several tiles, shown whole: tile scores from the table, anomaly maps of the tiles that matter.

Most tiles of a photograph are inconspicuous, and computing their maps would take most of the time of a page.

Shape letters: H, W rows and columns of a photograph; T tiles of it; K tiles that are explained; P side of a tile at the
model's input [px].
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from crackvae.errors import UnreadableImage
from crackvae.images import pictures
from crackvae.images.tiles import Grid, grid_of, resized, stitch_some
from crackvae.model.artifact import Model
from crackvae.model.inference import explain_tiles
from crackvae.reports.crack_size import CrackSize, crack_size, touching, trace
from crackvae.reports.views import THUMBNAIL_PX, Box, View, max_pooled, reduced

# Longest side of a whole photograph on the page [px].
PHOTOGRAPH_PX = 1280

# Largest number of tiles of one photograph that are explained: with 11 ms per tile and core, 0.7 s on two cores.
MAX_TILES = 128

# Of these, tiles at evenly spaced ranks of the score: their maps represent the background of the photograph.
BACKGROUND_TILES = 24

# Tiles of one task of the executor.
TASK_TILES = 8


@dataclass(frozen=True)
class Photograph:
    """A photograph of several tiles, shown whole.

    Attributes:
        view: the whole photograph at PHOTOGRAPH_PX; its anomaly map fades to 0 outside the explained tiles.
        tile_scores: float (rows, cols).
        worst: left edge, top edge [px], score and thumbnail (uint8) of the worst tiles, worst first.
        crack: size of the cracks that touch an explained tile above the threshold, or None without such a tile.
        n_flagged: number of tiles above the threshold.
        n_explained, n_flagged_explained: number of tiles with a map, and of those above the threshold.
    """

    view: View
    tile_scores: np.ndarray
    worst: list[tuple[int, int, float, np.ndarray]]
    crack: CrackSize | None
    n_flagged: int
    n_explained: int
    n_flagged_explained: int


def view_photograph(
    row: dict[str, Any], tile_scores_T: np.ndarray, model: Model, executor: Executor, n_worst: int
) -> Photograph | None:
    """Explain a photograph; None if its picture has changed, which view_image() has already reported.

    Args:
        row: row of the scores table: image, width, height, rows, cols, threshold.
        tile_scores_T: scores of its tiles, row by row, from the same table.
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
    explained_K = tiles_to_explain(scores, row["threshold"])
    maps_KPP = _maps(model, grid, pixels_HW, explained_K, executor)
    anomaly_HW = stitch_some(maps_KPP, explained_K, grid, *pixels_HW.shape)
    is_flagged = scores > row["threshold"]
    flagged_K = explained_K[is_flagged.ravel()[explained_K]]
    box = _box(grid, int(scores.argmax()), pixels_HW.shape)
    return Photograph(
        View(reduced(pixels_HW, PHOTOGRAPH_PX), None, max_pooled(anomaly_HW, PHOTOGRAPH_PX), box),
        scores,
        _worst(scores, grid, pixels_HW, n_worst),
        _crack(anomaly_HW, grid, flagged_K, _background(maps_KPP, explained_K, scores)),
        int(is_flagged.sum()),
        len(explained_K),
        len(flagged_K),
    )


def tiles_to_explain(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the tiles with a map, int (K,), ascending.

    These are the tiles above the threshold, their neighbours, into which a crack may continue, and those with the
    highest scores, up to MAX_TILES; and tiles of all ranks as background.

    Args:
        scores: float (rows, cols).
    """
    if scores.size <= MAX_TILES:
        return np.arange(scores.size)
    is_flagged = scores > threshold
    is_near = ndimage.binary_dilation(is_flagged, np.ones((3, 3), bool))
    order = np.lexsort((-scores.ravel(), ~is_near.ravel(), ~is_flagged.ravel()))
    return np.union1d(order[: MAX_TILES - BACKGROUND_TILES], _background_tiles(scores))


def _background_tiles(scores: np.ndarray) -> np.ndarray:
    """Indices of tiles at evenly spaced ranks of the score."""
    ranks = np.linspace(0, scores.size - 1, min(BACKGROUND_TILES, scores.size)).astype(int)
    order = np.argsort(scores, axis=None, kind="stable")
    return np.asarray(order[ranks])


def _background(maps_KPP: np.ndarray, explained_K: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Values of the anomaly map that represent the photograph, float (N,)."""
    return maps_KPP[np.isin(explained_K, _background_tiles(scores))].ravel()


def _maps(model: Model, grid: Grid, pixels_HW: np.ndarray, explained_K: np.ndarray, executor: Executor) -> np.ndarray:
    """Anomaly maps of some tiles, float32 (K, P, P)."""
    squares = grid.squares(pixels_HW)

    def maps_of(tiles: np.ndarray) -> np.ndarray:
        _, maps_TPP, _ = explain_tiles(model, resized([squares[tile] for tile in tiles], model.spec.input_px))
        return maps_TPP

    tasks = [explained_K[start : start + TASK_TILES] for start in range(0, len(explained_K), TASK_TILES)]
    return np.concatenate(list(executor.map(maps_of, tasks)))


def _corner(grid: Grid, tile: int) -> tuple[int, int]:
    """Left and top edge of a tile [px]."""
    return grid.xs[tile % grid.cols], grid.ys[tile // grid.cols]


def _box(grid: Grid, tile: int, shape: tuple[int, int]) -> Box:
    height, width = shape
    x, y = _corner(grid, tile)
    return Box(x / width, y / height, grid.tile_w / width, grid.tile_h / height)


def _worst(
    scores: np.ndarray, grid: Grid, pixels_HW: np.ndarray, n_worst: int
) -> list[tuple[int, int, float, np.ndarray]]:
    """Left edge, top edge [px], score and thumbnail of the worst tiles, worst first."""
    squares = grid.squares(pixels_HW)
    order = np.argsort(-scores, axis=None, kind="stable")[:n_worst]
    return [
        (
            *_corner(grid, int(tile)),
            float(scores.flat[tile]),
            reduced(np.ascontiguousarray(squares[tile]), THUMBNAIL_PX),
        )
        for tile in order
    ]


def _crack(anomaly_HW: np.ndarray, grid: Grid, flagged_K: np.ndarray, background_N: np.ndarray) -> CrackSize | None:
    """Size of the cracks that touch a tile above the threshold: traces elsewhere are mostly surface texture."""
    if not len(flagged_K):
        return None
    flagged_HW = np.zeros(anomaly_HW.shape, bool)
    squares = grid.squares(flagged_HW)
    for tile in flagged_K:
        squares[tile][:] = True
    return crack_size(touching(trace(anomaly_HW, background_N), flagged_HW))
