"""[Ray] The tiles of a training: decoded once and held in the object store where they fit; where they do not, decoded
anew in every epoch, window by window and ahead of the workers.

Shape letters: N images, T tiles, P side of a tile at the input [px].
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from crackvae.config import TrainConfig
from crackvae.console import progress, say
from crackvae.errors import ManifestError, UnreadableImage
from crackvae.images.decoded import decode_images
from crackvae.images.manifest import listing_of
from crackvae.images.tiles import grid_of
from crackvae.model.network import ModelSpec
from crackvae.session import dataset_of, on_this_node, tables_of
from crackvae.storage import fileio
from crackvae.training.state import TrainingTiles

DECODE_BLOCK_IMAGES = 256


# Share of the smallest node's object store that the tiles may take; validation tiles and checkpoints need some too.
HELD_SHARE = 0.5


# Streamed, three windows are on their way at most: one is trained on, one waits, one is decoded.
WINDOWS_AT_ONCE = 3


# Tasks that decode one window together, at most.
TASKS_A_WINDOW = 8


def tile_counts(images: pa.Table, spec: ModelSpec) -> np.ndarray:
    """TrainingTiles of each image of a manifest, int (N,), from its width and height.

    Raises:
        ManifestError: an image would be too many tiles (named).
    """
    counts = []
    for image in images.select(["image", "height", "width"]).to_pylist():
        try:
            grid = grid_of(image["height"], image["width"], spec.tile_px, spec.stride_px)
        except UnreadableImage as error:
            raise ManifestError(f"{image['image']}: {error}. Give larger --tile-px and --stride-px.") from error
        counts.append(grid.rows * grid.cols)
    return np.array(counts, dtype=np.int64)


def decoded_tiles(images: pa.Table, split: str, spec: ModelSpec, config: TrainConfig) -> tuple[np.ndarray, pa.Table]:
    """All tiles of the images, decoded once on the cluster: uint8 (T, P, P); and the images as decoded, without tiles.

    Raises:
        ManifestError: images that cannot be read (named).
    """
    tiles: list[np.ndarray] = []
    rows = _decoded(images, split, spec, config, lambda column: tiles.append(_joined(column, spec)))
    return np.concatenate(tiles), rows


def training_tiles(images: pa.Table, spec: ModelSpec, config: TrainConfig) -> Callable[[], TrainingTiles]:
    """What gives a worker its tiles; every image has been decoded once by then, so that none fails later.

    Raises:
        ManifestError: images that cannot be read (named).
    """
    counts_N = tile_counts(images, spec)
    tile_bytes = spec.input_px**2
    needed, room = int(counts_N.sum()) * tile_bytes, int(HELD_SHARE * _smallest_store_bytes())
    size = (
        f"{counts_N.sum()} training tiles take {needed / 1e6:.1f} MB, the object store has room for {room / 1e6:.1f} MB"
    )
    if needed <= room:
        say(f"{size}: decoded once and held", quiet=config.quiet)
        tiles_TPP, _ = decoded_tiles(images, "train", spec, config)
        return partial(_held, [ray.put(tiles_TPP)])
    window_tiles = max(config.batch, room // WINDOWS_AT_ONCE // tile_bytes)
    say(f"{size}: decoded anew in every epoch, {window_tiles} tiles at a time", quiet=config.quiet)
    _decoded(images, "train", spec, config, lambda column: None)
    cache = ray.remote(_WindowCache).options(**on_this_node())
    read = fileio.image_reader()  # here, because the actor does not know which S3 server this process uses
    feeder = cache.remote(images, counts_N, window_tiles, spec, config.seed, read)
    return partial(_streamed, feeder, int(counts_N.sum()))


def _held(reference: list[Any]) -> TrainingTiles:
    return TrainingTiles.held(ray.get(reference[0]))


def _streamed(feeder: Any, n: int) -> TrainingTiles:
    def windows(epoch: int) -> Iterator[np.ndarray]:
        number, ahead = 0, feeder.window.remote(epoch, 0)
        while parts := ray.get(ahead):
            number, ahead = number + 1, feeder.window.remote(epoch, number + 1)
            yield np.concatenate(ray.get(parts))

    return TrainingTiles(n, windows)


class _WindowCache:
    """Has the windows decoded, once for all workers; on the driver's node, which outlives the workers."""

    def __init__(
        self,
        images: pa.Table,
        counts_N: np.ndarray,
        window_tiles: int,
        spec: ModelSpec,
        seed: int,
        read: Callable[[str], bytes],
    ) -> None:
        self.images, self.counts_N, self.window_tiles = images, counts_N, window_tiles
        self.spec, self.seed, self.read = spec, seed, read
        self.windows: dict[tuple[int, int], list[Any]] = {}

    def window(self, epoch: int, number: int) -> list[Any]:
        """The parts of a window, uint8 (T, P, P) each; none after the last."""
        if (epoch, number) not in self.windows:
            self.windows[epoch, number] = self._decode(epoch, number)
            while len(self.windows) > WINDOWS_AT_ONCE:
                del self.windows[next(iter(self.windows))]
        return self.windows[epoch, number]

    def _decode(self, epoch: int, number: int) -> list[Any]:
        windows = windows_of(self.counts_N, self.window_tiles, self.seed, epoch)
        if number >= len(windows):
            return []
        decode = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_tiles_of)  # the workers hold the CPUs
        parts = np.array_split(windows[number], min(TASKS_A_WINDOW, len(windows[number])))
        return [decode.remote(self.images.take(pa.array(part)), self.spec, self.read) for part in parts]


