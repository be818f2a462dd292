"""Shape letters: H, W rows and columns of an image [px]; T tiles; P side of a tile [px]."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crackvae.errors import UnreadableImage
from crackvae.images.tiles import MAX_TILES, cut, resized, stitch, tile_origins

few = settings(derandomize=True, deadline=None, max_examples=100)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def pillow(pixels_HW: np.ndarray, input_px: int) -> np.ndarray:
    """What Pillow makes of an image; what models were trained on before tiles were resized by torch."""
    return np.asarray(Image.fromarray(pixels_HW).resize((input_px, input_px), Image.Resampling.BILINEAR)).astype(int)


@few
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2000))
def test_tiles_cover_a_side_and_never_leave_it(tile_px, stride_px, more_px):
    stride_px, length_px = min(stride_px, tile_px), tile_px + more_px
    origins = tile_origins(length_px, tile_px, stride_px)
    assert origins[0] == 0 and origins[-1] == length_px - tile_px
    assert all(0 < right - left <= stride_px for left, right in pairwise(origins))


def test_a_side_of_exactly_one_tile_has_one_tile():
    assert tile_origins(227, 227, 170) == (0,)


def test_a_side_that_the_stride_meets_exactly_has_no_tile_twice():
    assert tile_origins(300, 100, 50) == (0, 50, 100, 150, 200)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(16, 150), st.integers(16, 150), st.integers(8, 60), st.integers(1, 60))
def test_every_pixel_is_in_a_tile_and_every_tile_in_the_image(height, width, tile_px, stride_px):
    tiles = cut(np.zeros((height, width), np.uint8), tile_px, min(stride_px, tile_px), input_px=4)
    assert tiles.pixels_TPP.shape == (tiles.rows * tiles.cols, 4, 4)
    assert (len(tiles.ys), len(tiles.xs)) == (tiles.rows, tiles.cols)
    if max(height, width) < 1.5 * tile_px:
        assert (tiles.rows, tiles.cols, tiles.ys, tiles.xs) == (1, 1, (0,), (0,))
        return
    side = min(tile_px, height, width)
    covered_HW = np.zeros((height, width), bool)
    for y in tiles.ys:
        for x in tiles.xs:
            assert 0 <= y <= height - side and 0 <= x <= width - side
            covered_HW[y : y + side, x : x + side] = True
    assert covered_HW.all()


def test_tiles_come_row_by_row_with_their_corners():
    pixels_HW = np.add.outer(np.arange(0, 200, 100).repeat(100), np.arange(0, 60, 20).repeat(100)).astype(np.uint8)
    tiles = cut(pixels_HW, tile_px=100, stride_px=100, input_px=10)
    assert (tiles.rows, tiles.cols, tiles.ys, tiles.xs) == (2, 3, (0, 100), (0, 100, 200))
    assert tiles.pixels_TPP.mean(axis=(1, 2)).tolist() == [0, 20, 40, 100, 120, 140]


@pytest.mark.parametrize(("y", "x", "tile"), [(0, 0, 0), (0, 499, 5), (299, 0, 18), (299, 499, 23)])
def test_a_dark_pixel_in_a_corner_shows_up_in_the_tile_of_that_corner_alone(y, x, tile):
    pixels_HW = np.full((300, 500), 200, np.uint8)
    pixels_HW[y, x] = 0
    tiles = cut(pixels_HW, tile_px=100, stride_px=80, input_px=100)
    assert (tiles.rows, tiles.cols) == (4, 6)
    assert np.flatnonzero(tiles.pixels_TPP.min(axis=(1, 2)) == 0).tolist() == [tile]


def test_under_one_and_a_half_tiles_an_image_is_one_tile_resized_whole():
    pixels_HW = texture(340, 300)
    tiles = cut(pixels_HW, tile_px=227, stride_px=170, input_px=128)
    assert (tiles.rows, tiles.cols, tiles.xs, tiles.ys) == (1, 1, (0,), (0,))
    assert np.abs(tiles.pixels_TPP[0] - pillow(pixels_HW, 128)).max() <= 1


def test_from_one_and_a_half_tiles_on_an_image_is_cut():
    tiles = cut(texture(341, 341), tile_px=227, stride_px=170, input_px=16)
    assert (tiles.rows, tiles.cols, tiles.xs) == (2, 2, (0, 114))


def test_in_an_image_narrower_than_a_tile_the_tiles_are_as_wide_as_the_image():
    pixels_HW = texture(100, 1000)
    tiles = cut(pixels_HW, tile_px=200, stride_px=150, input_px=100)
    assert (tiles.rows, tiles.ys, tiles.xs) == (1, (0,), (*range(0, 900, 75), 900))
    assert np.array_equal(tiles.pixels_TPP[1], pixels_HW[:, 75:175])


@pytest.mark.parametrize("input_px", [32, 100, 128])
def test_a_tile_is_the_antialiased_resize_of_its_square_and_nothing_else(input_px):
    pixels_HW = texture(250, 330)
    tiles = cut(pixels_HW, tile_px=100, stride_px=70, input_px=input_px)
    corners = [(x, y) for y in tiles.ys for x in tiles.xs]
    for tile_PP, (x, y) in zip(tiles.pixels_TPP, corners, strict=True):
        assert np.abs(tile_PP - pillow(pixels_HW[y : y + 100, x : x + 100], input_px)).max() <= 1


def test_what_a_tile_becomes_depends_on_itself_alone():
    shapes = [(227, 227)] * 6 + [(250, 231), (227, 227), (250, 231), (16, 20)]
    squares = [texture(*shape, seed) for seed, shape in enumerate(shapes)]
    alone = [resized([square], 128)[0] for square in squares]
    assert np.array_equal(resized(squares, 128), alone) and np.array_equal(resized(squares[::-1], 128), alone[::-1])
    assert all(np.abs(tile - pillow(square, 128)).max() <= 1 for tile, square in zip(alone, squares, strict=True))
    assert resized([], 128).shape == (0, 128, 128)


def test_a_thin_dark_line_survives_the_resize():
    pixels_HW = np.full((400, 400), 200, np.uint8)
    pixels_HW[:, 101] = 0
    tiles = cut(pixels_HW, tile_px=200, stride_px=200, input_px=50)
    assert tiles.pixels_TPP[0].min(axis=1).max() < 180


def test_a_sliver_of_too_many_tiles_is_refused():
    with pytest.raises(UnreadableImage, match=f"tiles: {MAX_TILES} at most"):
        cut(np.zeros((16, 400_000), np.uint8), tile_px=227, stride_px=170, input_px=128)


@pytest.mark.parametrize(("height", "width"), [(300, 500), (227, 227), (120, 700), (341, 230), (64, 64)])
def test_stitching_the_tiles_of_a_smooth_image_gives_the_image_back(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    smooth_HW = (40 + 150 * x / width + 40 * y / height).astype(np.uint8)
    tiles = cut(smooth_HW, tile_px=100, stride_px=70, input_px=64)
    back_HW = stitch(tiles.pixels_TPP.astype(np.float32), tiles, height, width)
    assert back_HW.shape == (height, width) and back_HW.dtype == np.float32
    assert np.abs(back_HW - smooth_HW).max() < 4


def test_stitching_puts_a_spot_where_it_is_and_blends_overlaps_without_a_seam() -> None:
    image_HW = np.zeros((300, 420), np.uint8)
    image_HW[211:217, 337:343] = 255
    tiles = cut(image_HW, 100, 60, 100)
    stitched_HW = stitch(tiles.pixels_TPP.astype(np.float32), tiles, 300, 420)
    assert np.unravel_index(stitched_HW.argmax(), stitched_HW.shape) in {
        (y, x) for y in range(211, 217) for x in range(337, 343)
    }
    steps_TPP = np.stack([np.full((100, 100), float(n % 2)) for n in range(len(tiles.pixels_TPP))])
    blended_HW = stitch(steps_TPP, tiles, 300, 420)
    assert blended_HW.min() >= 0 and blended_HW.max() <= 1 + 1e-6
    assert np.abs(np.diff(blended_HW, axis=1)).max() < 0.1
