"""[Ray] Loads the tiles of a training run.

They are decoded once into the object store if they fit there; otherwise they are decoded again in every epoch, in
windows that are prepared ahead of the workers.

Shape letters: N images, T tiles, P side of a tile at the input [px].
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from crackvae.console import progress, say
from crackvae.errors import ManifestError, UnreadableImage
from crackvae.images.decoded import blank_tiles, decode_images, tiles_of
from crackvae.images.manifest import listing_of
from crackvae.images.tiles import grid_of
from crackvae.model.spec import ModelSpec
from crackvae.session import dataset_of, on_this_node, tables_of
from crackvae.storage import fileio
from crackvae.training.state import TrainingTiles

# At most so many images, and about so many tiles, per block of the decoding stage.
DECODE_BLOCK_IMAGES, DECODE_BLOCK_TILES = 256, 4_096
# Share of the smallest node's object store that the tiles may use; validation tiles and checkpoints need some too.
IN_MEMORY_SHARE = 0.5
# At most this many windows exist at a time: one is trained on, one is ready, one is being decoded.
CACHED_WINDOWS = 3
# Maximum number of tasks that decode one window.
TASKS_PER_WINDOW = 8


def tile_counts(images: pa.Table, spec: ModelSpec) -> np.ndarray:
    """Number of tiles of each image of a manifest, int (N,), from its width and height.

    Raises:
        ManifestError: an image has too many tiles (named).
    """
    counts = []
    for image in images.select(["image", "height", "width"]).to_pylist():
        try:
            grid = grid_of(image["height"], image["width"], spec.tile_px, spec.stride_px)
        except UnreadableImage as error:
            raise ManifestError(f"{image['image']}: {error}. Give larger --tile-px and --stride-px.") from error
        counts.append(grid.rows * grid.cols)
    return np.array(counts, dtype=np.int64)


def decoded_tiles(images: pa.Table, split: str, spec: ModelSpec, *, quiet: bool) -> tuple[np.ndarray, pa.Table]:
    """Decode all tiles of the images once, on the cluster.

    Returns:
        the tiles that show a surface, uint8 (T, P, P), and the decoded images that have such tiles, without them.

    Raises:
        ManifestError: images that cannot be read (named).
    """
    # One array for all: a list of parts would be twice as large while they are joined.
    tiles_TPP = np.empty((int(tile_counts(images, spec).sum()), spec.input_px, spec.input_px), np.uint8)
    n = 0

    def take(decoded: pa.Table) -> None:
        nonlocal n
        some_TPP = surface_tiles(decoded, spec.input_px)
        tiles_TPP[n : n + len(some_TPP)] = some_TPP
        n += len(some_TPP)

    rows = decode_images_of(images, split, spec, take, quiet=quiet)
    return tiles_TPP[:n], rows


def training_tiles(
    images: pa.Table,
    spec: ModelSpec,
    batch: int,
    seed: int,
    repeated: Callable[[Any, int], list[int]] | None = None,
    *,
    quiet: bool,
) -> Callable[[], TrainingTiles]:
    """A function that loads the training tiles on a worker. Decodes every image once, so that none fails later.

    Args:
        batch, seed: of the training.
        repeated: from the tiles in the object store and their number to those that an epoch shows once more.

    Raises:
        ManifestError: images that cannot be read (named), or too many of them to repeat any.
    """
    counts_N = tile_counts(images, spec)
    n_tiles, tile_bytes = int(counts_N.sum()), spec.input_px**2
    needed, available = n_tiles * tile_bytes, int(IN_MEMORY_SHARE * _smallest_store_bytes())
    size = (
        f"{n_tiles} training tiles need {needed / 1e6:.1f} MB, the object store has {available / 1e6:.1f} MB for them"
    )
    if needed <= available:
        say(f"{size}: decoded once and kept in memory", quiet=quiet)
        tiles_TPP, _ = decoded_tiles(images, "train", spec, quiet=quiet)
        if len(tiles_TPP) < batch:
            raise ManifestError(
                f"{len(tiles_TPP)} training tiles show a surface, fewer than a batch of {batch}: add images."
            )
        return in_object_store(tiles_TPP, repeated)
    if repeated:
        raise ManifestError(f"{size}, which --hard needs: use nodes with more memory, or leave out --hard.")
    window_tiles = max(batch, available // CACHED_WINDOWS // tile_bytes)
    say(f"{size}: decoded again in every epoch, {window_tiles} tiles at a time", quiet=quiet)
    decode_images_of(images, "train", spec, lambda decoded: None, quiet=quiet)
    actor = ray.remote(_WindowCache).options(**on_this_node())
    read = fileio.image_reader()  # here, because the actor does not know which S3 server this process uses
    return partial(_streamed, actor.remote(images, counts_N, window_tiles, spec, seed, read), n_tiles)


def in_object_store(
    tiles_TPP: np.ndarray, repeated: Callable[[Any, int], list[int]] | None = None
) -> Callable[[], TrainingTiles]:
    """A function that loads tiles that lie in this process on a worker; on a list, Ray does not resolve a reference."""
    tiles = ray.put(tiles_TPP)
    return partial(_in_memory, [tiles], repeated(tiles, len(tiles_TPP)) if repeated else ())


def _in_memory(reference: list[Any], repeats: Sequence[int]) -> TrainingTiles:
    return TrainingTiles.in_memory(ray.get(reference[0]), repeats)


def _streamed(window_cache: Any, n: int) -> TrainingTiles:
    def windows(epoch: int) -> Iterator[np.ndarray]:
        number, ahead = 0, window_cache.window.remote(epoch, 0)
        while parts := ray.get(ahead):
            number, ahead = number + 1, window_cache.window.remote(epoch, number + 1)
            yield np.concatenate(ray.get(parts))

    return TrainingTiles(n, windows)


class _WindowCache:
    """Ray actor on the driver's node: starts the decoding of each window, once for all workers."""

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
        """References to the parts of a window, uint8 (T, P, P) each; none after the last window."""
        if (epoch, number) not in self.windows:
            self.windows[epoch, number] = self._decode(epoch, number)
            while len(self.windows) > CACHED_WINDOWS:
                del self.windows[next(iter(self.windows))]
        return self.windows[epoch, number]

    def _decode(self, epoch: int, number: int) -> list[Any]:
        windows = windows_of(self.counts_N, self.window_tiles, self.seed, epoch)
        if number >= len(windows):
            return []
        decode = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_tiles_of)  # the CPUs are reserved by the workers
        parts = np.array_split(windows[number], min(TASKS_PER_WINDOW, len(windows[number])))
        return [decode.remote(self.images.take(pa.array(part)), self.spec, self.read) for part in parts]