def windows_of(counts_N: np.ndarray, window_tiles: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Images of each window of an epoch: all images in an order drawn for it, cut where a window is full.

    A window has `window_tiles` tiles at most, or those of one image.
    """
    order_N = np.random.default_rng([seed, epoch]).permutation(len(counts_N))
    windows, first, tiles = [], 0, 0
    for position, count in enumerate(counts_N[order_N]):
        if tiles + count > window_tiles and position > first:
            windows.append(order_N[first:position])
            first, tiles = position, 0
        tiles += count
    return [*windows, order_N[first:]]


def _tiles_of(images: pa.Table, spec: ModelSpec, read: Callable[[str], bytes]) -> np.ndarray:
    parts = []
    for decoded in decode_images(listing_of(images), spec, read):
        _require_read(decoded, "train", images.num_rows)
        parts.append(_joined(decoded["tiles"], spec))
    return np.concatenate(parts)


def _joined(column: pa.ChunkedArray, spec: ModelSpec) -> np.ndarray:
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, spec.input_px, spec.input_px)


def _decoded(
    images: pa.Table, split: str, spec: ModelSpec, config: TrainConfig, take: Callable[[pa.ChunkedArray], None]
) -> pa.Table:
    """Decode all images on the cluster and hand their tiles to `take`; the images as decoded, without tiles."""
    decode = partial(decode_images, tiling=spec, read=fileio.image_reader())
    rows = []
    with progress(f"decode {split}", images.num_rows, "images", quiet=config.quiet) as bar:
        for decoded in decode_all(listing_of(images), decode):
            take(decoded["tiles"])
            rows.append(decoded.drop_columns(["tiles"]))
            bar.update(decoded.num_rows)
    table = pa.concat_tables(rows)
    _require_read(table, split, images.num_rows)
    return table


def decode_all(images: pa.Table, decode: Any) -> Iterator[pa.Table]:
    """All that Ray Data knows about the images of a training."""
    dataset = dataset_of(images, DECODE_BLOCK_IMAGES)
    yield from tables_of(dataset.map_batches(decode, batch_size=None, batch_format="pyarrow"))


def _require_read(decoded: pa.Table, split: str, n: int) -> None:
    bad = decoded.filter(pc.field("status") != "scored").select(["image", "error"]).to_pylist()
    if bad:
        raise ManifestError(
            f"{len(bad)} of {n} images of {split} cannot be read, the first {bad[0]['image']}: "
            f"{bad[0]['error']}. Bring them back, or partition again."
        )


def _smallest_store_bytes() -> float:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return float(min(resources.get("object_store_memory", 0) for resources in nodes))
