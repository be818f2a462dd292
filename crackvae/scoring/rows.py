"""One row of the scores table from one image. No Ray."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import SEGMENTER_HEADS
from crackvae.images.decoded import tiles_of
from crackvae.model.heads import LATENT_NORM
from crackvae.model.image_scores import image_scores
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
    tiles_TPP = tiles_of(decoded, scorer.model.spec.input_px)
    tiles_N = decoded["rows"].to_numpy() * decoded["cols"].to_numpy()
    starts_N = np.cumsum([0, *tiles_N[:-1]])
    is_exact_T = np.full(len(tiles_TPP), precision == FLOAT32)
    screened_N = again_N = np.zeros_like(tiles_N)
    if screen:
        scores_TS, is_exact_T = screen.scores(tiles_TPP, tiles_N, score)
        image_T = np.repeat(np.arange(len(tiles_N)), tiles_N)
        screened_N, again_N = tiles_N, np.bincount(image_T[is_exact_T], minlength=len(tiles_N))
    else:
        scores_TS = score(tiles_TPP)
    n_blank_N = pc.list_value_length(decoded["blank"]).to_numpy()
    if n_blank_N.any():
        scores_TS = scores_TS.copy()
        for start, blank in zip(starts_N, decoded["blank"].to_pylist(), strict=True):
            scores_TS[[start + number for number in blank]] = np.nan
    found = image_scores(scores_TS, tiles_N)
    scores_N, corners = found.max_NS[:, 0], _worst_corners(decoded, found.worst_N)
    tiles_N = tiles_N - n_blank_N
    p_values_N = scorer.calibration.p_values(scores_N, tiles_N)
    flags_N = scorer.calibration.flags(scores_N, p_values_N)
    kinds_N = ["" if np.isnan(p) else scorer.calibration.kind(n) for p, n in zip(p_values_N, tiles_N, strict=True)]
    worst_T = starts_N[tiles_N > 0] + found.worst_N[tiles_N > 0]
    precisions_N = np.full(len(tiles_N), "", object)
    precisions_N[tiles_N > 0] = np.where(is_exact_T[worst_T], FLOAT32, BFLOAT16)
    n = decoded.num_rows
    latent_norm = 1 + extra_heads.index(LATENT_NORM) if LATENT_NORM in extra_heads else None
    columns = {name: decoded[name] for name in decoded.column_names if name in MEASURED_SCHEMA.names} | {
        "score": pa.array(scores_N),
        "p_value": pa.array(p_values_N),
        "threshold": pa.array(np.full(n, scorer.calibration.threshold, np.float32)),
        "flagged": pa.array(flags_N),
        "tile_scores": pa.array([scores[:, 0].tolist() for scores in found.tiles_TS], pa.list_(pa.float32())),
        "worst_x": pa.array([x for x, _ in corners], pa.int32()),
        "worst_y": pa.array([y for _, y in corners], pa.int32()),
        "model": pa.array([scorer.model.digest] * n, pa.string()),
        "run": pa.array([run] * n, pa.string()),
        "p_kind": pa.array(kinds_N, pa.string()),
        "precision": pa.array(precisions_N, pa.string()),
        "untraced": pa.array(flags_N & (scorer.model.spec.head in SEGMENTER_HEADS)),  # until with_findings()
        "latent_norm": pa.array(
            np.full(n, np.nan, np.float32) if latent_norm is None else found.mean_NS[:, latent_norm]
        ),
        "screened": pa.array(screened_N, pa.int32()),
        "again": pa.array(again_N, pa.int32()),
    }
    rows = pa.table({name: columns[name] for name in MEASURED_SCHEMA.names}, schema=MEASURED_SCHEMA)
    for number, name in enumerate(extra_heads, start=1):
        if name != LATENT_NORM:
            rows = rows.append_column(f"score_{name}", pa.array(found.max_NS[:, number]))
    return rows


def _worst_corners(decoded: pa.Table, worst_N: np.ndarray) -> list[tuple[int, int]]:
    """Left and top edge [px] of the worst tile of each image; 0, 0 where an image has none."""
    edges_N = zip(decoded["xs"].to_pylist(), decoded["ys"].to_pylist(), worst_N, strict=True)
    return [_corner(xs, ys, worst) for xs, ys, worst in edges_N]


def _corner(xs: list[int], ys: list[int], tile: int) -> tuple[int, int]:
    """Left and top edge [px] of a tile, counted row by row; 0, 0 where there is none."""
    return (xs[tile % len(xs)], ys[tile // len(xs)]) if xs else (0, 0)
