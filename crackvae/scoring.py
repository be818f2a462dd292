"""Anomaly map and score heads; one row of the scores table from one image. No Ray.

Shape letters: T tiles, B tiles of one pass through the network, P side of a tile at the input [px], H, W rows and
columns of an image.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from crackvae import imaging, storage, tables
from crackvae.calibration import Calibration, load_calibration
from crackvae.config import SEGMENTER_HEADS
from crackvae.errors import UnreadableImage
from crackvae.model import Model, ModelSpec, Output, contrast, darker_than, load_model, median_of, pooled, to_input
from crackvae.runtime import Runtime, reference
from crackvae.tiles import Grid, cut, grid_of, resized, stitch

# Share of the pixels that the heads `dark`, `crack` and `evidence` average over: the best of 0.25 to 8 % on METU's val.
CRACK_SHARE = 0.02
# Decoded tiles that wait for the network: 16 MB at 128 px, and a whole number of passes for common batches.
WAITING_TILES = 1024
# Decoded pixels that wait to be resized together: 20 METU images, and of photographs one at a time.
WAITING_PX = 1_000_000
# Tiles of one pass where a picture is explained: nobody waits for it in a queue.
EXPLAIN_BATCH = 32

NO_TILES = np.empty(0, np.uint8)
# Measured while decoding.
CAMERA = ("brightness", "contrast", "sharpness")

# What decode_images() adds to the rows of a listing, for score_decoded() to use up.
DECODED_SCHEMA = pa.schema(
    [
        *(tables.SCORES_SCHEMA.field(name) for name in ("image", "group", "status", "error", "width", "height")),
        *(tables.SCORES_SCHEMA.field(name) for name in ("bytes", "modified", "rows", "cols")),
        ("xs", pa.list_(pa.int32())),
        ("ys", pa.list_(pa.int32())),
        ("tiles", pa.large_binary()),  # uint8 (rows * cols, P, P)
        *(tables.MEASURES_SCHEMA.field(name) for name in CAMERA),
    ]
)


@dataclass(frozen=True)
class Head:
    """A way from one pass through the network to a score.

    Attributes:
        anomaly_map: input (B, 1, P, P) and output of the network to the suspicion of every pixel, (B, 1, P, P), not
            negative.
        unit: of the map.
        power: of the map's values in the score.
        share: share of the pixels, the most suspicious ones, whose mean is the score.
    """

    anomaly_map: Callable[[Tensor, Output], Tensor]
    unit: str
    power: int
    share: float


def residual(input_B1PP: Tensor, output: Output) -> Tensor:
    """What the ConvVAE could not reconstruct."""
    return (input_B1PP - output.reconstruction_B1PP).abs()


def darkness(input_B1PP: Tensor, output: Output) -> Tensor:
    """How much darker than the tile's median, as a share of that; lighter is 0. Needs no network."""
    return contrast(input_B1PP).clamp(min=0)


def dark_crack(input_B1PP: Tensor, output: Output) -> Tensor:
    """Darkness that the segmenter takes for a crack: their product.

    Dark against the median, or against the reconstruction where that is lighter: with half of a tile in shadow a crack
    in the lit half is no darker than the median. The reconstruction alone would follow a wide crack.
    """
    assert output.crack_B1PP is not None, "settings give the head `crack` to no model without a segmenter"
    reference_B1PP = torch.maximum(output.reconstruction_B1PP, median_of(input_B1PP))
    return darker_than(reference_B1PP, input_B1PP).clamp(min=0) * torch.sigmoid(output.crack_B1PP)


def evidence(input_B1PP: Tensor, output: Output) -> Tensor:
    """How surely the segmenter takes a pixel for a crack, -log(1 - probability) [nats]; unlike that, it has no ceiling.

    Where the surface itself is full of dark gaps, how dark a crack is says less than that it is one.
    """
    assert output.crack_B1PP is not None, "settings give the head `evidence` to no model without a segmenter"
    return functional.softplus(output.crack_B1PP)


