"""Cutting photographs into model-sized tiles, and stitching maps of tiles into a map of the photograph.

Shape letters: H, W rows and columns of an image; T tiles; K images packed as channels; P side of a tile at the model's
input [px]; t, L pixels along a side of a tile and of an image.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from crackvae.errors import UnreadableImage

# An image smaller than this many tile sides is resized as a whole: four overlapping tiles of 227 px from a 300 px image
# would show the model mostly the same pixels four times.
MIN_TILES_TO_CUT = 1.5

# 160 Mpx in tiles of 256 px with stride 192 are 4,356 tiles; more are a very narrow image or a wrong setting, and would
# fill a worker's memory: 20,000 tiles of input_px squared bytes are 1.3 GB with the default of 256 px.
MAX_TILES = 20_000

# Images of one size that are resized together as the channels of one image: four at once take half the time, because
# torch can then use whole vectors; more than four leave its fast path.
PACK = 4


class Tiling(Protocol):
    """How images are cut for a model; every ModelSpec is one."""

    @property
    def tile_px(self) -> int:
        """Side of a tile in the image [px]."""

    @property
    def stride_px(self) -> int:
        """Distance between tile origins in the image [px]."""

    @property
    def input_px(self) -> int:
        """Side P of a tile at the network's input [px]."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Positions of the tiles of one image, row by row.

    Attributes:
        xs, ys: left edges of the columns and top edges of the rows in the image [px].
        tile_h, tile_w: height and width of every tile in the image [px].
    """

    xs: tuple[int, ...]
    ys: tuple[int, ...]
    tile_h: int
    tile_w: int

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return len(self.ys)

    @property
    def cols(self) -> int:
        """Columns of tiles."""
        return len(self.xs)

    def corner(self, tile: int) -> tuple[int, int]:
        """Left and top edge of a tile in the image [px]."""
        return self.xs[tile % self.cols], self.ys[tile // self.cols]

    def squares(self, pixels_HW: np.ndarray) -> list[np.ndarray]:
        """The image content of each tile, as views."""
        return [pixels_HW[y : y + self.tile_h, x : x + self.tile_w] for y in self.ys for x in self.xs]


@dataclass(frozen=True, kw_only=True)
class Tiles(Grid):
    """One image as the tiles that the model sees.

    Attributes:
        pixels_TPP: uint8 (rows * cols, P, P).
    """

    pixels_TPP: np.ndarray


def tile_origins(length_px: int, tile_px: int, stride_px: int) -> tuple[int, ...]:
    """Start offsets [px] of the tiles along one side of an image.

    Every pixel is covered. The last tile is moved back to the edge of the image instead of padded, because a padded
    border is reconstructed badly and looks like a crack.
    """
    assert tile_px <= length_px, "no caller asks for a tile larger than the image"
    last = length_px - tile_px
    return tuple(sorted({*range(0, last, stride_px), last}))


def grid_of(height: int, width: int, tile_px: int, stride_px: int) -> Grid:
    """The square tiles of an image.

    An image under MIN_TILES_TO_CUT tiles along both sides is one tile, resized whole. In an image narrower than one
    tile the tiles are as wide as the image, and the stride shrinks with them.

    Args:
        height, width: of the image [px].
        tile_px: side of a tile in the image [px].
        stride_px: distance of neighbouring tiles in the image [px].

    Raises:
        UnreadableImage: more than MAX_TILES tiles.
    """
    if max(height, width) < MIN_TILES_TO_CUT * tile_px:
        return Grid(xs=(0,), ys=(0,), tile_h=height, tile_w=width)
    side = min(tile_px, height, width)
    stride = max(1, stride_px * side // tile_px)
    xs, ys = tile_origins(width, side, stride), tile_origins(height, side, stride)
    if len(xs) * len(ys) > MAX_TILES:
        raise UnreadableImage(f"{width}x{height} px would be {len(xs) * len(ys)} tiles: {MAX_TILES} at most")
    return Grid(xs=xs, ys=ys, tile_h=side, tile_w=side)


def cut(pixels_HW: np.ndarray, tile_px: int, stride_px: int, input_px: int) -> Tiles:
    """Cut an image into the tiles of grid_of() and resize each to the model's input.

    Args:
        pixels_HW: uint8 (H, W).
        tile_px, stride_px: as for grid_of().
        input_px: side P of a tile at the model's input [px].

    Raises:
        UnreadableImage: more than MAX_TILES tiles.
    """
    height, width = pixels_HW.shape
    grid = grid_of(height, width, tile_px, stride_px)
    pixels_TPP = resized(grid.squares(pixels_HW), input_px)
    return Tiles(xs=grid.xs, ys=grid.ys, tile_h=grid.tile_h, tile_w=grid.tile_w, pixels_TPP=pixels_TPP)


def resized(squares: Sequence[np.ndarray], input_px: int) -> np.ndarray:
    """Resize images to the model's input, antialiased, with the triangle filter of Pillow's BILINEAR.

    The result for one image does not depend on the other images, their number or their order.

    Args:
        squares: uint8 (H, W) each; images of one size are resized together, which is faster.

    Returns:
        uint8 (number of squares, P, P), at most one grey level from Pillow's.
    """
    pixels_TPP = np.empty((len(squares), input_px, input_px), np.uint8)
    by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, square in enumerate(squares):
        by_shape[square.shape].append(number)
    for shape, numbers in by_shape.items():
        for start in range(0, len(numbers), PACK):
            some = numbers[start : start + PACK]
            packed_HWK = np.empty((*shape, len(some)), np.uint8)
            for k, number in enumerate(some):
                packed_HWK[:, :, k] = squares[number]
            packed_1KHW = torch.from_numpy(packed_HWK).permute(2, 0, 1)[None]  # in memory: channels last
            small_1KPP = functional.interpolate(packed_1KHW, (input_px, input_px), mode="bilinear", antialias=True)
            pixels_TPP[some] = small_1KPP[0].numpy()
    return pixels_TPP


def stitch(maps_TPP: np.ndarray, grid: Grid, height: int, width: int) -> np.ndarray:
    """Stitch the maps of the tiles of cut() into one map of the image, at the image's own resolution.

    Overlapping tiles are blended with weights that fall towards the edge of a tile, so that no seam is visible. The
    weights are a product of rows and columns, and so is their sum: no second map is needed.

    Args:
        maps_TPP: float (T, P, P), one map per tile.
        grid: from grid_of(), or the result of cut().
        height, width: of the image [px].

    Returns:
        float32 (H, W).
    """
    rising_h, sum_H = _weights(grid.ys, grid.tile_h, height)
    rising_w, sum_W = _weights(grid.xs, grid.tile_w, width)
    sum_HW = np.zeros((height, width), np.float32)
    weight_hw = np.outer(rising_h, rising_w).astype(np.float32)
    size = (grid.tile_w, grid.tile_h)
    for map_PP, part_hw in zip(maps_TPP, grid.squares(sum_HW), strict=True):
        map_hw = Image.fromarray(np.asarray(map_PP, np.float32)).resize(size, Image.Resampling.BILINEAR)
        part_hw += weight_hw * np.asarray(map_hw)
    sum_HW /= sum_H[:, None].astype(np.float32)
    sum_HW /= sum_W[None].astype(np.float32)
    return sum_HW


def stitch_some(maps_KPP: np.ndarray, tiles_K: np.ndarray, grid: Grid, height: int, width: int) -> np.ndarray:
    """stitch() of some of the tiles, as if the maps of the others were 0: it fades out where these overlap.

    Args:
        maps_KPP: float32 (K, P, P), one map per tile of `tiles_K`.
        tiles_K: indices of tiles of the grid, int (K,).
        grid, height, width: as for stitch().

    Returns:
        float32 (H, W).
    """
    rising_h, sum_H = _weights(grid.ys, grid.tile_h, height)
    rising_w, sum_W = _weights(grid.xs, grid.tile_w, width)
    map_HW = np.zeros((height, width), np.float32)
    for map_PP, tile in zip(maps_KPP, tiles_K, strict=True):
        x, y = grid.corner(int(tile))
        rows, columns = slice(y, y + grid.tile_h), slice(x, x + grid.tile_w)
        map_hw = Image.fromarray(map_PP).resize((grid.tile_w, grid.tile_h), Image.Resampling.BILINEAR)
        weight_hw = np.outer(rising_h / sum_H[rows], rising_w / sum_W[columns]).astype(np.float32)
        map_HW[rows, columns] += weight_hw * np.asarray(map_hw)
    return map_HW


def _weights(origins: tuple[int, ...], tile_px: int, length_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights along one side of a tile, which rise linearly from its edges to its middle, and their sum over all tiles.

    Returns:
        float (tile_px,), above 0, and float (length_px,).
    """
    steps, sum_L = np.arange(tile_px), np.zeros(length_px)
    rising_t = np.minimum(steps + 1, tile_px - steps) / ((tile_px + 1) / 2)
    for origin in origins:
        sum_L[origin : origin + tile_px] += rising_t
    return rising_t, sum_L
