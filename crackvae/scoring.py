"""Anomaly map and score heads; one row of the scores table from one image. No Ray.

Shape letters: T tiles, B tiles of one pass through the network, P side of a tile at the input [px], H, W rows and
columns of an image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from crackvae import imaging, storage, tables
from crackvae.calibration import Calibration, load_calibration
from crackvae.errors import UnreadableImage
from crackvae.model import Model, ModelSpec, load_model, to_input

# A crack covers 1 to 3 % of the pixels of a METU tile; the mean over all pixels drowns it.
TOP_SHARE = 0.01
# Decoded tiles that wait for the network: 16 MB at 128 px, and a whole number of passes for common batches.
WAITING_TILES = 1024
# Tiles of one pass where a picture is explained: nobody waits for it in a queue.
EXPLAIN_BATCH = 32
# What the values of an anomaly map mean, for its colour bar.
ANOMALY_UNIT = "squared residual [squared grey level, black 0 to white 1]"

# What decode_images() adds to the rows of a listing, for score_decoded() to use up.
DECODED_SCHEMA = pa.schema(
    [
        *(tables.SCORES_SCHEMA.field(name) for name in ("image", "group", "status", "error", "width", "height")),
        *(tables.SCORES_SCHEMA.field(name) for name in ("bytes", "modified", "rows", "cols")),
        ("xs", pa.list_(pa.int32())),
        ("ys", pa.list_(pa.int32())),
        ("tiles", pa.large_binary()),  # uint8 (rows * cols, P, P)
    ]
)


def anomaly_map(tiles_B1PP: Tensor, reconstruction_B1PP: Tensor) -> Tensor:
    """Squared residual of every pixel, float (B, P, P) [squared grey level, black 0 to white 1]."""
    return (tiles_B1PP - reconstruction_B1PP).square().squeeze(1)


def mse(map_BPP: Tensor) -> Tensor:
    """Mean of the anomaly map, float (B,): the published score."""
    return map_BPP.flatten(1).mean(dim=1)


def top(map_BPP: Tensor) -> Tensor:
    """Mean of the top TOP_SHARE of the anomaly map, float (B,)."""
    map_BN = map_BPP.flatten(1)
    return map_BN.topk(max(1, round(TOP_SHARE * map_BN.shape[1])), dim=1, sorted=True).values.mean(dim=1)


HEADS: dict[str, Callable[[Tensor], Tensor]] = {"mse": mse, "top": top}


@torch.inference_mode()
def score_tiles(model: Model, tiles_TPP: np.ndarray, batch: int, device: str = "cpu") -> np.ndarray:
    """Score of each tile, larger is more crack-like.

    Every pass has exactly `batch` tiles, the last one filled up with black ones: a convolution library may choose
    another order of summation for another shape, and a score must not depend on which images it shares a pass with.

    Args:
        tiles_TPP: uint8 (T, P, P).

    Returns:
        float32 (T,).
    """
    head = HEADS[model.spec.head]
    scores = np.empty(-(-len(tiles_TPP) // batch) * batch, np.float32)
    for start in range(0, len(tiles_TPP), batch):
        tiles_BPP = torch.from_numpy(np.array(tiles_TPP[start : start + batch]))
        missing = batch - len(tiles_BPP)
        filled_BPP = torch.nn.functional.pad(tiles_BPP, (0, 0, 0, 0, 0, missing))
        input_B1PP = to_input(filled_BPP.to(device))
        scores[start : start + batch] = head(anomaly_map(input_B1PP, model.network(input_B1PP)[0])).cpu().numpy()
    return scores[: len(tiles_TPP)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: on a busy machine two of them waited for each other 30 times longer than a tile took."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Explanation:
    """What the model makes of one image, at the image's own resolution.

    Attributes:
        reconstruction_HW: uint8 (H, W).
        anomaly_HW: float32 (H, W), in ANOMALY_UNIT.
        tile_scores: float32 (rows, cols), the score of each tile; equal to those of score_tiles() but for rounding,
            because no pass is filled up here.
        xs, ys: left edges of the columns and top edges of the rows of tiles [px].
    """

    reconstruction_HW: np.ndarray
    anomaly_HW: np.ndarray
    tile_scores: np.ndarray
    xs: tuple[int, ...]
    ys: tuple[int, ...]


@torch.inference_mode()
def explain(model: Model, pixels_HW: np.ndarray) -> Explanation:
    """Reconstruction and anomaly map of one image, stitched from its tiles.

    Args:
        pixels_HW: uint8 (H, W), as decode() gives it.

    Raises:
        UnreadableImage: more tiles than cut() allows.
    """
    spec = model.spec
    tiles = imaging.cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px)
    seen_TPP = np.empty(tiles.pixels_TPP.shape, np.float32)
    maps_TPP = np.empty_like(seen_TPP)
    scores_T = np.empty(len(seen_TPP), np.float32)
    with _one_thread():
        for start in range(0, len(seen_TPP), EXPLAIN_BATCH):
            B = slice(start, start + EXPLAIN_BATCH)
            input_B1PP = to_input(torch.from_numpy(np.array(tiles.pixels_TPP[B])))
            reconstruction_B1PP = model.network(input_B1PP)[0]
            map_BPP = anomaly_map(input_B1PP, reconstruction_B1PP)
            seen_TPP[B] = reconstruction_B1PP.squeeze(1).numpy()
            maps_TPP[B] = map_BPP.numpy()
            scores_T[B] = HEADS[spec.head](map_BPP).numpy()
    height, width = pixels_HW.shape
    grey_HW = imaging.stitch(seen_TPP, tiles, height, width, spec.tile_px) * 255
    anomaly_HW = imaging.stitch(maps_TPP, tiles, height, width, spec.tile_px)
    scores = scores_T.reshape(tiles.rows, tiles.cols)
    return Explanation(grey_HW.round().clip(0, 255).astype(np.uint8), anomaly_HW, scores, tiles.xs, tiles.ys)


@dataclass(frozen=True)
class Scorer:
    """A model and what its scores mean: all of a model directory that scoring needs."""

    model: Model
    calibration: Calibration


def load_scorer(model_dir: str) -> Scorer:
    """Raises ModelError."""
    model_dir = storage.absolute(model_dir)
    model = load_model(model_dir)
    return Scorer(model, load_calibration(model_dir, model.digest))


# ------------------------------------------------------------------------------------ from listing to scores


def decode_images(
    images: pa.Table, spec: ModelSpec, read: Callable[[str], bytes] = storage.read_image
) -> Iterator[pa.Table]:
    """Read, decode and cut images; whatever happens, each is one row of DECODED_SCHEMA.

    Args:
        images: LISTING_SCHEMA and group.
        read: bytes of an image; raises OSError or UnreadableImage.

    Yields:
        tables of about WAITING_TILES tiles, in the order of `images`.
    """
    rows: list[dict[str, Any]] = []
    waiting = 0
    for image in images.to_pylist():
        rows.append(_decode_image(image, spec, read))
        waiting += rows[-1]["rows"] * rows[-1]["cols"]
        if waiting >= WAITING_TILES:
            yield pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)
            rows, waiting = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)


def _decode_image(image: dict[str, Any], spec: ModelSpec, read: Callable[[str], bytes]) -> dict[str, Any]:
    blank = {"width": 0, "height": 0, "rows": 0, "cols": 0, "xs": [], "ys": [], "tiles": b"", "status": "unreadable"}
    row = blank | {name: image[name] for name in ("image", "group", "bytes", "modified", "error")}
    if row["error"]:
        return row
    try:
        pixels_HW = imaging.decode(read(image["image"]))
        row |= {"height": pixels_HW.shape[0], "width": pixels_HW.shape[1]}
        tiles = imaging.cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px)
    except UnreadableImage as error:
        return row | {"error": str(error)}
    except OSError as error:
        return row | {"status": "unreachable", "error": storage.reason(error)}
    return row | {
        "status": "scored",
        "rows": tiles.rows,
        "cols": tiles.cols,
        "xs": tiles.xs,
        "ys": tiles.ys,
        "tiles": tiles.pixels_TPP.tobytes(),
    }


def score_decoded(decoded: pa.Table, scorer: Scorer, run: str, score: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    """Score the tiles of all images together; the score of an image is that of its worst tile.

    One cracked tile is enough to send an inspector.

    Args:
        decoded: DECODED_SCHEMA.
        score: uint8 (T, P, P) -> float32 (T,); the network, or a fake one in tests.

    Returns:
        SCORES_SCHEMA, one row an image, in the same order.
    """
    side = scorer.model.spec.input_px
    pixels = b"".join(decoded["tiles"].to_pylist())
    scores_T = score(np.frombuffer(pixels, np.uint8).reshape(-1, side, side))
    tiles_N = decoded["rows"].to_numpy() * decoded["cols"].to_numpy()
    per_image = np.split(scores_T, np.cumsum(tiles_N)[:-1])
    worst_N = np.array([int(scores.argmax()) if len(scores) else 0 for scores in per_image])
    scores_N = np.array([scores.max() if len(scores) else np.nan for scores in per_image], np.float32)
    xs_N, ys_N = decoded["xs"].to_pylist(), decoded["ys"].to_pylist()
    corners = [_corner(xs, ys, worst) for xs, ys, worst in zip(xs_N, ys_N, worst_N, strict=True)]
    threshold = np.float32(scorer.calibration.threshold)
    n = decoded.num_rows
    columns = {name: decoded[name] for name in decoded.column_names if name not in ("xs", "ys", "tiles")} | {
        "score": pa.array(scores_N),
        "p_value": pa.array(scorer.calibration.p_values(scores_N, tiles_N)),
        "threshold": pa.array(np.full(n, threshold)),
        "flagged": pa.array(scores_N > threshold),
        "tile_scores": pa.array([scores.tolist() for scores in per_image], pa.list_(pa.float32())),
        "worst_x": pa.array([x for x, _ in corners], pa.int32()),
        "worst_y": pa.array([y for _, y in corners], pa.int32()),
        "model": pa.array([scorer.model.digest] * n, pa.string()),
        "run": pa.array([run] * n, pa.string()),
    }
    return pa.table({name: columns[name] for name in tables.SCORES_SCHEMA.names}, schema=tables.SCORES_SCHEMA)


def _corner(xs: list[int], ys: list[int], tile: int) -> tuple[int, int]:
    """Left and top edge [px] of a tile, counted row by row; 0, 0 where there is none."""
    return (xs[tile % len(xs)], ys[tile // len(xs)]) if xs else (0, 0)
