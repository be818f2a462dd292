"""One row of the scores table from one image. No Ray.

Shape letters: N images, T tiles of all of them in order, P side of a tile at the model's input [px], S scores of each
tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.config import SEGMENTER_HEADS
from crackvae.images.decoded import blank_tiles, first_tiles, surface_counts, tiles_of, tiles_per_image
from crackvae.model.heads import LATENT_NORM
from crackvae.model.image_scores import ImageScores, image_scores
from crackvae.model.inference import Scorer
from crackvae.model.screen import BFLOAT16, FLOAT32, Screen
from crackvae.storage.tables.measures import MEASURED_SCHEMA


def score_decoded(
    decoded: pa.Table,
    scorer: Scorer,
    run: str,
    score: Callable[[np.ndarray], np.ndarray],
    extra_heads: tuple[str, ...] = (),
    screen: Screen | None = None,
    precision: str = FLOAT32,
) -> pa.Table:
    """Score the tiles of all images together; the score of an image is that of its worst tile.

    One cracked tile is enough to send an inspector.

    Args:
        decoded: DECODED_SCHEMA.
        score: uint8 (T, P, P) -> float32 (T, 1 + number of extra heads); the network, or a fake one in tests.
        extra_heads: as for score_tiles(): each but LATENT_NORM becomes a column `score_HEAD`.
        screen: scores every tile before `score` does.
        precision: of `score`.

    Returns:
        MEASURED_SCHEMA and the columns of `extra_heads`, one row per image, in the same order.
    """
    tiles = _scored_tiles(decoded, scorer.model.spec.input_px, score, screen, precision)
    found = image_scores(tiles.scores_TS, tiles_per_image(decoded))
    mean_of_head = dict(zip(extra_heads, found.mean_NS[:, 1:].T, strict=True))
    n = decoded.num_rows
    columns: dict[str, Any] = {name: decoded[name] for name in decoded.column_names if name in MEASURED_SCHEMA.names}
    columns |= _decisions(found.max_NS[:, 0], surface_counts(decoded), scorer) | _worst_corners(decoded, found)
    columns |= {
        "score": found.max_NS[:, 0],
        "tile_scores": [scores[:, 0].tolist() for scores in found.tiles_TS],
        "run": [run] * n,
        "precision": _precisions(decoded, found, tiles.is_exact_T),
        "latent_norm": mean_of_head.get(LATENT_NORM, np.full(n, np.nan, np.float32)),
        "screened": tiles.screened_N,
        "again": tiles.again_N,
    }
    rows = pa.table({name: columns[name] for name in MEASURED_SCHEMA.names}, schema=MEASURED_SCHEMA)
    for number, name in enumerate(extra_heads, start=1):
        if name != LATENT_NORM:
            rows = rows.append_column(f"score_{name}", pa.array(found.max_NS[:, number]))
    return rows


@dataclass(frozen=True)
class _ScoredTiles:
    """Scores of the tiles of all images.

    Attributes:
        scores_TS: float32 (T, S), NaN for a tile that shows no surface.
        is_exact_T: bool (T,), which scores are those of float32.
        screened_N, again_N: number of tiles of each image that a screen has scored, and of those scored again.
    """

    scores_TS: np.ndarray
    is_exact_T: np.ndarray
    screened_N: np.ndarray
    again_N: np.ndarray


def _scored_tiles(
    decoded: pa.Table,
    input_px: int,
    score: Callable[[np.ndarray], np.ndarray],
    screen: Screen | None,
    precision: str,
) -> _ScoredTiles:
    tiles_TPP, tiles_N = tiles_of(decoded, input_px), tiles_per_image(decoded)
    if screen:
        scores_TS, is_exact_T = screen.scores(tiles_TPP, tiles_N, score)
        image_T = np.repeat(np.arange(len(tiles_N)), tiles_N)
        screened_N, again_N = tiles_N, np.bincount(image_T[is_exact_T], minlength=len(tiles_N))
    else:
        scores_TS, is_exact_T = score(tiles_TPP), np.full(len(tiles_TPP), precision == FLOAT32)
        screened_N = again_N = np.zeros_like(tiles_N)
    if blank := blank_tiles(decoded):
        scores_TS = scores_TS.copy()
        scores_TS[blank] = np.nan
    return _ScoredTiles(scores_TS, is_exact_T, screened_N, again_N)


def _decisions(scores_N: np.ndarray, tiles_N: np.ndarray, scorer: Scorer) -> dict[str, Any]:
    """The columns that the model and its calibration decide.

    Args:
        tiles_N: number of tiles of each image that show a surface.
    """
    calibration = scorer.calibration
    p_values_N = calibration.p_values(scores_N, tiles_N)
    flags_N = calibration.flags(scores_N, p_values_N)
    return {
        "p_value": p_values_N,
        "p_kind": ["" if np.isnan(p) else calibration.kind(n) for p, n in zip(p_values_N, tiles_N, strict=True)],
        "threshold": np.full(len(scores_N), calibration.threshold, np.float32),
        "flagged": flags_N,
        "untraced": flags_N & (scorer.model.spec.head in SEGMENTER_HEADS),  # until with_findings()
        "model": [scorer.model.digest] * len(scores_N),
    }


def _precisions(decoded: pa.Table, found: ImageScores, is_exact_T: np.ndarray) -> np.ndarray:
    """The precision of the score of each image, which is that of its worst tile; "" for an image without a score."""
    is_scored_N = surface_counts(decoded) > 0
    worst_T = first_tiles(decoded)[is_scored_N] + found.worst_N[is_scored_N]
    precisions_N = np.full(decoded.num_rows, "", object)
    precisions_N[is_scored_N] = np.where(is_exact_T[worst_T], FLOAT32, BFLOAT16)
    return precisions_N


def _worst_corners(decoded: pa.Table, found: ImageScores) -> dict[str, list[int]]:
    """Left and top edge [px] of the worst tile of each image; 0, 0 where an image has none."""
    edges = zip(decoded["xs"].to_pylist(), decoded["ys"].to_pylist(), found.worst_N.tolist(), strict=True)
    corners = [(xs[worst % len(xs)], ys[worst // len(xs)]) if xs else (0, 0) for xs, ys, worst in edges]
    return {"worst_x": [x for x, _ in corners], "worst_y": [y for _, y in corners]}