_RESIDUAL_UNIT = "residual [grey level, black 0 to white 1]"
HEADS = {
    "mse": Head(residual, _RESIDUAL_UNIT, power=2, share=1.0),  # the published score
    "top": Head(residual, _RESIDUAL_UNIT, power=2, share=0.01),
    "dark": Head(darkness, "darkness [share of the brightness]", power=1, share=CRACK_SHARE),
    "crack": Head(dark_crack, "darkness x probability of a crack", power=1, share=CRACK_SHARE),
    "evidence": Head(evidence, "evidence of a crack [nats]", power=1, share=CRACK_SHARE),
}
# The measure of any model: median minus 1st percentile of the pixels, one line of numpy.
BASELINE = "one_line"
# Length of the posterior mean: no score, but what tells a new texture from a known one.
LATENT_NORM = "latent_norm"


def one_line(input_B1PP: Tensor) -> Tensor:
    """The baseline's score of each tile, float (B,)."""
    pixels_BN = input_B1PP.flatten(1)
    return pixels_BN.quantile(0.5, dim=1) - pixels_BN.quantile(0.01, dim=1)


def scores_of(head: str, input_B1PP: Tensor, output: Output) -> Tensor:
    """Score of each tile by a head or by the baseline, or its latent norm, float (B,)."""
    if head == BASELINE:
        return one_line(input_B1PP)
    if head == LATENT_NORM:
        return output.mu_BZ.square().sum(dim=1).sqrt()
    chosen = HEADS[head]
    return pooled(chosen.anomaly_map(input_B1PP, output) ** chosen.power, chosen.share)


def heads_of(spec: ModelSpec) -> tuple[str, ...]:
    """The heads that a model can answer with: all but those that need a segmenter that it lacks."""
    return tuple(name for name in HEADS if spec.segmenter or name not in SEGMENTER_HEADS)


@torch.inference_mode()
def score_tiles(
    model: Model, tiles_TPP: np.ndarray, batch: int, others: tuple[str, ...] = (), runtime: Runtime | None = None
) -> np.ndarray:
    """Score of each tile by the model's head, and by others from the same pass; larger is more crack-like.

    Every pass has exactly `batch` tiles, the last one filled up with black ones: a convolution library may choose
    another order of summation for another shape, and a score must not depend on which images it shares a pass with.

    Args:
        tiles_TPP: uint8 (T, P, P).
        others: names of HEADS, BASELINE or LATENT_NORM.
        runtime: of the model and `batch`; without it, the reference.

    Returns:
        float32 (T, 1 + number of others).
    """
    heads = (model.spec.head, *others)
    runtime = runtime or reference(model)
    scores = [torch.empty(0, len(heads))]
    for start in range(0, len(tiles_TPP), batch):
        tiles_BPP = torch.from_numpy(np.array(tiles_TPP[start : start + batch]))
        filled_BPP = functional.pad(tiles_BPP, (0, 0, 0, 0, 0, batch - len(tiles_BPP)))
        if runtime.device != "cpu":  # a GPU takes bytes from pinned memory, and the next ones while it computes
            filled_BPP = filled_BPP.pin_memory().to(runtime.device, non_blocking=True)
        input_B1PP = to_input(filled_BPP)
        output = runtime.forward(input_B1PP)
        scores.append(torch.stack([scores_of(head, input_B1PP, output) for head in heads], dim=1))
    on_cpu = torch.cat([part.cpu() for part in scores])  # not before the last pass is on its way
    return on_cpu[: len(tiles_TPP)].numpy()