def windows_of(counts_N: np.ndarray, window_tiles: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Numbers of the images in each window of an epoch: all images in the random order of that epoch.

    A window has at most `window_tiles` tiles, or the tiles of one image.
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
        parts.append(surface_tiles(decoded, spec.input_px))
    return np.concatenate(parts)


def surface_tiles(decoded: pa.Table, input_px: int) -> np.ndarray:
    """The tiles of DECODED_SCHEMA rows that show a surface, uint8 (T, P, P), in order."""
    tiles_TPP, blank = tiles_of(decoded, input_px), blank_tiles(decoded)
    return np.delete(tiles_TPP, blank, axis=0) if blank else tiles_TPP


def decode_images_of(
    images: pa.Table, split: str, spec: ModelSpec, take: Callable[[pa.Table], None], *, quiet: bool
) -> pa.Table:
    """Decode all images on the cluster and pass them to `take` with their tiles.

    Returns:
        the images that show a surface, without their tiles.

    Raises:
        ManifestError: images that cannot be read (named), or none shows a surface.
    """
    decode = partial(decode_images, tiling=spec, read=fileio.image_reader())
    rows = []
    with progress(f"decode {split}", images.num_rows, "images", quiet=quiet) as bar:
        for decoded in decode_all(listing_of(images), decode, _images_per_block(images, spec)):
            take(decoded)
            # Copied: a view of any column would keep the tiles of the whole block in the object store.
            rows.append(decoded.drop_columns(["tiles"]).take(pa.array(range(decoded.num_rows))))
            bar.update(decoded.num_rows)
    table = pa.concat_tables(rows)
    _require_read(table, split, images.num_rows)
    found = table.filter(pc.field("status") == "scored")
    if not found.num_rows:
        raise ManifestError(
            f"none of {table.num_rows} images of {split} shows a surface: all are black, white or flat."
        )
    if found.num_rows < table.num_rows:
        say(f"{table.num_rows - found.num_rows} images of {split} show no surface and are left out", quiet=quiet)
    return found


def _images_per_block(images: pa.Table, spec: ModelSpec) -> int:
    """Images of about DECODE_BLOCK_TILES tiles: a few dozen photographs are a whole site, and need several tasks."""
    tiles_per_image = tile_counts(images, spec).sum() / images.num_rows
    return int(np.clip(DECODE_BLOCK_TILES / tiles_per_image, 1, DECODE_BLOCK_IMAGES))


def decode_all(images: pa.Table, decode: Any, images_per_block: int) -> Iterator[pa.Table]:
    """Decode the images with Ray Data."""
    dataset = dataset_of(images, images_per_block)
    yield from tables_of(dataset.map_batches(decode, batch_size=None, batch_format="pyarrow"))


def _require_read(decoded: pa.Table, split: str, n: int) -> None:
    bad = decoded.filter(~pc.field("status").isin(["scored", "no_surface"])).select(["image", "error"]).to_pylist()
    if bad:
        raise ManifestError(
            f"{len(bad)} of {n} images of {split} cannot be read, the first {bad[0]['image']}: "
            f"{bad[0]['error']}. Restore them, or leave them out and start again."
        )


def _smallest_store_bytes() -> float:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return float(min(resources.get("object_store_memory", 0) for resources in nodes))
