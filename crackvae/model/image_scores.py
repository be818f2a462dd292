"""From the scores of tiles to the score of their image, and how many tiles images have.

Shape letters: N images, T tiles of all of them in order, S scores of each tile.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class ImageScores:
    """Scores of the tiles, summed up for each image; NaN for an image without tiles.

    Attributes:
        tiles_TS: the scores of each image's tiles, one array (T, S) per image.
        max_NS: float32 (N, S), the largest score of an image's tiles; one cracked tile is enough to inspect an image.
        mean_NS: float32 (N, S).
        worst_N: number of the tile with the largest first score, 0 for an image without tiles.
    """

    tiles_TS: list[np.ndarray]
    max_NS: np.ndarray
    mean_NS: np.ndarray
    worst_N: np.ndarray


def image_scores(scores_TS: np.ndarray, tiles_N: np.ndarray) -> ImageScores:
    """Group the scores of tiles by image.

    Args:
        scores_TS: float32 (T, S), NaN for a tile that shows no surface; an image has tiles with a score, or no tiles.
        tiles_N: number of tiles of each image.
    """
    per_image = np.split(scores_TS, np.cumsum(tiles_N)[:-1])
    nothing_S = np.full(scores_TS.shape[1], np.nan, np.float32)
    return ImageScores(
        tiles_TS=per_image,
        max_NS=np.array([np.nanmax(scores, axis=0) if len(scores) else nothing_S for scores in per_image], np.float32),
        mean_NS=np.array(
            [np.nanmean(scores, axis=0) if len(scores) else nothing_S for scores in per_image], np.float32
        ),
        worst_N=np.array([int(np.nanargmax(scores[:, 0])) if len(scores) else 0 for scores in per_image]),
    )


def surface_tiles(rows: pa.Table) -> np.ndarray:
    """Number of tiles of each image that show a surface, int (N,): a tile without one has no score, and no chance.

    Args:
        rows: with the column tile_scores of SCORES_SCHEMA.
    """
    counts = [np.empty(0, np.int64)]
    for chunk in rows["tile_scores"].chunks:
        has_score_T = ~np.isnan(chunk.values.to_numpy(zero_copy_only=False))
        counts.append(np.diff(np.append(0, np.cumsum(has_score_T))[chunk.offsets.to_numpy()]))
    return np.concatenate(counts)


def images_by_tiles(rows: pa.Table) -> dict[int, int]:
    """Number of images of each number of tiles that show a surface, which is what p-values count.

    Args:
        rows: images with a score, with the column tile_scores of SCORES_SCHEMA.
    """
    tiles, counts = np.unique(surface_tiles(rows), return_counts=True)
    return dict(zip(tiles.tolist(), counts.tolist(), strict=True))