@contextmanager
def one_thread() -> Iterator[None]:
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
        anomaly_HW: float32 (H, W), the map of the model's head, in that head's unit.
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
    tiles = cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px)
    seen_TPP = np.empty(tiles.pixels_TPP.shape, np.float32)
    maps_TPP = np.empty_like(seen_TPP)
    scores_T = np.empty(len(seen_TPP), np.float32)
    with one_thread():
        for start in range(0, len(seen_TPP), EXPLAIN_BATCH):
            B = slice(start, start + EXPLAIN_BATCH)
            input_B1PP = to_input(torch.from_numpy(np.array(tiles.pixels_TPP[B])))
            output = model.network(input_B1PP)
            seen_TPP[B] = output.reconstruction_B1PP.squeeze(1).numpy()
            maps_TPP[B] = HEADS[spec.head].anomaly_map(input_B1PP, output).squeeze(1).numpy()
            scores_T[B] = scores_of(spec.head, input_B1PP, output).numpy()
    height, width = pixels_HW.shape
    grey_HW = stitch(seen_TPP, tiles, height, width) * 255
    anomaly_HW = stitch(maps_TPP, tiles, height, width)
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
        images: LISTING_SCHEMA and group; with sha256, an image with other bytes is unreadable.
        read: bytes of an image; raises OSError or UnreadableImage.

    Yields:
        tables of about WAITING_TILES tiles, in the order of `images`.
    """
    rows: list[dict[str, Any]] = []
    uncut: list[tuple[dict[str, Any], np.ndarray, Grid]] = []
    n_tiles = n_px = 0
    listed = images.to_pylist()
    asked_for = [(image["image"], image["bytes"]) for image in listed if not image["error"]]
    with storage.read_ahead(asked_for, read) as next_bytes:
        for image in listed:
            rows.append(_blank_row(image))
            decoded = _decode_image(image, rows[-1], spec, next_bytes)
            if decoded:
                uncut.append((rows[-1], *decoded))
                n_px += decoded[0].size
                n_tiles += rows[-1]["rows"] * rows[-1]["cols"]
                del decoded  # the pixels of a photograph must not wait for those of the next one
            if n_px >= WAITING_PX or n_tiles >= WAITING_TILES:
                _cut(uncut, spec.input_px)
                uncut, n_px = [], 0
            if n_tiles >= WAITING_TILES:
                yield _decoded_table(rows)
                rows, n_tiles = [], 0
    _cut(uncut, spec.input_px)
    if rows:
        yield _decoded_table(rows)


def _blank_row(image: dict[str, Any]) -> dict[str, Any]:
    """The row of a listed image of which nothing is known yet."""
    row = {name: image[name] for name in ("image", "group", "bytes", "modified", "error")} | dict.fromkeys(
        CAMERA, np.nan
    )
    return row | {
        "status": "unreadable",
        "width": 0,
        "height": 0,
        "rows": 0,
        "cols": 0,
        "xs": (),
        "ys": (),
        "tiles": NO_TILES,
    }


def _decode_image(
    image: dict[str, Any], row: dict[str, Any], spec: ModelSpec, read: Callable[[str], bytes]
) -> tuple[np.ndarray, Grid] | None:
    """Fill in the row of an image, all but its tiles; its pixels and where they are to be cut, if it has any."""
    if row["error"]:
        return None
    try:
        data = read(image["image"])
        if image.get("sha256", "") not in ("", hashlib.sha256(data).hexdigest()):
            raise UnreadableImage("it was replaced: its bytes are not those that the manifest was made from")
        pixels_HW = imaging.decode(data)
        height, width = pixels_HW.shape
        row |= {"height": height, "width": width}
        grid = grid_of(height, width, spec.tile_px, spec.stride_px)
    except UnreadableImage as error:
        row["error"] = str(error)
        return None
    except OSError as error:
        row |= {"status": "unreachable", "error": storage.reason(error)}
        return None
    row |= {"status": "scored", "rows": grid.rows, "cols": grid.cols, "xs": grid.xs, "ys": grid.ys}
    row |= vars(imaging.measures(pixels_HW))
    return pixels_HW, grid


def _cut(uncut: list[tuple[dict[str, Any], np.ndarray, Grid]], input_px: int) -> None:
    """Fill in the tiles of some rows; images of one size are the faster together."""
    squares = [grid.squares(pixels_HW) for _, pixels_HW, grid in uncut]
    tiles_TPP = resized(list(itertools.chain.from_iterable(squares)), input_px)
    start = 0
    for (row, _, _), of_row in zip(uncut, squares, strict=True):
        row["tiles"] = tiles_TPP[start : start + len(of_row)].reshape(-1)
        start += len(of_row)


def _decoded_table(rows: list[dict[str, Any]]) -> pa.Table:
    """DECODED_SCHEMA; the tiles are copied once, where Arrow's own conversion would copy them three times."""
    tiles = [row.pop("tiles") for row in rows]
    ends_N = np.cumsum([0, *(len(one) for one in tiles)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends_N), pa.py_buffer(np.concatenate(tiles))]
    without = pa.Table.from_pylist(rows, schema=DECODED_SCHEMA.remove(DECODED_SCHEMA.get_field_index("tiles")))
    column = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
    return without.append_column("tiles", column).select(DECODED_SCHEMA.names)


