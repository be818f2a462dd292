"""Findings of flagged images, traced in the worker that has scored them: unflagged images cost nothing. No Ray."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy import ndimage

from crackvae.images.decoded import OPTICS, tiles_of
from crackvae.images.surface import unpacked
from crackvae.images.tiles import Grid, Tiling, grid_of
from crackvae.model.calibration import Calibration
from crackvae.model.screen import BFLOAT16, FOLLOW_SHARE
from crackvae.storage.tables.findings import FINDINGS_COLUMN, FINDINGS_SCHEMA, FINDINGS_TYPE
from crackvae.tracing.scale import UNKNOWN_SCALES, Scales, in_millimetres

# Width of the edges of a tile whose map does not count where a neighbour overlaps them [px].
EDGE_PX = 16

# Side of the squares in which the middle of a finding keeps its id [px].
ID_CELL_PX = 128

# Columns of a finding that are those of its image.
OF_IMAGE = ("image", "group", "run", "model", "p_value", "taken", "lat", "lon")

# What is not known of a finding when it is traced.
_UNKNOWN: dict[str, Any] = {
    field.name: "" if field.type == pa.string() else None if pa.types.is_timestamp(field.type) else np.nan
    for field in FINDINGS_SCHEMA
}

# Tiles, uint8 (P, P) each -> probability of each of their pixels being cracked, float32 (P, P) each.
Probabilities = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Tracing:
    """How the findings of a run are traced.

    Attributes:
        ignore_joints: decide about an image without the tiles that show a joint and no other finding.
        scales: what is known of millimetres.
    """

    ignore_joints: bool = False
    scales: Scales = UNKNOWN_SCALES


@dataclass(frozen=True)
class _Flagged:
    """A flagged image of a table.

    Attributes:
        number: of its row.
        row: MEASURED_SCHEMA.
        tiles_TPP: uint8 (T, P, P).
        scores_T: float32, NaN for tiles without a score.
        traced_K: the tiles that are traced.
    """

    number: int
    row: dict[str, Any]
    grid: Grid
    tiles_TPP: np.ndarray
    scores_T: np.ndarray
    traced_K: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table, decoded: pa.Table, number: int, tiling: Tiling, threshold: float) -> "_Flagged":
        row = rows.slice(number, 1).to_pylist()[0]
        grid = grid_of(row["height"], row["width"], tiling.tile_px, tiling.stride_px)
        tiles_TPP = tiles_of(decoded.slice(number, 1), tiling.input_px)
        scores_T = np.array(row["tile_scores"], np.float32)
        return cls(number, row, grid, tiles_TPP, scores_T, tiles_to_trace(scores_T, grid, threshold))


def with_findings(
    rows: pa.Table,
    decoded: pa.Table,
    calibration: Calibration,
    tiling: Tiling,
    probabilities: Probabilities,
    tracing: Tracing,
    exact_above: float = -np.inf,
) -> pa.Table:
    """Scored rows with the findings of the flagged ones in FINDINGS_COLUMN.

    Args:
        rows: MEASURED_SCHEMA.
        decoded: DECODED_SCHEMA, what the rows were made from.
        exact_above: tile scores above it are those of float32: the level of the screen, if there was one.
    """
    scales = tracing.scales
    flagged = [
        _Flagged.of(rows, decoded, int(number), tiling, calibration.threshold)
        for number in np.flatnonzero(rows["flagged"].to_numpy())
    ]
    maps = probabilities(tile for image in flagged for tile in image.tiles_TPP[image.traced_K])
    found: list[list[dict[str, Any]]] = [[] for _ in range(rows.num_rows)]
    for image in flagged:
        number, row = image.number, image.row
        optics = decoded.select(OPTICS).slice(number, 1).to_pylist()[0]
        scale = scales.scale_of(row["image"], row["group"], optics)
        hidden_HW = unpacked(decoded["hidden"][number].as_py(), row["height"], row["width"])
        traced = _findings_of(image, maps, hidden_HW)
        found[number] = [one | in_millimetres(one, scale, scales.width_limits) for one in traced]
        if tracing.ignore_joints and any(one["kind"] == "joint" for one in found[number]):
            row_without = _without_joints(image, found[number], calibration)
            if row_without["score"] <= exact_above:
                row_without["precision"] = BFLOAT16
            found[number] = [one | {"p_value": row_without["p_value"]} for one in found[number]]
            again = pa.Table.from_pylist([row_without], rows.schema)
            rows = pa.concat_tables([rows.slice(0, number), again, rows.slice(number + 1)])
    none_untraced = pa.array([False] * rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("untraced"), "untraced", none_untraced)
    return rows.append_column(FINDINGS_COLUMN, pa.array(found, FINDINGS_TYPE))


def _without_joints(image: _Flagged, findings: list[dict[str, Any]], calibration: Calibration) -> dict[str, Any]:
    """The row as if the tiles with a joint and no other finding had no score; the number of tiles stays."""
    grid, scores_T = image.grid, image.scores_T
    counted = np.array([np.count_nonzero(~np.isnan(scores_T))])
    joint_T = _crossed([one for one in findings if one["kind"] == "joint"], grid)
    other_T = _crossed([one for one in findings if one["kind"] != "joint"], grid)
    left_T = np.where(joint_T & ~other_T, np.nan, scores_T)
    if np.isnan(left_T).all():
        left_T = np.where(scores_T == np.nanmin(scores_T), scores_T, np.nan)
    worst = int(np.nanargmax(left_T))
    score_1 = left_T[[worst]]
    p_1 = calibration.p_values(score_1, counted)
    worst_x, worst_y = grid.corner(worst)
    return image.row | {
        "score": float(score_1[0]),
        "p_value": float(p_1[0]),
        "flagged": bool(calibration.flags(score_1, p_1)[0]),
        "tile_scores": left_T.tolist(),
        "worst_x": worst_x,
        "worst_y": worst_y,
    }


def _findings_of(image: _Flagged, maps: Iterator[np.ndarray], hidden_HW: np.ndarray | None) -> list[dict[str, Any]]:
    """The findings of one flagged image as rows of FINDINGS_SCHEMA, the longest first.

    Args:
        maps: begins with the probabilities of the traced tiles.
        hidden_HW: what shows no surface, bool (H, W): tiles mirror the surface there, with its cracks.
    """
    from crackvae.tracing.findings import trace_findings  # imported here: it takes 0.3 s, and most images need none

    row, grid, scores_T = image.row, image.grid, image.scores_T
    pixels_HW = np.zeros((row["height"], row["width"]), np.uint8)
    for tile, square in enumerate(image.tiles_TPP):
        _paste(pixels_HW, square, grid, tile, (0, 0))
    rows_K, columns_K = image.traced_K // grid.cols, image.traced_K % grid.cols
    top, left = grid.ys[rows_K.min()], grid.xs[columns_K.min()]
    bottom, right = grid.ys[rows_K.max()] + grid.tile_h, grid.xs[columns_K.max()] + grid.tile_w
    probability_hw = np.zeros((bottom - top, right - left), np.uint8)
    for tile in image.traced_K.tolist():
        middle_PP = _without_edges((next(maps) * 255).astype(np.uint8), grid, tile)
        _paste(probability_hw, middle_PP, grid, tile, (top, left))
    traced = trace_findings(pixels_HW, probability_hw, (top, left), hidden_HW)
    findings = [_UNKNOWN | {name: row[name] for name in OF_IMAGE} | one for one in traced]
    for one in findings:
        one["score"] = float(np.nanmax(scores_T[_crossed([one], grid)]))
    _name(findings)
    return findings


def tiles_to_trace(scores_T: np.ndarray, grid: Grid, threshold: float) -> np.ndarray:
    """Tiles above the threshold, and those around them that continue a crack, int (K,).

    Args:
        scores_T: of a flagged image, NaN for tiles without a score.
    """
    scores = scores_T.reshape(grid.rows, grid.cols)
    seeds, continues = scores > threshold, scores > FOLLOW_SHARE * threshold
    followed = ndimage.binary_propagation(seeds, np.ones((3, 3), bool), mask=continues)
    return np.flatnonzero(followed)


def _without_edges(map_PP: np.ndarray, grid: Grid, tile: int) -> np.ndarray:
    """The map of a tile without the edges where its neighbours overlap it: a line that an edge cuts is uncertain."""
    rows, columns = divmod(tile, grid.cols)
    for map_PQ, row, starts, side in ((map_PP, rows, grid.ys, grid.tile_h), (map_PP.T, columns, grid.xs, grid.tile_w)):
        for neighbour, edge in ((row - 1, slice(None)), (row + 1, slice(None, None, -1))):
            if 0 <= neighbour < len(starts):
                overlap_px = side - abs(starts[neighbour] - starts[row])
                margin = min(EDGE_PX, max(0, overlap_px) // 2) * len(map_PQ) // side
                map_PQ[edge][:margin] = 0
    return map_PP


def _paste(canvas_hw: np.ndarray, square: np.ndarray, grid: Grid, tile: int, origin: tuple[int, int]) -> None:
    """Put a tile into its place on a crop of its image that begins at `origin` (y, x); the larger value stays."""
    x, y = grid.corner(tile)
    top, left = y - origin[0], x - origin[1]
    if square.shape != (grid.tile_h, grid.tile_w):
        square = np.asarray(Image.fromarray(square).resize((grid.tile_w, grid.tile_h), Image.Resampling.BILINEAR))
    y, x = max(0, top), max(0, left)
    part = canvas_hw[y : max(0, top + grid.tile_h), x : max(0, left + grid.tile_w)]
    np.maximum(part, square[y - top :, x - left :][: part.shape[0], : part.shape[1]], out=part)


def _crossed(findings: list[dict[str, Any]], grid: Grid) -> np.ndarray:
    """Whether a trace of some findings crosses a tile, bool (T,)."""
    x_N = np.concatenate([np.zeros(0), *(one["x_px"] for one in findings)])
    y_N = np.concatenate([np.zeros(0), *(one["y_px"] for one in findings)])
    left_C, top_R = np.array(grid.xs)[:, None], np.array(grid.ys)[:, None]
    in_column_CN = (x_N >= left_C) & (x_N < left_C + grid.tile_w)
    in_row_RN = (y_N >= top_R) & (y_N < top_R + grid.tile_h)
    return np.asarray((in_row_RN.astype(int) @ in_column_CN.T.astype(int) > 0).ravel())


def _name(findings: list[dict[str, Any]]) -> None:
    """Give each finding its id: of the image and the square of ID_CELL_PX that the middle of its box lies in."""
    taken: set[str] = set()
    for one in findings:
        x, y = (one["left_px"] + one["right_px"]) // 2, (one["top_px"] + one["bottom_px"]) // 2
        place, number = f"{one['image']}\n{x // ID_CELL_PX}\n{y // ID_CELL_PX}", 0
        while (name := _digest(f"{place}\n{number}")) in taken:
            number += 1
        taken.add(name)
        one["finding"] = name


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