def _tiles_of(decoded: pa.Table, side: int) -> np.ndarray:
    """All tiles of DECODED_SCHEMA rows, uint8 (T, P, P), read-only and not copied."""
    column = decoded["tiles"].combine_chunks()
    _, ends, pixels = column.buffers()
    ends_N = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(pixels, np.uint8)[ends_N[0] : ends_N[-1]].reshape(-1, side, side)


def score_decoded(
    decoded: pa.Table, scorer: Scorer, run: str, score: Callable[[np.ndarray], np.ndarray], others: tuple[str, ...] = ()
) -> pa.Table:
    """Score the tiles of all images together; the score of an image is that of its worst tile.

    One cracked tile is enough to send an inspector.

    Args:
        decoded: DECODED_SCHEMA.
        score: uint8 (T, P, P) -> float32 (T, 1 + number of others); the network, or a fake one in tests.
        others: as for score_tiles(): each but LATENT_NORM becomes a column `score_HEAD`.

    Returns:
        MEASURED_SCHEMA and the columns of `others`, one row an image, in the same order.
    """
    scores_TS = score(_tiles_of(decoded, scorer.model.spec.input_px))
    tiles_N = decoded["rows"].to_numpy() * decoded["cols"].to_numpy()
    per_image = np.split(scores_TS, np.cumsum(tiles_N)[:-1])
    worst_N = np.array([int(scores[:, 0].argmax()) if len(scores) else 0 for scores in per_image])
    nothing_S = np.full(1 + len(others), np.nan, np.float32)
    scores_NS = np.array([scores.max(axis=0) if len(scores) else nothing_S for scores in per_image], np.float32)
    means_NS = np.array([scores.mean(axis=0) if len(scores) else nothing_S for scores in per_image], np.float32)
    scores_N = scores_NS[:, 0]
    norms_N = means_NS[:, 1 + others.index(LATENT_NORM)] if LATENT_NORM in others else np.full_like(scores_N, np.nan)
    xs_N, ys_N = decoded["xs"].to_pylist(), decoded["ys"].to_pylist()
    corners = [_corner(xs, ys, worst) for xs, ys, worst in zip(xs_N, ys_N, worst_N, strict=True)]
    threshold = np.float32(scorer.calibration.threshold)
    n = decoded.num_rows
    columns = {name: decoded[name] for name in decoded.column_names if name not in ("xs", "ys", "tiles")} | {
        "score": pa.array(scores_N),
        "p_value": pa.array(scorer.calibration.p_values(scores_N, tiles_N)),
        "threshold": pa.array(np.full(n, threshold)),
        "flagged": pa.array(scores_N > threshold),
        "tile_scores": pa.array([scores[:, 0].tolist() for scores in per_image], pa.list_(pa.float32())),
        "worst_x": pa.array([x for x, _ in corners], pa.int32()),
        "worst_y": pa.array([y for _, y in corners], pa.int32()),
        "model": pa.array([scorer.model.digest] * n, pa.string()),
        "run": pa.array([run] * n, pa.string()),
        "latent_norm": pa.array(norms_N),
    }
    rows = pa.table({name: columns[name] for name in tables.MEASURED_SCHEMA.names}, schema=tables.MEASURED_SCHEMA)
    for number, name in enumerate(others, start=1):
        if name != LATENT_NORM:
            rows = rows.append_column(f"score_{name}", pa.array(scores_NS[:, number]))
    return rows


def _corner(xs: list[int], ys: list[int], tile: int) -> tuple[int, int]:
    """Left and top edge [px] of a tile, counted row by row; 0, 0 where there is none."""
    return (xs[tile % len(xs)], ys[tile // len(xs)]) if xs else (0, 0)
